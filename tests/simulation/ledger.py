"""What truly happened, seen from outside of every process, and the invariants held against it.

The numbers are those of DESIGN's invariants: (1) the index shows the last accepted version,
(2) nothing leaks, (3) every accepted change is applied, superseded or FAILED with its reason in
the dead-letter queue, (4) readers never see a mix, (5) versions become visible in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from common.model import Applied, Desired, DocumentKey, QueueName, Record, Row, Status, WakeUp
from common.ports.queue import Delivery
from common.transitions import Outcome
from webhook.accept import Accepted
from webhook.search import Hit

T = TypeVar("T")

CLOCKS_SECONDS = 5.0
"""More than clocks differ by."""

Shown = tuple[tuple[int, str, str], ...]
"""A version as readers see it: (chunk, text, metadata) in document order."""


class Violation(Exception):  # noqa: N818 - it is what was found, not what went wrong in the finder
    """An invariant does not hold. `key` names the document whose story tells why."""

    def __init__(self, invariant: str, key: DocumentKey | None, text: str) -> None:
        super().__init__(f"{invariant}: {text}")
        self.key = key


@dataclass(frozen=True, slots=True)
class Moment:
    """From step `since` on, `applied` was what the row said."""

    since: int
    life: int
    applied: Applied


@dataclass(slots=True)
class Story:
    """One document's history: its accepted versions by (life, version), its applied moments."""

    life: int = 1
    accepted: dict[tuple[int, int], Desired] = field(default_factory=dict)
    moments: list[Moment] = field(default_factory=lambda: [Moment(0, 0, Applied())])
    wanted: list[tuple[int, Desired | None]] = field(default_factory=lambda: [(0, None)])
    """From which step on what was desired; None: there was no row."""
    newest_sent: int = 0
    lost: bool = False
    """Whether a message of it ever was: then only the sweeper can tell."""
    claimed_late: bool = False
    """Whether the claim was taken for a message that was on no queue any more."""
    row: Row | None = None


@dataclass(slots=True)
class Ledger:
    """`step` and `clock` tell the moment; `chunks_of` the chunk texts of a blob's true content;
    `on_queue` whether the message of that id is on a queue.

    What the stores report comes from within production code, which survives every error: `broke`
    ends the run with what is wrong, where an exception would be taken for one more fault.
    """

    step: Callable[[], int]
    clock: Callable[[], float]
    chunks_of: Callable[[str], Sequence[str]]
    broke: Callable[[Violation], None]
    on_queue: Callable[[str], bool]
    retention_seconds: float
    stories: dict[DocumentKey, Story] = field(default_factory=dict)
    writers: dict[str, str] = field(default_factory=dict)
    seen: dict[tuple[int, DocumentKey], tuple[int, int]] = field(default_factory=dict)

    def story(self, key: DocumentKey) -> Story:
        return self.stories.setdefault(key, Story())

    # --- what the stores report ---------------------------------------------------------------

    def row_written(self, before: Row | None, after: Row | None) -> None:
        row = after or before
        assert row
        story = self.story(row.key)
        story.row = after
        self._note_claim(story, before, after)
        if after is None:
            self._forgotten(story, row)
            return
        if before is None or before.desired.version != after.desired.version:
            story.accepted[story.life, after.desired.version] = after.desired
        if before is not None and _is_reopened(before, after):
            story.newest_sent = 0  # it is to be woken again
        if before is None or before.desired != after.desired:
            story.wanted.append((self.step(), after.desired))
        if before is not None:
            self._check_order(before, after)
        if before is None or before.applied != after.applied:
            story.moments.append(Moment(self.step(), story.life, after.applied))

    def _note_claim(self, story: Story, before: Row | None, after: Row | None) -> None:
        """A renewal, or the next version of the same claim, is as late as the claim was."""
        held = before.claim if before else None
        taken = after.claim if after else None
        if held is None or taken is None or held.message_id != taken.message_id:
            story.claimed_late = taken is not None and not self.on_queue(taken.message_id)

    def _forgotten(self, story: Story, row: Row) -> None:
        story.moments.append(Moment(self.step(), story.life, Applied()))
        story.wanted.append((self.step(), None))
        story.life += 1
        story.newest_sent = 0
        age_seconds = self.clock() - row.applied.applied_at
        if not row.desired.tombstone or age_seconds < self.retention_seconds - CLOCKS_SECONDS:
            self.broke(Violation("tombstones outlive messages", row.key, f"{age_seconds} s: {row}"))

    def _check_order(self, before: Row, after: Row) -> None:
        """Versions only grow, and an older source_version never replaces a newer one."""
        if before.applied.version > after.applied.version:
            told = f"{before.applied} then {after.applied}"
            self.broke(Violation("versions in order", after.key, told))
        was, now = before.desired.source_version, after.desired.source_version
        if was is not None and (now is None or now < was):
            self.broke(Violation("source versions in order", after.key, f"{was} then {now}"))

    def message_sent(self, wake_up: WakeUp, lost: bool) -> None:
        story = self.story(wake_up.key)
        story.newest_sent = max(story.newest_sent, wake_up.version)
        story.lost = story.lost or lost

    def message_lost(self, wake_up: WakeUp) -> None:
        self.story(wake_up.key).lost = True

    def message_ended(self, delivery: Delivery, others: bool) -> None:
        """(3) The sweeper is the last resort: while nothing is lost, someone is always woken.

        A change message may only end when its document needs none, or has another.

        Excused: it relied on a claim of a message that had ended before. A queue may give one
        message to two workers; one of them gave it up or was done, and then the other, who cannot
        know, claimed the document. That one goes on with it, and nobody can keep it from that: no
        write is one with the queue's and the row's. Should it end, too, only the sweeper comes,
        when the claim has run out. A claim that was there before its message's end is no excuse:
        whoever ends a message lets go of what it claimed.
        """
        story = self.story(delivery.wake_up.key)
        row = story.row
        if delivery.queue is not QueueName.CHANGE or others or story.lost or row is None:
            return
        if story.claimed_late:  # and not let go since
            return
        waits = row.behind and row.status is not Status.FAILED and not row.desired.tombstone
        if waits and story.newest_sent >= row.desired.version:
            told = f"message {delivery.message_id} of {delivery.wake_up.version}, {row.claim}"
            self.broke(Violation("somebody is woken", row.key, told))

    def records_written(self, records: Sequence[Record]) -> None:
        for record in records:
            first = self.writers.setdefault(record.id, record.doc_hash)
            if first != record.doc_hash:
                told = f"{record.id} of {record.document_id} again"
                self.broke(Violation("ids are never reused", None, told))

    # --- what clients were told ---------------------------------------------------------------

    def answered(
        self, accepted: Accepted, since: int, says: Callable[[Desired], bool], source: int | None
    ) -> None:
        """(3) What was answered is true: durable, or the same, or late; and somebody was woken.

        `says` tells whether a desired version is what was asked for, `source` its source_version.
        """
        story, version = self.story(accepted.key), accepted.version
        wanted = _during(story.wanted, since, lambda entry: entry[0])
        states = [desired for _, desired in wanted]
        fits = False
        match accepted.outcome:
            case Outcome.ACCEPTED:
                known = [d for (_, v), d in story.accepted.items() if v == version]
                fits = any(says(d) for d in known)
            case Outcome.UNCHANGED:
                fits = any(d.version == version and says(d) for d in states if d)
                fits = fits or (not version and None in states)
            case Outcome.SUPERSEDED:
                newer = [d.source_version for d in states if d and d.source_version is not None]
                fits = source is not None and any(n >= source for n in newer)
        if not fits:
            raise Violation("answers are true", accepted.key, f"{accepted}, there was {states}")
        row = story.row
        waits = row is not None and row.behind and row.desired.version == version
        if waits and story.newest_sent < version and accepted.outcome is not Outcome.SUPERSEDED:
            raise Violation("sent before answered", accepted.key, f"{accepted}: nobody woken")

    def searched(self, reader: int, since: int, hits: Sequence[Hit], *, complete: bool) -> None:
        """(4) and (5) Every document as it was committed at some moment of the search."""
        for key, story in self.stories.items():
            found = [hit for hit in hits if hit.document_id == key.document_id]
            moments = _during(story.moments, since, lambda moment: moment.since)
            fitting = [m for m in moments if self._fits(story, m, found, complete=complete)]
            if not fitting:
                raise Violation("readers never see a mix", key, self._mix(story, moments, found))
            if found:
                newest = (fitting[-1].life, fitting[-1].applied.version)
                if newest < self.seen.get((reader, key), (0, 0)):
                    raise Violation("versions in order", key, f"a reader saw {newest} again")
                oldest = (fitting[0].life, fitting[0].applied.version)
                self.seen[reader, key] = max(oldest, self.seen.get((reader, key), (0, 0)))

    def _fits(self, story: Story, moment: Moment, found: Sequence[Hit], *, complete: bool) -> bool:
        expected = self.shown(story, moment)
        if any(hit.version != moment.applied.version for hit in found):
            return False
        seen = sorted((hit.chunk, hit.text, repr(hit.metadata)) for hit in found)
        if complete:
            return seen == list(expected)
        return set(seen) <= set(expected) and len(seen) == len(set(seen))

    def shown(self, story: Story, moment: Moment) -> Shown:
        """What readers see while `moment` lasts."""
        if not moment.applied.manifest:
            return ()
        desired = story.accepted[moment.life, moment.applied.version]
        return self.content_of(desired)

    def content_of(self, desired: Desired) -> Shown:
        if desired.tombstone:
            return ()
        metadata = repr(desired.metadata)
        texts = self.chunks_of(desired.blob_key)
        return tuple((place, text, metadata) for place, text in enumerate(texts))

    def _mix(self, story: Story, moments: Sequence[Moment], found: Sequence[Hit]) -> str:
        seen = [(h.version, h.chunk, h.text) for h in found]
        right = [(m.applied.version, self.shown(story, m)) for m in moments]
        return f"saw {seen}, right were {right}"


def _is_reopened(before: Row, after: Row) -> bool:
    """Not by a claim: whoever takes one was woken, by a redriven letter or a late message."""
    return before.status is Status.FAILED is not after.status and after.claim is None


def _during(entries: Sequence[T], since: int, began: Callable[[T], int]) -> list[T]:
    """Those that had not ended at step `since`."""
    first = max(place for place, entry in enumerate(entries) if began(entry) <= since)
    return list(entries[first:])


def check_end(
    ledger: Ledger,
    records: dict[str, Record],
    rows: Iterable[Row],
    failed: dict[DocumentKey, str],
    manifest_ids: Callable[[Row], list[str]],
) -> None:
    """(1), (2) and (3) once everything is quiet. `failed` tells the dead letters' reasons."""
    named: set[str] = set()
    for row in rows:
        _check_row(row, failed)
        ids = manifest_ids(row)
        named |= set(ids)
        missing = [i for i in ids if i not in records]
        if missing:
            raise Violation("index shows the last version", row.key, f"missing {missing}")
        story = ledger.story(row.key)
        moment = Moment(0, story.life, row.applied)
        held = tuple((n, records[i].text, repr(records[i].metadata)) for n, i in enumerate(ids))
        due = ledger.shown(story, moment) if row.behind else ledger.content_of(row.desired)
        if held != due:
            raise Violation("index shows the last version", row.key, f"{held}")
        last = max(version for life, version in story.accepted if life == story.life)
        if row.desired.version != last:
            raise Violation("index shows the last version", row.key, f"not {last}: {row.desired}")
    stray = set(records) - named
    if stray:
        record = records[min(stray)]
        key = next((r.key for r in rows if r.key.document_id == record.document_id), None)
        raise Violation("nothing leaks", key, f"records nobody names: {sorted(stray)}")


def _check_row(row: Row, failed: dict[DocumentKey, str]) -> None:
    if row.garbage:
        raise Violation("nothing leaks", row.key, f"garbage left: {row.garbage}")
    if row.status is Status.FAILED:
        if row.key not in failed or not row.error:
            raise Violation("applied or dead-lettered", row.key, f"FAILED, no letter: {row.error}")
    elif row.behind:
        raise Violation("applied or dead-lettered", row.key, f"{row.status} and behind")
    if row.desired.tombstone and not row.behind and row.applied.manifest:
        raise Violation("index shows the last version", row.key, "deleted, and still shown")
