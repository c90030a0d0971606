"""No interleaving breaks the protocol; and each guard is needed for that."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from common import transitions
from common.model import Applied, Garbage, GarbageState, IdRange, Row
from common.transitions import Base, Refusal, Timers
from tests.simulation.exhaustive import Guards, Model, Scenario, ViolationError

TWO_VERSIONS = Scenario(versions=("ab", "bc"), accepted=2, actors=(("apply", 1), ("apply", 2)))
TWO_FROM_ONE_BASE = Scenario(
    versions=("ab", "c", "bd"), applied=1, accepted=3, actors=(("apply", 2), ("apply", 3))
)
ONE_VERSION_TWICE = Scenario(
    versions=("ab", "bc"), applied=1, accepted=2, actors=(("apply", 2), ("apply", 2))
)
A_SWEEPER_AND_A_CRASH = Scenario(
    versions=("a",), actors=(("apply", 1), ("sweep", 0)), crashes=1, all_collect=False
)
A_DELETE = Scenario(
    versions=("ab", "bc", None),
    applied=1,
    accepted=2,
    actors=(("accept", 0), ("apply", 2), ("delete", 3), ("sweep", 0)),
    crashes=1,
    plans=1,
    lag=0,
    all_collect=False,
    atomic=True,
)
A_READER = Scenario(
    versions=("ab", "bc", None),
    applied=1,
    accepted=2,
    actors=(("accept", 0), ("apply", 2), ("delete", 3), ("read", 0)),
    atomic=True,
)
EVERYTHING = Scenario(
    versions=("a", "b", None),
    accepted=3,
    actors=(("apply", 1), ("apply", 2), ("delete", 3), ("sweep", 0)),
    crashes=1,
    redelivers=False,
    plans=1,
    lag=0,
    all_collect=False,
    atomic=True,
)
LEAST = {"two versions": 5000, "everything": 20_000}
"""So many states there are at least: an exploration that stops early proves nothing."""


@pytest.mark.parametrize(
    ("name", "scenario"),
    [
        ("two versions", TWO_VERSIONS),
        ("two from one base", TWO_FROM_ONE_BASE),
        ("one version twice", ONE_VERSION_TWICE),
        ("a sweeper and a crash", A_SWEEPER_AND_A_CRASH),
        ("a delete", A_DELETE),
        ("a reader", A_READER),
        ("everything", EVERYTHING),
    ],
)
def test_no_interleaving_breaks_the_protocol(name: str, scenario: Scenario) -> None:
    states = Model(scenario).explore()
    print(f"{name}: {states:,} states")
    assert states >= LEAST.get(name, 1000)


# --- guards of the transitions, taken away one at a time

Patch = Callable[[pytest.MonkeyPatch], None]
_begin, _commit = transitions.begin, transitions.commit
_commit_tombstone, _doom = transitions.commit_tombstone, transitions.doom_expired
_extend = transitions.extend_attempt


def patched(name: str, mutant: Callable[..., Any]) -> Patch:
    return lambda patch: patch.setattr(transitions, name, mutant)


def commits_whatever_is_applied(row: Row, *, applied: Applied, **rest: Any) -> Row | Refusal:
    """Neither version nor base is checked: each of the two keeps an older version out."""
    older = replace(row, applied=replace(row.applied, version=applied.version - 1))
    rest["base"] = transitions.base_of(older)
    return _commit(older, applied=applied, **rest)


def commits_on_any_base(row: Row, *, base: Base, **rest: Any) -> Row | Refusal:
    return _commit(row, base=transitions.base_of(row), **rest)


def commits_what_was_doomed(row: Row, *, own: IdRange | None, **rest: Any) -> Row | Refusal:
    others = tuple(entry for entry in row.garbage if entry.ids != own)
    mine = (Garbage(own, GarbageState.OPEN, 0.0),) if own else ()
    return _commit(replace(row, garbage=(*others, *mine)), own=own, **rest)


def commits_and_keeps_no_garbage(row: Row, **rest: Any) -> Row | Refusal:
    verdict = _commit(row, **rest)
    if isinstance(verdict, Refusal):
        return verdict
    return replace(verdict, garbage=tuple(e for e in verdict.garbage if e in row.garbage))


def commits_and_dooms_what_it_keeps(row: Row, *, applied: Applied, **rest: Any) -> Row | Refusal:
    verdict = _commit(row, applied=applied, **rest)
    if isinstance(verdict, Refusal):
        return verdict
    doomed = [Garbage(ids, GarbageState.DOOMED, 0.0) for ids in row.applied.manifest]
    return replace(verdict, garbage=(*verdict.garbage, *doomed))


def begins_unregistered(
    row: Row, count: int, now: float, timers: Timers
) -> tuple[Row, IdRange | None]:
    begun, own = _begin(row, count, now, timers)
    return replace(begun, garbage=row.garbage), own


def unregistered(patch: pytest.MonkeyPatch) -> None:
    """With the check of the own range left in, nothing would ever be committed."""
    patch.setattr(transitions, "begin", begins_unregistered)
    patch.setattr(transitions, "commit", commits_what_was_doomed)
    patch.setattr(transitions, "extend_attempt", lambda row, ids, now, timers: row)


def begins_with_the_same_generation(
    row: Row, count: int, now: float, timers: Timers
) -> tuple[Row, IdRange | None]:
    begun, own = _begin(row, count, now, timers)
    return replace(begun, next_generation=row.next_generation), own


def hides_and_leaves_the_records(row: Row, now: float, timers: Timers) -> Row | None:
    hidden = _commit_tombstone(row, now, timers)
    return hidden and replace(hidden, garbage=row.garbage)


def dooms_without_grace(row: Row, now: float, timers: Timers) -> Row | None:
    return _doom(row, now, replace(timers, collect_grace_seconds=0))


def collects_what_is_open(patch: pytest.MonkeyPatch) -> None:
    """Expired ranges are deleted, but their owners may still commit them."""

    def collectable(row: Row, now: float) -> tuple[IdRange, ...]:
        return tuple(entry.ids for entry in row.garbage if entry.not_before <= now)

    patch.setattr(transitions, "doom_expired", lambda row, now, timers: None)
    patch.setattr(transitions, "collectable", collectable)
    patch.setattr(transitions, "forget", forgets_whatever_is_named)


def forgets_whatever_is_named(
    row: Row, deleted: Iterable[IdRange], now: float, timers: Timers
) -> Row:
    gone = set(deleted)
    return replace(row, garbage=tuple(entry for entry in row.garbage if entry.ids not in gone))


def extends_what_was_doomed(row: Row, ids: IdRange, now: float, timers: Timers) -> Row | None:
    garbage = tuple(replace(e, state=GarbageState.OPEN) if e.ids == ids else e for e in row.garbage)
    return _extend(replace(row, garbage=garbage), ids, now, timers)


def forgets_what_is_open(row: Row, deleted: Iterable[IdRange], now: float, timers: Timers) -> Row:
    open_ones = [entry.ids for entry in row.garbage if entry.state is GarbageState.OPEN]
    return forgets_whatever_is_named(row, [*deleted, *open_ones], now, timers)


@pytest.mark.parametrize(
    ("mutate", "scenario", "seen"),
    [
        (patched("commit", commits_whatever_is_applied), TWO_VERSIONS, "went back"),
        (patched("commit", commits_on_any_base), TWO_FROM_ONE_BASE, "manifest names"),
        (patched("commit", commits_what_was_doomed), A_SWEEPER_AND_A_CRASH, "become the manifest"),
        (patched("commit", commits_and_keeps_no_garbage), A_DELETE, "become the manifest"),
        (patched("commit", commits_and_dooms_what_it_keeps), A_DELETE, "become the manifest"),
        (unregistered, A_SWEEPER_AND_A_CRASH, "does not name"),
        (patched("begin", begins_with_the_same_generation), TWO_VERSIONS, "two attempts"),
        (
            patched("commit_tombstone", hides_and_leaves_the_records),
            A_DELETE,
            "become the manifest",
        ),
        (patched("doom_expired", lambda row, now, timers: None), A_DELETE, "garbage stays"),
        (patched("doom_expired", dooms_without_grace), A_SWEEPER_AND_A_CRASH, "does not name"),
        (collects_what_is_open, A_SWEEPER_AND_A_CRASH, "become the manifest"),
        (patched("extend_attempt", extends_what_was_doomed), A_SWEEPER_AND_A_CRASH, "manifest"),
        (patched("forget", forgets_what_is_open), A_DELETE, "become the manifest"),
    ],
)
def test_without_a_guard_an_interleaving_breaks_it(
    monkeypatch: pytest.MonkeyPatch, mutate: Patch, scenario: Scenario, seen: str
) -> None:
    mutate(monkeypatch)
    with pytest.raises(ViolationError, match=seen):
        Model(scenario).explore()


@pytest.mark.parametrize(
    ("guards", "scenario", "seen"),
    [
        (Guards(waits_until_visible=False), TWO_VERSIONS, "manifest names"),
        (Guards(keeps_its_lease=False), A_SWEEPER_AND_A_CRASH, "does not name"),
        (Guards(lease_counts_from_the_decision=False), A_SWEEPER_AND_A_CRASH, "does not name"),
        (Guards(looks_again_after_extending=False), A_SWEEPER_AND_A_CRASH, "does not name"),
        (Guards(filters_by_manifest=False), A_READER, "no one version"),
        (Guards(reads_again_when_moved=False), A_READER, "part of a version"),
    ],
)
def test_without_a_guard_of_a_driver_an_interleaving_breaks_it(
    guards: Guards, scenario: Scenario, seen: str
) -> None:
    with pytest.raises(ViolationError, match=seen):
        Model(scenario, guards).explore()
