"""How many workers there should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common import settings
from workers.fleet import worker_environment
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


@pytest.mark.parametrize(
    ("cores", "given", "lanes", "workers"),
    [
        (1, {}, 1, 1),
        (2, {}, 2, 1),
        (4, {}, 4, 1),
        (6, {}, 4, 2),
        (16, {}, 4, 4),
        (16, {"inference_lanes": 1}, 1, 16),
        (16, {"device": "cuda"}, 1, 1),
        (16, {"workers_max": 3}, 4, 3),
    ],
)
def test_by_default_the_lanes_of_all_workers_take_every_core(
    monkeypatch: pytest.MonkeyPatch, cores: int, given: dict[str, Any], lanes: int, workers: int
) -> None:
    monkeypatch.setattr(settings, "cores", lambda: cores)
    found = settings.Settings(**given)
    assert (found.inference_lanes or settings.default_lanes(found.device)) == lanes
    assert found.workers_max == workers


def test_a_worker_is_told_where_and_how_to_run_its_model(tmp_path: Path) -> None:
    given = settings.Settings(data_dir=tmp_path, device="auto", inference_lanes=3)
    environment = worker_environment(given, {}, "embed-1")
    assert environment["BLOOMWEAVER_DEVICE"] == "auto"
    assert environment["BLOOMWEAVER_INFERENCE_LANES"] == "3"
