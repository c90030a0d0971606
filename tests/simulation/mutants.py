"""The protocol with one guard taken out, to see that the simulation notices.

Each mutant patches the production code in place for as long as its context lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import webhook.accept
import webhook.search
import workers.apply
import workers.collect
import workers.delete
import workers.embed
import workers.lease
import workers.loop
import workers.plan
import workers.scrub_repair
import workers.sweep
from common import transitions
from common.adapters.queue.sqs import SqsQueue
from common.adapters.queue.sqs_leases import Leases
from common.adapters.queue.sqs_messages import copy_of
from common.model import Applied, Desired, Garbage, GarbageState, IdRange, Row, Status
from common.ports.queue import Delivery, Queue
from common.transitions import Base, Refusal, Timers, base_of
from tests.fakes.registry import MemoryRegistry
from tests.simulation.eventual import EventualIndex
from tests.simulation.ports import FaultyIndex
from workers.outcome import Done, GiveUp
from workers.packs import read_pack
from workers.retry import describe

Mutant = Callable[[], AbstractContextManager[object]]

FOREVER = 1e12


def _commit_with(**loosened: bool) -> Callable[..., Row | Refusal]:
    """`commit` with one of its checks made to pass."""

    def commit(
        row: Row, *, base: Base, applied: Applied, own: IdRange | None, now: float, timers: Timers
    ) -> Row | Refusal:
        seen = row
        if loosened.get("version") and row.applied.version >= applied.version:
            seen = replace(row, applied=replace(row.applied, version=applied.version - 1))
            base = base_of(seen)
        if loosened.get("base"):
            base = base_of(seen)
        if loosened.get("own") and own is not None:
            kept = tuple(g for g in row.garbage if g.ids != own)
            seen = replace(seen, garbage=(*kept, Garbage(own, GarbageState.OPEN, FOREVER)))
        return transitions.commit(seen, base=base, applied=applied, own=own, now=now, timers=timers)

    return commit


def _patched(module: object, name: str, value: object) -> Mutant:
    return lambda: mock.patch.object(module, name, value)


@contextmanager
def _no_version_check() -> Iterator[None]:
    """A pack is applied whatever was applied meanwhile: neither at the start nor at commit."""
    commit = _commit_with(version=True)

    async def call(self: Any, delivery: Any, lease: Any) -> Any:
        wake_up = delivery.wake_up
        row = await self.registry.get(wake_up.key)
        if row is None:
            return Done("nothing")
        pack = await read_pack(self.blobs, row.key, wake_up.version, wake_up.doc_hash)
        if pack is None:
            return Done("no pack")
        await self._attempt(row, pack, lease)
        return Done("applied")

    with (
        mock.patch.object(workers.apply, "commit", commit),
        mock.patch.object(workers.apply.ApplyHandler, "__call__", call),
    ):
        yield


def _begin_unregistered(
    row: Row, count: int, now: float, timers: Timers
) -> tuple[Row, IdRange | None]:
    begun, ids = transitions.begin(row, count, now, timers)
    return replace(begun, garbage=row.garbage), ids


@contextmanager
def _no_registration() -> Iterator[None]:
    with (
        mock.patch.object(workers.apply, "begin", _begin_unregistered),
        mock.patch.object(workers.apply, "commit", _commit_with(own=True)),
        mock.patch.object(workers.apply._AttemptLease, "__init__", _no_attempt),
        mock.patch.object(workers.apply._AttemptLease, "keep", _no_keep),
    ):
        yield


def _begin_same_ids(row: Row, count: int, now: float, timers: Timers) -> tuple[Row, IdRange | None]:
    begun, ids = transitions.begin(row, count, now, timers)
    return replace(begun, next_generation=row.next_generation), ids


def _collectable_at_once(row: Row, now: float) -> tuple[IdRange, ...]:
    return transitions.collectable(row, FOREVER)


def _collect_open_ranges(row: Row, now: float) -> tuple[IdRange, ...]:
    """Deletes what an attempt may still commit."""
    open_ones = [g.ids for g in row.garbage if g.not_before <= now]
    return tuple(dict.fromkeys((*transitions.collectable(row, now), *open_ones)))


def _doom_nothing(row: Row, now: float, timers: Timers) -> Row | None:
    return None


def _forget_all(row: Row, deleted: Any, now: float, timers: Timers) -> Row | None:
    gone = set(deleted)
    kept = tuple(g for g in row.garbage if g.ids not in gone)
    return transitions.schedule(replace(row, garbage=kept), now, timers)


@contextmanager
def _no_dooming() -> Iterator[None]:
    with (
        mock.patch.object(workers.collect, "doom_expired", _doom_nothing),
        mock.patch.object(workers.collect, "collectable", _collect_open_ranges),
        mock.patch.object(workers.collect, "forget", _forget_all),
        mock.patch.object(workers.apply, "commit", _commit_with(own=True)),
    ):
        yield


def _doom_without_grace(row: Row, now: float, timers: Timers) -> Row | None:
    return transitions.doom_expired(row, now, replace(timers, collect_grace_seconds=0.0))


def _everything(matches: Any, rows: Mapping[str, Row]) -> dict[str, list[Any]]:
    """Every match counts, whatever its document's manifest says."""
    seen: dict[str, list[Any]] = {name: [] for name in rows}
    for match in matches:
        name = match.document_id
        if name in seen:
            version = rows[name].applied.version
            seen[name].append(webhook.search._Seen(match, version, match.number, ""))
    return seen


def _never_moved(before: Row | None, after: Row, since: float) -> bool:
    return False


class _Silent:
    """A queue on which an accept's wake-up is never sent."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    async def send(self, *_: object, **__: object) -> None:
        return None


@contextmanager
def _answer_before_sending() -> Iterator[None]:
    async def accept(self: Any, change: Any) -> Any:
        quiet = replace(self, queue=_Silent(self.queue))
        return await original(quiet, change)

    original = webhook.accept.Acceptor.accept
    with mock.patch.object(webhook.accept.Acceptor, "accept", accept):
        yield


async def _no_sweep(self: object) -> int:
    return 0


def _no_check(self: object) -> None:
    return None


def _no_attempt(self: object, *_: object) -> None:
    return None


async def _no_keep(self: object) -> None:
    return None


@contextmanager
def _no_lease() -> Iterator[None]:
    """An expired holder goes on writing: neither lease is looked at, nor the write's deadline."""
    upsert = workers.apply.ApplyHandler._upsert

    async def patient(self: Any, namespace: str, records: Any) -> str:
        token: str = await upsert(replace(self, write_timeout_seconds=FOREVER), namespace, records)
        return token

    with (
        mock.patch.object(workers.lease.Lease, "check", _no_check),
        mock.patch.object(workers.apply._AttemptLease, "keep", _no_keep),
        mock.patch.object(workers.apply.ApplyHandler, "_upsert", patient),
    ):
        yield


@contextmanager
def _no_wait_visible() -> Iterator[None]:
    async def at_once(self: Any, *_: object, **__: object) -> None:
        return None

    with mock.patch.object(FaultyIndex, "wait_visible", at_once):
        yield


def _reusable_whatever(pack: Any, applied: Applied, base: Any) -> bool:
    return len(base.chunks) == applied.chunk_count


def _commit_tombstone_leaking(row: Row, now: float, timers: Timers) -> Row | None:
    hidden = transitions.commit_tombstone(row, now, timers)
    return hidden and replace(hidden, garbage=row.garbage)


def _commit_leaking(row: Row, **arguments: Any) -> Row | Refusal:
    """What the new version replaced is not doomed."""
    own = arguments["own"]
    verdict = transitions.commit(row, **arguments)
    if isinstance(verdict, Refusal):
        return verdict
    return replace(verdict, garbage=tuple(g for g in row.garbage if g.ids != own))


@contextmanager
def _race_ignored() -> Iterator[None]:
    """A write overwrites whatever came in between."""
    real = MemoryRegistry.put_if

    async def put(self: Any, row: Row) -> Row | None:
        stored = self.rows.get(row.key)
        return await real(self, replace(row, revision=stored.revision if stored else 0))

    with mock.patch.object(MemoryRegistry, "put_if", put):
        yield


def _tombstone_always(row: Row, now: float, timers: Timers) -> Row | None:
    """A late delete message deletes whatever is desired now."""
    if row.desired.tombstone:
        return transitions.commit_tombstone(row, now, timers)
    if not row.applied.manifest:
        return None
    doomed = tuple(Garbage(i, GarbageState.DOOMED, now) for i in row.applied.manifest)
    gone = replace(row.applied, manifest=(), chunk_count=0)
    return transitions.schedule(
        replace(row, applied=gone, garbage=(*row.garbage, *doomed)), now, timers
    )


def _referenced_nothing(row: Row, packs: Any) -> set[str]:
    return set()


def _give_up(error: Exception, delivery: object, **_: object) -> GiveUp:
    """An outage of a second is held against the document."""
    return GiveUp(describe(error))


async def _keep_no_bytes(self: object, change: object, row: object) -> bool:
    return False


def _older_always(offered: int | None, known: int | None) -> bool:
    return offered is not None


def _older_never(offered: int | None, known: int | None) -> bool:
    return False


def _same_always(change: Desired, desired: Desired) -> bool:
    return True


def _forget_at_once(row: Row, now: float, timers: Timers) -> bool:
    return row.status is Status.DELETED and not row.behind and not row.garbage


@contextmanager
def _tombstones_forgotten() -> Iterator[None]:
    real = transitions.schedule

    def schedule(row: Row, now: float, timers: Timers) -> Row:
        return real(row, now, replace(timers, tombstone_retention_seconds=0.0))

    with (
        mock.patch.object(workers.sweep, "may_forget", _forget_at_once),
        mock.patch.object(transitions, "schedule", schedule),
    ):
        yield


@contextmanager
def _holder_forgets() -> Iterator[None]:
    """Who embedded a version ends, whatever is desired by now."""
    real = workers.embed.EmbedHandler._is_open

    def is_open(self: Any, turn: Any, row: Row) -> bool:
        return not turn.packed and real(self, turn, row)

    with mock.patch.object(workers.embed.EmbedHandler, "_is_open", is_open):
        yield


def _never_let_go(row: Row, message_id: str, now: float, timers: Timers) -> Row | None:
    return None


@contextmanager
def _stale_receipt_trusted() -> Iterator[None]:
    """The adapter uses a receipt for as long as anybody asks it to."""

    def deadline(self: Any, delivery: Delivery) -> float:
        self._held.setdefault(delivery.receipt, FOREVER)
        return FOREVER

    with mock.patch.object(Leases, "deadline", deadline):
        yield


async def _release_after_deleting(
    self: Any, delivery: Delivery, delay_seconds: float = 0.0
) -> None:
    with self._leases.settling(delivery) as until:
        await self._delete(delivery, until)
        await self._line_of(delivery).send(copy_of(delivery), delay_seconds=delay_seconds)


async def _bury_after_deleting(self: Any, delivery: Delivery, reason: str) -> None:
    with self._leases.settling(delivery) as until:
        await self._delete(delivery, until)
        await self._letters.add(copy_of(delivery), reason, longest_wait_seconds=0.0)


async def _nothing_adopted(self: object) -> int:
    return 0


async def _nothing_doomed(self: object, key: object, orphans: object) -> None:
    return None


def _seen_by_one(self: object, shown_at: Sequence[float]) -> float:
    return min(shown_at)


AWS_MUTANTS: dict[str, Mutant] = {
    "stale-receipt-trusted": _stale_receipt_trusted,
    "release-deletes-first": _patched(SqsQueue, "release", _release_after_deleting),
    "letter-after-delete": _patched(SqsQueue, "dead_letter", _bury_after_deleting),
    "letters-not-adopted": _patched(workers.sweep.Sweeper, "adopt_letters", _nothing_adopted),
    "one-replica-waited-for": _patched(EventualIndex, "_seen_by", _seen_by_one),
    "orphans-not-doomed": _patched(workers.scrub_repair.Repairer, "_doom", _nothing_doomed),
}
"""What only an installation on AWS has."""

MUTANTS: dict[str, Mutant] = {
    "no-version-check": _no_version_check,
    "no-base-check": _patched(workers.apply, "commit", _commit_with(base=True)),
    "no-own-range-check": _patched(workers.apply, "commit", _commit_with(own=True)),
    "no-registration": _no_registration,
    "ids-reused": _patched(workers.apply, "begin", _begin_same_ids),
    "no-dooming": _no_dooming,
    "no-not-before": _patched(workers.collect, "collectable", _collectable_at_once),
    "no-grace": _patched(workers.collect, "doom_expired", _doom_without_grace),
    "no-lease": _no_lease,
    "no-wait-visible": _no_wait_visible,
    "no-manifest-filter": _patched(webhook.search, "_visible", _everything),
    "no-second-query": _patched(webhook.search, "_moved", _never_moved),
    "answer-before-send": _answer_before_sending,
    "no-sweeper": _patched(workers.sweep.Sweeper, "sweep_rows", _no_sweep),
    "race-ignored": _race_ignored,
    "metadata-not-compared": _patched(workers.plan, "_reusable", _reusable_whatever),
    "delete-leaks": _patched(workers.delete, "commit_tombstone", _commit_tombstone_leaking),
    "replaced-leaks": _patched(workers.apply, "commit", _commit_leaking),
    "late-delete-wins": _patched(workers.delete, "commit_tombstone", _tombstone_always),
    "live-blobs-collected": _patched(workers.sweep, "_referenced", _referenced_nothing),
    "outages-held-against": _patched(workers.loop, "decide", _give_up),
    "content-not-stored": _patched(webhook.accept.Acceptor, "_keep_bytes", _keep_no_bytes),
    "source-version-refused": _patched(transitions, "_is_older", _older_always),
    "source-version-ignored": _patched(transitions, "_is_older", _older_never),
    "all-is-unchanged": _patched(transitions, "_says_the_same", _same_always),
    "tombstones-forgotten": _tombstones_forgotten,
    "holder-forgets": _holder_forgets,
    "claim-outlives-its-message": _patched(workers.embed, "let_go", _never_let_go),
    **AWS_MUTANTS,
}
