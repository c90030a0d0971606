"""The read path: query the index first, read the matched documents' rows after.

A match counts only if its record is in its document's manifest, so a reader sees a document's
old version until the commit and the new one after it: never a mix, never nothing in between.

A document that was committed while the query ran may have been seen in part. Its rows before and
after a query tell, and the query is repeated for it. Before the first query this search read no
row. Where an earlier search did, and found the same version, the document stood still since; every
other one that was applied lately counts as moved. `applied_at` is a time on another process'
clock, taken before the commit was written, so 'lately' leaves room for both.
"""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from common import telemetry
from common.clock import Clock, system_clock
from common.model import DocumentKey, IdRange, Match, MetadataValue, Row, Status, Vector
from common.pack import PackedChunk
from common.ports.blobs import BlobStore
from common.ports.errors import TransientError
from common.ports.index import Index, MetadataFilter
from common.ports.registry import Registry
from webhook.search_motion import KnownVersions
from webhook.search_texts import Place, chunks_at
from webhook.search_vectors import QueryEmbedder

QUERIES_AT_MOST = 3
"""Each wider than the one before; those that are repeated for a moving document not counted."""
QUERIES_IN_MOTION_AT_MOST = 6
"""A document that is committed during each of so many queries is more than a search can follow."""
RECENT_SECONDS = 120.0
SPARE_MATCHES = 8
"""Asked for beyond a page and a quarter, for records that are hidden."""
GROWTH = 32
FETCH_AT_MOST = 10_000
"""Hidden records of a large attempt under way may be nearer than everything visible."""
SHORTEST_POLL_SECONDS = 0.005
LONGEST_POLL_SECONDS = 0.1


class NotAppliedInTimeError(Exception):
    """A document the caller wants to see did not become visible within the wait."""


class ApplyFailedError(NotAppliedInTimeError):
    """It will not become visible: embedding it failed, for the reason in the message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """`score` is cosine similarity. `chunk` is the chunk's place in its document, from 0.

    `text` is empty where it is neither in the index nor in a readable pack: the log says which.
    """

    document_id: str
    version: int
    chunk: int
    score: float
    text: str
    heading_path: tuple[str, ...]
    metadata: dict[str, MetadataValue]


class _Seen(NamedTuple):
    """A visible match: the version it belongs to and its place there."""

    match: Match
    version: int
    place: int
    doc_hash: str
    """Of the version."""


@dataclass(slots=True)
class Searcher:
    """Answers searches over one namespace at a time."""

    index: Index
    registry: Registry
    embedder: QueryEmbedder
    clock: Clock = system_clock
    recent_seconds: float = RECENT_SECONDS
    """More than clocks differ by, and than passes between deciding a commit and writing it."""
    known: KnownVersions = field(default_factory=KnownVersions)
    blobs: BlobStore | None = None
    """Where packs are, for texts that do not fit into the index; None: all of them do."""
    embedder_of: Callable[[str], QueryEmbedder] | None = None
    """Of a namespace, where embedding variants differ; None: `embedder` is everyone's."""

    async def search(
        self, namespace: str, query: str, *, top_k: int, where: MetadataFilter | None = None
    ) -> list[Hit]:
        """At most `top_k` chunks, best first. Raises what the ports raise."""
        embedder = self.embedder_of(namespace) if self.embedder_of else self.embedder
        vector = await embedder.embed_query(query)
        return await self.search_vector(namespace, vector, top_k=top_k, where=where)

    async def search_vector(
        self,
        namespace: str,
        vector: Vector[float],
        *,
        top_k: int,
        where: MetadataFilter | None = None,
    ) -> list[Hit]:
        """Each document from the last query during which it was not committed.

        Raises TransientError when one was committed during every query. One that an equal query
        did not find a moment before may be left out: so it was then.
        """
        fetch = top_k + top_k // 4 + SPARE_MATCHES
        still: dict[str, list[_Seen]] = {}
        before: Mapping[str, Row] = {}
        widened, widenings = True, 0
        for query_number in range(1, QUERIES_IN_MOTION_AT_MOST + 1):
            since = self.clock() - self.recent_seconds
            began = self.known.begin()
            matches = await self.index.query(namespace, vector, top_k=fetch, where=where)
            rows = await self._rows(namespace, {match.document_id for match in matches})
            moved = {name for name, row in rows.items() if _moved(before.get(name), row, since)}
            moved -= self.known.still_since(began, [rows[name] for name in moved - before.keys()])
            visible = _visible(matches, rows)
            still.update({name: visible[name] for name in rows.keys() - moved})
            seen = sorted(chain.from_iterable(still.values()), key=lambda one: -one.match.score)
            moving = moved - still.keys()
            if not widened:
                moving &= before.keys()
            # What moves is looked at again in any case: that alone is no reason to ask for more.
            expected = len(seen) + sum(len(visible[name]) for name in moving)
            short = expected < top_k and len(matches) == fetch
            last = query_number == QUERIES_IN_MOTION_AT_MOST
            again = _why_again(bool(moving), short and not last, widenings)
            if again is None:
                return await self._hits(namespace, seen[:top_k])
            telemetry.SEARCH_REQUERIES.labels(again).inc()
            before = rows
            # A wider query finds documents that this one could not: for them it is the first.
            widened = short and fetch < FETCH_AT_MOST
            fetch = min(GROWTH * fetch, FETCH_AT_MOST) if widened else fetch
            widenings += widened
        raise TransientError(
            f"a document was changed during each of {QUERIES_IN_MOTION_AT_MOST} queries"
        )

    async def _hits(self, namespace: str, seen: Sequence[_Seen]) -> list[Hit]:
        """Texts that the index does not hold come from the packs."""
        without = [_place(one) for one in seen if one.match.text is None]
        chunks = await chunks_at(self.blobs, namespace, without)
        return [_hit(one, chunks.get(_place(one)) if chunks else None) for one in seen]

    async def _rows(self, namespace: str, names: Iterable[str]) -> dict[str, Row]:
        """By document id: a key is dear to hash, and the namespace is one."""
        found = await self.registry.get_many([DocumentKey(namespace, n) for n in sorted(names)])
        return {row.key.document_id: row for row in found.values()}

    async def wait_applied(
        self, versions: Mapping[DocumentKey, int], *, timeout_seconds: float
    ) -> None:
        """As the function of this name, on this searcher's registry."""
        await wait_applied(self.registry, versions, timeout_seconds=timeout_seconds)

    async def behind(self, namespace: str) -> dict[DocumentKey, int]:
        """Documents whose accepted version is not visible yet, and that version."""
        found: dict[DocumentKey, int] = {}
        for status in (Status.PENDING, Status.PROCESSING):
            cursor: str | None = None
            while True:
                page = await self.registry.scan(namespace, status=status, cursor=cursor, limit=1000)
                found.update({r.key: r.desired.version for r in page.rows if r.behind})
                cursor = page.cursor
                if cursor is None:
                    break
        return found


async def wait_applied(
    registry: Registry, versions: Mapping[DocumentKey, int], *, timeout_seconds: float
) -> None:
    """Return when each document shows at least its version. Raises NotAppliedInTimeError.

    A document that FAILED at such a version ends the wait at once: ApplyFailedError.
    """
    waiting = dict(versions)
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        async with asyncio.timeout(timeout_seconds):
            while waiting:
                looked = loop.time()
                waiting = _still_waiting(waiting, await registry.get_many(list(waiting)))
                if waiting:
                    now = loop.time()
                    await asyncio.sleep(pause_seconds(now - began, now - looked))
    except TimeoutError:
        names = ", ".join(f"{k.document_id!r} at {v}" for k, v in list(waiting.items())[:3])
        raise NotAppliedInTimeError(
            f"{len(waiting)} document(s) not applied within {timeout_seconds:g} s: {names}"
        ) from None


def pause_seconds(waited: float, look_took: float) -> float:
    """A tenth of the time waited so far, so that a wait is at most a tenth too long; and long
    enough that looking at many documents takes a quarter of the time at most."""
    by_age = min(max(waited / 10, SHORTEST_POLL_SECONDS), LONGEST_POLL_SECONDS)
    return max(by_age, 3 * look_took)


class _Places:
    """Finds a record's place in its document by binary search over the manifest's ranges."""

    def __init__(self, manifest: Sequence[IdRange]) -> None:
        before = 0
        placed: list[tuple[int, int, int, int]] = []
        for ids in manifest:
            placed.append((ids.generation, ids.first, ids.last, before))
            before += len(ids)
        self._placed = sorted(placed)

    def find(self, generation: int, number: int) -> int | None:
        """The chunk's place, from 0; None when the record is not part of the version."""
        found = bisect_right(self._placed, (generation, number, math.inf, math.inf)) - 1
        if found < 0:
            return None
        of_generation, first, last, before = self._placed[found]
        inside = of_generation == generation and first <= number <= last
        return before + number - first if inside else None


def _visible(matches: Iterable[Match], rows: Mapping[str, Row]) -> dict[str, list[_Seen]]:
    """Each document's visible matches; [] for one that shows none."""
    places = {name: _Places(row.applied.manifest) for name, row in rows.items()}
    seen: dict[str, list[_Seen]] = {name: [] for name in places}
    for match in matches:
        name = match.document_id
        place = places[name].find(match.generation, match.number) if name in places else None
        if place is not None:
            applied = rows[name].applied
            seen[name].append(_Seen(match, applied.version, place, applied.doc_hash))
    return seen


def _place(one: _Seen) -> Place:
    return Place(one.match.document_id, one.version, one.doc_hash, one.place)


def _hit(one: _Seen, packed: PackedChunk | None) -> Hit:
    """`packed`: the chunk as its pack has it, where the index has no text."""
    match = one.match
    return Hit(
        document_id=match.document_id,
        version=one.version,
        chunk=one.place,
        score=match.score,
        text=match.text or (packed.text if packed else ""),
        heading_path=packed.heading_path if packed else match.heading_path,
        metadata=match.metadata,
    )


def _moved(before: Row | None, after: Row, since: float) -> bool:
    """Whether the document may have been committed during the query.

    A document that shows nothing afterwards is seen whole whatever the query found.
    """
    if not after.applied.manifest:
        return False
    if before is None:
        return after.applied.applied_at >= since
    return before.applied != after.applied


def _why_again(moving: bool, short: bool, widenings: int) -> str | None:
    if moving:
        return "moved"
    return "short" if short and widenings < QUERIES_AT_MOST - 1 else None


def _still_waiting(
    waiting: Mapping[DocumentKey, int], rows: Mapping[DocumentKey, Row]
) -> dict[DocumentKey, int]:
    left = {}
    for key, version in waiting.items():
        row = rows.get(key)
        if row and row.status is Status.FAILED and row.behind and row.desired.version >= version:
            raise ApplyFailedError(
                f"document {key.document_id!r} failed at version {row.desired.version}: {row.error}"
            )
        if row is None or row.applied.version < version:
            left[key] = version
    return left
