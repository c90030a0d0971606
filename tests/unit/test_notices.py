"""Notices of EC2, and how much time they leave."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from workers.notices import Notice, drain_seconds, lifecycle_notice, spot_notice

AT = datetime(2026, 9, 18, 8, 22, tzinfo=UTC).timestamp()


@pytest.mark.parametrize("action", ["terminate", "stop", "hibernate"])
def test_a_spot_notice_says_when(action: str) -> None:
    text = f'{{"action": "{action}", "time": "2026-09-18T08:22:00Z"}}'
    assert spot_notice(text) == Notice(f"spot interruption: {action}", AT)


@pytest.mark.parametrize("text", ["", "soon", "[]", '{"action": "stop"}', '{"time": 1}'])
def test_one_that_cannot_be_read_is_a_notice_all_the_same(text: str) -> None:
    assert spot_notice(text) == Notice("spot interruption")


@pytest.mark.parametrize(
    ("state", "hooked"),
    [
        ("Terminated", True),
        ("Terminated\n", True),
        ("Warmed:Terminated", True),
        ("InService", False),
        ("Standby", False),
        ("Detached", False),
        ("Warmed:Stopped", False),
        ("", False),
    ],
)
def test_only_a_state_that_ends_is_a_notice(state: str, hooked: bool) -> None:
    found = lifecycle_notice(state)
    assert (found is not None and found.hooked) is hooked


@pytest.mark.parametrize(
    ("ends_in", "most", "seconds"),
    [
        (None, 25, 25),
        (120, 25, 25),
        (120, 600, 110),  # ten seconds are for handing back
        (20, 25, 10),
        (5, 25, 1),  # too late for that: as good as possible
        (-60, 25, 1),
        (5, 0.5, 0.5),
    ],
)
def test_the_shorter_of_the_two_times_counts(
    ends_in: float | None, most: float, seconds: float
) -> None:
    notice = Notice("it ends", None if ends_in is None else AT + ends_in)
    assert drain_seconds(notice, AT, most) == seconds
