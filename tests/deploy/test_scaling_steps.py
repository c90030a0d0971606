"""The Auto Scaling groups of terraform/modules/workers do what the fleet of one machine does."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from common.scaling_policy import POLICY
from common.settings import Settings
from tests.deploy.step_scaling import group_of
from tests.deploy.terraform import workspace
from workers.scaling import ScaleLimits, desired_workers

pytestmark = pytest.mark.deploy

MODULE = "modules/workers"
MAXIMA = (1, 3, 19, 20, 45)
"""A policy takes 19 sizes: one, all but full, full, and two with more policies."""
OTHER_NUMBERS = {
    "backlog_per_worker": 7,
    "worker_idle_seconds": 120,
    "workers_min": 1,
    "group_workers_max": 5,
}


def _queue(name: str) -> dict[str, str]:
    arn = f"arn:aws:sqs:eu-west-1:123456789012:{name}"
    return {"name": name, "arn": arn, "url": f"https://queue/{name}"}


def _variables(variants: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": "bloomweaver-test",
        "subnet_ids": ["subnet-1"],
        "security_group_ids": ["sg-1"],
        "data": {
            "queues": {n: _queue(n) for n in ("create", "update", "delete", "dead_letter")},
            "change_queues": {name: _queue(f"change-{name}") for name in variants},
            "table": {"name": "t", "arn": "arn:aws:dynamodb:eu-west-1:123456789012:table/t"},
            "blobs": {"bucket": "b", "arn": "arn:aws:s3:::b", "prefix": "store"},
            "landing": {"bucket": "l", "arn": "arn:aws:s3:::l"},
            "secret_arns": {},
        },
        "variants": {name: {"image_uri": "worker:1", **given} for name, given in variants.items()},
    }


@cache
def _plan() -> dict[str, Any]:
    sizes = {f"max-{maximum}": {"max_size": maximum} for maximum in MAXIMA}
    return workspace().plan_json(MODULE, _variables({**sizes, "default": {}}))


@cache
def _plan_of_other_numbers() -> dict[str, Any]:
    file = workspace().scaling_policy
    before = file.read_text()
    file.write_text(json.dumps(OTHER_NUMBERS))
    try:
        return workspace().plan_json(MODULE, _variables({"default": {}}))
    finally:
        file.write_text(before)


def _limits(maximum: int) -> ScaleLimits:
    settings = Settings()
    return ScaleLimits(
        minimum=settings.workers_min,
        maximum=maximum,
        idle_seconds=settings.worker_idle_seconds,
        backlog_per_worker=settings.backlog_per_worker,
    )


def _sizes_differ(plan: Mapping[str, Any], variant: str, limits: ScaleLimits) -> list[str]:
    """Where one minute of backlog makes another size than the policy does."""
    differing = []
    planned = group_of(plan, variant)
    for running in range(limits.minimum, limits.maximum + 1):
        for backlog in range(1, limits.backlog_per_worker * (limits.maximum + 2) + 1):
            group = replace(planned, running=running, minutes=[])
            got = group.look(visible=backlog - backlog // 3, in_flight=backlog // 3)
            meant = desired_workers(
                running=running, backlog=backlog, idle_for_seconds=0.0, limits=limits
            )
            if got != meant:
                differing.append(f"{running} running, backlog {backlog}: {got}, not {meant}")
    return differing


def _idle_differs(plan: Mapping[str, Any], limits: ScaleLimits) -> list[str]:
    """The same, minute by minute, after a backlog is gone."""
    differing = []
    for running in range(limits.minimum, limits.maximum + 1):
        group = group_of(plan, "default")
        group.running = running
        group.look(visible=0, in_flight=1)
        before = group.running
        for minutes in range(1, 2 * int(limits.idle_seconds // 60)):
            got = group.look(visible=0, in_flight=0)
            idle = 60.0 * minutes
            meant = desired_workers(running=before, backlog=0, idle_for_seconds=idle, limits=limits)
            if got != meant:
                differing.append(f"{before} running, idle for {idle} s: {got}, not {meant}")
    return differing


def test_the_file_holds_the_numbers_of_the_product() -> None:
    settings = Settings()
    told = (settings.backlog_per_worker, settings.worker_idle_seconds, settings.workers_min)
    assert told == (POLICY.backlog_per_worker, POLICY.worker_idle_seconds, POLICY.workers_min)
    assert group_of(_plan(), "default").maximum == POLICY.group_workers_max


@pytest.mark.parametrize("maximum", MAXIMA)
def test_every_backlog_makes_the_size_that_the_policy_says(maximum: int) -> None:
    assert _sizes_differ(_plan(), f"max-{maximum}", _limits(maximum)) == []


def test_an_idle_group_shrinks_when_the_policy_says() -> None:
    assert _idle_differs(_plan(), _limits(POLICY.group_workers_max)) == []


def test_other_numbers_in_the_file_make_other_steps() -> None:
    limits = ScaleLimits(minimum=1, maximum=5, idle_seconds=120, backlog_per_worker=7)
    plan = _plan_of_other_numbers()
    assert _sizes_differ(plan, "default", limits) == []
    assert _idle_differs(plan, limits) == []


@pytest.mark.parametrize("maximum", [3, 45])
def test_a_day_of_work_is_followed_minute_by_minute(maximum: int) -> None:
    limits = _limits(maximum)
    group = group_of(_plan(), f"max-{maximum}")
    meant = 0
    for backlog, idle_minutes in _a_day(limits):
        meant = desired_workers(
            running=meant, backlog=backlog, idle_for_seconds=60.0 * idle_minutes, limits=limits
        )
        assert group.look(visible=backlog, in_flight=0) == meant
    assert group.largest == maximum


@pytest.mark.parametrize("late", [1, 2])
@pytest.mark.parametrize("maximum", [3, 45])
def test_late_metrics_add_nothing_twice_and_take_nothing_away(maximum: int, late: int) -> None:
    """What the group tells of itself is minutes old. So long does a backlog wait that comes just
    after the group shrank; else there are as many workers as it is for, and never more than that
    since the last pause."""
    limits = _limits(maximum)
    group = group_of(_plan(), f"max-{maximum}")
    sizes, meant, shrunk_at = [0] * (late + 1), 0, 0
    for minute, (backlog, idle_minutes) in enumerate(_a_day(limits)):
        idle = 60.0 * idle_minutes
        meant = desired_workers(
            running=meant, backlog=backlog, idle_for_seconds=idle, limits=limits
        )
        needed = desired_workers(running=0, backlog=backlog, idle_for_seconds=0.0, limits=limits)
        got = group.look(visible=backlog, in_flight=0, told=sizes[-1 - late])
        assert got <= meant, f"minute {minute}: more than was ever needed"
        if got < sizes[-1]:
            assert backlog == 0, f"minute {minute}: smaller in the middle of work"
            shrunk_at = minute
        if minute - shrunk_at > late:
            assert got >= needed, f"minute {minute}: too few for {backlog}"
        sizes.append(got)
    assert max(sizes) == maximum
    assert sizes.count(0) > 60


def _a_day(limits: ScaleLimits) -> Iterator[tuple[int, int]]:
    """Minute by minute the backlog, and how long there has been none: bursts above what the
    largest group is for, pauses short and long."""
    chance = random.Random(limits.maximum)
    most = limits.backlog_per_worker * (limits.maximum + 3)
    backlog, idle_minutes = 0, 0
    for _ in range(24 * 60):
        if backlog:
            backlog = max(0, min(most, backlog + chance.randrange(-most // 2, most // 3)))
        elif chance.random() < 0.1:
            backlog = chance.randrange(1, most)
        idle_minutes = 0 if backlog else idle_minutes + 1
        yield backlog, idle_minutes
