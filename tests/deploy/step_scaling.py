"""What CloudWatch and Auto Scaling make of a plan's alarms and step policies, as AWS documents it:

- an alarm acts in every minute in which its last N datapoints breach its threshold;
- the step whose bounds hold the distance from the threshold is taken: from its lower bound on, up
  to below its upper one; below the threshold above the lower one, up to the upper one;
- alarms come in any order: here no two may act in the same minute;
- nothing is taken away while what was added warms up.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import CodeType
from typing import Any

__all__ = ["Group", "Minute", "group_of"]

BREACHES: Mapping[str, Callable[[float, float], bool]] = {
    "GreaterThanOrEqualToThreshold": operator.ge,
    "LessThanThreshold": operator.lt,
}
FUNCTIONS: dict[str, Any] = {
    "CEIL": math.ceil,
    "IF": lambda condition, met, unmet: met if condition else unmet,
    "__builtins__": {},
}


@dataclass(frozen=True, slots=True)
class Minute:
    """A minute's datapoints: of the queue, and the size that the group tells of itself."""

    visible: int
    in_flight: int
    running: int


@dataclass(frozen=True, slots=True)
class Step:
    lower: float
    upper: float
    size: int

    def holds(self, distance: float) -> bool:
        if distance < 0:
            return self.lower < distance <= self.upper
        return self.lower <= distance < self.upper


@dataclass(frozen=True, slots=True)
class Alarm:
    """`queries`: an expression of metric math or a metric's name, by id."""

    queries: Mapping[str, str | tuple[str, str]]
    told: str
    comparison: str
    threshold: float
    periods: int
    steps: tuple[Step, ...]

    def wants(self, minutes: Sequence[Minute]) -> int | None:
        """The size that its policy sets after the last of these minutes; None: it does not act."""
        values = [Datapoint(self.queries, minute)[self.told] for minute in minutes[-self.periods :]]
        breaches = BREACHES[self.comparison]
        if len(values) < self.periods or not all(breaches(v, self.threshold) for v in values):
            return None
        taken = [step.size for step in self.steps if step.holds(values[-1] - self.threshold)]
        assert len(taken) == 1, f"{len(taken)} steps hold {values[-1]}"
        return taken[0]


class Datapoint(Mapping[str, float]):
    """The value of each id of an alarm in one minute."""

    def __init__(self, queries: Mapping[str, str | tuple[str, str]], minute: Minute) -> None:
        self._queries = queries
        self._metrics = {
            ("AWS/SQS", "ApproximateNumberOfMessagesVisible"): minute.visible,
            ("AWS/SQS", "ApproximateNumberOfMessagesNotVisible"): minute.in_flight,
            ("AWS/AutoScaling", "GroupDesiredCapacity"): minute.running,
        }

    def __getitem__(self, name: str) -> float:
        if name not in self._queries:
            raise KeyError(name)  # then it is a function
        query = self._queries[name]
        if isinstance(query, tuple):
            return self._metrics[query]
        return float(eval(_compiled(query), FUNCTIONS, self))  # noqa: S307 - of our own plan

    def __iter__(self) -> Iterator[str]:
        return iter(self._queries)

    def __len__(self) -> int:
        return len(self._queries)


@cache
def _compiled(expression: str) -> CodeType:
    return compile(expression.replace(" AND ", " and "), "metric math", "eval")


@dataclass(slots=True)
class Group:
    """An Auto Scaling group under its alarms; `look` is one minute of its life."""

    minimum: int
    maximum: int
    warmup_minutes: int
    alarms: Sequence[Alarm]
    running: int = 0
    grew_at: int = -(10**6)
    largest: int = 0
    minutes: list[Minute] = field(default_factory=list)

    def look(self, *, visible: int, in_flight: int, told: int | None = None) -> int:
        """The size after this minute. `told`: what the group's own metric says, which is late."""
        told = self.running if told is None else told
        self.minutes.append(Minute(visible, in_flight, told))
        wanted = [size for alarm in self.alarms if (size := alarm.wants(self.minutes)) is not None]
        assert len(wanted) <= 1, f"alarms that set {wanted} at once"
        for size in wanted:
            self._become(max(self.minimum, min(size, self.maximum)))
        return self.running

    def _become(self, size: int) -> None:
        now = len(self.minutes)
        if size > self.running:
            self.grew_at = now
        elif size < self.running and now - self.grew_at < self.warmup_minutes:
            return
        self.running = size
        self.largest = max(self.largest, size)


def group_of(plan: Mapping[str, Any], variant: str) -> Group:
    """The group of a variant in a plan of modules/workers, as yet without instances."""
    _check_links(plan)
    group = _planned(plan, "aws_autoscaling_group", "workers")[variant]
    policies = _planned(plan, "aws_autoscaling_policy", "backlog")
    alarms = [
        _alarm(alarm, policies[key])
        for name in ("backlog", "idle")
        for key, alarm in _planned(plan, "aws_cloudwatch_metric_alarm", name).items()
        if key.partition("/")[0] == variant
    ]
    return Group(
        minimum=group["min_size"],
        maximum=group["max_size"],
        warmup_minutes=group["default_instance_warmup"] // 60,
        alarms=alarms,
    )


def _planned(plan: Mapping[str, Any], kind: str, name: str) -> dict[str, Any]:
    return {
        change["index"]: change["change"]["after"]
        for change in plan["resource_changes"]
        if (change["type"], change["name"]) == (kind, name)
    }


def _check_links(plan: Mapping[str, Any]) -> None:
    """What an ARN will be is not known yet, but whose it is."""
    for resource in plan["configuration"]["root_module"]["resources"]:
        if resource["address"] in (
            "aws_cloudwatch_metric_alarm.backlog",
            "aws_cloudwatch_metric_alarm.idle",
        ):
            references = resource["expressions"]["alarm_actions"]["references"]
            assert references == ["aws_autoscaling_policy.backlog", "each.key"], references


def _alarm(alarm: Mapping[str, Any], policy: Mapping[str, Any]) -> Alarm:
    assert policy["adjustment_type"] == "ExactCapacity"
    assert len(policy["step_adjustment"]) <= 20, "AWS takes 20 steps a policy"
    assert alarm["datapoints_to_alarm"] == alarm["evaluation_periods"]
    queries = alarm["metric_query"]
    return Alarm(
        queries={query["id"]: _query(query) for query in queries},
        told=next(query["id"] for query in queries if query["return_data"]),
        comparison=alarm["comparison_operator"],
        threshold=alarm["threshold"],
        periods=alarm["evaluation_periods"],
        steps=tuple(_step(step) for step in policy["step_adjustment"]),
    )


def _query(query: Mapping[str, Any]) -> str | tuple[str, str]:
    if query["expression"]:
        return str(query["expression"])
    metric = query["metric"][0]
    assert metric["period"] == 60
    return metric["namespace"], metric["metric_name"]


def _step(step: Mapping[str, Any]) -> Step:
    return Step(
        float(step["metric_interval_lower_bound"] or "-inf"),
        float(step["metric_interval_upper_bound"] or "inf"),
        step["scaling_adjustment"],
    )
