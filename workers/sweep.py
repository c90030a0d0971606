"""The sweeper: re-sends the wake-up of rows that stay behind, collects garbage, forgets old
tombstones and unreferenced blobs. Any number of sweepers may run; each step is idempotent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from common import identity, telemetry
from common.clock import Clock, system_clock
from common.model import DocumentKey, QueueName, Row, Status, WakeUp
from common.ports.blobs import BlobStore
from common.ports.errors import PortError
from common.ports.index import Index
from common.ports.queue import AdoptingQueue, Delivery, Queue
from common.ports.registry import Registry
from common.transitions import Timers, may_forget, postpone_sweep
from workers.collect import collect
from workers.notes import RegistryNote
from workers.outcome import GiveUp
from workers.unforeseen import tell

log = structlog.get_logger(__name__)

ROWS_PER_PASS = 500
PAGE_ROWS = 1000
BLOBS_PER_DELETE = 500
SENT_WITHIN_SECONDS = 30.0
"""A wake-up is sent at most so long after its row was written."""
UNTOLD_AGE_SECONDS = 3600.0
"""What the oldest of the waiting messages is taken for, where the queue cannot tell."""
ADOPT_INTERVAL_SECONDS = 60.0
ADOPTED_PER_PASS = 100


_BEFORE_APPLIED = (QueueName.CHANGE, QueueName.CREATE, QueueName.UPDATE)
"""Where a version may wait: when the index is away, its pack exists and its row stays behind."""


@dataclass(slots=True, kw_only=True)
class Sweeper:
    """`index` None: garbage is left to a sweeper that reaches the index."""

    registry: Registry
    queue: Queue
    blobs: BlobStore
    index: Index | None
    timers: Timers
    interval_seconds: float
    blob_interval_seconds: float
    blob_grace_seconds: float
    clock: Clock = system_clock

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set. An unreachable port is tried again at the next pass."""
        blobs_at = self.clock() + self.blob_interval_seconds
        adopt_at = self.clock()
        while not stop.is_set():
            try:
                await self.sweep_rows()
                if self.clock() >= adopt_at:
                    adopt_at = self.clock() + ADOPT_INTERVAL_SECONDS
                    await self.adopt_letters()
                if self.clock() >= blobs_at:
                    blobs_at = self.clock() + self.blob_interval_seconds
                    await self.sweep_blobs()
            except PortError as error:
                log.warning("sweep.failed", error=str(error))
            except Exception as error:
                tell("sweeper", error)
            await _wait(stop, self.interval_seconds)

    async def sweep_rows(self) -> int:
        """One pass over the rows that are due; how many it acted on."""
        now = self.clock()
        rows = await self.registry.due(before=now, limit=ROWS_PER_PASS)
        if not rows:
            return 0
        backlogs = await self._backlogs(now)
        for row in rows:
            try:
                await self._sweep_row(row, backlogs)
            except Exception as error:
                # One row's trouble must not keep the others from being swept, now or next time.
                log.warning(
                    "sweep.row_failed",
                    namespace=row.key.namespace,
                    document=row.key.document_id,
                    error=str(error),
                )
                if not isinstance(error, PortError):
                    tell("sweeper", error)
                await self._postpone(row.key)
        return len(rows)

    async def _postpone(self, key: DocumentKey) -> None:
        row = await self.registry.get(key)
        if row is not None:
            later = self.clock() + self.timers.stale_after_seconds
            await self.registry.put_if(replace(row, sweep_at=later))

    async def adopt_letters(self) -> int:
        """Mark the documents FAILED whose messages the queue's service gave up; how many letters
        were looked at.

        The row first, the letter second: a death between them repeats both. One letter's trouble
        keeps no other from being adopted; it is found again. A letter is dismissed when its
        document did not fail: another message has done its work, or is about to.
        """
        if not isinstance(self.queue, AdoptingQueue):
            return 0
        note = RegistryNote(
            registry=self.registry, queue=self.queue, timers=self.timers, clock=self.clock
        )
        letters = await self.queue.adopt(limit=ADOPTED_PER_PASS)
        adopted = 0
        for letter in letters:
            try:
                await self._adopt(self.queue, note, letter)
            except Exception as error:
                log.warning("sweep.letter_failed", **_named(letter), error=str(error))
                if not isinstance(error, PortError):
                    tell("sweeper", error)
            else:
                adopted += 1
        return adopted

    async def _adopt(self, queue: AdoptingQueue, note: RegistryNote, letter: Delivery) -> None:
        reason = (
            f"received {letter.receive_count} times and never settled: its worker died or lost its "
            "lease each time"
        )
        await note(letter, GiveUp(reason))
        row = await self.registry.get(letter.wake_up.key)
        if row is None or row.status is not Status.FAILED:
            await queue.dismiss(letter)
            telemetry.SWEPT.labels("dismissed").inc()
            log.info("message.dismissed", **_named(letter), reason=reason)
            return
        await queue.explain(letter, reason)
        telemetry.SWEPT.labels("adopted").inc()
        log.error("message.dead_lettered", **_named(letter), reason=reason)

    async def _backlogs(self, now: float) -> dict[QueueName, _Backlog]:
        backlogs = {}
        for queue in QueueName:
            depth = await self.queue.depth(queue)
            age = depth.oldest_age_seconds if depth.tells_age else UNTOLD_AGE_SECONDS
            backlogs[queue] = _Backlog(now - age if depth.waiting else now, depth.tells_age)
        return backlogs

    async def _sweep_row(self, row: Row, backlogs: Mapping[QueueName, _Backlog]) -> None:
        now = self.clock()
        on_its_way = [backlogs[queue] for queue in _ways_of(row)]
        guessed = False
        if may_forget(row, now, self.timers):
            await self.registry.delete_if(row)
            telemetry.SWEPT.labels("forgotten").inc()
            return
        if _is_stale(row, now, self.timers):
            woken = await self._wake(row, min(backlog.since for backlog in on_its_way))
            guessed = woken and not all(backlog.told for backlog in on_its_way)
        if row.garbage and self.index is not None:
            await collect(self.registry, self.index, row.key, self.clock, self.timers)
            telemetry.SWEPT.labels("collected").inc()
        fresh = await self.registry.get(row.key)
        if fresh is not None and fresh.sweep_at is not None and fresh.sweep_at <= now:
            later = postpone_sweep(fresh, now, self.timers)
            await self.registry.put_if(_spaced(later, now) if guessed else later)

    async def _wake(self, row: Row, since: float) -> bool:
        """Whether it was; `since`: when the oldest message on its way was sent."""
        if since <= row.updated_at + SENT_WITHIN_SECONDS:
            return False  # Its wake-up waits in a long backlog: another would only lengthen it.
        queue = QueueName.DELETE if row.desired.tombstone else QueueName.CHANGE
        wake_up = WakeUp(
            namespace=row.key.namespace,
            document_id=row.key.document_id,
            version=row.desired.version,
            traceparent=row.desired.traceparent,
        )
        await self.queue.send(queue, [wake_up])
        telemetry.SWEPT.labels("woken").inc()
        log.info(
            "document.woken",
            namespace=row.key.namespace,
            document=row.key.document_id,
            version=row.desired.version,
        )
        return True

    async def sweep_blobs(self) -> int:
        """Delete blobs older than the grace that no row refers to; how many.

        A bucket may hold other things too, such as the landing zone: only what lies where blobs
        are written is looked at.
        """
        before = self.clock() - self.blob_grace_seconds
        old = {
            blob.key
            for prefix in identity.BLOB_PREFIXES
            async for blob in self.blobs.list(prefix)
            if blob.modified_at < before
        }
        if not old:
            return 0
        packs = _by_folder(old)
        # Rows are read after the listing: an accept that reused an old blob is seen here.
        async for row in self._all_rows():
            old -= _referenced(row, packs)
        unreferenced = sorted(old)
        deleted = 0
        for start in range(0, len(unreferenced), BLOBS_PER_DELETE):
            part = unreferenced[start : start + BLOBS_PER_DELETE]
            deleted += await self.blobs.delete_if_older(part, before=before)
        telemetry.SWEPT.labels("blobs").inc(deleted)
        log.info("blobs.collected", count=deleted)
        return deleted

    async def _all_rows(self) -> AsyncIterator[Row]:
        for namespace in await self.registry.namespaces():
            cursor: str | None = None
            while True:
                page = await self.registry.scan(namespace, cursor=cursor, limit=PAGE_ROWS)
                for row in page.rows:
                    yield row
                cursor = page.cursor
                if cursor is None:
                    break


@dataclass(frozen=True, slots=True)
class _Backlog:
    """Of one queue. `since`: when the oldest message still waiting was sent, as it told or, where
    it cannot, as is guessed; the queue has not come to later ones."""

    since: float
    told: bool


def _ways_of(row: Row) -> Sequence[QueueName]:
    return [QueueName.DELETE] if row.desired.tombstone else _BEFORE_APPLIED


def _spaced(row: Row, now: float) -> Row:
    """Look again after half of the time that the row waits by then, at the earliest.

    Where the queue cannot tell, its message may well wait still, and one more at each pass would
    make the backlog grow by itself. So there are few even of a row that waits for days. Garbage
    waits as long; nobody sees it.
    """
    if row.sweep_at is None:
        return row
    spaced = now + (now - row.desired.accepted_at) / 2
    return replace(row, sweep_at=max(row.sweep_at, spaced))


def _named(letter: Delivery) -> dict[str, str]:
    return {
        "queue": letter.queue.value,
        "namespace": letter.wake_up.namespace,
        "document": letter.wake_up.document_id,
    }


def _is_stale(row: Row, now: float, timers: Timers) -> bool:
    waits = row.behind and row.status is not Status.FAILED
    return waits and row.updated_at + timers.stale_after_seconds <= now


def _by_folder(keys: Iterable[str]) -> dict[str, set[str]]:
    folders: dict[str, set[str]] = {}
    for key in keys:
        folders.setdefault(key.rpartition("/")[0] + "/", set()).add(key)
    return folders


def _referenced(row: Row, packs: Mapping[str, set[str]]) -> set[str]:
    """The document's content, the applied pack, and packs of versions not applied yet."""
    kept = {row.desired.blob_key}
    if row.applied.manifest:
        kept.add(identity.pack_key(row.key, row.applied.version, row.applied.doc_hash))
    if row.behind:
        kept |= packs.get(identity.pack_prefix(row.key), set())
    return kept


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
