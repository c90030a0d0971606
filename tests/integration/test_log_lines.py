"""The lines that metrics are made of: their events and fields are a promise to whoever counts them.

On AWS nothing scrapes a function: CloudWatch counts the JSON lines that match the patterns of
terraform/modules/observability/metrics.json, and alarms look at what it counts. What is read here
is what the product writes while messages are worked off, and Terraform's own patterns.
"""

from __future__ import annotations

import io
import json
import random
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog

from common import telemetry
from common.model import QueueName
from common.ports.errors import TransientError
from common.ports.queue import Delivery
from tests.builders import TIMERS
from tests.log_filters import compiled, matches, value_of
from tests.pipeline import NAMESPACE, Pipeline, pipeline
from workers.lease import Lease
from workers.loop import Consumer, Handler
from workers.notes import RegistryNote
from workers.outcome import HandlerOutcome
from workers.retry import PermanentFailureError

METRICS: list[dict[str, Any]] = json.loads(
    Path(__file__).parents[2].joinpath("terraform/modules/observability/metrics.json").read_text()
)
TEXT = "# Queues\n\nA queue keeps what nobody has had the time for, until somebody has."


@dataclass
class World:
    """A flow whose messages consumers work off, and the log of that."""

    flow: Pipeline
    log: io.StringIO

    async def work(self, queue: QueueName, handler: Handler | None = None) -> None:
        """One message of the queue, as every consumer works it; it has to be there."""
        delivery = await self.flow.receive(queue)
        assert delivery is not None
        consumer = Consumer(
            queue=self.flow.queue,
            name=queue,
            handle=handler or self.flow.handlers()[queue],
            note=RegistryNote(
                registry=self.flow.registry,
                queue=self.flow.queue,
                timers=TIMERS,
                clock=self.flow.clock,
            ),
            concurrency=1,
            visibility_seconds=30,
            max_receives=3,
            drain_seconds=1,
            clock=self.flow.clock,
            jitter=random.Random(1),
        )
        await consumer.work([delivery], seconds=60)

    async def apply(self, document_id: str, seconds: float = 0.0) -> None:
        """Visible after so long."""
        await self.flow.insert(document_id, TEXT)
        await self.work(QueueName.CHANGE)
        self.flow.clock.now += seconds
        await self.work(QueueName.CREATE)

    def lines(self) -> list[str]:
        return self.log.getvalue().splitlines()

    def line(self, event: str) -> dict[str, Any]:
        """The only one of the event."""
        lines: list[dict[str, Any]] = [json.loads(line) for line in self.lines()]
        (found,) = [line for line in lines if line["event"] == event]
        return found


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What is written to standard error, as functions and containers write it."""
    before = structlog.get_config()
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    telemetry.configure_logging("json", "info")
    # Kept loggers would write here in every later test of the process.
    structlog.configure(cache_logger_on_first_use=False)
    yield written
    structlog.configure(**before)


@pytest.fixture
async def world(tmp_path: Path, log: io.StringIO) -> AsyncIterator[World]:
    async with pipeline(tmp_path) as flow:
        yield World(flow, log)


async def out_of_reach(delivery: Delivery, lease: Lease) -> HandlerOutcome:
    raise TransientError("the index is away")


async def hopeless(delivery: Delivery, lease: Lease) -> HandlerOutcome:
    raise PermanentFailureError("the document cannot be read")


async def test_an_applied_version_tells_how_fresh_it_is(world: World) -> None:
    await world.apply("a", seconds=2.5)
    line = world.line("document.applied")
    assert line["freshness_seconds"] == 2.5
    assert (line["namespace"], line["document"], line["version"]) == (NAMESPACE, "a", 1)
    assert (line["queue"], line["level"]) == ("create", "info")


async def test_an_applied_delete_tells_how_long_it_was_still_shown(world: World) -> None:
    await world.apply("a")
    await world.flow.delete("a")
    world.flow.clock.now += 1.25
    await world.work(QueueName.DELETE)
    line = world.line("document.deleted")
    assert line["freshness_seconds"] == 1.25
    assert (line["namespace"], line["document"], line["queue"]) == (NAMESPACE, "a", "delete")


async def test_every_line_is_one_json_object_that_says_when(world: World) -> None:
    await world.apply("a")
    lines = world.lines()
    assert lines
    for line in lines:
        assert json.loads(line)["timestamp"].endswith("Z")


async def test_cloudwatch_counts_what_happened(world: World) -> None:
    await world.apply("a", seconds=2.5)
    await world.apply("b", seconds=40.0)
    await world.flow.delete("a")
    await world.work(QueueName.DELETE)
    await world.flow.insert("c", TEXT)
    await world.work(QueueName.CHANGE, out_of_reach)
    await world.flow.insert("d", TEXT)
    await world.work(QueueName.CHANGE, hopeless)
    assert counted(world.lines()) == {
        "Applied": [1, 1, 1],
        "FreshnessSeconds": [2.5, 40.0, 0.0],
        "Done": [1, 1, 1, 1, 1],
        "Failed": [1, 1],
        "DeadLettered": [1],
        "EmbeddedChunks": [1, 0],  # the second document's text is the first one's
    }


def counted(lines: list[str]) -> dict[str, list[float]]:
    """What each metric is given, line by line."""
    return {
        metric["name"]: [
            value_of(metric["value"], line) for line in lines if matches(metric["pattern"], line)
        ]
        for metric in METRICS
    }


@pytest.mark.parametrize(
    ("pattern", "line", "does"),
    [
        ('{ $.event = "a" }', '{"event": "a"}', True),
        ('{ $.event = "a" }', '{"event": "b"}', False),
        ('{ $.event = "a" }', '{"other": "a"}', False),
        ('{ $.event = "a" }', "event a", False),
        ('{ $.event = "a" || $.event = "b" }', '{"event": "b"}', True),
        ('{ ($.event = "a" || $.event = "b") && $.n >= 0 }', '{"event": "a"}', False),
        ('{ ($.event = "a" || $.event = "b") && $.n >= 0 }', '{"event": "a", "n": 0}', True),
        ('{ ($.event = "a" || $.event = "b") && $.n >= 0 }', '{"event": "a", "n": "0"}', False),
        ('{ ($.event = "a" || $.event = "b") && $.n >= 0 }', '{"event": "c", "n": 1}', False),
    ],
)
def test_the_patterns_are_read_as_cloudwatch_reads_them(
    pattern: str, line: str, does: bool
) -> None:
    assert matches(pattern, line) is does


@pytest.mark.parametrize(
    "pattern", ["ERROR", '{ $.event = "a*" }', '{ event = "a" }', '{ $.event = "a" } x']
)
def test_a_pattern_that_is_not_understood_is_no_pass(pattern: str) -> None:
    with pytest.raises(ValueError):
        compiled(pattern)
