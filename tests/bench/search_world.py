"""Many records that lie as real ones do, in the embedded index and the registry.

The vectors are embedded chunks of real documentation, moved. A move is drawn with the covariance
of the embedded chunks and is of such a length that two moved copies of one chunk are as similar, on
average, as a chunk is to its nearest neighbour in the documentation. So they lie in the directions
that real ones lie in, and near them, instead of evenly on a sphere.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from common import identity
from common.adapters.registry.sqlite import SqliteRegistry
from common.model import Applied, Desired, DocumentKey, IdRange, Record, Row, Status, Vector
from common.query_cache import CachedIndex
from common.transitions import Timers, schedule
from webhook.search import Hit, Searcher

CHUNKS = 20
"""Of a document."""
TOP_K = 10
NAMESPACE = "bench"
SEED = 20261121
SETTLE_SECONDS = 3600.0
SIMILARITY_SAMPLE = 200
_FIRST_WRITTEN_AGO = 86400.0
"""Searches look twice at what was applied in the last minutes; most documents were not."""
_BLOCK = 100
"""Documents that are drawn, and first written, at a time."""
_UPSERT_RECORDS = 256
_TEXT = "Chunks of documentation have some hundred words like these, more or less. " * 14

Floats = NDArray[np.float32]


class SettlingIndex(Protocol):
    """The embedded index builds its graphs in the background."""

    async def settled(self) -> None:
        """Return when nothing is left to build."""


@dataclass(slots=True)
class Spread:
    """Draws vectors around the embedded chunks; the same number always gives the same block."""

    real: Floats
    """One a row, of length 1."""
    similarity: float = 0.0
    """Median cosine of a real chunk and its nearest neighbour."""
    _moves: Floats = field(init=False)

    def __post_init__(self) -> None:
        scores = self.real @ self.real.T
        np.fill_diagonal(scores, -1)
        self.similarity = float(np.median(scores.max(axis=1)))
        centred = self.real - self.real.mean(axis=0)
        length = np.float32(np.sqrt(1 / self.similarity - 1))
        self._moves = centred * (length / np.float32(np.linalg.norm(centred)))

    def draw(self, count: int, *seed: int) -> Floats:
        """(count, dimension), each of length 1."""
        random = np.random.default_rng((SEED, *seed))
        chosen = self.real[random.integers(len(self.real), size=count)]
        weights = random.standard_normal((count, len(self.real)), dtype=np.float32)
        moved = chosen + weights @ self._moves
        unit: Floats = moved / np.linalg.norm(moved, axis=1, keepdims=True)
        return unit


@dataclass(slots=True)
class World:
    """`plain` asks the index each time, `cached` as the product does; writes go through its cache.

    `changed`: the vectors of documents that were written again; the others are as drawn.
    """

    spread: Spread
    index: CachedIndex
    registry: SqliteRegistry
    documents: int
    changed: dict[int, tuple[int, Floats]] = field(default_factory=dict)

    @property
    def plain(self) -> Searcher:
        return Searcher(self.index.inner, self.registry, _NoModel())

    @property
    def cached(self) -> Searcher:
        return Searcher(self.index, self.registry, _NoModel())

    async def settled(self) -> None:
        async with asyncio.timeout(SETTLE_SECONDS):
            await cast("SettlingIndex", self.index.inner).settled()

    async def fill(self) -> float:
        """Seconds until all records and rows are durable."""
        began = time.perf_counter()
        drawing = 0.0
        for first in range(0, self.documents, _BLOCK):
            before = time.perf_counter()
            names = range(first, min(first + _BLOCK, self.documents))
            vectors = self.spread.draw(len(names) * CHUNKS, 0, first).reshape(
                -1, CHUNKS, self.spread.real.shape[1]
            )
            records = [r for n in names for r in _records(n, 1, vectors[n - first])]
            drawing += time.perf_counter() - before
            for start in range(0, len(records), _UPSERT_RECORDS):
                await self.index.upsert(NAMESPACE, records[start : start + _UPSERT_RECORDS])
            await asyncio.gather(*(self.registry.put_if(_row(n, 1)) for n in names))
        return time.perf_counter() - began - drawing

    async def rewrite(self, number: int) -> None:
        """As an apply does: write, commit, collect."""
        generation = self.changed[number][0] + 1 if number in self.changed else 2
        vectors = self.spread.draw(CHUNKS, 1, number, generation)
        old = [record.id for record in _records(number, generation - 1, vectors)]
        await self.index.upsert(NAMESPACE, _records(number, generation, vectors))
        row = await self.registry.get(_key(number))
        assert row is not None
        assert await self.registry.put_if(_row(number, generation, row.revision))
        self.changed[number] = generation, vectors
        await self.index.delete(NAMESPACE, old)

    def nearest(self, queries: Floats) -> list[set[tuple[str, int]]]:
        """By comparing with all: (document id, chunk) of the TOP_K nearest of each query."""
        best = np.full((len(queries), 0), -1, np.float32)
        names = np.zeros((len(queries), 0), np.int64)
        for first, vectors in self._blocks():
            scores = queries @ vectors.T
            numbers = np.arange(first * CHUNKS, first * CHUNKS + len(vectors))
            best = np.hstack([best, scores])
            names = np.hstack([names, np.broadcast_to(numbers, scores.shape)])
            order = np.argsort(-best, axis=1)[:, :TOP_K]
            best = np.take_along_axis(best, order, axis=1)
            names = np.take_along_axis(names, order, axis=1)
        return [{(_name(n // CHUNKS), n % CHUNKS) for n in row} for row in names.tolist()]

    def similarity(self) -> float:
        """Median cosine of a record and its nearest neighbour, of some records."""
        _, vectors = next(self._blocks())
        vectors = vectors[:SIMILARITY_SAMPLE]
        best = np.full(len(vectors), -1, np.float32)
        for first, others in self._blocks():
            scores = vectors @ others.T
            if first == 0:
                np.fill_diagonal(scores, -1)
            best = np.maximum(best, scores.max(axis=1))
        return float(np.median(best))

    def _blocks(self) -> Iterator[tuple[int, Floats]]:
        for first in range(0, self.documents, _BLOCK):
            names = range(first, min(first + _BLOCK, self.documents))
            vectors = self.spread.draw(len(names) * CHUNKS, 0, first)
            for name in names:
                if name in self.changed:
                    place = (name - first) * CHUNKS
                    vectors[place : place + CHUNKS] = self.changed[name][1]
            yield first, vectors


class _NoModel:
    async def embed_query(self, text: str) -> Vector[float]:
        raise NotImplementedError("queries come as vectors")


def vector_of(values: Floats) -> Vector[float]:
    return array("f", values.astype(np.float32).tobytes())


def names_of(hits: list[Hit]) -> set[tuple[str, int]]:
    return {(hit.document_id, hit.chunk) for hit in hits}


def _name(number: int) -> str:
    return f"docs/guide-{number:07d}.md"


def _key(number: int) -> DocumentKey:
    return DocumentKey(NAMESPACE, _name(number))


def _records(number: int, generation: int, vectors: Floats) -> list[Record]:
    key = identity.document_key(_key(number))
    return [
        Record(
            id=identity.record_id(key, generation, chunk),
            vector=vector_of(vector),
            document_id=_name(number),
            generation=generation,
            number=chunk,
            doc_hash=_hash(number, generation),
            heading_path=("Guide", f"Section {chunk}"),
            text=f"{chunk} {_TEXT}",
            metadata={"lang": "en", "source": "bench"},
        )
        for chunk, vector in enumerate(vectors)
    ]


def _hash(number: int, generation: int) -> str:
    return identity.sha256_hex(f"{number} {generation}".encode())


def _row(number: int, generation: int, revision: int = 0) -> Row:
    """As it is when the version of this number has been applied and collected."""
    at = time.time() - (_FIRST_WRITTEN_AGO if generation == 1 else 0)
    content = _hash(number, generation)
    nothing = identity.metadata_hash({})
    desired = Desired(
        version=generation,
        content_hash=content,
        metadata_hash=nothing,
        blob_key=identity.raw_blob_key(NAMESPACE, content),
        content_type="text/markdown",
        metadata={"lang": "en", "source": "bench"},
        source_version=None,
        tombstone=False,
        accepted_at=at,
        size_bytes=CHUNKS * len(_TEXT),
        traceparent="",
    )
    applied = Applied(
        version=generation,
        doc_hash=content,
        content_hash=content,
        metadata_hash=nothing,
        embedding_profile="bench",
        manifest=(IdRange(generation, 0, CHUNKS - 1),),
        applied_at=at,
        chunk_count=CHUNKS,
    )
    row = Row(
        key=_key(number),
        revision=revision,
        desired=desired,
        applied=applied,
        next_generation=generation + 1,
        status=Status.COMPLETED,
    )
    return schedule(row, time.time(), Timers())
