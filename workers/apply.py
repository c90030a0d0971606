"""Apply a pack to the index: begin, upsert, commit, collect. docs/architecture.md has the proof
obligations; `common.transitions` has the guards."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from common import identity, telemetry
from common.clock import Clock, system_clock
from common.model import Applied, DocumentKey, IdRange, QueueName, Record, Row, Status, WakeUp
from common.pack import Pack
from common.ports.blobs import BlobStore
from common.ports.errors import TransientError
from common.ports.index import Index
from common.ports.queue import Delivery, Queue
from common.ports.registry import Registry
from common.transitions import (
    Refusal,
    Timers,
    base_of,
    begin,
    commit,
    extend_attempt,
    release_claim,
)
from workers.collect import collect
from workers.lease import Lease
from workers.outcome import Done, HandlerOutcome
from workers.packs import read_applied_pack, read_pack
from workers.plan import Plan, batches, plan_apply
from workers.rows import RACES_BEFORE_GIVING_UP, change_row

log = structlog.get_logger(__name__)

UPSERT_RECORDS = 256
PLANS_AT_MOST = 20
PATIENCE_IN_TIMEOUTS = 10
"""So many write time-outs an index may take to show a write. Giving up means writing all of it
again under new ids, which is more for an index that lags behind its writes."""
SLICES_PER_LEASE = 4
"""An attempt's lease is looked after so often while it waits."""


class AttemptDoomedError(Exception):
    """The attempt outlived its lease; nothing of it may be written or committed any more."""


@dataclass(slots=True, kw_only=True)
class ApplyHandler:
    """Makes a packed version the visible one. The create and the update consumer run it."""

    kind: QueueName
    registry: Registry
    blobs: BlobStore
    queue: Queue
    index: Index
    timers: Timers
    write_timeout_seconds: float
    clock: Clock = system_clock

    async def __call__(self, delivery: Delivery, lease: Lease) -> HandlerOutcome:
        wake_up = delivery.wake_up
        for _ in range(PLANS_AT_MOST):
            row = await self.registry.get(wake_up.key)
            if row is None or row.applied.version >= wake_up.version:
                await self._collect(wake_up.key, lease)
                return Done("already applied")
            if wake_up.version > row.desired.version:
                return Done("of a life before: the document was forgotten and began again")
            pack = await read_pack(self.blobs, row.key, wake_up.version, wake_up.doc_hash)
            if pack is None:
                await self._embed_again(wake_up)
                return Done("pack is missing, embedding again")
            try:
                verdict = await self._attempt(row, pack, lease)
            except AttemptDoomedError:
                verdict = Refusal.DOOMED
            if not isinstance(verdict, Refusal):
                self._report(verdict, pack)
                await self._collect(wake_up.key, lease)
                return Done("applied")
            log.info("apply.refused", why=verdict.value)
        raise TransientError("the document changed under every attempt to apply it")

    async def _embed_again(self, wake_up: WakeUp) -> None:
        await change_row(
            self.registry,
            wake_up.key,
            lambda row: release_claim(row, wake_up.version, self.clock(), self.timers),
        )
        await self.queue.send(QueueName.CHANGE, [replace(wake_up, doc_hash="")])

    async def _attempt(self, row: Row, pack: Pack, lease: Lease) -> Row | Refusal:
        base = await read_applied_pack(self.blobs, row.key, row.applied)
        plan = plan_apply(pack, row.applied, base)
        begun = await self._begin(row, len(plan.new))
        if begun is None:
            return Refusal.BASE_MOVED
        stored, own = begun
        if own is not None:
            await self._write(stored, pack, plan, own, lease)
        telemetry.RECORDS.labels("kept").inc(len(pack.chunks) - len(plan.new))
        return await self._commit(row, pack, plan, own)

    async def _begin(self, planned: Row, count: int) -> tuple[Row, IdRange | None] | None:
        """None when the plan is out of date before anything was written."""
        row: Row | None = planned
        for _ in range(RACES_BEFORE_GIVING_UP):
            if row is None or base_of(row) != base_of(planned):
                return None
            changed, own = begin(row, count, self.clock(), self.timers)
            if own is None:
                return row, None
            stored = await self.registry.put_if(changed)
            if stored is not None:
                return stored, own
            row = await self.registry.get(planned.key)
        raise TransientError(f"too many writers at once on {planned.key.document_id!r}")

    async def _write(self, begun: Row, pack: Pack, plan: Plan, own: IdRange, lease: Lease) -> None:
        key = begun.key
        attempt = _AttemptLease(self, begun, own)
        token = ""
        number = own.first
        for part in batches(plan.new, UPSERT_RECORDS):
            await attempt.keep()
            lease.check()
            records = _records(key, pack, part, own.generation, number)
            token = await self._upsert(key.namespace, records)
            number += len(part)
        await self._shown(key.namespace, token, attempt, lease)
        telemetry.RECORDS.labels("written").inc(len(plan.new))

    async def _shown(
        self, namespace: str, token: str, attempt: _AttemptLease, lease: Lease
    ) -> None:
        """Returns when queries see the write. While the index lags behind, the attempt's lease is
        extended and the message's, which the consumer extends, is looked at."""
        longest = self.timers.attempt_lease_seconds / SLICES_PER_LEASE
        slice_seconds = min(self.write_timeout_seconds, longest)
        slices = math.ceil(PATIENCE_IN_TIMEOUTS * self.write_timeout_seconds / slice_seconds)
        for left in reversed(range(slices)):
            await attempt.keep()
            lease.check()
            try:
                await self.index.wait_visible(namespace, token, timeout_seconds=slice_seconds)
            except TransientError:
                if not left:
                    raise
            else:
                return

    async def _upsert(self, namespace: str, records: list[Record]) -> str:
        """The deadline is shorter than the grace that collection leaves to writes under way."""
        try:
            async with asyncio.timeout(self.write_timeout_seconds):
                return await self.index.upsert(namespace, records)
        except TimeoutError:
            raise TransientError(
                f"the index took more than {self.write_timeout_seconds:g} s for a write"
            ) from None

    async def _commit(
        self, planned: Row, pack: Pack, plan: Plan, own: IdRange | None
    ) -> Row | Refusal:
        applied = Applied(
            version=pack.version,
            doc_hash=pack.doc_hash,
            content_hash=pack.content_hash,
            metadata_hash=pack.metadata_hash,
            embedding_profile=pack.embedding_profile,
            manifest=plan.manifest(own),
            chunk_count=len(pack.chunks),
        )
        for _ in range(RACES_BEFORE_GIVING_UP):
            row = await self.registry.get(planned.key)
            if row is None:
                return Refusal.BASE_MOVED
            verdict = commit(
                row,
                base=base_of(planned),
                applied=applied,
                own=own,
                now=self.clock(),
                timers=self.timers,
            )
            if isinstance(verdict, Refusal):
                return verdict
            stored = await self.registry.put_if(verdict)
            if stored is not None:
                return stored
        raise TransientError(f"too many writers at once on {planned.key.document_id!r}")

    def _report(self, row: Row, pack: Pack) -> None:
        telemetry.APPLIED.labels(self.kind.value).inc()
        freshness = max(row.applied.applied_at - pack.accepted_at, 0.0)
        telemetry.FRESHNESS_SECONDS.observe(freshness)
        log.info(
            "document.applied",
            applied=pack.version,
            chunks=len(pack.chunks),
            complete=row.status is Status.COMPLETED,
            freshness_seconds=round(freshness, 3),
        )

    async def _collect(self, key: DocumentKey, lease: Lease) -> None:
        await collect(self.registry, self.index, key, self.clock, self.timers, lease=lease)


class _AttemptLease:
    """The open range's lease in the row, extended while the attempt makes progress."""

    def __init__(self, handler: ApplyHandler, begun: Row, own: IdRange) -> None:
        self._handler, self._key, self._own = handler, begun.key, own
        # What the row says: the answer to *begin* may have come late.
        self._deadline = next(e.not_before for e in begun.garbage if e.ids == own)

    async def keep(self) -> None:
        """Call right before each write. Raises AttemptDoomedError when the lease is gone.

        Looks again after an extension, which may have taken longer than what it gave.
        """
        lease_seconds = self._handler.timers.attempt_lease_seconds
        while (now := self._handler.clock()) >= self._deadline - lease_seconds / 2:
            await self._extend(now)
            self._deadline = now + lease_seconds

    async def _extend(self, now: float) -> None:
        extended = await change_row(
            self._handler.registry,
            self._key,
            lambda row: extend_attempt(row, self._own, now, self._handler.timers),
        )
        if extended is None:
            raise AttemptDoomedError


def _records(
    key: DocumentKey, pack: Pack, places: Sequence[int], generation: int, first: int
) -> list[Record]:
    name = identity.document_key(key)
    return [
        Record(
            id=identity.record_id(name, generation, number),
            vector=pack.vectors[place],
            document_id=key.document_id,
            generation=generation,
            number=number,
            doc_hash=pack.doc_hash,
            heading_path=pack.chunks[place].heading_path,
            text=pack.chunks[place].text,
            metadata=pack.metadata,
        )
        for number, place in enumerate(places, start=first)
    ]
