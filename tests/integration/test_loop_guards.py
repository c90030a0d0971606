"""Guards of the consumer loop: who works alone, what counts, and what is told before it moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.model import QueueName
from common.ports.errors import TransientError
from common.ports.queue import Delivery
from tests.integration.test_consumer_loop import World
from workers.lease import Lease, LeaseExpiredError
from workers.outcome import Done, GiveUp, HandlerOutcome, NotBuried, Retry

CHANGE = QueueName.CHANGE


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path / "data")
    yield made
    await made.queue.close()


async def came_back(world: World, *versions: int, receives: int = 2) -> None:
    """Messages whose first receivers died; they come back in five seconds."""
    await world.send(*versions)
    for _ in range(receives):
        world.now += 5.0
        await world.queue.receive(CHANGE, limit=len(versions), visibility_seconds=5, wait_seconds=0)


class Crew:
    """A handler that keeps each message until `go`, and knows who is in hand together."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.running: set[int] = set()
        self.together: dict[int, set[int]] = {}
        self.started: dict[int, asyncio.Event] = {n: asyncio.Event() for n in range(1, 9)}

    async def __call__(self, delivery: Delivery, lease: Lease) -> HandlerOutcome:
        version = delivery.wake_up.version
        self.running.add(version)
        self.together[version] = set(self.running)
        self.started[version].set()
        await self.go.wait()
        self.running.discard(version)
        return Done("ok")


async def test_messages_that_came_back_run_together_where_nobody_dies_of_them(
    world: World,
) -> None:
    await came_back(world, 1, 2)
    world.now += 5.0
    crew = Crew()
    async with world.consuming(crew, isolate=False):
        await crew.started[1].wait()
        await crew.started[2].wait()
        crew.go.set()
    assert crew.together[2] == {1, 2}


async def test_messages_that_came_back_once_run_together(world: World) -> None:
    """What a worker that was killed had in hand is not to wait in line, each behind the other."""
    await came_back(world, 1, 2, receives=1)
    world.now += 5.0
    crew = Crew()
    async with world.consuming(crew, isolate=True):
        await crew.started[1].wait()
        await crew.started[2].wait()
        crew.go.set()
    assert crew.together[2] == {1, 2}


@pytest.mark.parametrize(("max_receives", "alone_from"), [(2, 2), (3, 3), (9, 3)])
async def test_a_document_that_kills_its_workers_takes_no_neighbour_with_it(
    world: World, max_receives: int, alone_from: int
) -> None:
    """Each death counts against all in hand, whether they are at fault or not."""
    poison, done = 2, set[int]()
    died, buried = asyncio.Event(), asyncio.Event()

    async def handler(delivery: Delivery, lease: Lease) -> HandlerOutcome:
        if delivery.wake_up.version == poison:
            died.set()
        if delivery.wake_up.version == poison or delivery.receive_count < alone_from:
            await asyncio.Event().wait()  # until the poison kills them all
        done.add(delivery.wake_up.version)
        return Done("ok")

    bury, release = world.queue.dead_letter, world.queue.release

    async def dead_letter(delivery: Delivery, reason: str) -> None:
        await bury(delivery, reason)
        buried.set()

    async def lost(delivery: Delivery, delay_seconds: float = 0.0) -> None:
        """Who is dead hands nothing back."""
        if not died.is_set():
            await release(delivery, delay_seconds)

    world.queue.dead_letter = dead_letter  # type: ignore[method-assign]
    world.queue.release = lost  # type: ignore[method-assign]
    await world.send(1, 2, 3)
    deaths = 0
    while not buried.is_set():
        died.clear()
        consumer = world.consumer(handler, slots=3, isolate=True, max_receives=max_receives)
        life = asyncio.create_task(consumer.run(asyncio.Event()))
        ends = [asyncio.create_task(died.wait()), asyncio.create_task(buried.wait())]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        deaths += died.is_set()
        for task in (life, *ends):
            task.cancel()
        await asyncio.gather(life, *ends, return_exceptions=True)
        world.now += 60.0
    assert deaths == max_receives
    assert done == {1, 3}
    (letter,) = await world.queue.dead_letters(limit=9)
    assert letter.wake_up.version == poison


async def test_a_message_that_came_back_twice_waits_for_what_is_in_hand(world: World) -> None:
    await came_back(world, 2)
    await world.send(1)
    crew = Crew()
    parted = asyncio.Event()
    release = world.queue.release

    async def released(delivery: Delivery, delay_seconds: float = 0.0) -> None:
        await release(delivery, delay_seconds)
        parted.set()

    async def handler(delivery: Delivery, lease: Lease) -> HandlerOutcome:
        if delivery.wake_up.version == 2:
            parted.set()  # beside the first, if nobody handed it back
        return await crew(delivery, lease)

    world.queue.release = released  # type: ignore[method-assign]
    async with world.consuming(handler, isolate=True):
        await crew.started[1].wait()
        world.now += 5.0
        await world.send(3)  # rings
        await parted.wait()
        crew.go.set()
        await crew.started[2].wait()
    assert crew.together[2] == {2}


async def test_a_message_that_came_back_twice_is_handed_back_last(world: World) -> None:
    """What is handed back last is next: or it would meet others again, and wait a round."""
    await came_back(world, 2)
    world.now += 5.0
    await world.send(3, 4)
    handed_back: list[int] = []
    release = world.queue.release

    async def released(delivery: Delivery, delay_seconds: float = 0.0) -> None:
        await release(delivery, delay_seconds)
        handed_back.append(delivery.wake_up.version)

    world.queue.release = released  # type: ignore[method-assign]
    consumer = world.consumer(Crew(), slots=4, isolate=True)
    received = await world.queue.receive(CHANGE, limit=3, visibility_seconds=5, wait_seconds=0)
    received.sort(key=lambda delivery: delivery.wake_up.version)
    busy = asyncio.create_task(asyncio.Event().wait())
    consumer._in_hand[busy] = received[0], Lease(lambda: 0.0, 1.0)  # type: ignore[index]
    assert await consumer._parted(received) == []
    busy.cancel()
    assert handed_back == [3, 4, 2]


async def test_after_a_suspect_work_goes_on_in_parallel(world: World) -> None:
    await came_back(world, 1, 4)  # parted, and worked one by one
    world.now += 5.0
    alone, crew = Crew(), Crew()
    alone.go.set()

    async def handler(delivery: Delivery, lease: Lease) -> HandlerOutcome:
        return await (crew if delivery.wake_up.version in (2, 3) else alone)(delivery, lease)

    async with world.consuming(handler, isolate=True):
        await alone.started[1].wait()
        await alone.started[4].wait()
        await world.send(2, 3)
        await crew.started[2].wait()
        await crew.started[3].wait()
        crew.go.set()
    assert crew.together[3] == {2, 3}


@pytest.mark.parametrize(("counted", "receives"), [(True, 2), (False, 1)])
async def test_what_counts_against_a_message(world: World, counted: bool, receives: int) -> None:
    handled = asyncio.Event()

    async def handler(delivery: Delivery, lease: Lease) -> HandlerOutcome:
        handled.set()
        return Retry(7.0, "away", counted=counted)

    await world.send(1)
    async with world.consuming(handler):
        await handled.wait()
    assert world.noted == [(1, Retry(7.0, "away", counted=counted))]
    world.now += 7.0
    (again,) = await world.queue.receive(CHANGE, limit=9, visibility_seconds=5, wait_seconds=0)
    assert again.receive_count == receives


async def test_a_lease_that_ran_out_is_no_failure_of_the_document(world: World) -> None:
    handled = asyncio.Event()

    async def handler(delivery: Delivery, lease: Lease) -> HandlerOutcome:
        handled.set()
        raise LeaseExpiredError("paused")

    await world.send(1)
    async with world.consuming(handler):
        await handled.wait()
    assert world.noted == []
    depth = await world.queue.depth(CHANGE)
    assert (depth.in_flight, depth.delayed) == (1, 0)


async def test_a_message_is_not_buried_before_its_row_says_why(world: World) -> None:
    noted = asyncio.Event()

    async def note(delivery: Delivery, outcome: HandlerOutcome | NotBuried) -> None:
        noted.set()
        raise TransientError("registry away")

    async def handler(delivery: Delivery, lease: Lease) -> HandlerOutcome:
        return GiveUp("no text in it")

    world.note = note  # type: ignore[method-assign]
    await world.send(1)
    async with world.consuming(handler):
        await noted.wait()
    assert await world.queue.dead_letter_count() == 0
    assert await world.left() == 1
