"""A scrub's looks at one document: what is outside compared with its row, and looked at again
before anything is said, so that what is only in transit is never a finding."""

from __future__ import annotations

import asyncio
import itertools
import struct
import zlib
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from common import identity
from common.clock import Clock, system_clock
from common.model import DocumentKey, Row, Status, expand
from common.pack import CorruptPackError, Pack, decode
from common.ports.blobs import BlobNotFoundError, BlobStore
from common.ports.errors import TransientError
from common.ports.index import Index
from common.ports.registry import Registry
from common.scrubbing import FindingKind
from common.transitions import Timers, named_ids
from workers.scrub_checks import (
    Comparison,
    Fault,
    manifest_faults,
    pack_faults,
    row_faults,
    shows_records,
)

LOOKS_AT_MOST = 5
FETCH_RECORDS = 256

T = TypeVar("T")
Pairs = set[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a document's last look saw. `row` None: it was forgotten, and only orphans are left."""

    row: Row | None
    faults: list[Fault]
    orphans: Pairs
    records: int
    settled: bool = True
    """False: the document changed at every look."""


@dataclass(slots=True, kw_only=True)
class Looker:
    """Reads only. Memory: one document's content and pack, and FETCH_RECORDS of its records."""

    registry: Registry
    blobs: BlobStore
    index: Index
    timers: Timers
    timeout_seconds: float
    """Of each call to a port; a call that takes longer raises TransientError."""
    clock: Clock = system_clock

    async def settle(self, row: Row, listed: Pairs) -> Seen:
        """Look until two reads of the row, before and after, say the same.

        `listed` are the ids that the index listed *before* the row was first read. An id is in the
        row before it is written, leaves it only after it was deleted, and is never used again: one
        that the index still holds after a later read did not name it is an orphan. What the
        manifest names, and the pack and content that go with it, are there from before the
        commit until after the next one: what is missing between two equal reads is lost.
        """
        records = 0
        for _ in range(LOOKS_AT_MOST):
            outside, records = await self._outside(row)
            suspects = listed - named_ids(row)
            if not outside and not suspects and not self._inside(row):
                return Seen(row, [], set(), records)
            fresh = await self.within(self.registry.get(row.key))
            if fresh is None:
                return Seen(None, [], await self.still_there(row.key, listed), records)
            if (fresh.desired, fresh.applied) == (row.desired, row.applied):
                orphans = await self.still_there(row.key, suspects - named_ids(fresh))
                return Seen(fresh, self._inside(fresh) + outside, orphans, records)
            row = fresh
        return Seen(row, [], set(), records, settled=False)

    async def still_there(self, key: DocumentKey, pairs: Pairs) -> Pairs:
        """Those of the ids that the index holds now."""
        ids = named(identity.document_key(key), sorted(pairs))
        return {ids[held] for held in await self.held(key.namespace, ids)}

    async def held(self, namespace: str, ids: Iterable[str]) -> dict[str, str]:
        """Those of the ids that the index holds now, each with the document its record names."""
        found: dict[str, str] = {}
        remaining = iter(ids)
        while part := list(itertools.islice(remaining, FETCH_RECORDS)):
            records = await self.within(self.index.fetch(namespace, part))
            found.update((record.id, record.document_id) for record in records)
        return found

    async def within(self, call: Awaitable[T]) -> T:
        """Raises TransientError after the time limit."""
        try:
            async with asyncio.timeout(self.timeout_seconds):
                return await call
        except TimeoutError:
            raise TransientError(f"no answer within {self.timeout_seconds:g} s") from None

    def _inside(self, row: Row) -> list[Fault]:
        faults = row_faults(row, self.timers)
        return faults + manifest_faults(row) if shows_records(row) else faults

    async def _outside(self, row: Row) -> tuple[list[Fault], int]:
        """Faults of pack, records and content; and how many records the manifest names."""
        if not shows_records(row):
            return await self._content(row), 0
        pack, faults = await self._pack(row)
        compared, count = await self._records(row, pack)
        return [*compared, *faults, *await self._content(row)], count

    async def _pack(self, row: Row) -> tuple[Pack | None, list[Fault]]:
        """A pack to compare records with, if there is one. A document without chunks keeps none."""
        if not row.applied.manifest:
            return None, []
        blob_key = identity.pack_key(row.key, row.applied.version, row.applied.doc_hash)
        try:
            data = await self.within(self.blobs.get(blob_key))
            pack = await asyncio.to_thread(decode, data)
        except BlobNotFoundError:
            return None, [(FindingKind.PACK, "the applied version's pack is missing", 0)]
        except (CorruptPackError, ValueError, KeyError, TypeError, struct.error, zlib.error):
            return None, [(FindingKind.PACK, "the applied version's pack is torn", 0)]
        faults = pack_faults(row, pack)
        return (None, faults) if faults else (pack, [])

    async def _records(self, row: Row, pack: Pack | None) -> tuple[list[Fault], int]:
        comparison = Comparison(row, pack)
        pairs = expand(row.applied.manifest)
        name = identity.document_key(row.key)
        for first in range(0, len(pairs), FETCH_RECORDS):
            ids = named(name, pairs[first : first + FETCH_RECORDS])
            records = await self.within(self.index.fetch(row.key.namespace, list(ids)))
            await asyncio.to_thread(comparison.add, first, ids, records)
        return comparison.faults(), len(pairs)

    async def _content(self, row: Row) -> list[Fault]:
        """Not judged: what FAILED says its reason itself; what is young may be being accepted."""
        desired = row.desired
        young = self.clock() < desired.accepted_at + self.timers.stale_after_seconds
        if desired.tombstone or row.status is Status.FAILED or young:
            return []
        try:
            content = await self.within(self.blobs.get(desired.blob_key))
        except BlobNotFoundError:
            lost = "the stored content is missing: send the document again"
            return [(FindingKind.CONTENT, lost, 0)]
        if await asyncio.to_thread(identity.sha256_hex, content) == desired.content_hash:
            return []
        torn = "the stored content is not what was accepted: send the document again"
        return [(FindingKind.CONTENT, torn, 0)]


def named(document_key: str, pairs: Iterable[tuple[int, int]]) -> Mapping[str, tuple[int, int]]:
    """Record ids, in order, each with what it is made of."""
    return {identity.record_id(document_key, *pair): pair for pair in pairs}
