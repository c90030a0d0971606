"""Waiting until the registry says that documents are applied, without asking too often."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

from common.cli.client import Client
from common.cli.patience import Patience
from common.cli.problems import JSON
from common.cli.sending import Key

ASK_ONE_BY_ONE = 32
"""Up to so many documents are asked for by name; more are looked up in the listing."""
AT_ONCE = 16
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Failure:
    """A document that the service gave up on."""

    namespace: str
    document_id: str
    version: int
    error: str

    def as_json(self) -> JSON:
        return {
            "namespace": self.namespace,
            "document_id": self.document_id,
            "version": self.version,
            "error": self.error,
        }


class Waiter:
    """Follows documents until each shows its version, is FAILED, or is gone."""

    def __init__(
        self,
        client: Client,
        versions: Mapping[Key, int],
        patience: Patience,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        # Version 0 is a delete of a document that never was: there is nothing to wait for.
        self._pending = {key: version for key, version in versions.items() if version > 0}
        self._client = client
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
        async for row in self._client.documents(namespace, prefix=shared_prefix(ids)):
            missing.discard(row["document_id"])
            self._settle((namespace, row["document_id"]), row)
        return sorted(missing)

    async def _look_one_by_one(self, namespace: str, ids: Iterable[str]) -> None:
        limit = asyncio.Semaphore(AT_ONCE)

        async def look(document_id: str) -> None:
            async with limit:
                row = await self._client.document(namespace, document_id)
                self._settle((namespace, document_id), row)

        ended = await asyncio.gather(*map(look, ids), return_exceptions=True)
        for error in ended:
            # All have ended: none still uses the connection that is about to be tried again.
            if error is not None:
                raise error

    def _settle(self, key: Key, row: JSON | None) -> None:
        version = self._pending.get(key)
        if version is None:
            return
        if row is None or applied_version(row) >= version or row["status"] == "DELETED":
            del self._pending[key]
        elif row["status"] == "FAILED":
            del self._pending[key]
            reason = str(row.get("error") or "no reason given")
            self.failures.append(Failure(*key, version, reason))


def shared_prefix(ids: Iterable[str]) -> str:
    """The longest string all ids begin with: what a listing has to cover."""
    ordered = sorted(ids)
    if not ordered:
        return ""
    first, last = ordered[0], ordered[-1]
    pairs = enumerate(zip(first, last, strict=False))
    return first[: next((i for i, (a, b) in pairs if a != b), len(first))]


def applied_version(row: JSON) -> int:
    """A listing has it flat, a single document under `applied`."""
    flat = row.get("applied_version")
    return int(row["applied"]["version"] if flat is None else flat)
