"""A message and its row are settled together, also when one of the two cannot be reached."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from common.model import DocumentKey, QueueName, Row, Status, WakeUp
from common.ports.errors import PermanentError, TransientError
from common.ports.queue import Delivery
from tests.builders import KEY, TIMERS, desired
from tests.fakes.queue import MemoryQueue
from tests.fakes.registry import MemoryRegistry
from tests.pipeline import Clock
from workers.lease import Lease
from workers.loop import Consumer
from workers.notes import RegistryNote
from workers.outcome import HandlerOutcome

CHANGE = QueueName.CHANGE
MAX_RECEIVES = 3


class Registry(MemoryRegistry):
    """Refuses writes while it is `away`."""

    away = False

    async def put_if(self, row: Row) -> Row | None:
        if self.away:
            raise TransientError("the registry is away")
        return await super().put_if(row)


class World:
    """One message about one document, worked by hand."""

    def __init__(self, fails_with: Exception) -> None:
        self.clock = Clock()
        self.queue = MemoryQueue(clock=self.clock)
        self.registry = Registry()
        self.during: Callable[[], Awaitable[None]] | None = None
        self._error = fails_with
        self.consumer = Consumer(
            queue=self.queue, name=CHANGE, handle=self._handle,
            note=RegistryNote(
                registry=self.registry, queue=self.queue, timers=TIMERS, clock=self.clock
            ),
            concurrency=1, visibility_seconds=30, max_receives=MAX_RECEIVES, drain_seconds=5,
            clock=self.clock, jitter=random.Random(1),
        )  # fmt: skip

    async def _handle(self, delivery: Delivery, lease: Lease) -> HandlerOutcome:
        if self.during:
            await self.during()
        raise self._error

    async def begin(self) -> None:
        assert await self.registry.put_if(Row(key=KEY, revision=0, desired=desired()))
        wake_up = WakeUp(namespace=KEY.namespace, document_id=KEY.document_id, version=1)
        await self.queue.send(CHANGE, [wake_up])

    async def work(self) -> Delivery:
        """Receive the message once it may be, and settle it."""
        self.clock.now += 3600
        (delivery,) = self.queue.take(CHANGE, 1, 30)
        await self.consumer._work(delivery, Lease(self.clock, self.clock.now + 30))
        return delivery

    @property
    def row(self) -> Row:
        return self.registry.rows[DocumentKey(KEY.namespace, KEY.document_id)]


async def test_a_registry_that_is_away_speaks_against_no_message() -> None:
    world = World(TransientError("the registry is away"))
    await world.begin()
    world.registry.away = True
    for _ in range(5 * MAX_RECEIVES):
        delivery = await world.work()
        assert delivery.receive_count == 1
    assert await world.queue.dead_letter_count() == 0


async def test_a_failure_waits_for_its_row_to_say_so() -> None:
    world = World(PermanentError("no text in it"))
    await world.begin()
    world.registry.away = True
    for _ in range(2 * MAX_RECEIVES):
        await world.work()
    assert await world.queue.dead_letter_count() == 0
    assert world.row.status is Status.PENDING

    world.registry.away = False
    await world.work()
    (letter,) = await world.queue.dead_letters(limit=10)
    assert letter.reason == "no text in it"
    assert (world.row.status, world.row.error) == (Status.FAILED, "no text in it")


async def test_a_failure_whose_message_is_someone_elses_is_taken_back(tmp_path: Path) -> None:
    """A duplicate of the message ended it: nobody would ever look at a FAILED row again."""
    world = World(PermanentError("no text in it"))
    await world.begin()

    async def taken_and_ended() -> None:
        world.clock.now += 60
        (other,) = world.queue.take(CHANGE, 1, 30)
        await world.queue.ack(other)

    world.during = taken_and_ended
    await world.work()
    assert await world.queue.dead_letter_count() == 0
    assert (world.row.status, world.row.error) == (Status.PENDING, "no text in it")
    assert world.row.sweep_at is not None


@pytest.mark.parametrize("away", [True, False])
async def test_a_retry_is_told_where_it_can_be(away: bool) -> None:
    world = World(TransientError("the index is away"))
    await world.begin()
    world.registry.away = away
    await world.work()
    told = world.row.error
    assert told is None if away else "the index is away" in str(told)
