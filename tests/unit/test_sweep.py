"""How often the sweeper wakes a document whose message may well be waiting still."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.model import QueueName, WakeUp
from common.ports.queue import Depth
from tests.builders import KEY, TIMERS, row
from tests.fakes.blobs import MemoryBlobStore
from tests.fakes.queue import MemoryQueue
from tests.fakes.registry import MemoryRegistry
from workers.sweep import Sweeper

CHANGE = QueueName.CHANGE
HOUR = 3600.0


class World:
    """A row that stays behind since 0.0, and a queue that nobody works."""

    def __init__(self, *, tells_age: bool) -> None:
        self.now = 0.0
        self.tells_age = tells_age
        self.registry = MemoryRegistry()
        self.queue = MemoryQueue(clock=self.clock)
        depth = self.queue.depth

        async def untold(queue: QueueName) -> Depth:
            return replace(await depth(queue), oldest_age_seconds=0.0)

        if not tells_age:
            self.queue.depth = untold  # type: ignore[method-assign]
        self.sweeper = Sweeper(
            registry=self.registry,
            queue=self.queue,
            blobs=MemoryBlobStore(),
            index=None,
            timers=TIMERS,
            interval_seconds=1,
            blob_interval_seconds=1,
            blob_grace_seconds=1,
            clock=self.clock,
        )

    def clock(self) -> float:
        return self.now

    async def begin(self) -> None:
        behind = row(revision=0, sweep_at=0.0, updated_at=0.0)
        desired = replace(behind.desired, accepted_at=0.0)
        assert await self.registry.put_if(replace(behind, desired=desired))
        await self.queue.send(CHANGE, [WakeUp(namespace="other", document_id="x", version=1)])

    async def pass_hours(self, hours: float) -> int:
        """How often the row was woken in that time."""
        before, ends = self.queue.backlog, self.now + hours * HOUR
        while self.now < ends:
            self.now += 60.0
            await self.sweeper.sweep_rows()
        return self.queue.backlog - before


async def test_a_row_is_woken_ever_more_rarely_where_the_queue_cannot_tell_its_age() -> None:
    world = World(tells_age=False)
    await world.begin()

    assert await world.pass_hours(0.9) == 0
    assert await world.pass_hours(0.2) == 1
    assert 1 <= await world.pass_hours(23) <= 8  # 1.5 to the power of 8 are a day's hours.
    assert 1 <= await world.pass_hours(24) <= 2


async def test_a_lost_wake_up_is_replaced_soon_where_nothing_waits() -> None:
    """An empty queue leaves no doubt, whatever it can tell."""
    world = World(tells_age=False)
    await world.begin()
    for delivery in await world.queue.receive(
        CHANGE, limit=1, visibility_seconds=9 * HOUR, wait_seconds=0
    ):
        await world.queue.ack(delivery)
    world.now = TIMERS.stale_after_seconds
    await world.sweeper.sweep_rows()
    assert world.queue.holds(KEY)


@pytest.mark.parametrize("hours", [1, 24])
async def test_a_queue_that_tells_its_age_is_believed(hours: float) -> None:
    world = World(tells_age=True)
    await world.begin()
    assert await world.pass_hours(hours) == 0
