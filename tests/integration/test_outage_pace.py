"""How fast a bare consumer goes while a namespace is away, on virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator

import pytest
from structlog.testing import capture_logs

from common.model import QueueName, WakeUp
from common.ports.errors import PermanentError, TransientError
from common.ports.queue import Delivery
from tests.fakes.queue import MemoryQueue
from tests.integration.test_outages import simulated_loop
from tests.simulation.loop import Process
from workers.lease import Lease, LeaseExpiredError
from workers.loop import Consumer
from workers.outage import (
    FRUITLESS_MESSAGES,
    LONGEST_PAUSE_SECONDS,
    LONGEST_REST_SECONDS,
    LONGEST_TRY_SECONDS,
)
from workers.outcome import Done, HandlerOutcome

CREATE = QueueName.CREATE
STEPS = 5_000_000


class Pace:
    """One consumer; `fault` says what a namespace's handler meets, None: it works."""

    def __init__(self) -> None:
        self.loop = simulated_loop()
        self.process = Process("consumer")
        self.queue = MemoryQueue(clock=self.loop.time)
        self.fault: Callable[[str], Exception | None] = lambda namespace: None
        self.done: list[Delivery] = []
        self.settled = 0
        consumer = Consumer(
            queue=self.queue,
            name=CREATE,
            handle=self._handle,
            note=self._note,
            concurrency=8,
            visibility_seconds=30,
            max_receives=3,
            drain_seconds=25,
            isolate_suspects=True,
            clock=self.loop.time,
            jitter=random.Random(1),
        )
        self.loop.spawn(self.process, consumer.run(asyncio.Event()))

    async def _handle(self, delivery: Delivery, lease: Lease) -> HandlerOutcome:
        await asyncio.sleep(0.01)
        if error := self.fault(delivery.wake_up.namespace):
            raise error
        self.done.append(delivery)
        return Done("ok")

    async def _note(self, delivery: Delivery, outcome: object) -> None:
        self.settled += 1

    def send(self, namespace: str, count: int) -> None:
        names = [f"d{number}" for number in range(count)]
        wake_ups = [WakeUp(namespace=namespace, document_id=n, version=1) for n in names]
        self.loop.spawn(self.process, self.queue.send(CREATE, wake_ups))

    def go_on(self, seconds: float, done: Callable[[], bool] = lambda: False) -> bool:
        return self.loop.run_until(done, until=self.loop.time() + seconds, steps=STEPS)


@pytest.fixture
def pace() -> Iterator[Pace]:
    made = Pace()
    with capture_logs():
        yield made
    made.loop.bury()


def broken_is_away(namespace: str) -> Exception | None:
    return TransientError("shard away") if namespace == "broken" else None


def test_a_backlog_behind_a_closed_door_costs_little(pace: Pace) -> None:
    pace.fault = broken_is_away
    pace.send("broken", 2000)
    pace.go_on(10.0)
    usual = 10.0 * FRUITLESS_MESSAGES / (LONGEST_REST_SECONDS / 2)
    assert usual / 2 < pace.settled < usual * 2


def test_who_stands_behind_a_thousand_that_cannot_be_worked_waits_for_seconds(pace: Pace) -> None:
    pace.fault = broken_is_away
    pace.send("broken", 1000)
    pace.send("docs", 1)
    at_most = (1000 / FRUITLESS_MESSAGES + 1) * LONGEST_REST_SECONDS
    assert pace.go_on(at_most, lambda: bool(pace.done))


@pytest.mark.parametrize("error", [PermanentError("no"), LeaseExpiredError("paused")])
def test_a_try_that_tells_nothing_of_the_outage_does_not_lengthen_it(
    pace: Pace, error: Exception
) -> None:
    pace.fault = broken_is_away
    pace.send("broken", 200)
    pace.go_on(300.0)
    odd = [error]
    pace.fault = lambda namespace: odd.pop() if odd else None
    assert pace.go_on(2 * LONGEST_PAUSE_SECONDS, lambda: bool(pace.done))
    assert 2 * LONGEST_PAUSE_SECONDS < LONGEST_TRY_SECONDS
