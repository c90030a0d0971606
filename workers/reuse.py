"""Vectors that need not be made again: from the applied pack, and from the vector cache.

The cache holds what any worker embedded for any document of the namespace: boilerplate, moved and
renamed documents, reverts, and what was ready when the worker of a large document died.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from common import telemetry
from common.model import EmbeddingProfile, Row, Vector
from common.ports.blobs import BlobStore
from common.ports.vectors import VectorCache
from workers.packs import read_applied_pack

log = structlog.get_logger(__name__)

T = TypeVar("T")

CACHE_SECONDS = 2.0
"""Deadline of a call to the cache: longer than it should ever take, shorter than a few chunks."""
REST_SECONDS = 10.0
"""For so long a cache that failed is not asked again, nor is its failure told again."""


@dataclass(slots=True)
class Reuse:
    """One worker's way to known vectors. A cache is never an error: what it cannot do is a miss."""

    blobs: BlobStore
    cache: VectorCache
    profile: EmbeddingProfile
    _asking: _Patience = field(default_factory=lambda: _Patience("get"))
    _telling: _Patience = field(default_factory=lambda: _Patience("put"))

    async def known(self, row: Row, hashes: Sequence[str]) -> dict[str, Vector[float]]:
        """The known vectors among different chunk `hashes`. Raises what the blob store raises."""
        packed = await self._packed(row)
        found = {h: packed[h] for h in hashes if h in packed}
        telemetry.VECTORS_REUSED.labels("pack").inc(len(found))
        missing = [h for h in hashes if h not in found]
        if missing:
            cached = await self._cached(row.key.namespace, missing)
            telemetry.VECTORS_REUSED.labels("cache").inc(len(cached))
            found.update(cached)
        return found

    async def remember(self, namespace: str, vectors: Mapping[str, Vector[float]]) -> None:
        """So that nobody embeds them again, whatever becomes of the document they are made for."""
        put = self.cache.put_many
        await self._telling.ask(lambda: put(namespace, self.profile.id, vectors), None)

    async def _packed(self, row: Row) -> dict[str, Vector[float]]:
        if row.applied.embedding_profile != self.profile.id:
            return {}
        base = await read_applied_pack(self.blobs, row.key, row.applied)
        if base is None:
            return {}
        return {c.hash: v for c, v in zip(base.chunks, base.vectors, strict=True)}

    async def _cached(self, namespace: str, hashes: Sequence[str]) -> dict[str, Vector[float]]:
        get = self.cache.get_many
        none: dict[str, Vector[float]] = {}
        cached = await self._asking.ask(lambda: get(namespace, self.profile.id, hashes), none)
        return {h: v for h, v in cached.items() if len(v) == self.profile.dimension}


@dataclass(slots=True)
class _Patience:
    """Calls that may fail or hang without anybody noticing more than that they did not help."""

    what: str
    _rests_until: float = float("-inf")

    async def ask(self, call: Callable[[], Awaitable[T]], otherwise: T) -> T:
        now = asyncio.get_running_loop().time
        if now() < self._rests_until:
            return otherwise
        try:
            async with asyncio.timeout(CACHE_SECONDS):
                return await call()
        except Exception as error:
            self._rests_until = now() + REST_SECONDS
            reason = str(error) or f"no answer in {CACHE_SECONDS:g} s"
            log.warning("vectors.unavailable", call=self.what, error=reason)
            return otherwise
