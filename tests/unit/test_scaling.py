"""How many workers there should be."""

from __future__ import annotations

import pytest

from workers.scaling import ScaleLimits, desired_workers

LIMITS = ScaleLimits(minimum=0, maximum=4, idle_seconds=300, backlog_per_worker=5)


@pytest.mark.parametrize(
    ("running", "backlog", "idle", "wanted"),
    [
        (0, 0, 0, 0),
        (0, 1, 0, 1),  # the first message starts one
        (1, 5, 0, 1),
        (1, 6, 0, 2),
        (1, 1000, 0, 4),  # never more than the maximum
        (4, 1, 0, 4),  # nobody is stopped while there is work
        (4, 0, 299, 4),
        (4, 0, 300, 0),  # back to zero after the idle time
    ],
)
def test_scaling(running: int, backlog: int, idle: float, wanted: int) -> None:
    got = desired_workers(running=running, backlog=backlog, idle_for_seconds=idle, limits=LIMITS)
    assert got == wanted


def test_a_minimum_is_kept_up_without_work() -> None:
    limits = ScaleLimits(minimum=2, maximum=4, idle_seconds=300, backlog_per_worker=5)
    assert desired_workers(running=0, backlog=0, idle_for_seconds=9e9, limits=limits) == 2
    assert desired_workers(running=4, backlog=0, idle_for_seconds=9e9, limits=limits) == 2
