"""A landing zone in a dictionary, as a bucket behaves: a request is one moment, a move several."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from common.landing import key_of, longest_name_bytes, notices_in, waiting_name
from common.ports.landing import (
    Area,
    LandedObject,
    MovedOnError,
    Notice,
    Places,
    TooLargeToMoveError,
)

BUCKET = "landing"
PAGE = 3


async def at_once() -> None:
    """No request waits for another."""


@dataclass(frozen=True, slots=True)
class Held:
    data: bytes
    as_seen: LandedObject
    put_at: float


@dataclass
class MemoryLanding:
    """Implements Landing. `pause` is awaited before and after each request.

    `atomic_copies` False: a copy checks its source when it begins and its target when it ends.
    """

    versioned: bool = True
    atomic_copies: bool = True
    largest_move_bytes: int = 2**40
    pause: Callable[[], Awaitable[None]] = at_once
    held: dict[tuple[Area, str], Held] = field(default_factory=dict)
    reasons: dict[str, bytes] = field(default_factory=dict)
    reads: int = 0
    now: float = 0.0
    explained_at: dict[str, float] = field(default_factory=dict)
    _versions: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    # --- what users do ---------------------------------------------------------------------------

    def put(
        self,
        area: Area,
        name: str,
        data: bytes,
        *,
        content_type: str = "text/plain",
        content_encoding: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        """The revision it got."""
        seen = LandedObject(
            etag=hashlib.sha256(data).hexdigest(),
            version_id=f"v{next(self._versions)}" if self.versioned else None,
            size_bytes=len(data),
            content_type=content_type,
            content_encoding=content_encoding,
            metadata=dict(metadata or {}),
        )
        self.held[area, name] = Held(data, seen, self.now)
        return seen.revision

    def remove(self, area: Area, name: str) -> bool:
        return self.held.pop((area, name), None) is not None

    def data(self, area: Area, name: str) -> bytes | None:
        held = self.held.get((area, name))
        return None if held is None else held.data

    # --- the port --------------------------------------------------------------------------------

    @property
    def longest_name_bytes(self) -> int:
        return longest_name_bytes("")

    def notices_in(self, message: str) -> list[Notice]:
        return notices_in(message, BUCKET, "")

    async def look(self, name: str) -> Places:
        """Three requests, the second and the third in any order, and anything in between."""
        incoming = await self._seen(Area.INCOMING, name)
        processed, failed = await asyncio.gather(
            self._seen(Area.PROCESSED, name), self._seen(Area.FAILED, name)
        )
        return Places(incoming=incoming, processed=processed, failed=failed)

    async def _seen(self, area: Area, name: str) -> LandedObject | None:
        await self.pause()
        held = self.held.get((area, name))
        await self.pause()
        return held.as_seen if held else None

    async def read(self, name: str, area: Area, seen: LandedObject) -> bytes:
        await self.pause()
        self.reads += 1
        data = self._checked(area, name, seen).data
        await self.pause()
        return data

    async def move(
        self, name: str, seen: LandedObject, to: Area, *, replacing: LandedObject | None
    ) -> str | None:
        if seen.size_bytes > self.largest_move_bytes:
            raise TooLargeToMoveError(name)
        await self.pause()
        try:
            source = self._checked(Area.INCOMING, name, seen)
            if not self.atomic_copies:
                await self.pause()
            there = self.held.get((to, name))
            if (there.as_seen.etag if there else None) != (replacing.etag if replacing else None):
                return None
        except MovedOnError:
            return None
        revision = self.put(
            to,
            name,
            source.data,
            content_type=source.as_seen.content_type,
            metadata=source.as_seen.metadata,
        )
        await self.pause()
        left = self.held.get((Area.INCOMING, name))
        if left is not None and left.as_seen.revision == seen.revision:
            self.remove(Area.INCOMING, name)
        await self.pause()
        return revision

    async def explain(self, name: str, reason: bytes) -> None:
        await self.pause()
        self.reasons[name] = reason
        self.explained_at[name] = self.now
        await self.pause()

    async def forget_failure(self, name: str, seen: LandedObject) -> None:
        await self.pause()
        held = self.held.get((Area.FAILED, name))
        if held is not None and held.as_seen.etag == seen.etag:
            self.remove(Area.FAILED, name)
            self.reasons.pop(name, None)
        await self.pause()

    async def waiting(self, *, before: float) -> AsyncIterator[list[str]]:
        found = sorted(name for area, name in self.held if area is Area.INCOMING)
        for start in range(0, len(found), PAGE):
            await self.pause()
            page = found[start : start + PAGE]
            yield [name for name in page if self._is_waiting(name, before)]

    def _is_waiting(self, name: str, before: float) -> bool:
        held = self.held.get((Area.INCOMING, name))
        if held is None or held.put_at >= before:
            return False
        key, size = key_of("", Area.INCOMING, name), held.as_seen.size_bytes
        stays = size > self.largest_move_bytes
        told = self.explained_at.get(name, -1.0) >= held.put_at
        return waiting_name("", key, size) is not None and not (stays and told)

    async def close(self) -> None:
        return None

    def _checked(self, area: Area, name: str, seen: LandedObject) -> Held:
        held = self.held.get((area, name))
        if held is None or held.as_seen.etag != seen.etag:
            raise MovedOnError(name)
        return held
