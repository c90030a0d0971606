"""How many embedding workers there should be: a pure decision over depth and time."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleLimits:
    """`backlog_per_worker`: messages that justify one more worker."""

    minimum: int
    maximum: int
    idle_seconds: float
    backlog_per_worker: int


def desired_workers(
    *, running: int, backlog: int, idle_for_seconds: float, limits: ScaleLimits
) -> int:
    """The first message starts one worker, a backlog more; none goes before all are idle.

    `backlog` counts waiting and leased messages, so that a worker is not stopped in the middle of
    its work; `idle_for_seconds` is the time since the backlog was last seen above zero.
    """
    if backlog == 0:
        keep = running if idle_for_seconds < limits.idle_seconds else 0
        return max(limits.minimum, min(keep, limits.maximum))
    wanted = math.ceil(backlog / limits.backlog_per_worker)
    return max(limits.minimum, min(max(wanted, running, 1), limits.maximum))
