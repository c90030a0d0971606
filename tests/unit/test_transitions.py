"""Each guard of the protocol, on its own: remove the guard and its test dies."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.model import (
    Applied,
    Garbage,
    GarbageState,
    IdRange,
    QueueName,
    Row,
    Status,
    expand,
)
from common.transitions import (
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
    fail,
    forget,
    may_forget,
    postpone_sweep,
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


def test_a_newer_version_is_not_held_up_by_the_claim_on_an_older_one() -> None:
    held = claim(accepted("a"), "m1", NOW, NOW + 30, TIMERS)
    assert held is not None
    newer = replace(held, desired=desired("b", version=2))
    assert claim(newer, "m2", NOW, NOW + 30, TIMERS) is not None


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
