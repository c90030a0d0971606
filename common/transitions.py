"""The protocol: every change of a registry row, as a pure function from row to row.

The I/O around these functions reads a row, applies one of them and stores the result with
compare-and-set; when the race is lost it reads again. docs/architecture.md tells why each guard
is there. A function that returns None says that the row needs no write.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from common.model import (
    Applied,
    Claim,
    Desired,
    DocumentKey,
    Event,
    EventKind,
    Garbage,
    GarbageState,
    IdRange,
    QueueName,
    Row,
    Status,
    expand,
)


@dataclass(frozen=True, slots=True)
class Timers:
    """Seconds; the settings of the same names tell what each is for."""

    stale_after_seconds: float = 60.0
    attempt_lease_seconds: float = 60.0
    collect_grace_seconds: float = 60.0
    tombstone_retention_seconds: float = 15 * 86400.0


# --- history ------------------------------------------------------------------------------------

DETAIL_CHARACTERS = 1000
"""Of an event: an error may quote a whole document."""


def _told(row: Row, now: float, kind: EventKind, version: int, detail: str) -> Row:
    """The row with one more event, stored by the same write."""
    event = Event(now, kind, version, detail[:DETAIL_CHARACTERS])
    return replace(row, news=(*row.news, event))


# --- accept -----------------------------------------------------------------------------------


class Outcome(StrEnum):
    ACCEPTED = "accepted"
    """A new version."""
    UNCHANGED = "unchanged"
    """Content and metadata are what the last accepted version has."""
    SUPERSEDED = "superseded"
    """A change with a newer source_version was accepted before."""


@dataclass(frozen=True, slots=True)
class AcceptDecision:
    outcome: Outcome
    version: int
    """0 for a delete of a document that was never seen."""
    row: Row | None
    """To be stored by compare-and-set; None: nothing to store."""
    wake: QueueName | None
    """Where to send the wake-up once the row is stored."""


def accept(
    row: Row | None, key: DocumentKey, change: Desired, now: float, timers: Timers
) -> AcceptDecision:
    """Decide one change. `change.version` is ignored: versions are given here."""
    if row is None:
        return _accept_unknown(key, change, now, timers)
    desired = row.desired
    if _is_older(change.source_version, desired.source_version):
        return AcceptDecision(Outcome.SUPERSEDED, desired.version, None, None)
    if _says_the_same(change, desired):
        return _accept_unchanged(row, change, now, timers)
    if change.source_version is not None and change.source_version == desired.source_version:
        return AcceptDecision(Outcome.SUPERSEDED, desired.version, None, None)
    return _accept_next(row, key, change, now, timers)


def _accept_unknown(
    key: DocumentKey, change: Desired, now: float, timers: Timers
) -> AcceptDecision:
    if change.tombstone and change.source_version is None:
        # Nothing to delete and nothing to remember: no later message can be older than this.
        return AcceptDecision(Outcome.UNCHANGED, 0, None, None)
    return _accept_next(None, key, change, now, timers)


def _accept_next(
    row: Row | None, key: DocumentKey, change: Desired, now: float, timers: Timers
) -> AcceptDecision:
    written = next_version(row, key, change, now, timers)
    new = written.desired
    return AcceptDecision(Outcome.ACCEPTED, new.version, written, queue_of(new))


def next_version(
    row: Row | None, key: DocumentKey, change: Desired, now: float, timers: Timers
) -> Row:
    """The row with the change as its next version: what `accept` does once it has decided to.

    For registries that decide on their own side, too (`common.ports.registry.AcceptingRegistry`).
    """
    if row is None:
        # A document may have been forgotten and begin again. Fewer attempts than seconds went into
        # its life before: generations that begin at the time of day never meet those of that life.
        first = replace(change, version=1)
        row = Row(key=key, revision=0, desired=first, next_generation=max(int(now), 1))
        return _accepted(row, None, now, timers)
    before = row.desired
    source_version = change.source_version
    if source_version is None:
        source_version = before.source_version
    new = replace(change, version=before.version + 1, source_version=source_version)
    return _accepted(replace(row, desired=new), before, now, timers)


def _accept_unchanged(row: Row, change: Desired, now: float, timers: Timers) -> AcceptDecision:
    """Same content again: no new version, but the wake-up is sent while the row is behind."""
    desired = row.desired
    wake = queue_of(desired) if row.behind else None
    written: Row | None = None
    if change.source_version is not None and change.source_version != desired.source_version:
        # Remembered, so that a change older than this one is superseded.
        written = replace(row, desired=replace(desired, source_version=change.source_version))
    if row.status is Status.FAILED:
        pending = _pending(written or row, now, timers)
        again = "the same content was sent again"
        written = _told(pending, now, EventKind.RETRIED, desired.version, again)
    return AcceptDecision(Outcome.UNCHANGED, desired.version, written, wake)


def _is_older(offered: int | None, known: int | None) -> bool:
    return offered is not None and known is not None and offered < known


def _says_the_same(change: Desired, desired: Desired) -> bool:
    if change.tombstone or desired.tombstone:
        return change.tombstone and desired.tombstone
    return (change.content_hash, change.content_type, change.metadata_hash) == (
        desired.content_hash,
        desired.content_type,
        desired.metadata_hash,
    )


def queue_of(desired: Desired) -> QueueName:
    """Where an accepted change is waited for."""
    return QueueName.DELETE if desired.tombstone else QueueName.CHANGE


def _accepted(row: Row, before: Desired | None, now: float, timers: Timers) -> Row:
    pending = _pending(row, now, timers)
    change = _described(row.desired, before)
    return _told(pending, now, EventKind.ACCEPTED, row.desired.version, change)


def _described(new: Desired, before: Desired | None) -> str:
    """`update, 1,234 bytes of text/markdown, source version 7`."""
    if new.tombstone:
        words = ["delete"]
    else:
        is_new = before is None or before.tombstone
        size = f"{new.size_bytes:,} bytes of {new.content_type}"
        words = ["insert" if is_new else "update", size]
    if new.source_version is not None:
        words.append(f"source version {new.source_version}")
    return ", ".join(words)


def _pending(row: Row, now: float, timers: Timers) -> Row:
    """The claim stays: who embeds an older version goes on with this one (`claim`)."""
    fresh = replace(row, status=Status.PENDING, attempts=0, error=None)
    return schedule(fresh, now, timers)


# --- the sweeper's clock ------------------------------------------------------------------------


def schedule(row: Row, now: float, timers: Timers) -> Row:
    """Stamp the row and set when the sweeper should look at it: the earliest open end."""
    times = [entry.not_before for entry in row.garbage]
    if row.behind and row.status is not Status.FAILED:
        until = row.claim.until if row.claim else now
        times.append(max(until, now) + timers.stale_after_seconds)
    if row.status is Status.DELETED:
        times.append(row.applied.applied_at + timers.tombstone_retention_seconds)
    return replace(row, sweep_at=min(times, default=None), updated_at=now)


def postpone_sweep(row: Row, now: float, timers: Timers) -> Row:
    """After a sweep that woke the row: look again later, not at every pass."""
    scheduled = schedule(row, now, timers)
    if scheduled.sweep_at is None:
        return scheduled
    soonest = now + timers.stale_after_seconds if row.behind else now
    return replace(scheduled, sweep_at=max(scheduled.sweep_at, soonest), updated_at=row.updated_at)


def may_forget(row: Row, now: float, timers: Timers) -> bool:
    """Whether a tombstone has outlived every message that could still name its document."""
    return (
        row.status is Status.DELETED
        and not row.behind
        and not row.garbage
        and now >= row.applied.applied_at + timers.tombstone_retention_seconds
    )


# --- embed ----------------------------------------------------------------------------------------


# A claim names the message that answers for the document until it is let go. While it lives, the
# wake-ups of newer versions end without doing anything, so that a burst of edits is embedded once
# more, not once each. Therefore its message ends only after a look at the row that either takes the
# newest version or finds nothing left to do and lets the claim go, in one write.


def is_held_by_another(row: Row, message_id: str, now: float) -> bool:
    """Whether another live message embeds this document, whichever version of it."""
    held = row.claim
    return held is not None and held.message_id != message_id and held.until > now


def claim(row: Row, message_id: str, now: float, until: float, timers: Timers) -> Row | None:
    """Take the desired version for this message; None: another one will come to it, or did."""
    if not row.behind or row.desired.tombstone or is_held_by_another(row, message_id, now):
        return None
    taken = replace(
        row,
        claim=Claim(row.desired.version, message_id, until),
        status=Status.PROCESSING,
        attempts=row.attempts + 1,
        error=None,
    )
    told = _told(taken, now, EventKind.EMBEDDING, row.desired.version, f"attempt {taken.attempts}")
    return schedule(told, now, timers)


def extend_claim(row: Row, message_id: str, now: float, until: float, timers: Timers) -> Row | None:
    """Keep the claim while the work goes on; None: it is no longer ours."""
    held = row.claim
    if held is None or held.message_id != message_id:
        return None
    return schedule(replace(row, claim=replace(held, until=until)), now, timers)


def let_go(row: Row, message_id: str, now: float, timers: Timers) -> Row | None:
    """End the claim of a message that does not go on; None: it has none."""
    if row.claim is None or row.claim.message_id != message_id:
        return None
    return schedule(replace(row, claim=None), now, timers)


def release_claim(row: Row, version: int, now: float, timers: Timers) -> Row | None:
    """The claimed work was done but its pack is gone: let the next wake-up do it again."""
    if row.claim is None or row.claim.version != version:
        return None
    gone = "the embedded chunks are missing: embedding again"
    told = _told(replace(row, claim=None), now, EventKind.ERROR, version, gone)
    return schedule(told, now, timers)


def fail(row: Row, version: int, error: str, now: float, timers: Timers) -> Row | None:
    """Give the desired version up, with the reason; None: it is not `version` any more."""
    if row.desired.version != version or not row.behind:
        return None
    failed = replace(row, status=Status.FAILED, error=error, claim=None)
    return schedule(_told(failed, now, EventKind.FAILED, version, error), now, timers)


def reopen(row: Row, version: int, error: str, now: float, timers: Timers) -> Row | None:
    """Take a failure back whose message could not be dead-lettered; None: there is none.

    Someone else holds the message and may end it. The sweeper wakes the document again.
    """
    if row.desired.version != version or not row.behind or row.status is not Status.FAILED:
        return None
    opened = replace(row, status=Status.PENDING, error=error)
    return schedule(_told(opened, now, EventKind.ERROR, version, error), now, timers)


def note_error(row: Row, version: int, error: str, now: float, timers: Timers) -> Row | None:
    """Tell people what went wrong while it is being tried again."""
    if row.desired.version != version or not row.behind or row.status is Status.FAILED:
        return None
    noted = replace(row, status=Status.PENDING, error=error, claim=None)
    return schedule(_told(noted, now, EventKind.ERROR, version, error), now, timers)


# --- apply ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Base:
    """The applied version an attempt was planned from."""

    version: int
    doc_hash: str
    intact: bool = True


def base_of(row: Row) -> Base:
    return Base(row.applied.version, row.applied.doc_hash, row.applied.intact)


def begin(row: Row, count: int, now: float, timers: Timers) -> tuple[Row, IdRange | None]:
    """Allocate `count` fresh record ids. **They are garbage until the attempt commits.**

    None for an attempt that writes no record (a document that only lost chunks).
    """
    if count == 0:
        return row, None
    ids = IdRange(row.next_generation, 0, count - 1)
    entry = Garbage(ids, GarbageState.OPEN, now + timers.attempt_lease_seconds)
    begun = replace(row, next_generation=row.next_generation + 1, garbage=(*row.garbage, entry))
    return schedule(begun, now, timers), ids


def extend_attempt(row: Row, ids: IdRange, now: float, timers: Timers) -> Row | None:
    """A heartbeat of an attempt that makes progress; None: it was doomed, stop writing."""
    entry = _open_entry(row, ids)
    if entry is None:
        return None
    extended = replace(entry, not_before=now + timers.attempt_lease_seconds)
    garbage = tuple(extended if e is entry else e for e in row.garbage)
    return schedule(replace(row, garbage=garbage), now, timers)


class Refusal(StrEnum):
    NOT_NEWER = "not newer"
    """This version or a later one is applied, or the row never knew it (its document was forgotten
    and began again at 1): nothing is left to do."""
    BASE_MOVED = "base moved"
    """Another version was applied since the plan was made: plan again."""
    DOOMED = "doomed"
    """The attempt outlived its lease and its records may be gone: plan again."""


def commit(
    row: Row, *, base: Base, applied: Applied, own: IdRange | None, now: float, timers: Timers
) -> Row | Refusal:
    """Switch the document to `applied`, atomically: this write is the moment of change."""
    if row.applied.version >= applied.version or applied.version > row.desired.version:
        return Refusal.NOT_NEWER
    if base_of(row) != base:
        return Refusal.BASE_MOVED
    if own is not None and _open_entry(row, own) is None:
        return Refusal.DOOMED
    kept = tuple(entry for entry in row.garbage if entry.ids != own)
    replaced = subtract(row.applied.manifest, applied.manifest)
    done = applied.version == row.desired.version
    committed = replace(
        row,
        applied=replace(applied, applied_at=now),
        garbage=(*kept, *(Garbage(ids, GarbageState.DOOMED, now) for ids in replaced)),
        status=Status.COMPLETED if done else row.status,
        error=None if done else row.error,
        claim=None if done else row.claim,
    )
    change = f"chunks: {applied.chunk_count:,}, new: {len(own) if own else 0:,}"
    told = _told(committed, now, EventKind.APPLIED, applied.version, change)
    return schedule(told, now, timers)


def commit_tombstone(row: Row, now: float, timers: Timers) -> Row | None:
    """Hide a deleted document at once; None: it is not to be deleted, or already was."""
    if not row.desired.tombstone or not row.behind:
        return None
    doomed = (Garbage(ids, GarbageState.DOOMED, now) for ids in row.applied.manifest)
    hidden = replace(
        row,
        applied=Applied(version=row.desired.version, applied_at=now),
        garbage=(*row.garbage, *doomed),
        status=Status.DELETED,
        error=None,
        claim=None,
    )
    records = sum(len(ids) for ids in row.applied.manifest)
    change = f"hidden; chunks to remove: {records:,}"
    told = _told(hidden, now, EventKind.DELETED, row.desired.version, change)
    return schedule(told, now, timers)


def _open_entry(row: Row, ids: IdRange) -> Garbage | None:
    for entry in row.garbage:
        if entry.ids == ids and entry.state is GarbageState.OPEN:
            return entry
    return None


# --- collect --------------------------------------------------------------------------------------


def doom_expired(row: Row, now: float, timers: Timers) -> Row | None:
    """Doom the attempts whose lease ended, *before* anything of theirs is deleted.

    Deleting an expired range without dooming it loses data: its slow owner could still commit.
    The grace covers a write that was under way when the lease ended.
    """
    lost = [entry for entry in row.garbage if _expired(entry, now)]
    if not lost:
        return None
    not_before = now + timers.collect_grace_seconds
    garbage = tuple(
        Garbage(entry.ids, GarbageState.DOOMED, not_before) if entry in lost else entry
        for entry in row.garbage
    )
    records = sum(len(entry.ids) for entry in lost)
    why = f"its lease ended before it was committed; chunks to remove: up to {records:,}"
    doomed = replace(row, garbage=garbage)
    told = _told(doomed, now, EventKind.ATTEMPT_LOST, row.desired.version, why)
    return schedule(told, now, timers)


def collectable(row: Row, now: float) -> tuple[IdRange, ...]:
    """The ranges whose records may be deleted now."""
    return tuple(
        entry.ids
        for entry in row.garbage
        if entry.state is GarbageState.DOOMED and entry.not_before <= now
    )


def forget(row: Row, deleted: Iterable[IdRange], now: float, timers: Timers) -> Row | None:
    """Take ranges out of the garbage once their records are deleted."""
    gone = set(deleted)
    kept = tuple(e for e in row.garbage if not (e.ids in gone and e.state is GarbageState.DOOMED))
    if len(kept) == len(row.garbage):
        return None
    return schedule(replace(row, garbage=kept), now, timers)


def _expired(entry: Garbage, now: float) -> bool:
    return entry.state is GarbageState.OPEN and entry.not_before <= now


# --- ranges ---------------------------------------------------------------------------------------


def compress(ids: Iterable[tuple[int, int]]) -> tuple[IdRange, ...]:
    """`(generation, number)` pairs, in document order, as the fewest ranges in that order."""
    ranges: list[IdRange] = []
    for generation, number in ids:
        last = ranges[-1] if ranges else None
        if last and last.generation == generation and last.last + 1 == number:
            ranges[-1] = IdRange(generation, last.first, number)
        else:
            ranges.append(IdRange(generation, number, number))
    return tuple(ranges)


def subtract(ranges: Sequence[IdRange], taken: Sequence[IdRange]) -> tuple[IdRange, ...]:
    """The ids of `ranges` that are not in `taken`, sorted, as few ranges as possible."""
    kept = {(r.generation, n) for r in taken for n in range(r.first, r.last + 1)}
    left = sorted({(r.generation, n) for r in ranges for n in range(r.first, r.last + 1)} - kept)
    return compress(left)


# --- scrub ----------------------------------------------------------------------------------------


def named_ids(row: Row) -> set[tuple[int, int]]:
    """Every `(generation, number)` that the row answers for: its manifest's and its garbage's."""
    return set(expand([*row.applied.manifest, *(entry.ids for entry in row.garbage)]))


def doom_orphans(
    row: Row, ids: Iterable[tuple[int, int]], now: float, timers: Timers
) -> Row | None:
    """Take records that nobody names into the garbage, so that collection deletes them.

    None: the row names them all by now. Generations go on beyond the orphans' (a registry that was
    restored from a backup is behind its index): what is to be deleted must never be allocated.
    """
    orphans = sorted(set(ids) - named_ids(row))
    if not orphans:
        return None
    doomed = (Garbage(ids, GarbageState.DOOMED, now) for ids in compress(orphans))
    following = max(row.next_generation, orphans[-1][0] + 1)
    taken = replace(row, garbage=(*row.garbage, *doomed), next_generation=following)
    detail = f"{len(orphans)} records that nothing named are removed"
    told = _told(taken, now, EventKind.REPAIRED, row.desired.version, detail)
    return schedule(told, now, timers)


def rewrite(row: Row, seen: Base, why: str, now: float, timers: Timers) -> Row | None:
    """Have every record of the document written anew, from its stored content.

    None: another version was applied since the damage was `seen`, the document is being deleted, or
    its rewriting is under way. The applied version is no longer intact, so that no plan keeps a
    record of it and what was planned before is refused at commit. A document that is not behind
    gets a version of the same content; one that is (FAILED, too) is rewritten by that version.
    """
    under_way = row.behind and not row.applied.intact
    if base_of(row) != seen or row.desired.tombstone or under_way:
        return None
    version = row.desired.version
    damaged = replace(row, applied=replace(row.applied, intact=False))
    damaged = _told(damaged, now, EventKind.REPAIRED, version, f"is written anew: {why}")
    if row.behind:
        return schedule(damaged, now, timers)
    anew = replace(row.desired, version=version + 1, accepted_at=now)
    return _pending(replace(damaged, desired=anew), now, timers)


def mend(row: Row, now: float, timers: Timers) -> Row | None:
    """Make the row agree with itself: versions, status, ranges and when to sweep. None: it does."""
    mended = _mend_ranges(_mend_deletion(_mend_versions(row), now))
    status = true_status(mended)
    if status is not mended.status:
        mended = replace(mended, status=status, attempts=0, error=None, claim=None)
    scheduled = schedule(mended, now, timers)
    forgotten = scheduled.sweep_at is not None and row.sweep_at is None
    if mended == row and not forgotten:
        return None
    return _told(scheduled, now, EventKind.REPAIRED, row.desired.version, "the row was corrected")


def true_status(row: Row) -> Status:
    """What the versions say. A document that is behind may wait, be worked on, or have failed."""
    if row.behind:
        open_or_failed = (Status.PENDING, Status.PROCESSING, Status.FAILED)
        return row.status if row.status in open_or_failed else Status.PENDING
    return Status.DELETED if row.desired.tombstone else Status.COMPLETED


def overlapping(row: Row) -> bool:
    """Whether an id is named twice: as live and as garbage, or twice as either."""
    return len(named_ids(row)) < sum(
        len(ids) for ids in [*row.applied.manifest, *(entry.ids for entry in row.garbage)]
    )


def _mend_versions(row: Row) -> Row:
    """Versions never go back: what is desired is applied again, as a later one."""
    if row.applied.version <= row.desired.version:
        return row
    return replace(row, desired=replace(row.desired, version=row.applied.version + 1))


def _mend_deletion(row: Row, now: float) -> Row:
    """A deleted document shows no record: those it names are garbage."""
    if row.behind or not row.desired.tombstone or not row.applied.manifest:
        return row
    doomed = (Garbage(ids, GarbageState.DOOMED, now) for ids in row.applied.manifest)
    hidden = Applied(version=row.applied.version, applied_at=row.applied.applied_at)
    return replace(row, applied=hidden, garbage=(*row.garbage, *doomed))


def _mend_ranges(row: Row) -> Row:
    """What is live is no garbage; what is doomed is no attempt's; and no id is given twice."""
    garbage = row.garbage
    if overlapping(row):
        kept: list[Garbage] = []
        for entry in sorted(garbage, key=lambda entry: entry.state is GarbageState.OPEN):
            taken = [*row.applied.manifest, *(other.ids for other in kept)]
            kept += [replace(entry, ids=ids) for ids in subtract([entry.ids], taken)]
        garbage = tuple(kept)
    generations = [generation for generation, _ in named_ids(row)]
    following = max([row.next_generation, *(generation + 1 for generation in generations)])
    return replace(row, garbage=garbage, next_generation=following)
