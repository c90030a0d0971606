"""Batches of an event source mapping: what failed comes back, and nothing else does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Any

import pytest

from common.lambda_sqs import NotABatchError, records_of
from common.model import QueueName, WakeUp
from common.ports.errors import PermanentError, TransientError
from common.ports.queue import Delivery
from common.wire import wake_up_from_json, wake_up_to_json
from tests.fakes.queue import MemoryQueue
from tests.lambda_events import failed, sqs_record
from workers.lambda_batch import MappedQueue, work_batch
from workers.lease import Lease
from workers.loop import Consumer
from workers.outcome import Done, GiveUp, HandlerOutcome, NotBuried, Retry

CREATE = QueueName.CREATE
Record = dict[str, Any]


class Mapped(MemoryQueue):
    """A queue, and the mapping that receives from it and removes what was not named as failed."""

    def __init__(self) -> None:
        super().__init__(clock=lambda: self.now)
        self.now = 1000.0
        self.handed: dict[str, Delivery] = {}
        self.forgotten: list[str] = []
        self.out_of_reach = False

    def delivered(self, queue: QueueName, message: Mapping[str, Any], *, until: float) -> Delivery:
        wake_up_from_json(message["Body"])
        return self.handed[message["ReceiptHandle"]]

    def forget(self, delivery: Delivery) -> None:
        self.forgotten.append(delivery.message_id)

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        if self.out_of_reach:
            raise TransientError("the queue is away")
        await super().dead_letter(delivery, reason)

    async def fill(self, *documents: str) -> None:
        for name in documents:
            wake_up = WakeUp(namespace="docs", document_id=name, version=1)
            await self.send(CREATE, [wake_up])

    def batch(self) -> list[Record]:
        records = []
        for number, delivery in enumerate(self.take(CREATE, 10, 300.0)):
            self.handed[delivery.receipt] = delivery
            record = sqs_record(wake_up_to_json(delivery.wake_up), number)
            records.append(
                record | {"messageId": delivery.message_id, "receiptHandle": delivery.receipt}
            )
        return records

    async def remove_all_but(self, records: list[Record], answer: dict[str, Any]) -> None:
        for record in records:
            if record["messageId"] not in failed(answer):
                delivery = self.handed[record["receiptHandle"]]
                self._messages[CREATE].pop(delivery.message_id, None)

    @property
    def left(self) -> set[str]:
        return {m.wake_up.document_id for m in self._messages[CREATE].values()}


class World:
    def __init__(self) -> None:
        self.queue = Mapped()
        self.mapped = MappedQueue(self.queue)
        self.outcomes: dict[str, HandlerOutcome | Exception] = {}
        self.notes: dict[str, HandlerOutcome | NotBuried] = {}
        self.in_hand: set[str] = set()
        self.all_in_hand = asyncio.Event()
        self.awaited = 0
        self.never = asyncio.Event()
        self.hanging: set[str] = set()
        self.consumer = Consumer(
            queue=self.mapped,
            name=CREATE,
            handle=self._handle,
            note=self._note,
            concurrency=1,
            visibility_seconds=300.0,
            max_receives=3,
            drain_seconds=5.0,
            clock=lambda: self.queue.now,
            jitter=random.Random(7),
        )

    async def _handle(self, delivery: Delivery, lease: Lease) -> HandlerOutcome:
        name = delivery.wake_up.document_id
        lease.check()
        self.in_hand.add(name)
        if len(self.in_hand) == self.awaited:
            self.all_in_hand.set()
        if self.awaited:
            await self.all_in_hand.wait()
        if name in self.hanging:
            await self.never.wait()
        outcome = self.outcomes.get(name, Done("ok"))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _note(self, delivery: Delivery, outcome: HandlerOutcome | NotBuried) -> None:
        self.notes[delivery.wake_up.document_id] = outcome

    async def work(self, records: list[Record], seconds: float = 20.0) -> dict[str, Any]:
        answer = await work_batch(self.consumer, self.mapped, records, seconds)
        await self.queue.remove_all_but(records, answer)
        return answer


@pytest.fixture
def world() -> World:
    return World()


TEN = [f"d{n}" for n in range(10)]


async def test_of_ten_with_two_poison_messages_exactly_the_two_stay(world: World) -> None:
    world.outcomes = {"d3": RuntimeError("poison"), "d7": ValueError("poison")}
    await world.queue.fill(*TEN)
    records = world.queue.batch()
    answer = await world.work(records)
    assert failed(answer) == [records[3]["messageId"], records[7]["messageId"]]
    assert world.queue.left == {"d3", "d7"}
    assert {name: type(note) for name, note in world.notes.items()} == {"d3": Retry, "d7": Retry}


async def test_a_retry_comes_back_after_its_delay_and_not_before(world: World) -> None:
    world.outcomes = {"a": Retry(30.0, "later")}
    await world.queue.fill("a")
    await world.work(world.queue.batch())
    assert world.queue.batch() == []
    world.queue.now += 30.0
    assert len(world.queue.batch()) == 1


async def test_the_records_of_a_batch_are_worked_side_by_side(world: World) -> None:
    world.awaited = 10
    await world.queue.fill(*TEN)
    assert failed(await world.work(world.queue.batch())) == []
    assert world.queue.left == set()


async def test_a_poison_message_ends_with_the_dead_letters_and_is_not_named(world: World) -> None:
    world.outcomes = {"a": GiveUp("unreadable")}
    await world.queue.fill("a", "b")
    assert failed(await world.work(world.queue.batch())) == []
    (letter,) = await world.queue.dead_letters(limit=9)
    assert (letter.wake_up.document_id, letter.reason) == ("a", "unreadable")


async def test_what_could_not_be_buried_stays(world: World) -> None:
    world.outcomes = {"a": GiveUp("unreadable")}
    world.queue.out_of_reach = True
    await world.queue.fill("a", "b")
    records = world.queue.batch()
    assert failed(await world.work(records)) == [records[0]["messageId"]]
    assert world.queue.left == {"a"}


async def test_an_outage_is_not_held_against_the_message(world: World) -> None:
    world.outcomes = {"a": TransientError("the index is away")}
    await world.queue.fill("a")
    records = world.queue.batch()
    assert failed(await world.work(records)) == [records[0]["messageId"]]
    world.queue.now += 120.0
    (again,) = world.queue.batch()
    assert world.queue.handed[again["receiptHandle"]].receive_count == 1


async def test_what_the_time_never_suffices_for_is_given_up_with_a_reason(world: World) -> None:
    world.hanging = {"a"}
    await world.queue.fill("a", "b")
    records = world.queue.batch()
    assert failed(await world.work(records, seconds=0.05)) == [records[0]["messageId"]]
    assert world.queue.left == {"a"}
    answer: dict[str, Any] = {}
    for received in (2, 3):
        world.queue.now += 60.0
        (again,) = records = world.queue.batch()
        assert world.queue.handed[again["receiptHandle"]].receive_count == received
        answer = await world.work(records, seconds=0.05)
    assert failed(answer) == []
    (letter,) = await world.queue.dead_letters(limit=9)
    assert letter.reason.startswith("failed 3 times, the last time with: TimeoutError: not done")
    assert world.notes["a"] == GiveUp(letter.reason)


async def test_what_was_not_begun_for_lack_of_time_is_not_held_against_it(world: World) -> None:
    await world.queue.fill("a")
    for _ in range(4):
        (record,) = records = world.queue.batch()
        assert failed(await world.work(records, seconds=0.0)) == [record["messageId"]]
    assert failed(await world.work(world.queue.batch())) == []
    assert world.in_hand == {"a"}
    assert world.notes == {}


async def test_a_function_that_dies_of_a_message_takes_no_neighbour_with_it(world: World) -> None:
    """A death counts against every message in hand; so who came back twice is in hand alone."""
    world.consumer.isolate_suspects = True
    world.outcomes = {"poison": RuntimeError("as if it had died")}
    await world.queue.fill("a", "poison", "b")
    for _ in range(2):
        world.queue.batch()  # Its function dies.
        world.queue.now += 400.0
    await world.queue.fill("fresh")
    in_hand: list[set[str]] = []
    while world.queue.left:
        world.in_hand.clear()
        records = world.queue.batch()
        assert len(in_hand) < 9
        answer = await world.work(records)
        assert len(failed(answer)) >= len(records) - 1
        in_hand.append(set(world.in_hand))
        world.queue.now += 60.0
    assert all(len(together) == 1 for together in in_hand)
    assert [letter.wake_up.document_id for letter in world.queue.letters] == ["poison"]


@pytest.mark.parametrize("deaths", [0, 1])
async def test_messages_are_worked_together_until_two_functions_died_of_them(
    world: World, deaths: int
) -> None:
    world.consumer.isolate_suspects = True
    await world.queue.fill("a", "b")
    for _ in range(deaths):
        world.queue.batch()
        world.queue.now += 400.0
    assert failed(await world.work(world.queue.batch())) == []
    assert world.in_hand == {"a", "b"}


async def test_a_message_that_cannot_be_read_stays_and_hinders_nobody(world: World) -> None:
    await world.queue.fill("a", "b")
    records = world.queue.batch()
    records[0]["body"] = '{"not": "ours"}'
    assert failed(await world.work(records)) == [records[0]["messageId"]]
    assert world.queue.left == {"a"}


async def test_what_an_earlier_batch_did_says_nothing_about_this_one(world: World) -> None:
    """Not even of the same receipt, should a queue ever hand it out twice."""
    await world.queue.fill("a")
    records = world.queue.batch()
    assert failed(await world.work(records)) == []
    world.outcomes = {"a": RuntimeError("now it fails")}
    assert failed(await world.work(records)) == [records[0]["messageId"]]


async def test_the_queue_forgets_the_lease_of_what_the_mapping_removes(world: World) -> None:
    world.outcomes = {"b": RuntimeError("poison")}
    await world.queue.fill("a", "b")
    records = world.queue.batch()
    await world.work(records)
    assert world.queue.forgotten == [records[0]["messageId"]]


@pytest.mark.parametrize(
    "event",
    [
        None,
        [],
        "x",
        {},
        {"Records": {}},
        {"Records": [{"eventSource": "aws:s3"}]},
        {"Records": [1]},
    ],
)
def test_what_is_no_batch_is_refused_so_that_all_of_it_comes_back(event: Any) -> None:
    with pytest.raises(NotABatchError):
        records_of(event)


def test_a_damaged_wake_up_is_a_permanent_error() -> None:
    """What `work_batch` relies on."""
    with pytest.raises(PermanentError):
        wake_up_from_json("{}")
