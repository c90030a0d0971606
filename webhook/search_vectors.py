"""Vectors of queries, kept: a query that is repeated is embedded once."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Final, Protocol

from common import telemetry
from common.bounded_map import BoundedMap
from common.model import Vector
from common.single_flight import SingleFlight

MAX_BYTES: Final = 2_000_000
_ENTRY_BYTES: Final = 300
"""Of a key and of what holds it."""


class QueryEmbedder(Protocol):
    """The part of the embedder port that a search needs."""

    async def embed_query(self, text: str) -> Vector[float]: ...


class CachedQueryEmbedder:
    """A vector depends on the embedder's profile and the text alone, so it never gets stale.

    Belongs to one event loop. Equal queries at one time share an embedding.
    """

    def __init__(
        self, embedder: QueryEmbedder, *, entries: int, max_bytes: int = MAX_BYTES
    ) -> None:
        self._embedder = embedder
        self._vectors: BoundedMap[bytes, Vector[float]] = BoundedMap(entries, max_bytes)
        self._flights: SingleFlight[bytes, Vector[float]] = SingleFlight()

    async def embed_query(self, text: str) -> Vector[float]:
        """A copy, the caller's own."""
        key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        vector = self._vectors.get(key)
        if vector is not None:
            telemetry.QUERY_CACHE.labels("embedding", "hit").inc()
            return vector[:]
        vector, joined = await self._flights.run(key, partial(self._embed, key, text))
        telemetry.QUERY_CACHE.labels("embedding", "shared" if joined else "miss").inc()
        return vector[:]

    async def _embed(self, key: bytes, text: str) -> Vector[float]:
        vector = await self._embedder.embed_query(text)
        self._vectors.put(key, vector, _ENTRY_BYTES + vector.itemsize * len(vector))
        return vector


def cached_queries(embedder: QueryEmbedder, *, entries: int) -> QueryEmbedder:
    """`embedder` with so many vectors kept; itself for 0."""
    return CachedQueryEmbedder(embedder, entries=entries) if entries else embedder
