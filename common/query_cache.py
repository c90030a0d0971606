"""Answers of the index, kept until a write could change them.

For an index whose every write passes through here, and that shows a write when it returns: the
embedded one. What a query finds depends on what the index holds alone, so an answer stays right
until something is written that would change it:

- a record among its matches is deleted or written again;
- a record is written that is at least as near to the query as its worst match, whatever the
  query's filter says;
- any record is written, when the answer had room for more.

A write is looked at when the index is done with it and before its caller is told. So whoever
knows of a write finds it in every answer, and whoever asks while it is under way may find it
or not, as without a cache. An answer that was under way when a write ended is checked against that
write before it is kept.

What a write that failed or was cancelled did, and when, is anybody's guess: for DOUBT_SECONDS,
longer than the protocol allows a write to be under way, nothing of its namespace is kept.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from common import telemetry
from common.bounded_map import BoundedMap
from common.model import Match, MetadataValue, Record, Vector
from common.ports.capacity import CapacityAware
from common.ports.index import FreshnessToken, Index, MetadataFilter
from common.single_flight import SingleFlight

__all__ = ["CachedIndex", "cached"]

MAX_BYTES: Final = 32 * 1024 * 1024
DOUBT_SECONDS: Final = 120.0
SCORE_TOLERANCE: Final = 1e-3
"""More than rounding, here and in the index, can move a cosine."""
LOGGED_RECORDS: Final = 4096
"""Of writes that ended while queries were under way; beyond that those queries are not kept."""
INLINE_SCORES: Final = 16_384
"""Products of 384 dimensions that take less than a millisecond; more go to a thread."""
_MATCH_BYTES: Final = 700
"""Of a match beside its text and metadata, its place in the look-ups included."""

Floats = NDArray[np.float32]
_Key = tuple[str, bytes, int, str | None]


@dataclass(frozen=True, slots=True)
class _Write:
    """What a write did: the ids it touched, and the unit vectors it wrote, one a row."""

    ids: frozenset[str]
    vectors: Floats | None = None


@dataclass(slots=True, eq=False)
class _Answer:
    """A kept answer. `floor`: who scores less does not belong into it; -inf: everybody does."""

    key: _Key
    matches: tuple[Match, ...]
    unit: Floats
    floor: float
    place: int = -1


@dataclass(slots=True)
class _Shelf:
    """The answers of one namespace, and what was written to it lately."""

    writes: int = 0
    """That ended so far."""
    doubts: int = 0
    """How often it became unknown what the index holds."""
    in_doubt_until: float = -np.inf
    answers: list[_Answer | None] = field(default_factory=list)
    free: list[int] = field(default_factory=list)
    units: Floats = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """By place; a free one may hold anything."""
    floors: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    holders: dict[str, set[int]] = field(default_factory=dict)
    """Places of the answers that hold a record, by its id."""
    asking: list[int] = field(default_factory=list)
    """For each query under way, how many writes had ended when it began."""
    log: deque[tuple[int, _Write]] = field(default_factory=deque)
    """Writes that ended since the oldest query under way began, by number."""
    logged: int = 0

    def add(self, answer: _Answer) -> None:
        answer.place = self.free.pop() if self.free else self._new_place(answer.unit.size)
        self.answers[answer.place] = answer
        self.units[answer.place] = answer.unit
        self.floors[answer.place] = answer.floor
        for match in answer.matches:
            self.holders.setdefault(match.id, set()).add(answer.place)

    def remove(self, answer: _Answer) -> None:
        self.answers[answer.place] = None
        self.free.append(answer.place)
        for match in answer.matches:
            places = self.holders.get(match.id, set())
            places.discard(answer.place)
            if not places:
                self.holders.pop(match.id, None)
        if not self.holds_any():
            self._release()

    def holds_any(self) -> bool:
        return len(self.free) < len(self.answers)

    def held(self) -> list[_Answer]:
        return [answer for answer in self.answers if answer is not None]

    def among(self, places: Iterable[int]) -> list[_Answer]:
        found = (self.answers[place] for place in places if place < len(self.answers))
        return [answer for answer in found if answer is not None]

    def fits(self, unit: Floats) -> bool:
        """A namespace that was never written may be asked in any dimension."""
        return not self.holds_any() or self.units.shape[1] == unit.size

    def _new_place(self, dimension: int) -> int:
        place = len(self.answers)
        if place >= len(self.units):
            size = max(2 * place, 8)
            units, floors = np.zeros((size, dimension), np.float32), np.zeros(size, np.float32)
            if place:
                units[:place], floors[:place] = self.units, self.floors
            self.units, self.floors = units, floors
        self.answers.append(None)
        return place

    def _release(self) -> None:
        self.answers, self.free, self.holders = [], [], {}
        self.units, self.floors = np.zeros((0, 0), np.float32), np.zeros(0, np.float32)

    # Writes that end while queries are under way.

    @contextmanager
    def query_under_way(self) -> Iterator[int]:
        """How many writes had ended when it began."""
        began = self.writes
        self.asking.append(began)
        try:
            yield began
        finally:
            self.asking.remove(began)
            oldest = min(self.asking, default=self.writes)
            while self.log and self.log[0][0] <= oldest:
                self.logged -= _size(self.log.popleft()[1])

    def ended(self, write: _Write) -> None:
        self.writes += 1
        if not self.asking:
            return
        self.log.append((self.writes, write))
        self.logged += _size(write)
        if self.logged > LOGGED_RECORDS:
            self.doubts += 1
            self.log.clear()
            self.logged = 0

    def still_right(self, answer: _Answer, began: int) -> bool:
        """Whether no write that ended since `began` could change it."""
        since = [write for number, write in self.log if number > began]
        ids = {match.id for match in answer.matches}
        return not any(_changes(write, answer, ids) for write in since)


class CachedIndex:
    """Implements the index port on another of this process; belongs to one event loop.

    Answers are copies: what a caller does to one is seen by no other.
    """

    def __init__(
        self,
        inner: Index,
        *,
        entries: int,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.inner = inner
        self._clock = clock
        self._answers: BoundedMap[_Key, _Answer] = BoundedMap(entries, max_bytes)
        self._shelves: dict[str, _Shelf] = {}
        self._flights: SingleFlight[Any, list[Match]] = SingleFlight(clock)

    def __len__(self) -> int:
        """Answers kept."""
        return len(self._answers)

    async def query(
        self,
        namespace: str,
        vector: Vector[float],
        *,
        top_k: int,
        where: MetadataFilter | None = None,
    ) -> list[Match]:
        shelf = self._shelf(namespace)
        ask = partial(self.inner.query, namespace, vector, top_k=top_k, where=where)
        unit = _unit(vector)
        if top_k < 1 or unit is None or self._clock() < shelf.in_doubt_until:
            return await ask()
        # Filters that compare equal may differ: 1 == True.
        text = None if where is None else repr(where)
        key: _Key = (namespace, vector.typecode.encode() + vector.tobytes(), top_k, text)
        kept = self._answers.get(key)
        if kept is not None:
            telemetry.QUERY_CACHE.labels("index", "hit").inc()
            return _copies(kept.matches)
        # Who asks after a write ended may not share the answer of one who asked before.
        flight = (key, shelf.writes, shelf.doubts)
        begin = partial(self._ask, shelf, shelf.doubts, key, unit, ask)
        found, joined = await self._flights.run(flight, begin)
        telemetry.QUERY_CACHE.labels("index", "shared" if joined else "miss").inc()
        return _copies(found)

    async def upsert(self, namespace: str, records: Sequence[Record]) -> FreshnessToken:
        with self._in_doubt_if_it_fails(namespace):
            token = await self.inner.upsert(namespace, records)
            await self._ended(namespace, lambda: _written(records))
        return token

    async def delete(self, namespace: str, ids: Sequence[str]) -> None:
        with self._in_doubt_if_it_fails(namespace):
            await self.inner.delete(namespace, ids)
            await self._ended(namespace, lambda: _Write(frozenset(ids)))

    async def wait_visible(
        self, namespace: str, token: FreshnessToken, *, timeout_seconds: float
    ) -> None:
        await self.inner.wait_visible(namespace, token, timeout_seconds=timeout_seconds)

    async def fetch(self, namespace: str, ids: Sequence[str]) -> list[Record]:
        return await self.inner.fetch(namespace, ids)

    def list_ids(self, namespace: str, prefix: str = "") -> AsyncIterator[str]:
        return self.inner.list_ids(namespace, prefix)

    async def count(self, namespace: str) -> int:
        return await self.inner.count(namespace)

    async def namespaces(self) -> list[str]:
        return await self.inner.namespaces()

    async def close(self) -> None:
        for shelf in self._shelves.values():
            self._drop(shelf, shelf.held())
        await self.inner.close()

    def _shelf(self, namespace: str) -> _Shelf:
        return self._shelves.setdefault(namespace, _Shelf())

    async def _ask(
        self, shelf: _Shelf, doubts: int, key: _Key, unit: Floats, ask: Callable[[], Any]
    ) -> list[Match]:
        with shelf.query_under_way() as began:
            matches: list[Match] = await ask()
            answer = _Answer(key, tuple(matches), unit, _floor(matches, key[2]))
            if doubts == shelf.doubts and shelf.still_right(answer, began):
                self._keep(shelf, answer)
        return matches

    def _keep(self, shelf: _Shelf, answer: _Answer) -> None:
        if not shelf.fits(answer.unit):
            self._drop(shelf, shelf.held())
        shelf.add(answer)
        size = len(answer.key[1]) + 4 * answer.unit.size + len(answer.key[3] or "")
        size += sum(_match_bytes(match) for match in answer.matches)
        for gone in self._answers.put(answer.key, answer, size):
            self._shelves[gone.key[0]].remove(gone)

    def _drop(self, shelf: _Shelf, answers: Iterable[_Answer]) -> None:
        for answer in answers:
            if answer.place >= 0 and self._answers.pop(answer.key) is not None:
                shelf.remove(answer)

    async def _ended(self, namespace: str, what: Callable[[], _Write]) -> None:
        """Drop what a write changes. A cancelled one leaves the namespace in doubt."""
        shelf = self._shelf(namespace)
        if not shelf.asking and not shelf.holds_any():
            shelf.writes += 1
            return
        write = what()
        shelf.ended(write)
        touched = {place for i in write.ids for place in shelf.holders.get(i, ())}
        self._drop(shelf, shelf.among(touched))
        if write.vectors is not None and shelf.holds_any():
            self._drop(shelf, shelf.among(await _outranked(shelf, write.vectors)))

    @contextmanager
    def _in_doubt_if_it_fails(self, namespace: str) -> Iterator[None]:
        try:
            yield
        except BaseException:
            shelf = self._shelf(namespace)
            shelf.doubts += 1
            shelf.in_doubt_until = self._clock() + DOUBT_SECONDS
            self._drop(shelf, shelf.held())
            raise


class _CachedLocalIndex(CachedIndex):
    """Tells the room on its disk too."""

    async def free_bytes(self) -> int:
        return await cast("CapacityAware", self.inner).free_bytes()


def cached(index: Index, *, entries: int) -> Index:
    """`index` with a cache of so many answers before it; itself for 0."""
    if entries == 0:
        return index
    kind = _CachedLocalIndex if isinstance(index, CapacityAware) else CachedIndex
    return kind(index, entries=entries)


async def _outranked(shelf: _Shelf, vectors: Floats) -> list[int]:
    """Places of the answers that one of the vectors might belong to."""
    count = len(shelf.answers)
    units, floors = shelf.units[:count], shelf.floors[:count]
    if units.shape[1] != vectors.shape[1]:
        return list(range(count))
    if count * len(vectors) <= INLINE_SCORES:
        return _reached(units, floors, vectors)
    # Answers come and go meanwhile: those that come were checked, those that go may go.
    return await asyncio.to_thread(_reached, units.copy(), floors.copy(), vectors)


def _reached(units: Floats, floors: Floats, vectors: Floats) -> list[int]:
    best = (units @ vectors.T).max(axis=1)
    # What cannot be compared counts as reached.
    reached: list[int] = np.flatnonzero(~(best < floors - SCORE_TOLERANCE)).tolist()
    return reached


def _changes(write: _Write, answer: _Answer, ids: Collection[str]) -> bool:
    if not write.ids.isdisjoint(ids):
        return True
    if write.vectors is None:
        return False
    if write.vectors.shape[1] != answer.unit.size:
        return True
    floors = np.array([answer.floor], np.float32)
    return bool(_reached(answer.unit[np.newaxis], floors, write.vectors))


def _written(records: Sequence[Record]) -> _Write:
    ids = frozenset(record.id for record in records)
    if not records:
        return _Write(ids)
    vectors = np.array([record.vector for record in records], np.float32)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return _Write(ids, vectors / np.maximum(norms, np.float32(1e-30)))


def _unit(vector: Vector[float]) -> Floats | None:
    """None for what has no direction that can be compared."""
    values = np.array(vector, np.float32)
    norm = float(np.linalg.norm(values))
    return values / np.float32(norm) if 0.0 < norm < np.inf else None


def _floor(matches: Sequence[Match], top_k: int) -> float:
    return -np.inf if len(matches) < top_k else min(match.score for match in matches)


def _size(write: _Write) -> int:
    return len(write.ids) + 1


def _match_bytes(match: Match) -> int:
    values = (sys.getsizeof(value) + sys.getsizeof(key) for key, value in match.metadata.items())
    headings = sum(map(sys.getsizeof, match.heading_path))
    return _MATCH_BYTES + sys.getsizeof(match.text) + headings + sum(values)


def _copies(matches: Iterable[Match]) -> list[Match]:
    """Of all that can be changed: the metadata."""
    return [
        Match(
            id=match.id,
            score=match.score,
            document_id=match.document_id,
            generation=match.generation,
            number=match.number,
            doc_hash=match.doc_hash,
            heading_path=match.heading_path,
            text=match.text,
            metadata={key: _copy(value) for key, value in match.metadata.items()},
        )
        for match in matches
    ]


def _copy(value: MetadataValue) -> MetadataValue:
    return value.copy() if isinstance(value, list) else value
