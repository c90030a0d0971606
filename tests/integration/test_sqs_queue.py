"""The queue on SQS against a server: batches that fail in part, leases, copies, letters, checks.

What every queue does is in tests/conformance/test_queue.py, how many requests a consumer makes in
test_sqs_requests.py.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from common.adapters.queue import sqs_letters
from common.adapters.queue.sqs import QueueNames, SqsQueue, Waits, connect
from common.adapters.queue.sqs_api import SqsApi
from common.model import Applied, DocumentKey, QueueName, Row, Status, WakeUp
from common.ports.errors import PermanentError, TransientError
from common.ports.queue import AdoptingQueue, BatchReceivingQueue, Delivery, LeaseLostError
from common.settings import Settings
from common.wire import DamagedDataError, wake_up_to_json
from tests.builders import KEY, TIMERS, desired, row
from tests.fakes.blobs import MemoryBlobStore
from tests.fakes.registry import MemoryRegistry
from tests.servers.aws import moto, use
from tests.servers.queues import TestQueues
from workers.lease import Lease
from workers.loop import Consumer
from workers.outcome import Done, HandlerOutcome, NotBuried
from workers.sweep import Sweeper

pytestmark = pytest.mark.slow

CHANGE = QueueName.CHANGE
LONG_SECONDS = 60.0


@dataclass
class Meddler:
    """Stands between the adapter and the server: counts requests and refuses entries."""

    client: Any
    calls: Counter[str] = field(default_factory=Counter)
    given: list[dict[str, Any]] = field(default_factory=list)
    refuse: Callable[[str, dict[str, Any]], dict[str, Any] | None] = lambda _, __: None
    moved_from: dict[str, str] = field(default_factory=dict)
    """By body: the queue that SQS says it moved the message from, which this server does not."""

    def __getattr__(self, operation: str) -> Any:
        async def call(**given: Any) -> Any:
            self.calls[operation] += 1
            self.given.append(given)
            if operation.endswith("_batch"):
                return await self._batch(operation, given)
            answer = await getattr(self.client, operation)(**given)
            for message in answer.get("Messages", []):
                if name := self.moved_from.get(message["Body"]):
                    arn = f"arn:aws:sqs:eu-central-1:123456789012:{name}"
                    message["Attributes"]["DeadLetterQueueSourceArn"] = arn
            return answer

        return call

    async def _batch(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """The server gets what is not refused."""
        failed, passed = [], []
        for entry in given["Entries"]:
            refusal = self.refuse(operation, entry)
            if refusal is None:
                passed.append(entry)
            else:
                failed.append({"Id": entry["Id"], "Message": "refused", **refusal})
        answer: dict[str, Any] = {"Successful": []}
        if passed:
            answer = await getattr(self.client, operation)(**{**given, "Entries": passed})
        return {**answer, "Failed": [*answer.get("Failed", []), *failed]}


BUSY = {"Code": "InternalError", "SenderFault": False}
DENIED = {"Code": "AccessDenied", "SenderFault": True}


@dataclass
class World:
    queues: TestQueues
    names: QueueNames
    queue: SqsQueue
    meddler: Meddler

    async def send(self, *documents: str) -> None:
        await self.queue.send(CHANGE, [wake_up(name) for name in documents])

    async def take(self, count: int, *, seconds: float = LONG_SECONDS) -> list[Delivery]:
        """In the order of their names."""
        found: list[Delivery] = []
        while len(found) < count:
            found += await self.queue.receive(
                CHANGE, limit=count - len(found), visibility_seconds=seconds, wait_seconds=5
            )
        return sorted(found, key=lambda delivery: delivery.wake_up.document_id)

    def refuse(self, name: str, document: str, answer: dict[str, Any], *, times: int) -> None:
        """Of the next requests those that concern the document, told by its body or receipt."""
        left = [answer] * times

        def refusal(operation: str, entry: dict[str, Any]) -> dict[str, Any] | None:
            of_it = document in (entry.get("ReceiptHandle"), _document_in(entry))
            return left.pop() if left and of_it and operation == name else None

        self.meddler.refuse = refusal

    def parts(self) -> list[int]:
        """How many entries each batch had."""
        return [len(given["Entries"]) for given in self.meddler.given if "Entries" in given]

    def waiting(self, name: str) -> int:
        return int(self.queues.attributes(name)["ApproximateNumberOfMessages"])


def _document_in(entry: dict[str, Any]) -> str | None:
    body = entry.get("MessageBody", "")
    return body.partition('"document_id":"')[2].partition('"')[0] or None


def wake_up(name: str, namespace: str = "docs") -> WakeUp:
    return WakeUp(namespace=namespace, document_id=name, version=1, traceparent="00-trace-01")


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    use(monkeypatch, moto())
    queues = TestQueues(moto().url, max_receives=3)
    names = QueueNames.in_settings(Settings(**queues.settings))  # type: ignore[arg-type]
    queue = SqsQueue(names, waits=Waits(depth=0.0))
    meddler = Meddler(await queue._api.client())

    async def client(_: SqsApi) -> Meddler:
        return meddler

    monkeypatch.setattr(SqsApi, "client", client)
    yield World(queues, names, queue, meddler)
    await queue.close()


# --- batches ----------------------------------------------------------------------------------


async def test_concurrent_senders_share_requests(world: World) -> None:
    await asyncio.gather(*[world.send(f"d{n}") for n in range(30)])

    assert world.parts() == [10, 10, 10]
    assert world.waiting(world.names.of[CHANGE]) == 30


async def test_of_a_batch_that_fails_in_part_only_that_part_is_sent_again(world: World) -> None:
    world.refuse("send_message_batch", "d3", BUSY, times=2)

    await asyncio.gather(*[world.send(f"d{n}") for n in range(5)])

    assert world.parts() == [5, 1, 1]
    taken = await world.take(5)
    assert [d.wake_up.document_id for d in taken] == [f"d{n}" for n in range(5)]


async def test_only_the_sender_of_a_refused_entry_is_told(world: World) -> None:
    world.refuse("send_message_batch", "d3", DENIED, times=1)

    told = await asyncio.gather(*[world.send(f"d{n}") for n in range(5)], return_exceptions=True)

    assert [type(error) for error in told] == [
        *[type(None)] * 3,
        TransientError,
        type(None),
    ]
    assert "AccessDenied" in str(told[3])
    assert world.waiting(world.names.of[CHANGE]) == 4


async def test_an_ack_that_fails_can_be_repeated(world: World) -> None:
    await world.send("a", "b")
    a, b = await world.take(2)
    world.refuse("delete_message_batch", b.receipt, DENIED, times=1)

    told = await asyncio.gather(world.queue.ack(a), world.queue.ack(b), return_exceptions=True)

    assert [type(error) for error in told] == [type(None), TransientError]
    await world.queue.ack(b)
    assert (await world.queue.depth(CHANGE)).backlog == 0


async def test_a_lost_lease_among_heartbeats_is_told_to_its_holder_alone(world: World) -> None:
    await world.send("a", "b", "c")
    held = await world.take(3)
    gone = {"Code": "ReceiptHandleIsInvalid", "SenderFault": True}
    world.refuse("change_message_visibility_batch", held[1].receipt, gone, times=1)

    told = await asyncio.gather(
        *[world.queue.extend(delivery, LONG_SECONDS) for delivery in held], return_exceptions=True
    )

    assert [type(error) for error in told] == [type(None), LeaseLostError, type(None)]
    assert world.meddler.calls["change_message_visibility_batch"] == 1
    with pytest.raises(LeaseLostError):
        await world.queue.ack(held[1])
    await asyncio.gather(world.queue.ack(held[0]), world.queue.ack(held[2]))


async def test_a_consumer_shares_its_requests(world: World) -> None:
    """As test_sqs_requests.py counts them in simulated time, once on a real server."""
    finished, stop = asyncio.Event(), asyncio.Event()
    handled: list[str] = []

    async def handle(delivery: Delivery, _: Lease) -> HandlerOutcome:
        await world.queue.send(QueueName.CREATE, [delivery.wake_up])
        handled.append(delivery.wake_up.document_id)
        if len(handled) == 100:
            finished.set()
        return Done("embedded")

    async def note(delivery: Delivery, outcome: HandlerOutcome | NotBuried) -> None:
        raise AssertionError(f"{delivery} ended with {outcome}")

    await world.send(*[f"d{n}" for n in range(100)])
    world.meddler.calls.clear()
    settings = Settings(queue_url="sqs:")
    consumer = Consumer(
        queue=world.queue,
        name=CHANGE,
        handle=handle,
        note=note,
        concurrency=settings.embed_concurrency,
        visibility_seconds=settings.visibility_timeout_seconds,
        max_receives=3,
        drain_seconds=30,
    )
    running = asyncio.create_task(consumer.run(stop))
    await finished.wait()
    stop.set()
    await running

    del world.meddler.calls["get_queue_url"]
    # 210 where nobody shares; how many share in real time depends on what else the machine does.
    assert sum(world.meddler.calls.values()) <= 100
    assert (await world.queue.depth(CHANGE)).backlog == 0
    assert (await world.queue.depth(QueueName.CREATE)).waiting == 100


# --- receiving and leases ---------------------------------------------------------------------


async def test_more_than_ten_are_received_at_once(world: World) -> None:
    await world.send(*[f"d{n}" for n in range(30)])

    first = await world.queue.receive(
        CHANGE, limit=25, visibility_seconds=LONG_SECONDS, wait_seconds=20
    )

    assert len(first) == 25
    assert world.meddler.calls["receive_message"] == 3


async def test_an_empty_queue_is_asked_once_whatever_the_limit(world: World) -> None:
    found = await world.queue.receive(
        CHANGE, limit=30, visibility_seconds=LONG_SECONDS, wait_seconds=1
    )

    assert found == []
    assert world.meddler.calls["receive_message"] == 1


async def test_a_lease_that_ran_out_is_not_used_again(world: World) -> None:
    """SQS and moto would take the delete, and the message would be gone for its new holder."""
    await world.send("a", "b", "c", "d", "e")
    a, b, c, d, e = await world.take(5, seconds=2)
    held = await world.take(5)  # by the same process: its leases count as others
    before = Counter(world.meddler.calls)

    for settle in (
        world.queue.ack(a),
        world.queue.extend(b, 60),
        world.queue.release(c),
        world.queue.retry_later(d, 0),
        world.queue.dead_letter(e, "why"),
    ):
        with pytest.raises(LeaseLostError):
            await settle

    assert world.meddler.calls == before
    await asyncio.gather(*[world.queue.ack(delivery) for delivery in held])


async def test_an_ack_that_waits_for_company_goes_before_its_lease_ends(world: World) -> None:
    patient = SqsQueue(world.names, waits=Waits(send=60.0))
    await world.send("a")
    (delivery,) = await patient.receive(CHANGE, limit=1, visibility_seconds=2, wait_seconds=5)

    await patient.ack(delivery)

    assert (await world.queue.depth(CHANGE)).backlog == 0
    await patient.close()


async def test_a_poll_that_is_cancelled_gives_back_what_it_brings(world: World) -> None:
    polling = asyncio.create_task(
        world.queue.receive(CHANGE, limit=1, visibility_seconds=LONG_SECONDS, wait_seconds=20)
    )
    await asyncio.sleep(0.1)  # not a synchronisation: it must work at any moment
    polling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await polling
    await world.send("a")

    other = SqsQueue(world.names)
    (delivery,) = await other.receive(
        CHANGE, limit=1, visibility_seconds=LONG_SECONDS, wait_seconds=20
    )

    assert delivery.wake_up == wake_up("a")
    await other.ack(delivery)
    await other.close()


async def test_close_does_not_wait_for_a_poll_that_was_cancelled(world: World) -> None:
    other = SqsQueue(world.names)
    polling = asyncio.create_task(
        other.receive(CHANGE, limit=1, visibility_seconds=LONG_SECONDS, wait_seconds=20)
    )
    await asyncio.sleep(0.1)
    polling.cancel()
    await asyncio.gather(polling, return_exceptions=True)

    async with asyncio.timeout(10):
        await other.close()


# --- copies -----------------------------------------------------------------------------------


async def test_a_release_keeps_id_and_time_and_is_not_counted(world: World) -> None:
    await world.send("a")
    (first,) = await world.take(1)
    await world.queue.retry_later(first, 0)
    (second,) = await world.take(1)
    await world.queue.release(second)
    (third,) = await world.take(1)

    assert [first.receive_count, second.receive_count, third.receive_count] == [1, 2, 2]
    assert {first.message_id, third.message_id} == {second.message_id}
    assert {first.sent_at, third.sent_at} == {second.sent_at}
    assert (await world.queue.depth(CHANGE)).backlog == 1


async def test_no_message_is_lost_when_a_release_fails_halfway(world: World) -> None:
    await world.send("a")
    (delivery,) = await world.take(1)
    world.refuse("delete_message_batch", delivery.receipt, DENIED, times=1)

    with pytest.raises(TransientError):
        await world.queue.release(delivery)

    (copy,) = await world.take(1)
    assert copy.message_id == delivery.message_id
    await world.queue.ack(delivery)
    await world.queue.ack(copy)
    assert (await world.queue.depth(CHANGE)).backlog == 0


async def test_a_long_delay_is_cut_to_what_sqs_takes(world: World) -> None:
    await world.send("a")
    (delivery,) = await world.take(1)

    await world.queue.release(delivery, 100_000)

    (entry,) = [
        e for given in world.meddler.given for e in given.get("Entries", []) if "DelaySeconds" in e
    ]
    assert entry["DelaySeconds"] == 900
    assert (await world.queue.depth(CHANGE)).delayed == 1


async def test_the_trace_travels_as_an_attribute(world: World) -> None:
    await world.send("a")

    (message,) = world.queues.receive(world.names.of[CHANGE])

    assert message["MessageAttributes"]["traceparent"]["StringValue"] == "00-trace-01"


async def test_the_namespace_travels_as_the_group_also_of_what_is_handed_back(
    world: World,
) -> None:
    """A standard queue is fair between its groups."""
    await world.queue.send(CHANGE, [wake_up("a", "acme")])
    (delivery,) = await world.take(1)
    await world.queue.release(delivery)

    (message,) = world.queues.receive(world.names.of[CHANGE])

    assert message["Attributes"]["MessageGroupId"] == "acme"


# --- routing ----------------------------------------------------------------------------------


async def test_changes_go_to_the_queue_of_their_namespace(world: World) -> None:
    other = world.queues.create("OtherVariant")
    queue = SqsQueue(
        QueueNames(of=world.names.of, dead_letters=world.names.dead_letters, variants=[other]),
        change_queue_of=lambda namespace: other if namespace == "b" else world.names.of[CHANGE],
        waits=Waits(depth=0.0),
    )

    await queue.send(CHANGE, [wake_up("d", "a"), wake_up("d", "b")])

    assert (world.waiting(world.names.of[CHANGE]), world.waiting(other)) == (1, 1)
    assert (await queue.depth(CHANGE)).waiting == 2

    worker = SqsQueue(
        QueueNames(of={**world.names.of, CHANGE: other}, dead_letters=world.names.dead_letters)
    )
    (delivery,) = await worker.receive(CHANGE, limit=1, visibility_seconds=60, wait_seconds=5)
    assert delivery.wake_up.namespace == "b"
    await worker.dead_letter(delivery, "why")
    assert await queue.redrive([delivery.message_id]) == 1
    assert (world.waiting(world.names.of[CHANGE]), world.waiting(other)) == (1, 1)
    await worker.close()
    await queue.close()


async def test_a_queue_may_be_named_by_its_url(world: World) -> None:
    """Also by one of another host, when AWS_ENDPOINT_URL leads to the service."""
    name = world.names.of[CHANGE]
    public = f"https://sqs.eu-central-1.amazonaws.com/123456789012/{name}"
    queue = SqsQueue(
        QueueNames(of={**world.names.of, CHANGE: public}, dead_letters=world.names.dead_letters)
    )

    await queue.send(CHANGE, [wake_up("a")])

    assert world.waiting(name) == 1
    await queue.close()


async def test_depth_is_asked_for_once_a_second(world: World) -> None:
    queue = SqsQueue(world.names, waits=Waits(depth=60.0))

    depths = await asyncio.gather(*[queue.depth(CHANGE) for _ in range(20)])
    again = await queue.depth(CHANGE)

    assert world.meddler.calls["get_queue_attributes"] == 1
    assert {again.waiting, *[depth.waiting for depth in depths]} == {0}
    await queue.close()


# --- dead letters -----------------------------------------------------------------------------


async def test_what_cannot_be_read_goes_to_the_dead_letters(world: World) -> None:
    world.queues.send(world.names.of[CHANGE], "no JSON")
    await world.send("a")

    (delivery,) = await world.take(1)

    (letter,) = await world.queue.dead_letters(limit=10)
    assert letter.reason.startswith("unreadable: ")
    assert (letter.wake_up.document_id, letter.source) == ("no JSON", CHANGE)
    await world.queue.ack(delivery)
    assert (await world.queue.depth(CHANGE)).backlog == 0
    assert await world.queue.redrive([letter.message_id]) == 1
    assert world.waiting(world.names.of[CHANGE]) == 1


async def test_looking_at_letters_keeps_nobody_else_from_them(world: World) -> None:
    await world.send(*[f"d{n}" for n in range(25)])
    for delivery in await world.take(25):
        await world.queue.dead_letter(delivery, "why")
    other = SqsQueue(world.names)

    assert len(await world.queue.dead_letters(limit=100)) == 25
    assert len(await other.dead_letters(limit=100)) == 25
    await other.close()


async def lose(world: World, receives: int) -> None:
    """Its workers die, each with the message in hand."""
    for _ in range(receives):
        (delivery,) = await world.take(1, seconds=1)
        assert delivery.receive_count <= receives
    while not world.waiting(world.names.dead_letters):
        found = await world.queue.receive(CHANGE, limit=1, visibility_seconds=60, wait_seconds=1)
        assert found == []


def sweeper_on(world: World, registry: MemoryRegistry) -> Sweeper:
    return Sweeper(
        registry=registry,
        queue=world.queue,
        blobs=MemoryBlobStore(),
        index=None,
        timers=TIMERS,
        interval_seconds=1,
        blob_interval_seconds=1000,
        blob_grace_seconds=1000,
    )


async def behind(world: World) -> MemoryRegistry:
    registry = MemoryRegistry()
    assert await registry.put_if(row(revision=0, sweep_at=0.0, updated_at=0.0))
    own = WakeUp(namespace=KEY.namespace, document_id=KEY.document_id, version=1)
    await world.queue.send(CHANGE, [own])
    return registry


async def test_a_message_that_sqs_gave_up_fails_its_document(world: World) -> None:
    assert isinstance(world.queue, AdoptingQueue)
    assert isinstance(world.queue, BatchReceivingQueue)
    registry = await behind(world)
    await lose(world, 3)
    sweeper = sweeper_on(world, registry)

    assert await sweeper.adopt_letters() == 1

    after = await registry.get(KEY)
    assert after
    assert after.status is Status.FAILED
    assert after.error
    assert after.error.startswith("received 3 times and never settled")
    (letter,) = await world.queue.dead_letters(limit=10)
    assert (letter.reason, letter.receive_count) == (after.error, 3)
    assert await sweeper.adopt_letters() == 0
    await sweeper.sweep_rows()
    assert (await world.queue.depth(CHANGE)).backlog == 0  # not woken again


@pytest.mark.parametrize(
    "later",
    [
        row(status=Status.COMPLETED, applied=Applied(version=1)),
        row(desired=desired("newer", version=2)),
    ],
)
async def test_a_letter_whose_document_did_not_fail_is_dismissed(world: World, later: Row) -> None:
    """Another message of it was worked meanwhile, or a newer version is on its way."""
    registry = await behind(world)
    await lose(world, 3)
    registry.rows[KEY] = replace(later, revision=registry.rows[KEY].revision)

    assert await sweeper_on(world, registry).adopt_letters() == 1

    assert registry.rows[KEY].status is later.status
    assert await world.queue.dead_letter_count() == 0


async def test_a_sweeper_that_dies_halfway_is_followed_by_another(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row says FAILED, and the letter has no reason yet."""
    monkeypatch.setattr(sqs_letters, "HIDDEN_SECONDS", 1.0)
    registry = await behind(world)
    await lose(world, 3)

    async def die(_: object, __: Delivery, ___: str) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as dying:
        dying.setattr(SqsQueue, "explain", die)
        with pytest.raises(asyncio.CancelledError):
            await sweeper_on(world, registry).adopt_letters()
    found = registry.rows[KEY]
    assert found.status is Status.FAILED
    monkeypatch.setattr(sqs_letters, "HIDDEN_SECONDS", 60.0)
    await asyncio.sleep(1.5)  # until the dead one's letter can be seen again

    assert await sweeper_on(world, registry).adopt_letters() == 1
    (letter,) = await world.queue.dead_letters(limit=10)
    assert letter.reason == registry.rows[KEY].error


async def test_letters_with_a_reason_are_not_adopted(world: World) -> None:
    registry = await behind(world)
    (delivery,) = await world.take(1)
    await world.queue.dead_letter(delivery, "why")

    assert await sweeper_on(world, registry).adopt_letters() == 0

    assert registry.rows[KEY].status is Status.PENDING
    assert world.waiting(world.names.dead_letters) == 1
    asked = world.meddler.calls["receive_message"]
    assert await sweeper_on(world, registry).adopt_letters() == 0
    assert world.meddler.calls["receive_message"] == asked  # nothing changed: no look


S3_EVENT = '{"Records": [{"eventSource": "aws:s3"}]}'


async def test_letters_of_a_queue_that_is_not_of_wake_ups_are_left_alone(world: World) -> None:
    """S3's events, which the intake could not take in."""
    world.queues.send(world.names.dead_letters, S3_EVENT)
    world.meddler.moved_from[S3_EVENT] = "IntakeQueue"

    assert await world.queue.adopt(limit=10) == []
    (letter,) = await world.queue.dead_letters(limit=10)
    assert letter.reason == "moved by SQS from IntakeQueue after 3 receives"
    assert await world.queue.redrive([letter.message_id]) == 0
    assert world.waiting(world.names.of[CHANGE]) == 0

    (left,) = world.queues.receive(world.names.dead_letters, visibility_seconds=0)
    assert (left["Body"], left.get("MessageAttributes")) == (S3_EVENT, None)
    assert await world.queue.discard([letter.message_id]) == 1


async def test_letters_of_the_own_queues_are_adopted_and_redriven(world: World) -> None:
    await world.send("a")
    world.meddler.moved_from[wake_up_to_json(wake_up("a"))] = world.names.of[CHANGE]
    await lose(world, 3)

    (stray,) = await world.queue.adopt(limit=10)
    await world.queue.explain(stray, "why")
    (letter,) = await world.queue.dead_letters(limit=10)
    assert letter.reason == "why"
    assert await world.queue.redrive([letter.message_id]) == 1
    assert world.waiting(world.names.of[CHANGE]) == 1


async def test_a_letter_whose_row_cannot_be_read_hinders_no_other(world: World) -> None:
    registry = await behind(world)
    await world.send("damaged")
    for _ in range(3):
        await world.take(2, seconds=1)
    while world.waiting(world.names.dead_letters) < 2:
        await world.queue.receive(CHANGE, limit=2, visibility_seconds=60, wait_seconds=1)
    read = registry.get

    async def damaged(key: DocumentKey) -> Row | None:
        if key.document_id == "damaged":
            raise DamagedDataError("not a registry row")
        return await read(key)

    registry.get = damaged  # type: ignore[method-assign]

    assert await sweeper_on(world, registry).adopt_letters() == 1

    assert registry.rows[KEY].status is Status.FAILED
    told = {d.wake_up.document_id: d.reason for d in await world.queue.dead_letters(limit=10)}
    assert told[KEY.document_id] == registry.rows[KEY].error
    assert "damaged" not in told  # hidden, until it is looked at again


# --- checks -----------------------------------------------------------------------------------


async def test_a_check_says_what_waits(world: World) -> None:
    await world.send("a")

    line = await world.queue.check()

    assert f"{world.names.of[CHANGE]}: 1 waiting" in line
    assert "warning" not in line


async def test_a_check_warns_of_times_that_do_not_fit_the_settings(world: World) -> None:
    fine = world.queues.create("Fine", VisibilityTimeout="300")
    bad = world.queues.create("Bad", VisibilityTimeout="299", MessageRetentionPeriod="345600")
    names = QueueNames(
        of={**world.names.of, CHANGE: bad, QueueName.CREATE: fine},
        dead_letters=world.names.dead_letters,
    )
    given = {f"{queue.value}_queue_name": name for queue, name in names.of.items()}
    given |= {"queue_url": "sqs:", "dead_letter_queue_name": names.dead_letters}
    queue = connect("sqs:", Settings(**given), "test")  # type: ignore[arg-type]

    line = await queue.check()

    assert f"{bad} has a visibility timeout of 299 s: 300 at least" in line
    assert f"{bad} keeps messages for 345600 s: set 1209600 (14 days)" in line
    assert f"{fine} has a visibility" not in line
    assert f"{fine} keeps" not in line
    assert f"{names.dead_letters} has a visibility" not in line, "nobody is given a lease on it"
    await queue.close()


async def test_a_check_warns_of_queues_that_are_set_up_badly(world: World) -> None:
    bad = world.queues.create("Bad", VisibilityTimeout="5")
    names = QueueNames(of={**world.names.of, CHANGE: bad}, dead_letters=world.names.dead_letters)
    queue = SqsQueue(names, max_receives=5)

    line = await queue.check()

    assert f"{bad} has a visibility timeout of 5 s" in line
    assert f"{bad} has no redrive policy" in line
    assert f"{world.names.of[QueueName.CREATE]} moves messages after 3 receives" in line
    await queue.close()


async def test_a_check_names_a_missing_queue(world: World) -> None:
    queue = SqsQueue(
        QueueNames(of=world.names.of, dead_letters="NoSuchQueue"), timeout_seconds=20.0
    )

    with pytest.raises(PermanentError, match=r"NoSuchQueue.*create it, or check its name"):
        await queue.check()
    await queue.close()


@pytest.mark.parametrize("default", [None, "us-east-1"])
async def test_aws_region_alone_names_the_region(
    monkeypatch: pytest.MonkeyPatch, default: str | None
) -> None:
    use(monkeypatch, moto())
    queues = TestQueues(moto().url)
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    if default:
        monkeypatch.setenv("AWS_DEFAULT_REGION", default)
    queue = connect("sqs:", Settings(**queues.settings), "test")  # type: ignore[arg-type]

    assert f"{queues.names['change']}: 0 waiting" in await queue.check()
    await queue.close()


@pytest.mark.parametrize(
    ("variable", "value", "error", "line"),
    [
        ("AWS_REGION", "us-east-1", PermanentError, "check its name and AWS_REGION"),
        ("AWS_ACCESS_KEY_ID", None, PermanentError, "AWS_PROFILE"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9", TransientError, "AWS_ENDPOINT_URL"),
    ],
)
async def test_a_check_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str | None,
    error: type[Exception],
    line: str,
) -> None:
    use(monkeypatch, moto())
    queues = TestQueues(moto().url)
    if value is None:
        monkeypatch.delenv(variable)
    else:
        monkeypatch.setenv(variable, value)
    queue = connect("sqs:", Settings(**queues.settings), "test")  # type: ignore[arg-type]

    with pytest.raises(error, match=line):
        await queue.check()
    await queue.close()
