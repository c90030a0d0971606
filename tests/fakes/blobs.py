"""A blob store in a dictionary."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import lru_cache

from common.clock import Clock, system_clock
from common.ports.blobs import BlobInfo, BlobNotFoundError


class MemoryBlobStore:
    """`held[key]` is the bytes and when they were last put; tests may damage them there."""

    def __init__(self, *, clock: Clock = system_clock) -> None:
        self.held: dict[str, tuple[bytes, float]] = {}
        self._clock = clock

    async def close(self) -> None:
        return None

    async def put(self, key: str, data: bytes) -> bool:
        before = self.held.get(_checked(key))
        self.held[key] = (data, self._clock())
        return before is None or before[0] != data

    async def get(self, key: str) -> bytes:
        if _checked(key) not in self.held:
            raise BlobNotFoundError(f"there is no blob {key!r}")
        return self.held[key][0]

    async def exists(self, key: str) -> bool:
        return _checked(key) in self.held

    async def delete(self, keys: Sequence[str]) -> None:
        for key in map(_checked, keys):
            self.held.pop(key, None)

    async def delete_if_older(self, keys: Sequence[str], *, before: float) -> int:
        old = [key for key in keys if key in self.held and self.held[key][1] < before]
        await self.delete(old)
        return len(old)

    async def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        for key, (data, modified_at) in sorted(self.held.items()):
            if not prefix or (key + "/").startswith(prefix.rstrip("/") + "/"):
                yield BlobInfo(key, len(data), modified_at)


@lru_cache(maxsize=10_000)
def _checked(key: str) -> str:
    for segment in key.split("/"):
        plain = segment.isascii() and segment.isprintable() and "\\" not in segment
        if not plain or segment in ("", ".", "..") or len(segment) > 255:
            raise ValueError(f"{key!r} is not a blob key")
    return key
