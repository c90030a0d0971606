"""Waiting until the registry says that documents are applied, without asking too often."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from common.client.errors import DocumentFailedError
from common.client.patience import Patience
from common.model import Status

ASK_ONE_BY_ONE = 32
"""Up to so many documents are asked for by name; more are looked up in the listing."""
AT_ONCE = 16
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0

Key = tuple[str, str]
"""Namespace and document id."""


class Standing(Protocol):
    """What both a document and its line in a listing tell."""

    @property
    def document_id(self) -> str: ...
    @property
    def status(self) -> Status: ...
    @property
    def applied_version(self) -> int: ...
    @property
    def error(self) -> str | None: ...


class Registry(Protocol):
    """Each look is one request: who waits decides what is tried again."""

    async def look(self, namespace: str, document_id: str) -> Standing | None:
        """None: there is none of this name."""

    def look_through(self, namespace: str, prefix: str) -> AsyncGenerator[Standing, None]:
        """All whose id begins so."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A document that the service gave up on."""

    namespace: str
    document_id: str
    version: int
    error: str

    def as_json(self) -> dict[str, Any]:
        return {
            "namespace": self.namespace,
            "document_id": self.document_id,
            "version": self.version,
            "error": self.error,
        }

    def as_error(self) -> DocumentFailedError:
        return DocumentFailedError(self.namespace, self.document_id, self.version, self.error)


class Waiter:
    """Follows documents until each shows its version, is FAILED, or is gone."""

    def __init__(
        self,
        registry: Registry,
        versions: Mapping[Key, int],
        patience: Patience,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        # Version 0 is a delete of a document that never was: there is nothing to wait for.
        self._pending = {key: version for key, version in versions.items() if version > 0}
        self._registry = registry
        self._patience = patience
        self._sleep = sleep
        self.total = len(self._pending)
        self.failures: list[Failure] = []

    @property
    def done(self) -> int:
        return self.total - len(self._pending)

    async def wait(self, on_progress: Callable[[int], None] = lambda _done: None) -> None:
        """Raises UnreachableError when the service stays away for longer than the patience."""
        pause = FIRST_PAUSE_SECONDS
        while self._pending:
            before, began = len(self._pending), time.monotonic()
            self._patience.progress()
            async for attempt in self._patience.attempts():
                with attempt:
                    await self._look()
            on_progress(self.done)
            if self._pending:
                moved = len(self._pending) < before
                pause = FIRST_PAUSE_SECONDS if moved else min(2 * pause, LONGEST_PAUSE_SECONDS)
                # Looking at many documents costs the service; most of the time is for working.
                await self._sleep(max(pause, 3 * (time.monotonic() - began)))

    async def _look(self) -> None:
        for namespace in sorted({namespace for namespace, _ in self._pending}):
            ids = [i for n, i in self._pending if n == namespace]
            if len(ids) > ASK_ONE_BY_ONE:
                ids = await self._look_in_listing(namespace, ids)
            await self._look_one_by_one(namespace, ids)

    async def _look_in_listing(self, namespace: str, ids: list[str]) -> list[str]:
        """Settle what the listing shows; returns the ids it does not show."""
        missing = set(ids)
        async for seen in self._registry.look_through(namespace, shared_prefix(ids)):
            missing.discard(seen.document_id)
            self._settle((namespace, seen.document_id), seen)
        return sorted(missing)

    async def _look_one_by_one(self, namespace: str, ids: Iterable[str]) -> None:
        limit = asyncio.Semaphore(AT_ONCE)

        async def look(document_id: str) -> None:
            async with limit:
                seen = await self._registry.look(namespace, document_id)
                self._settle((namespace, document_id), seen)

        ended = await asyncio.gather(*map(look, ids), return_exceptions=True)
        for error in ended:
            # All have ended: none still uses the connection that is about to be tried again.
            if error is not None:
                raise error

    def _settle(self, key: Key, seen: Standing | None) -> None:
        version = self._pending.get(key)
        if version is not None and has_ended(seen, version):
            del self._pending[key]
            if failed(seen, version):
                reason = (seen.error if seen else None) or "no reason given"
                self.failures.append(Failure(*key, version, reason))


def has_ended(seen: Standing | None, version: int) -> bool:
    """Whether there is nothing left to wait for: it shows, is FAILED, or is gone."""
    if seen is None or seen.applied_version >= version:
        return True
    return seen.status in (Status.DELETED, Status.FAILED)


def failed(seen: Standing | None, version: int) -> bool:
    """Whether it ended without ever showing the version."""
    return seen is not None and seen.applied_version < version and seen.status == Status.FAILED


def shared_prefix(ids: Iterable[str]) -> str:
    """The longest string all ids begin with: what a listing has to cover."""
    ordered = sorted(ids)
    if not ordered:
        return ""
    first, last = ordered[0], ordered[-1]
    pairs = enumerate(zip(first, last, strict=False))
    return first[: next((i for i, (a, b) in pairs if a != b), len(first))]
