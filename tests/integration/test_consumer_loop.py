"""The consumer loop on the real queue: what happens to messages, whatever handlers do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from common.adapters.queue.sqlite import SqliteQueue
from common.model import QueueName, WakeUp
from common.ports.errors import PermanentError
from common.ports.queue import Delivery
from common.storage.data_folder import DataFolder
from workers.lease import Lease, LeaseExpiredError
from workers.loop import Consumer, Handler
from workers.outcome import Done, GiveUp, HandlerOutcome, NotBuried, Retry

CHANGE = QueueName.CHANGE


class WatchedQueue(SqliteQueue):
    """Tells when a heartbeat has reached the queue."""

    extended: asyncio.Event | None = None

    async def extend(self, delivery: Delivery, visibility_seconds: float) -> None:
        await super().extend(delivery, visibility_seconds)
        if self.extended:
            self.extended.set()


class World:
    """A queue, a consumer on it, and what the consumer noted."""

    def __init__(self, folder: Path) -> None:
        self.now = 1000.0
        self.queue = WatchedQueue(DataFolder(folder), receiver="test", clock=lambda: self.now)
        self.noted: list[tuple[int, HandlerOutcome | NotBuried]] = []

    async def note(self, delivery: Delivery, outcome: HandlerOutcome | NotBuried) -> None:
        self.noted.append((delivery.wake_up.version, outcome))

    async def send(self, *versions: int) -> None:
        for version in versions:
            await self.queue.send(CHANGE, [WakeUp(namespace="n", document_id="d", version=version)])

    async def left(self) -> int:
        return (await self.queue.depth(CHANGE)).backlog

    def consumer(
        self,
        handler: Handler,
        *,
        visibility: float = 30.0,
        drain: float = 10.0,
        slots: int = 2,
        isolate: bool = False,
        max_receives: int = 3,
        guests: int = 0,
    ) -> Consumer:
        return Consumer(
            queue=self.queue,
            name=CHANGE,
            handle=handler,
            note=self.note,
            concurrency=slots,
            visibility_seconds=visibility,
            max_receives=max_receives,
            drain_seconds=drain,
            isolate_suspects=isolate,
            guest_places=guests,
            clock=lambda: self.now,
        )

    @asynccontextmanager
    async def consuming(
        self,
        handler: Handler,
        *,
        visibility: float = 30.0,
        drain: float = 10.0,
        slots: int = 2,
        isolate: bool = False,
        guests: int = 0,
    ) -> AsyncIterator[asyncio.Event]:
        consumer = self.consumer(
            handler,
            visibility=visibility,
            drain=drain,
            slots=slots,
            isolate=isolate,
            guests=guests,
        )
        stop = asyncio.Event()
        task = asyncio.create_task(consumer.run(stop))
        try:
            yield stop
        finally:
            stop.set()
            await task


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path / "data")
    yield made
    await made.queue.close()


async def test_a_handled_message_is_gone(world: World) -> None:
    handled = asyncio.Event()

    async def handler(delivery: Delivery, lease: Lease) -> HandlerOutcome:
        handled.set()
        return Done("ok")

    await world.send(1)
    async with world.consuming(handler):
        await handled.wait()
    assert await world.left() == 0
    assert await world.queue.dead_letter_count() == 0


async def test_a_permanent_failure_is_noted_and_dead_lettered(world: World) -> None:
    handled = asyncio.Event()

    async def handler(delivery: Delivery, lease: Lease) -> HandlerOutcome:
        handled.set()
        raise PermanentError("the PDF is encrypted")

    await world.send(1)
    async with world.consuming(handler):
        await handled.wait()
    assert world.noted == [(1, GiveUp("the PDF is encrypted"))]
    assert [d.reason for d in await world.queue.dead_letters(limit=9)] == ["the PDF is encrypted"]
    assert await world.left() == 0


async def test_a_passing_failure_is_tried_again_later(world: World) -> None:
    handled = asyncio.Event()

    async def handler(delivery: Delivery, lease: Lease) -> HandlerOutcome:
        handled.set()
        return Retry(7.0, "index away")

    await world.send(1)
    async with world.consuming(handler):
        await handled.wait()
    assert (await world.queue.depth(CHANGE)).delayed == 1
    world.now += 7.0
    assert (await world.queue.depth(CHANGE)).waiting == 1


async def test_a_message_that_kills_its_workers_is_given_up_unseen(world: World) -> None:
    await world.send(1)
    for _ in range(3):  # three workers receive it and die
        await world.queue.receive(CHANGE, limit=1, visibility_seconds=5, wait_seconds=0)
        world.now += 5.0
    seen: list[Delivery] = []

    async def handler(delivery: Delivery, lease: Lease) -> HandlerOutcome:
        seen.append(delivery)
        done.set()
        return Done("ok")

    done = asyncio.Event()
    await world.send(2)
    async with world.consuming(handler, slots=1):
        await done.wait()
    assert [d.wake_up.version for d in seen] == [2]
    (dead,) = await world.queue.dead_letters(limit=9)
    assert dead.wake_up.version == 1
    assert "died" in dead.reason


async def test_no_more_is_received_than_can_be_started(world: World) -> None:
    release, both = asyncio.Event(), asyncio.Event()
    running = 0

    async def handler(delivery: Delivery, lease: Lease) -> HandlerOutcome:
        nonlocal running
        running += 1
        if running == 2:
            both.set()
        await release.wait()
        return Done("ok")

    await world.send(1, 2, 3, 4)
    async with world.consuming(handler, slots=2):
        await both.wait()
        depth = await world.queue.depth(CHANGE)
        assert (depth.in_flight, depth.waiting) == (2, 2)
        release.set()


async def test_stopping_finishes_what_is_in_hand_and_takes_no_more(world: World) -> None:
    started, finish = asyncio.Event(), asyncio.Event()
    finished: list[int] = []

    async def handler(delivery: Delivery, lease: Lease) -> HandlerOutcome:
        started.set()
        await finish.wait()
        finished.append(delivery.wake_up.version)
        return Done("ok")

    await world.send(1, 2)
    async with world.consuming(handler, slots=1) as stop:
        await started.wait()
        stop.set()
        asyncio.get_running_loop().call_soon(finish.set)
    assert finished == [1]
    assert (await world.queue.depth(CHANGE)).waiting == 1


async def test_work_that_outlasts_the_drain_goes_back_at_once(world: World) -> None:
    started = asyncio.Event()

    async def handler(delivery: Delivery, lease: Lease) -> HandlerOutcome:
        started.set()
        await asyncio.Event().wait()
        return Done("never")

    await world.send(1)
    async with world.consuming(handler, drain=0.01):
        await started.wait()
    (again,) = await world.queue.receive(CHANGE, limit=9, visibility_seconds=5, wait_seconds=0)
    assert again.receive_count == 1  # any number of restarts must not use up its receives


async def test_heartbeats_keep_the_message_while_the_handler_works(world: World) -> None:
    finish = asyncio.Event()
    beaten = asyncio.Event()
    world.queue.extended = beaten

    async def handler(delivery: Delivery, lease: Lease) -> HandlerOutcome:
        world.now += 0.25
        await finish.wait()
        return Done("ok")

    await world.send(1)
    async with world.consuming(handler, visibility=0.3, slots=1):
        await beaten.wait()
        world.now += 0.25  # half a second after the receive: 0.2 past the first timeout
        depth = await world.queue.depth(CHANGE)
        assert (depth.in_flight, depth.waiting) == (1, 0)
        finish.set()
    assert await world.left() == 0


async def test_a_message_taken_over_stops_its_first_holder(world: World) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def handler(delivery: Delivery, lease: Lease) -> HandlerOutcome:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            with pytest.raises(LeaseExpiredError):
                lease.check()
            cancelled.set()
            raise
        return Done("never")

    await world.send(1)
    async with world.consuming(handler, visibility=0.3, slots=1):
        await started.wait()
        world.now += 60.0
        rival = await world.queue.receive(CHANGE, limit=1, visibility_seconds=900, wait_seconds=0)
        await cancelled.wait()
        await world.queue.ack(rival[0])
    assert await world.left() == 0


async def test_messages_that_came_back_twice_are_worked_one_by_one(world: World) -> None:
    """Two workers died with four in hand: the next death must count against one of them only."""
    await world.send(1, 2, 3, 4)
    for _ in range(2):
        await world.queue.receive(CHANGE, limit=4, visibility_seconds=5, wait_seconds=0)
        world.now += 5.0
    running: set[int] = set()
    most = 0
    counts: list[int] = []
    done = asyncio.Event()

    async def handler(delivery: Delivery, lease: Lease) -> HandlerOutcome:
        nonlocal most
        running.add(delivery.wake_up.version)
        most = max(most, len(running))
        await asyncio.sleep(0)
        running.discard(delivery.wake_up.version)
        counts.append(delivery.receive_count)
        if len(counts) == 4:
            done.set()
        return Done("ok")

    async with world.consuming(handler, slots=4, isolate=True):
        await done.wait()
    assert most == 1
    assert counts == [3, 3, 3, 3]
    assert await world.left() == 0


async def test_an_import_in_hand_lets_an_edit_of_another_namespace_through(world: World) -> None:
    """As soon as a place is free, and not after the hundred that were there before it."""
    begun: list[str] = []
    full, edited, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def handler(delivery: Delivery, lease: Lease) -> HandlerOutcome:
        begun.append(delivery.wake_up.namespace)
        if len(begun) == 4:
            full.set()
        if delivery.wake_up.namespace == "editor":
            edited.set()
        await go_on.wait()
        return Done("ok")

    await world.send(*range(100))
    async with world.consuming(handler, slots=4):
        await full.wait()
        edit = WakeUp(namespace="editor", document_id="d", version=1)
        await world.queue.send(CHANGE, [edit])
        go_on.set()
        async with asyncio.timeout(30):
            await edited.wait()

    assert begun[:4] == ["n"] * 4
    assert begun.index("editor") <= 4 + 4


async def test_large_documents_in_every_place_let_one_of_each_other_namespace_through(
    world: World,
) -> None:
    """They hold their places for as long as this test takes, and no second one of them comes in."""
    begun: list[str] = []
    full, edited, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def handler(delivery: Delivery, lease: Lease) -> HandlerOutcome:
        begun.append(delivery.wake_up.namespace)
        if len(begun) == 2:
            full.set()
        if delivery.wake_up.namespace == "second-editor":
            edited.set()
        await go_on.wait()
        return Done("ok")

    await world.send(*range(100))
    async with world.consuming(handler, slots=2, guests=2):
        await full.wait()
        for editor in ("editor", "editor", "second-editor", "third-editor"):
            edit = WakeUp(namespace=editor, document_id="d", version=1)
            await world.queue.send(CHANGE, [edit])
        async with asyncio.timeout(30):
            await edited.wait()
        depth = await world.queue.depth(CHANGE)
        go_on.set()

    assert begun[:4] == ["n", "n", "editor", "second-editor"]
    assert (depth.in_flight, depth.waiting) == (4, 98 + 2)
