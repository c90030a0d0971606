"""More guards of the row's transitions: what must stay as it is, and what must not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.model import Applied, Claim, Desired, Garbage, GarbageState, IdRange, Row, Status
from common.transitions import (
    Base,
    Outcome,
    Refusal,
    accept,
    begin,
    collectable,
    commit,
    commit_tombstone,
    doom_expired,
    extend_claim,
    fail,
    forget,
    may_forget,
    note_error,
    postpone_sweep,
    release_claim,
    schedule,
)
from tests.builders import KEY, TIMERS, desired, row, tombstone

NOW = 200.0
HELD = Claim(1, "m1", NOW + 30)
MINE = IdRange(5, 0, 1)
OTHER = Garbage(IdRange(4, 0, 2), GarbageState.OPEN, NOW + 20)
LATER = Garbage(IdRange(3, 0, 2), GarbageState.DOOMED, NOW + 20)


def applied(version: int, *ranges: IdRange) -> Applied:
    return Applied(version=version, doc_hash=f"h{version}", manifest=ranges, applied_at=NOW)


def committed(current: Row, version: int = 1) -> Row:
    begun, own = begin(replace(current, next_generation=5), 2, NOW, TIMERS)
    assert own == MINE
    base = Base(current.applied.version, current.applied.doc_hash)
    done = commit(
        begun, base=base, applied=applied(version, own), own=own, now=NOW + 1, timers=TIMERS
    )
    assert isinstance(done, Row)
    return done


# --- accept


def test_another_content_type_is_a_new_version() -> None:
    decision = accept(row(), KEY, desired(content_type="text/markdown"), NOW, TIMERS)
    assert (decision.outcome, decision.version) == (Outcome.ACCEPTED, 2)


def test_a_failed_document_sent_again_is_retried_and_remembers_its_source_version() -> None:
    failed = row(status=Status.FAILED, error="broken", desired=desired(source_version=5))
    decision = accept(failed, KEY, desired(source_version=9), NOW, TIMERS)
    assert decision.row is not None
    assert (decision.row.status, decision.row.error) == (Status.PENDING, None)
    assert decision.row.desired.source_version == 9


def test_a_delete_of_what_is_deleted_is_unchanged() -> None:
    gone = row(desired=tombstone())
    assert accept(gone, KEY, tombstone(), NOW, TIMERS).outcome is Outcome.UNCHANGED


def test_an_insert_of_what_is_deleted_is_a_new_version() -> None:
    """Even if it is as empty as a tombstone."""
    gone = row(desired=tombstone())
    empty = replace(gone.desired, tombstone=False)
    decision = accept(gone, KEY, empty, NOW, TIMERS)
    assert (decision.outcome, decision.version) == (Outcome.ACCEPTED, 2)


@pytest.mark.parametrize("change", [desired("other"), tombstone()], ids=["update", "delete"])
def test_a_change_leaves_the_document_to_who_embeds_it(change: Desired) -> None:
    decision = accept(row(claim=HELD), KEY, change, NOW, TIMERS)
    assert decision.row is not None
    assert decision.row.claim == HELD
    assert decision.row.status is Status.PENDING


# --- the sweeper's clock


def test_a_failed_row_is_not_swept_for_being_behind() -> None:
    assert schedule(row(status=Status.FAILED), NOW, TIMERS).sweep_at is None


def test_a_claim_that_ended_long_ago_does_not_make_a_row_due_at_once() -> None:
    old = row(claim=replace(HELD, until=NOW - 1000))
    assert schedule(old, NOW, TIMERS).sweep_at == NOW + TIMERS.stale_after_seconds


def test_postponing_does_not_make_a_row_look_freshly_written() -> None:
    assert postpone_sweep(row(updated_at=50.0), NOW, TIMERS).updated_at == 50.0


def test_garbage_is_swept_when_its_time_comes_even_if_the_row_is_not_behind() -> None:
    done = row(applied=applied(1), status=Status.COMPLETED, garbage=(LATER,))
    assert postpone_sweep(done, NOW, TIMERS).sweep_at == LATER.not_before


@pytest.mark.parametrize(
    "changes",
    [
        {"desired": desired(version=2)},
        {"status": Status.COMPLETED},
        {"garbage": (LATER,)},
        {"applied": replace(applied(1), applied_at=10**9)},
    ],
    ids=["behind", "not deleted", "garbage", "young"],
)
def test_only_a_finished_old_tombstone_is_forgotten(changes: dict[str, object]) -> None:
    old = row(desired=tombstone(), applied=applied(1), status=Status.DELETED)
    assert may_forget(old, 10**6, TIMERS)
    assert not may_forget(replace(old, **changes), 10**6, TIMERS)  # type: ignore[arg-type]


# --- claims and failures


@pytest.mark.parametrize("claim", [None, replace(HELD, message_id="m2")])
def test_only_the_holder_extends_a_claim(claim: Claim | None) -> None:
    assert extend_claim(row(claim=claim), "m1", NOW, NOW + 60, TIMERS) is None


def test_a_claim_of_another_version_is_not_released() -> None:
    assert release_claim(row(claim=HELD), 2, NOW, TIMERS) is None


def test_a_failure_ends_the_claim() -> None:
    failed = fail(row(claim=HELD), 1, "broken", NOW, TIMERS)
    assert failed is not None
    assert failed.claim is None


def test_an_error_is_noted_and_ends_the_claim() -> None:
    noted = note_error(row(claim=HELD, status=Status.PROCESSING), 1, "away", NOW, TIMERS)
    assert noted is not None
    assert (noted.status, noted.error, noted.claim) == (Status.PENDING, "away", None)


@pytest.mark.parametrize(
    "current",
    [row(desired=desired(version=2)), row(applied=applied(1)), row(status=Status.FAILED)],
    ids=["newer", "applied", "failed"],
)
def test_an_error_is_not_noted_where_it_says_nothing(current: Row) -> None:
    assert note_error(current, 1, "away", NOW, TIMERS) is None


# --- begin, commit and collect leave what belongs to others


def test_begin_keeps_the_garbage_of_others() -> None:
    begun, own = begin(row(garbage=(OTHER,), next_generation=5), 2, NOW, TIMERS)
    assert own == MINE
    assert [entry.ids for entry in begun.garbage] == [OTHER.ids, MINE]


def test_a_plan_without_new_records_begins_nothing() -> None:
    assert begin(row(), 0, NOW, TIMERS) == (row(), None)


def test_commit_keeps_the_garbage_of_others() -> None:
    assert committed(row(garbage=(OTHER,))).garbage == (OTHER,)


def test_commit_ends_the_claim_and_the_error_of_its_version() -> None:
    done = committed(row(claim=HELD, error="away"))
    assert (done.claim, done.error, done.applied.applied_at) == (None, None, NOW + 1)


def test_commit_of_an_intermediate_version_leaves_the_claim_of_the_newer() -> None:
    held = replace(HELD, version=2)
    done = committed(row(desired=desired(version=2), claim=held, error="away"))
    assert (done.claim, done.error, done.status) == (held, "away", Status.PENDING)


def test_what_is_applied_is_not_committed_again_from_the_same_base() -> None:
    current = row(applied=applied(1))
    again = commit(
        current, base=Base(1, "h1"), applied=applied(1), own=None, now=NOW, timers=TIMERS
    )
    assert again is Refusal.NOT_NEWER


def test_a_version_that_the_row_never_knew_is_not_committed() -> None:
    unknown = commit(row(), base=Base(0, ""), applied=applied(7), own=None, now=NOW, timers=TIMERS)
    assert unknown is Refusal.NOT_NEWER


def test_a_tombstone_keeps_the_garbage_of_others_and_ends_claim_and_error() -> None:
    shown = row(
        desired=tombstone(version=2),
        applied=applied(1, MINE),
        garbage=(OTHER,),
        claim=HELD,
        error="away",
    )
    hidden = commit_tombstone(shown, NOW, TIMERS)
    assert hidden is not None
    assert hidden.garbage == (OTHER, Garbage(MINE, GarbageState.DOOMED, NOW))
    assert (hidden.claim, hidden.error) == (None, None)


def test_a_tombstone_is_committed_once() -> None:
    hidden = commit_tombstone(row(desired=tombstone()), NOW, TIMERS)
    assert hidden is not None
    assert commit_tombstone(hidden, NOW + 1, TIMERS) is None


def test_only_expired_ranges_are_doomed_and_doomed_ones_wait_no_longer() -> None:
    expired = Garbage(MINE, GarbageState.OPEN, NOW)
    waited = replace(LATER, not_before=NOW)
    doomed = doom_expired(row(garbage=(waited, OTHER, expired)), NOW, TIMERS)
    assert doomed is not None
    until = NOW + TIMERS.collect_grace_seconds
    assert doomed.garbage == (waited, OTHER, Garbage(MINE, GarbageState.DOOMED, until))
    assert collectable(doomed, NOW) == (waited.ids,)


@pytest.mark.parametrize("garbage", [(), (OTHER,), (LATER,)], ids=["none", "young", "doomed"])
def test_nothing_expired_needs_no_write(garbage: tuple[Garbage, ...]) -> None:
    late = tuple(replace(e, not_before=0.0) if e is LATER else e for e in garbage)
    assert doom_expired(row(garbage=late), NOW, TIMERS) is None


def test_forget_takes_only_what_was_deleted() -> None:
    gone = replace(LATER, ids=MINE)
    kept = forget(row(garbage=(LATER, gone)), [MINE], NOW, TIMERS)
    assert kept is not None
    assert kept.garbage == (LATER,)
