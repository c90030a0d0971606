"""Refusals: anybody can be refused for ever, and the trail does not grow with it."""

from __future__ import annotations

from dataclasses import replace

from common.ports.audit import AuditEvent
from webhook.audit_refusals import MOST_KINDS, WINDOW_SECONDS, Refusals


def refusal(at: float, address: str = "192.0.2.7", **members: str) -> AuditEvent:
    made = AuditEvent(at=at, principal="", action="refused", result="unauthenticated",
                      subject="GET /v1/stats", address=address)  # fmt: skip
    return replace(made, **members)  # type: ignore[arg-type]


def test_the_first_is_told_at_once_and_the_others_together() -> None:
    refusals = Refusals()
    assert refusals.take(refusal(0)) == [refusal(0)]
    assert [refusals.take(refusal(at)) for at in (1, 2, 3)] == [[], [], []]
    assert refusals.due(WINDOW_SECONDS - 1) == []
    assert refusals.untold
    assert refusals.due(WINDOW_SECONDS) == [replace(refusal(3), count=3)]
    assert not refusals.untold
    assert refusals.due(9 * WINDOW_SECONDS) == []
    assert refusals.take(refusal(999)) == [refusal(999)]


def test_what_differs_is_told_by_itself() -> None:
    refusals = Refusals()
    different = [
        refusal(0), refusal(1, "192.0.2.8"), refusal(1, principal="key:a"),
        refusal(1, namespace="docs"), refusal(1, result="forbidden"),
        refusal(1, subject="PUT /v1/x"), refusal(1, source="shop"),
    ]  # fmt: skip
    assert [refusals.take(event) for event in different] == [[event] for event in different]


def test_a_crowd_of_addresses_is_told_of_as_a_crowd() -> None:
    refusals = Refusals()
    told = [told for n in range(5000) for told in refusals.take(refusal(n / 1000, f"a{n}"))]
    assert len(told) == MOST_KINDS + 1
    (crowd,) = refusals.due(WINDOW_SECONDS)
    assert (crowd.subject, crowd.address) == ("many", "")
    assert MOST_KINDS + 1 + crowd.count == 5000


def test_a_window_that_is_over_is_told_with_the_next() -> None:
    refusals = Refusals()
    refusals.take(refusal(0))
    refusals.take(refusal(1))
    assert refusals.take(refusal(100, "b")) == [refusal(1), refusal(100, "b")]


def test_all_of_it_at_the_end() -> None:
    refusals = Refusals()
    refusals.take(refusal(0))
    refusals.take(refusal(1))
    assert refusals.due(2, at_once=True) == [refusal(1)]
