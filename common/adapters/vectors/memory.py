"""`memory:`: the vectors that this process embedded, in its own memory.

For workers that share no disk; each knows only its own work, and forgets it when it ends.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from common.clock import Clock, system_clock
from common.model import Vector
from common.settings import Settings

_OVERHEAD_BYTES = 400
"""Of an entry, about: its key's strings, the vector object and the dictionary's slots."""


class MemoryVectorCache:
    """Implements VectorCache: least recently used first out beyond `limit_bytes`, and what was not
    asked for in `unused_seconds`. Not shared between processes; for one event loop."""

    def __init__(
        self, *, limit_bytes: int, unused_seconds: float, clock: Clock = system_clock
    ) -> None:
        self._limit_bytes, self._unused_seconds = limit_bytes, unused_seconds
        self._clock = clock
        self._entries: OrderedDict[tuple[str, str, str], tuple[float, Vector[float]]] = (
            OrderedDict()
        )
        self._bytes = 0

    async def get_many(
        self, namespace: str, profile_id: str, hashes: Sequence[str]
    ) -> dict[str, Vector[float]]:
        self._drop_unused()
        found: dict[str, Vector[float]] = {}
        for chunk_hash in hashes:
            key = (namespace, profile_id, chunk_hash)
            if key in self._entries:
                found[chunk_hash] = self._entries[key][1]
                self._entries[key] = (self._clock(), found[chunk_hash])
                self._entries.move_to_end(key)
        return found

    async def put_many(
        self, namespace: str, profile_id: str, vectors: Mapping[str, Vector[float]]
    ) -> None:
        self._drop_unused()
        for chunk_hash, vector in vectors.items():
            key = (namespace, profile_id, chunk_hash)
            if key in self._entries:
                self._drop(key)
            self._entries[key] = (self._clock(), vector)
            self._bytes += _size(vector)
        while self._bytes > self._limit_bytes:
            self._drop(next(iter(self._entries)))

    async def close(self) -> None:
        self._entries.clear()
        self._bytes = 0

    def _drop_unused(self) -> None:
        """The oldest use comes first."""
        while self._entries:
            key, (used_at, _) = next(iter(self._entries.items()))
            if used_at + self._unused_seconds > self._clock():
                return
            self._drop(key)

    def _drop(self, key: tuple[str, str, str]) -> None:
        self._bytes -= _size(self._entries.pop(key)[1])


def _size(vector: Vector[float]) -> int:
    return len(vector) * vector.itemsize + _OVERHEAD_BYTES


def connect(url: str, settings: Settings, receiver: str) -> MemoryVectorCache:
    return MemoryVectorCache(
        limit_bytes=settings.vector_cache_bytes,
        unused_seconds=settings.vector_cache_days * 86400.0,
    )
