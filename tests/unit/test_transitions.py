"""Each guard of the protocol, on its own: remove the guard and its test dies."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.model import (
    Applied,
    Claim,
    Desired,
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
from common.transitions import (
    DETAIL_CHARACTERS,
    Base,
    Outcome,
    Refusal,
    accept,
    base_of,
    begin,
    claim,
    collectable,
    commit,
    commit_tombstone,
    compress,
    doom_expired,
    extend_attempt,
    extend_claim,
    fail,
    forget,
    let_go,
    may_forget,
    note_error,
    postpone_sweep,
    release_claim,
    subtract,
)
from tests.builders import KEY, TIMERS, desired, tombstone

NOW = 200.0
OPEN, DOOMED = GarbageState.OPEN, GarbageState.DOOMED


def accepted(text: str = "hello", **changes: object) -> Row:
    decision = accept(None, KEY, desired(text, **changes), NOW, TIMERS)
    assert decision.row is not None
    return decision.row


def applied(version: int, *ranges: IdRange) -> Applied:
    return Applied(version=version, doc_hash=f"h{version}", manifest=ranges, applied_at=NOW)


# --- accept


def test_a_first_change_gets_version_one_and_wakes_the_embedder() -> None:
    decision = accept(None, KEY, desired("a"), NOW, TIMERS)
    assert (decision.outcome, decision.version) == (Outcome.ACCEPTED, 1)
    assert decision.wake is QueueName.CHANGE
    assert decision.row is not None
    assert decision.row.status is Status.PENDING
    assert decision.row.revision == 0


def test_another_text_gets_the_next_version_and_forgets_the_old_error() -> None:
    failed = replace(accepted("a"), status=Status.FAILED, error="broken", attempts=3)
    decision = accept(failed, KEY, desired("b"), NOW, TIMERS)
    assert (decision.outcome, decision.version) == (Outcome.ACCEPTED, 2)
    assert decision.row is not None
    assert (decision.row.status, decision.row.error, decision.row.attempts) == (
        Status.PENDING,
        None,
        0,
    )


def test_the_same_again_is_unchanged_but_wakes_while_it_is_behind() -> None:
    decision = accept(accepted("a"), KEY, desired("a"), NOW, TIMERS)
    assert (decision.outcome, decision.version, decision.row) == (Outcome.UNCHANGED, 1, None)
    assert decision.wake is QueueName.CHANGE


def test_the_same_again_does_nothing_once_it_is_applied() -> None:
    done = replace(accepted("a"), applied=applied(1), status=Status.COMPLETED)
    assert accept(done, KEY, desired("a"), NOW, TIMERS).wake is None


def test_the_same_again_tries_a_failed_document_again() -> None:
    failed = replace(accepted("a"), status=Status.FAILED, error="broken")
    decision = accept(failed, KEY, desired("a"), NOW, TIMERS)
    assert decision.outcome is Outcome.UNCHANGED
    assert decision.wake is QueueName.CHANGE
    assert decision.row is not None
    assert decision.row.status is Status.PENDING


def test_other_metadata_is_a_new_version() -> None:
    decision = accept(accepted("a"), KEY, desired("a", metadata_hash="other"), NOW, TIMERS)
    assert (decision.outcome, decision.version) == (Outcome.ACCEPTED, 2)


@pytest.mark.parametrize(("offered", "outcome"), [(4, Outcome.SUPERSEDED), (6, Outcome.ACCEPTED)])
def test_source_version_orders_changes(offered: int, outcome: Outcome) -> None:
    current = accepted("a", source_version=5)
    decision = accept(current, KEY, desired("b", source_version=offered), NOW, TIMERS)
    assert decision.outcome is outcome


def test_another_text_under_the_same_source_version_is_superseded() -> None:
    current = accepted("a", source_version=5)
    decision = accept(current, KEY, desired("b", source_version=5), NOW, TIMERS)
    assert (decision.outcome, decision.row, decision.wake) == (Outcome.SUPERSEDED, None, None)


def test_an_unchanged_text_still_moves_source_version_forward() -> None:
    decision = accept(
        accepted("a", source_version=5), KEY, desired("a", source_version=9), NOW, TIMERS
    )
    assert decision.outcome is Outcome.UNCHANGED
    assert decision.row is not None
    late = accept(decision.row, KEY, desired("old", source_version=7), NOW, TIMERS)
    assert late.outcome is Outcome.SUPERSEDED


def test_a_change_without_source_version_keeps_the_known_one() -> None:
    decision = accept(accepted("a", source_version=5), KEY, desired("b"), NOW, TIMERS)
    assert decision.row is not None
    late = accept(decision.row, KEY, desired("old", source_version=4), NOW, TIMERS)
    assert late.outcome is Outcome.SUPERSEDED


def test_deleting_the_unknown_leaves_no_trace() -> None:
    decision = accept(None, KEY, tombstone(), NOW, TIMERS)
    assert (decision.version, decision.row, decision.wake) == (0, None, None)


def test_a_delete_that_overtakes_its_insert_is_remembered() -> None:
    decision = accept(None, KEY, tombstone(source_version=8), NOW, TIMERS)
    assert decision.row is not None
    late = accept(decision.row, KEY, desired("a", source_version=7), NOW, TIMERS)
    assert late.outcome is Outcome.SUPERSEDED


def test_an_insert_after_a_delete_goes_on_counting_versions() -> None:
    deleted = accept(accepted("a"), KEY, tombstone(), NOW, TIMERS)
    assert deleted.row is not None
    assert (deleted.version, deleted.wake) == (2, QueueName.DELETE)
    again = accept(deleted.row, KEY, desired("a"), NOW, TIMERS)
    assert (again.outcome, again.version) == (Outcome.ACCEPTED, 3)


# --- claim and failure


def test_a_second_wake_up_does_not_embed_the_same_version() -> None:
    held = claim(accepted(), "m1", NOW, NOW + 30, TIMERS)
    assert held is not None
    assert (held.status, held.attempts) == (Status.PROCESSING, 1)
    assert claim(held, "m2", NOW + 1, NOW + 31, TIMERS) is None


@pytest.mark.parametrize(
    ("message_id", "now"), [("m1", NOW + 1), ("m2", NOW + 31)], ids=["redelivery", "expired"]
)
def test_a_claim_passes_on(message_id: str, now: float) -> None:
    held = claim(accepted(), "m1", NOW, NOW + 30, TIMERS)
    assert held is not None
    taken = claim(held, message_id, now, now + 30, TIMERS)
    assert taken is not None
    assert taken.attempts == 2


def test_a_newer_version_is_left_to_the_holder_of_an_older_one() -> None:
    held = claim(accepted("a"), "m1", NOW, NOW + 30, TIMERS)
    assert held is not None
    newer = accept(held, KEY, desired("b"), NOW, TIMERS).row
    assert newer is not None
    assert claim(newer, "m2", NOW, NOW + 30, TIMERS) is None
    goes_on = claim(newer, "m1", NOW + 1, NOW + 31, TIMERS)
    assert goes_on is not None
    assert goes_on.claim == Claim(2, "m1", NOW + 31)
    takes_over = claim(newer, "m2", NOW + 30, NOW + 60, TIMERS)
    assert takes_over is not None
    assert takes_over.claim == Claim(2, "m2", NOW + 60)


def test_what_is_let_go_is_free_at_once() -> None:
    held = claim(accepted("a"), "m1", NOW, NOW + 30, TIMERS)
    assert held is not None
    free = let_go(held, "m1", NOW + 1, TIMERS)
    assert free is not None
    assert free.claim is None
    assert free.sweep_at == NOW + 1 + TIMERS.stale_after_seconds
    assert claim(free, "m2", NOW + 1, NOW + 31, TIMERS) is not None


def test_only_the_holder_lets_go() -> None:
    held = claim(accepted("a"), "m1", NOW, NOW + 30, TIMERS)
    assert held is not None
    assert let_go(held, "m2", NOW + 1, TIMERS) is None
    assert let_go(accepted("a"), "m1", NOW + 1, TIMERS) is None


def test_neither_a_delete_nor_what_is_applied_is_claimed() -> None:
    deleted = accept(accepted("a"), KEY, tombstone(), NOW, TIMERS).row
    assert deleted is not None
    assert claim(deleted, "m1", NOW, NOW + 30, TIMERS) is None
    done = replace(accepted("a"), applied=applied(1), status=Status.COMPLETED)
    assert claim(done, "m1", NOW, NOW + 30, TIMERS) is None


def test_a_failure_of_an_older_version_does_not_fail_the_newer() -> None:
    newer = replace(accepted("a"), desired=desired("b", version=2))
    assert fail(newer, 1, "broken", NOW, TIMERS) is None
    failed = fail(newer, 2, "broken", NOW, TIMERS)
    assert failed is not None
    assert (failed.status, failed.error, failed.sweep_at) == (Status.FAILED, "broken", None)


def test_what_is_applied_can_not_fail_any_more() -> None:
    done = replace(accepted("a"), applied=applied(1), status=Status.COMPLETED)
    assert fail(done, 1, "late error", NOW, TIMERS) is None


# --- begin and commit


def begun(current: Row, count: int = 2) -> tuple[Row, IdRange]:
    changed, own = begin(current, count, NOW, TIMERS)
    assert own is not None
    return changed, own


def test_ids_of_an_attempt_are_garbage_until_it_commits() -> None:
    changed, own = begun(accepted())
    assert changed.garbage == (Garbage(own, OPEN, NOW + TIMERS.attempt_lease_seconds),)
    committed = commit(
        changed, base=Base(0, ""), applied=applied(1, own), own=own, now=NOW, timers=TIMERS
    )
    assert isinstance(committed, Row)
    assert committed.garbage == ()
    assert committed.status is Status.COMPLETED
    assert committed.applied.manifest == (own,)


def test_two_attempts_never_share_an_id() -> None:
    first, own = begun(accepted())
    _, other = begun(first)
    assert not set(expand([own])) & set(expand([other]))


def test_an_older_version_is_not_committed_over_a_newer() -> None:
    changed, own = begun(replace(accepted(), applied=applied(2, IdRange(9, 0, 0))))
    verdict = commit(
        changed, base=base_of(changed), applied=applied(1, own), own=own, now=NOW, timers=TIMERS
    )
    assert verdict is Refusal.NOT_NEWER


def test_a_commit_is_refused_when_its_base_was_replaced() -> None:
    changed, own = begun(replace(accepted(), desired=desired(version=5)))
    planned = base_of(changed)
    moved = replace(changed, applied=applied(2, IdRange(9, 0, 0)))
    verdict = commit(moved, base=planned, applied=applied(5, own), own=own, now=NOW, timers=TIMERS)
    assert verdict is Refusal.BASE_MOVED


def test_a_commit_is_refused_once_its_range_was_doomed() -> None:
    changed, own = begun(accepted())
    doomed = doom_expired(changed, NOW + TIMERS.attempt_lease_seconds, TIMERS)
    assert doomed is not None
    verdict = commit(
        doomed, base=Base(0, ""), applied=applied(1, own), own=own, now=NOW, timers=TIMERS
    )
    assert verdict is Refusal.DOOMED


def test_a_commit_dooms_only_what_it_replaces() -> None:
    old = (IdRange(1, 0, 3),)
    current = replace(
        accepted(), desired=desired(version=2), applied=applied(1, *old), next_generation=2
    )
    changed, own = begun(current, 1)
    kept_and_new = (IdRange(1, 0, 1), own, IdRange(1, 3, 3))
    committed = commit(
        changed,
        base=base_of(current),
        applied=applied(2, *kept_and_new),
        own=own,
        now=NOW,
        timers=TIMERS,
    )
    assert isinstance(committed, Row)
    assert committed.garbage == (Garbage(IdRange(1, 2, 2), DOOMED, NOW),)


def test_committing_an_intermediate_version_leaves_the_document_pending() -> None:
    changed, own = begun(replace(accepted(), desired=desired(version=3)))
    committed = commit(
        changed, base=Base(0, ""), applied=applied(2, own), own=own, now=NOW, timers=TIMERS
    )
    assert isinstance(committed, Row)
    assert committed.status is Status.PENDING
    assert committed.sweep_at is not None


def test_an_attempt_that_makes_progress_keeps_its_lease() -> None:
    changed, own = begun(accepted())
    extended = extend_attempt(changed, own, NOW + 20, TIMERS)
    assert extended is not None
    assert doom_expired(extended, NOW + 30, TIMERS) is None
    doomed = doom_expired(extended, NOW + 50, TIMERS)
    assert doomed is not None
    assert extend_attempt(doomed, own, NOW + 51, TIMERS) is None


# --- delete and collect


def test_a_tombstone_hides_every_record_at_once() -> None:
    shown = (IdRange(1, 0, 2), IdRange(3, 0, 0))
    current = replace(accepted(), desired=tombstone(version=2), applied=applied(1, *shown))
    hidden = commit_tombstone(current, NOW, TIMERS)
    assert hidden is not None
    assert hidden.status is Status.DELETED
    assert hidden.applied.manifest == ()
    assert collectable(hidden, NOW) == shown


def test_a_late_delete_does_not_hide_a_document_that_was_inserted_again() -> None:
    again = replace(accepted(), desired=desired("a", version=3), applied=applied(1))
    assert commit_tombstone(again, NOW, TIMERS) is None


def test_an_open_range_is_not_deleted_before_it_was_doomed_and_the_grace_is_over() -> None:
    changed, own = begun(accepted())
    late = NOW + TIMERS.attempt_lease_seconds
    assert collectable(changed, late + 1000) == ()
    doomed = doom_expired(changed, late, TIMERS)
    assert doomed is not None
    assert collectable(doomed, late + TIMERS.collect_grace_seconds - 0.1) == ()
    assert collectable(doomed, late + TIMERS.collect_grace_seconds) == (own,)


def test_forget_never_drops_an_open_range() -> None:
    changed, own = begun(accepted())
    assert forget(changed, [own], NOW, TIMERS) is None


# --- the sweeper's clock


def test_a_row_has_a_time_to_be_swept_exactly_while_something_is_open() -> None:
    pending = accepted()
    assert pending.sweep_at == NOW + TIMERS.stale_after_seconds
    changed, own = begun(pending)
    assert changed.sweep_at == NOW + TIMERS.attempt_lease_seconds
    done = commit(
        changed, base=Base(0, ""), applied=applied(1, own), own=own, now=NOW, timers=TIMERS
    )
    assert isinstance(done, Row)
    assert done.sweep_at is None


def test_a_claimed_row_is_left_alone_until_the_claim_ends() -> None:
    held = claim(accepted(), "m1", NOW, NOW + 500, TIMERS)
    assert held is not None
    assert held.sweep_at == NOW + 500 + TIMERS.stale_after_seconds


def test_a_swept_row_waits_before_the_next_sweep() -> None:
    late = NOW + 1000
    postponed = postpone_sweep(accepted(), late, TIMERS)
    assert postponed.sweep_at == late + TIMERS.stale_after_seconds


def test_tombstones_outlive_messages_and_garbage() -> None:
    current = replace(
        accepted(), desired=tombstone(version=2), applied=applied(1, IdRange(1, 0, 0))
    )
    hidden = commit_tombstone(current, NOW, TIMERS)
    assert hidden is not None
    old = NOW + TIMERS.tombstone_retention_seconds
    assert not may_forget(hidden, old, TIMERS)
    clean = forget(hidden, collectable(hidden, NOW), NOW, TIMERS)
    assert clean is not None
    assert clean.sweep_at == old
    assert not may_forget(clean, old - 1, TIMERS)
    assert may_forget(clean, old, TIMERS)


# --- what the history is told


def stored(row: Row) -> Row:
    """As it is read again: without its news."""
    return replace(row, revision=row.revision + 1, news=())


def told(row: Row | Refusal | None) -> list[tuple[EventKind, int, str]]:
    assert isinstance(row, Row)
    assert all(event.at == NOW for event in row.news)
    return [(event.kind, event.version, event.detail) for event in row.news]


def told_by_accept(row: Row | None, change: Desired) -> list[tuple[EventKind, int, str]]:
    return told(accept(row, KEY, change, NOW, TIMERS).row)


def test_an_accepted_change_tells_what_it_was() -> None:
    assert told(accepted("hello")) == [
        (EventKind.ACCEPTED, 1, "insert, 5 bytes of text/plain"),
    ]
    current = stored(accepted("hello", source_version=1))
    newer = desired("x" * 1234, source_version=7, content_type="text/html")
    assert told_by_accept(current, newer) == [
        (EventKind.ACCEPTED, 2, "update, 1,234 bytes of text/html, source version 7"),
    ]
    assert told_by_accept(current, tombstone(source_version=8)) == [
        (EventKind.ACCEPTED, 2, "delete, source version 8")
    ]
    deleted = replace(current, desired=tombstone(version=2))
    assert told_by_accept(deleted, desired("a")) == [
        (EventKind.ACCEPTED, 3, "insert, 1 bytes of text/plain"),
    ]


def test_the_same_again_is_told_only_if_it_had_failed() -> None:
    current = stored(accepted("a", source_version=1))
    same = desired("a", source_version=2)
    assert told_by_accept(current, same) == []
    failed = replace(current, status=Status.FAILED, error="broken")
    assert told_by_accept(failed, same) == [
        (EventKind.RETRIED, 1, "the same content was sent again"),
    ]


def test_embedding_and_its_errors_are_told() -> None:
    claimed = claim(stored(accepted("a")), "m1", NOW, NOW + 60, TIMERS)
    assert told(claimed) == [(EventKind.EMBEDDING, 1, "attempt 1")]
    assert claimed is not None
    held = stored(claimed)
    assert told(extend_claim(held, "m1", NOW, NOW + 90, TIMERS)) == []
    assert told(note_error(held, 1, "away", NOW, TIMERS)) == [(EventKind.ERROR, 1, "away")]
    assert told(fail(held, 1, "no text", NOW, TIMERS)) == [(EventKind.FAILED, 1, "no text")]
    assert told(release_claim(held, 1, NOW, TIMERS)) == [
        (EventKind.ERROR, 1, "the embedded chunks are missing: embedding again"),
    ]
    again = note_error(held, 1, "away", NOW, TIMERS)
    assert again is not None
    assert told(claim(stored(again), "m1", NOW, NOW + 60, TIMERS)) == [
        (EventKind.EMBEDDING, 1, "attempt 2")
    ]


def test_applying_is_told_once_it_is_committed() -> None:
    begun, own = begin(stored(accepted("a")), 2, NOW, TIMERS)
    assert told(begun) == []
    assert own is not None
    done = replace(applied(1, IdRange(1, 0, 0), own), chunk_count=3)
    committed = commit(
        stored(begun), base=base_of(begun), applied=done, own=own, now=NOW, timers=TIMERS
    )
    assert told(committed) == [(EventKind.APPLIED, 1, "chunks: 3, new: 2")]


def test_a_hidden_document_and_a_lost_attempt_are_told() -> None:
    current = replace(
        stored(accepted()),
        desired=tombstone(version=2),
        applied=applied(1, IdRange(1, 0, 0), IdRange(2, 3, 4)),
    )
    assert told(commit_tombstone(current, NOW, TIMERS)) == [
        (EventKind.DELETED, 2, "hidden; chunks to remove: 3"),
    ]
    attempts = (
        Garbage(IdRange(5, 0, 1), OPEN, NOW),
        Garbage(IdRange(6, 0, 0), DOOMED, NOW),
        Garbage(IdRange(7, 0, 9), OPEN, NOW + 1),
    )
    lost = "its lease ended before it was committed; chunks to remove: up to 2"
    doomed = doom_expired(replace(current, garbage=attempts), NOW, TIMERS)
    assert told(doomed) == [(EventKind.ATTEMPT_LOST, 2, lost)]
    assert doomed is not None
    clean = forget(stored(doomed), [IdRange(6, 0, 0)], NOW, TIMERS)
    assert told(clean) == []


def test_composed_transitions_tell_each_event_once() -> None:
    """The news of a write that is composed of several is all of theirs, in order."""
    claimed = claim(accepted("a"), "m1", NOW, NOW + 60, TIMERS)
    assert claimed is not None
    assert [kind for kind, _, _ in told(postpone_sweep(claimed, NOW, TIMERS))] == [
        EventKind.ACCEPTED,
        EventKind.EMBEDDING,
    ]


def test_a_long_error_is_cut_off_in_the_history_only() -> None:
    error = "x" * (DETAIL_CHARACTERS + 1)
    failed = fail(stored(accepted()), 1, error, NOW, TIMERS)
    assert failed is not None
    assert failed.error == error
    assert failed.news == (Event(NOW, EventKind.FAILED, 1, "x" * DETAIL_CHARACTERS),)


# --- ranges

pairs = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 12)), unique=True)


@given(pairs)
def test_compress_keeps_every_id_in_order(ids: list[tuple[int, int]]) -> None:
    assert expand(compress(ids)) == ids


@given(pairs, pairs)
def test_subtract_is_set_difference(
    left: list[tuple[int, int]], right: list[tuple[int, int]]
) -> None:
    got = expand(subtract(compress(left), compress(right)))
    assert set(got) == set(left) - set(right)
    assert len(got) == len(set(got))


def test_compress_uses_few_ranges() -> None:
    assert compress([(1, 0), (1, 1), (2, 0), (1, 2)]) == (
        IdRange(1, 0, 1),
        IdRange(2, 0, 0),
        IdRange(1, 2, 2),
    )
