"""How many requests a consumer makes on SQS, which bills by the request: idle, busy and between.

Hours pass in a simulated loop, on a client in memory that counts.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from common.adapters.queue.sqs import QueueNames, SqsQueue, Waits
from common.adapters.queue.sqs_api import SqsApi
from common.model import QueueName, WakeUp
from common.ports.queue import Delivery
from common.settings import Settings
from tests.fakes.sqs import SqsClient
from tests.simulation.loop import Process, SimulatedLoop
from workers.lease import Lease
from workers.loop import Consumer
from workers.outcome import Done, HandlerOutcome, NotBuried

SETTINGS = Settings(queue_url="sqs:")
STEPS = 10_000_000


class Fleet:
    """One consumer on SQS in simulated time. `work` is what a document takes."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        work: Callable[[str], Awaitable[None]],
        settle: float = SETTINGS.sqs_settle_wait_seconds,
    ) -> None:
        self.loop = SimulatedLoop(random.Random(1))  # type: ignore[abstract]  # enough of a loop
        self.process = Process("worker")
        self.client = SqsClient()
        self.work = work
        self.waits = Waits(send=SETTINGS.sqs_send_wait_seconds, settle=settle)
        self.done_at: dict[str, float] = {}
        self.queue: SqsQueue | None = None
        self._progress = asyncio.Condition()

        async def client(_: SqsApi) -> SqsClient:
            return self.client

        monkeypatch.setattr(SqsApi, "client", client)

    def run(self, script: Callable[[SqsQueue], Awaitable[None]]) -> None:
        """The consumer works until the script ends."""
        task = self.loop.spawn(self.process, self._run(script))
        assert self.loop.run_until_stopped(until=1e9, steps=STEPS)
        task.result()
        assert self.loop.errors == []

    async def _run(self, script: Callable[[SqsQueue], Awaitable[None]]) -> None:
        queue = SqsQueue(
            QueueNames.in_settings(SETTINGS),
            waits=self.waits,
        )
        consumer = Consumer(
            queue=queue,
            name=QueueName.CHANGE,
            handle=self._handle,
            note=_no_note,
            concurrency=SETTINGS.embed_concurrency,
            visibility_seconds=SETTINGS.visibility_timeout_seconds,
            max_receives=SETTINGS.max_receives,
            drain_seconds=60,
            isolate_suspects=True,
        )
        self.queue, stop = queue, asyncio.Event()
        running = asyncio.create_task(consumer.run(stop))
        try:
            await script(queue)
            stop.set()
            await running
            await queue.close()
        finally:
            self.loop.stop()

    async def _handle(self, delivery: Delivery, lease: Lease) -> HandlerOutcome:
        await self.work(delivery.wake_up.document_id)
        assert self.queue
        await self.queue.send(QueueName.CREATE, [delivery.wake_up])
        async with self._progress:
            self.done_at[delivery.wake_up.document_id] = asyncio.get_running_loop().time()
            self._progress.notify_all()
        return Done("embedded")

    async def finished(self, count: int) -> None:
        async with self._progress:
            await self._progress.wait_for(lambda: len(self.done_at) >= count)

    def per_ten(self, documents: int, *, after: int = 0) -> float:
        return 10 * (sum(self.client.calls.values()) - after) / documents


async def _no_note(delivery: Delivery, outcome: HandlerOutcome | NotBuried) -> None:
    raise AssertionError(f"{delivery} ended with {outcome}")


def wake_ups(count: int, prefix: str = "d") -> list[WakeUp]:
    return [WakeUp(namespace="n", document_id=f"{prefix}{n}", version=1) for n in range(count)]


def taking(
    seconds: float, *, spread: float = 0.5, lanes: int = 1000
) -> Callable[[str], Awaitable[None]]:
    """Work of about so long, on as many documents at a time as there are lanes."""
    drawn, free = random.Random(2), asyncio.Semaphore(lanes)

    async def work(_: str) -> None:
        async with free:
            await asyncio.sleep(seconds * drawn.uniform(1 - spread, 1 + spread))

    return work


def test_an_idle_consumer_asks_three_times_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(monkeypatch, taking(1))

    async def idle(_: SqsQueue) -> None:
        await asyncio.sleep(3600)

    fleet.run(idle)

    assert set(fleet.client.calls) == {"ReceiveMessage"}
    assert fleet.client.calls["ReceiveMessage"] <= 180


@pytest.mark.parametrize(
    ("documents_per_second", "lanes"), [(6, 4), (20, 4), (100, 4), (100, 30), (300, 30)]
)
def test_a_busy_consumer_makes_at_most_four_requests_for_ten_documents(
    monkeypatch: pytest.MonkeyPatch, documents_per_second: int, lanes: int
) -> None:
    """And what waits for company keeps it from its work only a little."""
    fleet = Fleet(monkeypatch, taking(lanes / documents_per_second, lanes=lanes))

    async def backlog(queue: SqsQueue) -> None:
        await queue.send(QueueName.CHANGE, wake_ups(600))
        await fleet.finished(600)

    fleet.run(backlog)

    assert fleet.per_ten(600, after=60) <= 4.0
    assert 600 / max(fleet.done_at.values()) >= 0.4 * documents_per_second


def test_places_that_become_free_one_by_one_are_filled_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Deletes that wait for nobody free one place after the other."""
    fleet = Fleet(monkeypatch, taking(1.0), settle=0.0)

    async def backlog(queue: SqsQueue) -> None:
        await queue.send(QueueName.CHANGE, wake_ups(600))
        await fleet.finished(600)

    fleet.run(backlog)

    assert fleet.client.calls["DeleteMessageBatch"] > 200
    assert fleet.client.calls["ReceiveMessage"] <= 80


def test_heartbeats_of_long_work_share_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty documents of ten minutes: renewed every 100 s, two requests each time."""
    fleet = Fleet(monkeypatch, taking(600, spread=0.0))

    async def twenty(queue: SqsQueue) -> None:
        await queue.send(QueueName.CHANGE, wake_ups(20))
        await fleet.finished(20)

    fleet.run(twenty)

    assert 10 <= fleet.client.calls["ChangeMessageVisibilityBatch"] <= 12
    assert sum(fleet.client.received_parts) == 20  # no lease ran out


def test_long_work_keeps_no_place_from_being_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents that take hours leave nine places, fewer than a request brings."""
    slow = SETTINGS.embed_concurrency - 9

    async def work(document_id: str) -> None:
        await asyncio.sleep(7200 if document_id.startswith("slow") else 1)

    fleet = Fleet(monkeypatch, work)

    async def mixed(queue: SqsQueue) -> None:
        await queue.send(QueueName.CHANGE, wake_ups(slow, "slow"))
        await asyncio.sleep(30)
        sent_at = asyncio.get_running_loop().time()
        await queue.send(QueueName.CHANGE, wake_ups(9, "quick"))
        await fleet.finished(9)
        assert asyncio.get_running_loop().time() - sent_at < 15

    fleet.run(mixed)

    assert {name for name in fleet.done_at if name.startswith("quick")} == {
        w.document_id for w in wake_ups(9, "quick")
    }


def test_a_single_edit_is_passed_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for company where none is on its way."""
    fleet = Fleet(monkeypatch, taking(0.0))

    async def edits(queue: SqsQueue) -> None:
        for n in range(5):
            await asyncio.sleep(5)
            began = asyncio.get_running_loop().time()
            await queue.send(QueueName.CHANGE, wake_ups(1, f"edit{n}"))
            await fleet.finished(n + 1)
            assert max(fleet.done_at.values()) - began < 0.2
            await asyncio.sleep(0.2)
            assert fleet.client.calls["DeleteMessageBatch"] == n + 1

    fleet.run(edits)


@pytest.mark.parametrize(("a_second", "requests_for_a_hundred"), [(200, 30), (50, 45), (2, 100)])
def test_accepts_share_requests_when_many_come_at_once(
    monkeypatch: pytest.MonkeyPatch, a_second: int, requests_for_a_hundred: int
) -> None:
    """And a lone one waits for nobody: at two a second each is answered before the next."""
    fleet = Fleet(monkeypatch, taking(0.0))
    took: list[float] = []

    async def accept(queue: SqsQueue, wake_up: WakeUp) -> None:
        began = asyncio.get_running_loop().time()
        await queue.send(QueueName.DELETE, [wake_up])
        took.append(asyncio.get_running_loop().time() - began)

    async def feed(queue: SqsQueue) -> None:
        sent = []
        for wake_up in wake_ups(100):
            sent.append(asyncio.create_task(accept(queue, wake_up)))
            await asyncio.sleep(1 / a_second)
        await asyncio.gather(*sent)

    fleet.run(feed)
    assert fleet.client.calls["SendMessageBatch"] <= requests_for_a_hundred
    assert max(took) < (0.2 if a_second > 2 else 0.05)
