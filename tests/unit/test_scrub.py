"""What a scrub's decisions and repairs are, on rows, packs and records alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import identity
from common.model import (
    Applied,
    Claim,
    EventKind,
    Garbage,
    GarbageState,
    IdRange,
    MetadataValue,
    Row,
    Status,
    expand,
)
from common.scrubbing import FindingKind, ScrubReport, report_to_json
from common.transitions import (
    Base,
    Refusal,
    base_of,
    begin,
    collectable,
    commit,
    doom_orphans,
    mend,
    named_ids,
    overlapping,
    rewrite,
    subtract,
)
from tests.builders import KEY, TIMERS, desired, pack, tombstone, vector
from workers.plan import plan_apply
from workers.scrub_checks import row_faults, same_direction, same_metadata, shows_records
from workers.scrub_listing import Listing

NOW = 200.0
OPEN, DOOMED = GarbageState.OPEN, GarbageState.DOOMED
GOOD = Row(
    key=KEY,
    revision=1,
    desired=desired(version=3),
    applied=Applied(version=3, doc_hash="h3", manifest=(IdRange(2, 0, 4),), chunk_count=5),
    next_generation=4,
    status=Status.COMPLETED,
    updated_at=NOW,
)
BEHIND = replace(GOOD, desired=desired("new", version=4), status=Status.PENDING, sweep_at=NOW)


# --- orphans -------------------------------------------------------------------------------------


def test_orphans_become_garbage_that_may_be_deleted_at_once() -> None:
    row = doom_orphans(GOOD, [(1, 8), (1, 7), (2, 9)], NOW, TIMERS)
    assert row is not None
    assert collectable(row, NOW) == (IdRange(1, 7, 8), IdRange(2, 9, 9))
    assert row.sweep_at == NOW
    assert [event.kind for event in row.news] == [EventKind.REPAIRED]


def test_what_the_row_names_by_now_is_no_orphan() -> None:
    row = replace(GOOD, garbage=(Garbage(IdRange(3, 0, 1), OPEN, NOW + 9),))
    assert doom_orphans(row, [(2, 0), (3, 0), (3, 1)], NOW, TIMERS) is None
    doomed = doom_orphans(row, [(2, 4), (3, 1), (3, 2)], NOW, TIMERS)
    assert doomed is not None
    assert collectable(doomed, NOW) == (IdRange(3, 2, 2),)
    assert doomed.garbage[0] == row.garbage[0]


def test_an_id_that_is_to_be_deleted_is_never_allocated() -> None:
    doomed = doom_orphans(GOOD, [(9, 0)], NOW, TIMERS)
    assert doomed is not None
    _, own = begin(doomed, 1, NOW, TIMERS)
    assert own == IdRange(10, 0, 0)


# --- rewriting -----------------------------------------------------------------------------------


def test_a_rewriting_is_a_new_version_of_the_same_content() -> None:
    row = rewrite(GOOD, base_of(GOOD), "missing", NOW, TIMERS)
    assert row is not None
    assert (row.desired.version, row.status, row.applied.intact) == (4, Status.PENDING, False)
    assert replace(row.desired, version=3, accepted_at=100.0) == GOOD.desired
    assert row.applied.manifest == GOOD.applied.manifest, "readers see the old version until then"
    assert row.sweep_at is not None
    assert "missing" in row.news[0].detail


def test_a_document_that_is_behind_is_rewritten_by_the_version_on_its_way() -> None:
    claimed = replace(BEHIND, claim=Claim(4, "m", NOW + 9), status=Status.PROCESSING)
    row = rewrite(claimed, base_of(claimed), "missing", NOW, TIMERS)
    assert row is not None
    assert row.desired == claimed.desired
    assert (row.claim, row.status) == (claimed.claim, Status.PROCESSING)
    assert not row.applied.intact


@pytest.mark.parametrize(
    "row",
    [
        replace(GOOD, applied=replace(GOOD.applied, version=4), desired=desired(version=4)),
        replace(BEHIND, applied=replace(BEHIND.applied, intact=False)),
        replace(BEHIND, desired=tombstone(version=4)),
    ],
)
def test_what_is_replaced_being_rewritten_or_being_deleted_is_not_rewritten(row: Row) -> None:
    assert rewrite(row, base_of(GOOD), "missing", NOW, TIMERS) is None


def test_a_rewritten_version_keeps_no_record_of_the_damaged_one() -> None:
    base = pack(["a", "b"])
    shown = Applied(
        version=1, doc_hash=base.doc_hash, metadata_hash=base.metadata_hash,
        embedding_profile=base.embedding_profile, manifest=(IdRange(1, 0, 1),), chunk_count=2,
    )  # fmt: skip
    assert plan_apply(pack(["a", "b"], version=2), shown, base).new == []
    assert plan_apply(pack(["a", "b"], version=2), replace(shown, intact=False), base).new == [0, 1]


def test_an_attempt_planned_before_the_damage_was_known_is_refused() -> None:
    begun, own = begin(BEHIND, 1, NOW, TIMERS)
    damaged = rewrite(begun, base_of(begun), "missing", NOW, TIMERS)
    assert damaged is not None
    new = Applied(version=4, doc_hash="h4", manifest=(IdRange(2, 0, 3), IdRange(4, 0, 0)))
    named: Any = {"applied": new, "own": own, "now": NOW, "timers": TIMERS}
    assert commit(damaged, base=base_of(begun), **named) is Refusal.BASE_MOVED
    committed = commit(damaged, base=base_of(damaged), **named)
    assert isinstance(committed, Row)
    assert committed.applied.intact


def test_a_base_is_intact_unless_told_otherwise() -> None:
    assert Base(3, "h3") == base_of(GOOD)


# --- mending -------------------------------------------------------------------------------------


def test_a_row_that_agrees_with_itself_is_left_alone() -> None:
    deleted = replace(
        GOOD, desired=tombstone(version=3), applied=Applied(version=3), status=Status.DELETED,
        sweep_at=NOW,
    )  # fmt: skip
    failed = replace(BEHIND, status=Status.FAILED, sweep_at=None)
    for row in (GOOD, BEHIND, deleted, failed, replace(BEHIND, status=Status.PROCESSING)):
        assert mend(row, NOW, TIMERS) is None
        assert row_faults(row, TIMERS) == []


@pytest.mark.parametrize(
    ("row", "status"),
    [
        (replace(GOOD, status=Status.PENDING), Status.COMPLETED),
        (replace(GOOD, status=Status.FAILED, error="old"), Status.COMPLETED),
        (replace(BEHIND, status=Status.COMPLETED, attempts=3), Status.PENDING),
        (replace(BEHIND, status=Status.DELETED), Status.PENDING),
        (replace(GOOD, desired=tombstone(version=3)), Status.DELETED),
        (replace(GOOD, applied=replace(GOOD.applied, version=7)), Status.PENDING),
        (replace(BEHIND, sweep_at=None), Status.PENDING),
        (replace(GOOD, garbage=(Garbage(IdRange(1, 0, 0), DOOMED, 1.0),)), Status.COMPLETED),
        (replace(GOOD, next_generation=2), Status.COMPLETED),
    ],
)
def test_a_mended_row_has_no_fault_and_is_not_mended_twice(row: Row, status: Status) -> None:
    assert [kind for kind, _, _ in row_faults(row, TIMERS)] == [FindingKind.ROW]
    mended = mend(row, NOW, TIMERS)
    assert mended is not None
    assert (mended.status, mended.error) == (status, None)
    assert row_faults(mended, TIMERS) == []
    assert mend(replace(mended, news=()), NOW, TIMERS) is None
    assert (mended.sweep_at is not None) == (
        mended.behind or bool(mended.garbage) or status is Status.DELETED
    )


def test_a_deleted_document_that_names_records_dooms_them() -> None:
    mended = mend(replace(GOOD, desired=tombstone(version=3)), NOW, TIMERS)
    assert mended is not None
    assert mended.applied.manifest == ()
    assert collectable(mended, NOW) == GOOD.applied.manifest


def test_what_is_live_is_taken_out_of_the_garbage() -> None:
    """Or collecting it would delete what readers see."""
    row = replace(
        GOOD,
        garbage=(
            Garbage(IdRange(3, 0, 9), OPEN, NOW + 9),
            Garbage(IdRange(2, 3, 6), DOOMED, 0.0),
            Garbage(IdRange(3, 4, 5), DOOMED, 0.0),
        ),
    )
    mended = mend(row, NOW, TIMERS)
    assert mended is not None
    assert collectable(mended, NOW) == (IdRange(2, 5, 6), IdRange(3, 4, 5))
    still_open = [entry.ids for entry in mended.garbage if entry.state is OPEN]
    assert still_open == [IdRange(3, 0, 3), IdRange(3, 6, 9)], "none is the attempt's own range"
    assert not overlapping(mended)


ranges = st.builds(
    lambda generation, first, more: IdRange(generation, first, first + more),
    st.integers(1, 3), st.integers(0, 6), st.integers(0, 4),
)  # fmt: skip
garbages = st.builds(Garbage, ranges, st.sampled_from(GarbageState), st.just(0.0))


@given(st.lists(garbages, max_size=5), st.integers(0, 5))
def test_mending_loses_no_id_and_deletes_nothing_live(garbage: Any, next_generation: int) -> None:
    row = replace(GOOD, garbage=tuple(garbage), next_generation=next_generation, sweep_at=NOW)
    mended = mend(row, NOW, TIMERS) or row
    assert named_ids(mended) == named_ids(row)
    assert not overlapping(mended)
    live = set(expand(GOOD.applied.manifest))
    assert not live & set(expand([entry.ids for entry in mended.garbage]))
    assert all(generation < mended.next_generation for generation, _ in named_ids(mended))
    doomed = [e.ids for e in row.garbage if e.state is DOOMED]
    kept = [e.ids for e in mended.garbage if e.state is DOOMED]
    assert subtract(doomed, GOOD.applied.manifest) == subtract(kept, [])


# --- looking -------------------------------------------------------------------------------------


def test_which_documents_records_are_compared() -> None:
    rewriting = replace(BEHIND, applied=replace(BEHIND.applied, intact=False))
    assert shows_records(GOOD)
    assert shows_records(BEHIND)
    assert shows_records(replace(rewriting, status=Status.FAILED))
    assert not shows_records(rewriting)
    assert not shows_records(replace(BEHIND, desired=tombstone(version=4)))
    assert not shows_records(replace(BEHIND, applied=Applied()))


def test_vectors_are_compared_by_direction() -> None:
    assert same_direction(vector(1, 2, 3), vector(2, 4, 6))
    assert same_direction(vector(1, 2, 3), vector(1, 2, 3.01))
    assert not same_direction(vector(1, 2, 3), vector(1, 2, 4))
    assert not same_direction(vector(1, 2, 3), vector(-1, -2, -3))
    assert not same_direction(vector(1, 2), vector(1, 2, 0))
    assert not same_direction(vector(1, 2), vector(0, 0))
    assert not same_direction(vector(1, 2), vector(float("nan"), 1))
    assert same_direction(vector(0, 0), vector(0, 0))


def test_a_listing_gives_each_document_its_own_once() -> None:
    name, other = identity.document_key(KEY), identity.document_key(replace(KEY, namespace="x"))
    generation = 2**41  # milliseconds since the epoch fit
    listing = Listing()
    for listed in (f"{name}#{generation}#0", f"{other}#1#0", f"{name}#3#12"):
        listing.add(listed)
    assert listing.take(name) == {(generation, 0), (3, 12)}
    assert listing.take(name) == set()
    assert dict(listing.rest()) == {other: {(1, 0)}}
    assert dict(listing.rest()) == {}
    assert listing.strange == []


@pytest.mark.parametrize(
    "strange", ["", "x", "abc#1#2", "{}#1", "{}#1#2#3", "{}#01#2", "{}#1#٣", "{}#1#" + "9" * 30]
)
def test_ids_that_no_attempt_writes_are_kept_apart(strange: str) -> None:
    listing = Listing()
    listed = strange.format(identity.document_key(KEY))
    listing.add(listed)
    assert (listing.strange, dict(listing.rest())) == ([listed], {})


def test_a_report_is_clean_when_all_is_repaired() -> None:
    report = ScrubReport(
        started_at=1.0, took_seconds=2.0, repair=True, namespaces=("a",), documents_checked=1,
        documents_in_motion=0, records_checked=1, findings=(), findings_total=2, repaired_total=2,
        counts={FindingKind.ROW: 2},
    )  # fmt: skip
    assert report.clean
    assert not replace(report, repaired_total=1).clean
    assert report_to_json(report)["counts"] == {"row": 2}


@pytest.mark.parametrize(
    ("kept", "same"),
    [
        ({"at": 0.1 + 0.2}, True),
        ({"at": 0.3000001}, False),
        ({"at": "0.3"}, False),
        ({}, False),
        ({"at": 0.3, "lang": "de"}, False),
    ],
)
def test_metadata_is_compared_but_for_the_last_digits_of_floats(
    kept: dict[str, MetadataValue], same: bool
) -> None:
    assert same_metadata(kept, {"at": 0.3}) is same
