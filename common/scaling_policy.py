"""The numbers of the scaling policy, which the fleet of one machine and the Auto Scaling groups of
terraform/modules/workers read from the same file, scaling_policy.json beside this module."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

__all__ = ["POLICY", "ScalingPolicy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingPolicy:
    """`group_workers_max`: of an Auto Scaling group. On one machine the cores set the maximum."""

    backlog_per_worker: int
    worker_idle_seconds: float
    workers_min: int
    group_workers_max: int


def _read() -> ScalingPolicy:
    text = files("common").joinpath("scaling_policy.json").read_text(encoding="utf-8")
    numbers = json.loads(text)
    idle = float(numbers.pop("worker_idle_seconds"))
    return ScalingPolicy(worker_idle_seconds=idle, **numbers)


POLICY: Final = _read()
