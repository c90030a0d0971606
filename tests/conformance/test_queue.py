"""What every queue adapter must do. A new adapter is one more line in CASES.

Where the port promises nothing (order; the age of the oldest message; fractions of a second), a
Bench says what can be expected. SQS runs against two servers, in real time: `Bench.second` is how
long one of the suite's seconds takes there. Of what they do, SQS itself included:
- A delete with a stale receipt: SQS answers as if it was done; moto deletes; ministack refuses.
  None is asked, since the adapter knows when its lease ended.
- A letter that was moved by SQS itself names its source's ARN on SQS and ministack, not on moto.
- Where a redrive policy moves a message: at the receive that would be one too many on moto, as soon
  as its visibility timeout ends on ministack.
- A long poll that waits is woken by a send at once on SQS, within 0.1 s on ministack, within a
  second on moto; an empty one lasts up to a second longer on moto.
- Two receivers that ask moto at the same moment may get the same message: it takes no lock. SQS may
  deliver twice as well, if seldom; ministack does not.
- moto counts the twelve hours a message may be in hand from its send, SQS from its receive.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from common.adapters.queue.sqlite import SqliteQueue
from common.adapters.queue.sqs import QueueNames, SqsQueue, Waits
from common.clock import Clock, system_clock
from common.model import QueueName, WakeUp
from common.ports.queue import (
    CRASHES_REFUNDED,
    Delivery,
    FairQueue,
    LeaseLostError,
    Queue,
    ReclaimingQueue,
)
from common.settings import Settings
from common.storage.data_folder import DataFolder
from tests.fakes.queue import MemoryQueue
from tests.servers.aws import ministack, moto, use
from tests.servers.process import ServerProcess
from tests.servers.queues import TestQueues

LONG_SECONDS = 30.0


@dataclass
class ManualClock:
    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Bench:
    """One queue as two receivers see it, and the passing of its time."""

    first: Queue
    second: Queue
    clock: Clock = field(default_factory=ManualClock)
    second_seconds: float = 1.0
    """How long a second of the suite is for the queue."""
    shortest_wait_seconds: float = 0.2
    wake_seconds: float = 1.0
    """A long poll hears of a message within so long."""
    keeps_order: bool = True
    tells_age: bool = True
    tells_retries_from_leases: bool = True
    delivers_once: bool = True
    """To receivers that ask at the same moment."""

    def seconds(self, seconds: float) -> float:
        return seconds * self.second_seconds

    async def pass_seconds(self, seconds: float) -> None:
        if isinstance(self.clock, ManualClock):
            self.clock.now += seconds
        else:
            await asyncio.sleep(self.seconds(seconds))


@contextlib.asynccontextmanager
async def sqlite(path: Path) -> AsyncIterator[Bench]:
    clock, folder = ManualClock(), DataFolder(path)
    first = SqliteQueue(folder, receiver="first", clock=clock)
    second = SqliteQueue(folder, receiver="second", clock=clock)
    yield Bench(first, second, clock)
    await first.close()
    await second.close()


@contextlib.asynccontextmanager
async def memory(path: Path) -> AsyncIterator[Bench]:
    clock = ManualClock()
    first = MemoryQueue(clock=clock, receiver="first")
    second = first.seen_by("second")
    yield Bench(first, second, clock)
    await first.close()
    await second.close()


@contextlib.asynccontextmanager
async def sqs(server: ServerProcess, *, delivers_once: bool) -> AsyncIterator[Bench]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        use(monkeypatch, server)
        queues = TestQueues(server.url, max_receives=100)
        names = QueueNames.in_settings(Settings(**queues.settings))  # type: ignore[arg-type]
        first, second = (SqsQueue(names, waits=Waits(depth=0.0)) for _ in range(2))
        yield Bench(
            first,
            second,
            system_clock,
            second_seconds=0.4,
            shortest_wait_seconds=1.0,
            wake_seconds=5.0,
            keeps_order=False,
            tells_age=False,
            tells_retries_from_leases=False,
            delivers_once=delivers_once,
        )
        await first.close()
        await second.close()


CASES: dict[str, Callable[[Path], AbstractAsyncContextManager[Bench]]] = {
    "memory": memory,
    "sqlite": sqlite,
    "sqs-moto": lambda _: sqs(moto(), delivers_once=False),
    "sqs-ministack": lambda _: sqs(ministack(), delivers_once=True),
}
EMBEDDED = ("memory", "sqlite")
"""Their receivers run on one machine, so that leases can be reclaimed: no other queue offers it."""
FAIR = ("sqlite",)
"""Their namespaces take turns. SQS has a fairness of its own, and promises no turns."""


@pytest.fixture(
    params=[
        pytest.param(case, marks=[] if case in EMBEDDED else [pytest.mark.slow]) for case in CASES
    ]
)
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with CASES[request.param](tmp_path / "data") as opened:
        yield opened


@pytest.fixture(params=EMBEDDED)
async def embedded(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with CASES[request.param](tmp_path / "data") as opened:
        yield opened


@pytest.fixture(params=FAIR)
async def fair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with CASES[request.param](tmp_path / "data") as opened:
        yield opened


def wake_up(name: str, version: int = 1, *, namespace: str = "docs") -> WakeUp:
    return WakeUp(
        namespace=namespace, document_id=name, version=version, doc_hash="h", traceparent="t"
    )


async def send_to(bench: Bench, namespace: str, count: int, *, delay_seconds: float = 0.0) -> None:
    wake_ups = [wake_up(str(number), namespace=namespace) for number in range(count)]
    await bench.first.send(QueueName.CHANGE, wake_ups, delay_seconds=delay_seconds)


def turns(deliveries: list[Delivery]) -> str:
    """`a1 b1 a2`: namespaces of one letter and document ids, as they were received."""
    return " ".join(d.wake_up.namespace + d.wake_up.document_id for d in deliveries)


async def take(
    queue: Queue,
    *,
    limit: int = 10,
    visibility_seconds: float = LONG_SECONDS,
    name: QueueName = QueueName.CHANGE,
    wait_seconds: float = 0.0,
) -> list[Delivery]:
    return await queue.receive(
        name, limit=limit, visibility_seconds=visibility_seconds, wait_seconds=wait_seconds
    )


async def take_one(queue: Queue, *, visibility_seconds: float = LONG_SECONDS) -> Delivery:
    (delivery,) = await take(queue, limit=1, visibility_seconds=visibility_seconds)
    return delivery


def names(deliveries: list[Delivery]) -> list[str]:
    return [delivery.wake_up.document_id for delivery in deliveries]


async def test_delivers_what_was_sent_to_any_receiver(bench: Bench) -> None:
    before = bench.clock()
    await bench.first.send(QueueName.CHANGE, [wake_up("añ\0b", 7)])

    delivery = await take_one(bench.second)

    assert delivery.wake_up == wake_up("añ\0b", 7)
    assert (delivery.queue, delivery.receive_count) == (QueueName.CHANGE, 1)
    assert before <= delivery.sent_at <= bench.clock()


async def test_delivers_the_oldest_first_and_at_most_the_limit(bench: Bench) -> None:
    await bench.first.send(QueueName.CHANGE, [wake_up("1"), wake_up("2")])
    await bench.pass_seconds(1)
    await bench.second.send(QueueName.CHANGE, [wake_up("3")])

    taken = [names(await take(bench.first, limit=2)) for _ in range(2)]

    assert [len(part) for part in taken] == [2, 1]
    assert sorted(taken[0] + taken[1]) == ["1", "2", "3"]
    assert taken == [["1", "2"], ["3"]] or not bench.keeps_order


async def test_queues_do_not_mix(bench: Bench) -> None:
    for queue in QueueName:
        await bench.first.send(queue, [wake_up(queue.value)])

    for queue in QueueName:
        assert names(await take(bench.second, name=queue)) == [queue.value]


async def test_sending_nothing_is_no_error(bench: Bench) -> None:
    await bench.first.send(QueueName.CHANGE, [])

    assert (await bench.first.depth(QueueName.CHANGE)).backlog == 0


async def test_a_leased_message_is_hidden_until_its_visibility_timeout(bench: Bench) -> None:
    await bench.first.send(QueueName.CHANGE, [wake_up("a")])
    first = await take_one(bench.first, visibility_seconds=bench.seconds(10))

    await bench.pass_seconds(5)
    assert await take(bench.second) == []
    await bench.pass_seconds(6)
    again = await take_one(bench.second)

    assert (again.message_id, again.receive_count) == (first.message_id, 2)
    assert again.receipt != first.receipt


async def test_extend_hides_for_longer_from_now(bench: Bench) -> None:
    await bench.first.send(QueueName.CHANGE, [wake_up("a")])
    delivery = await take_one(bench.first, visibility_seconds=bench.seconds(10))
    await bench.pass_seconds(4)

    await bench.first.extend(delivery, bench.seconds(20))

    await bench.pass_seconds(10)
    assert await take(bench.second) == []
    await bench.pass_seconds(11)
    assert names(await take(bench.second)) == ["a"]


async def test_an_acknowledged_message_never_comes_back(bench: Bench) -> None:
    await bench.first.send(QueueName.CHANGE, [wake_up("a"), wake_up("b")])
    first, other = await take(bench.first, visibility_seconds=bench.seconds(10))

    await bench.first.ack(first)

    await bench.pass_seconds(11)
    assert [again.wake_up for again in await take(bench.second)] == [other.wake_up]


async def test_a_stale_receipt_does_nothing(bench: Bench) -> None:
    await bench.first.send(QueueName.CHANGE, [wake_up("a")])
    stale = await take_one(bench.first, visibility_seconds=bench.seconds(10))
    await bench.pass_seconds(11)
    held = await take_one(bench.second)

    for refused in (
        bench.first.ack(stale),
        bench.first.extend(stale, 1000),
        bench.first.retry_later(stale, 0),
        bench.first.release(stale),
        bench.first.dead_letter(stale, "reason"),
    ):
        with pytest.raises(LeaseLostError):
            await refused

    assert await take(bench.first) == []  # still the second's
    assert await bench.first.dead_letter_count() == 0
    await bench.second.ack(held)


async def test_a_second_ack_is_refused(bench: Bench) -> None:
    await bench.first.send(QueueName.CHANGE, [wake_up("a")])
    delivery = await take_one(bench.first)
    await bench.first.ack(delivery)

    with pytest.raises(LeaseLostError):
        await bench.first.ack(delivery)


async def test_retry_later_hides_for_the_delay_and_counts_on(bench: Bench) -> None:
    await bench.first.send(QueueName.CHANGE, [wake_up("a")])
    await bench.first.retry_later(await take_one(bench.first), bench.seconds(10))

    assert await take(bench.second) == []
    depth = await bench.first.depth(QueueName.CHANGE)
    assert (depth.backlog, depth.waiting) == (1, 0)
    assert depth.delayed == 1 or not bench.tells_retries_from_leases
    await bench.pass_seconds(11)
    assert (await take_one(bench.second)).receive_count == 2


async def test_a_delayed_send_waits(bench: Bench) -> None:
    await bench.first.send(QueueName.CHANGE, [wake_up("later")], delay_seconds=bench.seconds(10))
    await bench.first.send(QueueName.CHANGE, [wake_up("now")])

    assert names(await take(bench.second)) == ["now"]
    await bench.pass_seconds(11)
    assert names(await take(bench.second)) == ["later"]


async def test_depth_tells_waiting_in_flight_and_delayed_apart(bench: Bench) -> None:
    await bench.first.send(QueueName.CHANGE, [wake_up("leased")])
    await bench.pass_seconds(5)
    await bench.first.send(QueueName.CHANGE, [wake_up("waiting"), wake_up("waiting too")])
    await bench.first.send(QueueName.CHANGE, [wake_up("delayed")], delay_seconds=60)
    await bench.first.send(QueueName.CREATE, [wake_up("elsewhere")])
    await take_one(bench.first)
    await bench.pass_seconds(3)

    depth = await bench.second.depth(QueueName.CHANGE)

    assert (depth.waiting, depth.in_flight, depth.delayed) == (2, 1, 1)
    assert depth.oldest_age_seconds == (pytest.approx(3, abs=1) if bench.tells_age else 0.0)
    assert depth.tells_age is bench.tells_age
    assert depth.backlog == 4


async def test_depth_of_an_empty_queue(bench: Bench) -> None:
    depth = await bench.first.depth(QueueName.DELETE)

    assert (depth.backlog, depth.oldest_age_seconds) == (0, 0.0)


async def test_an_expired_lease_counts_as_waiting(bench: Bench) -> None:
    await bench.first.send(QueueName.CHANGE, [wake_up("a")])
    await take_one(bench.first, visibility_seconds=bench.seconds(10))
    await bench.pass_seconds(11)

    depth = await bench.second.depth(QueueName.CHANGE)

    assert (depth.waiting, depth.in_flight) == (1, 0)


async def test_a_dead_letter_keeps_its_story(bench: Bench) -> None:
    await bench.first.send(QueueName.UPDATE, [wake_up("a", 3)])
    (delivery,) = await take(bench.first, name=QueueName.UPDATE)
    await bench.pass_seconds(5)
    dies_at = bench.clock()
    await bench.first.dead_letter(delivery, "no such model")

    (letter,) = await bench.second.dead_letters(limit=10)

    assert letter.message_id == delivery.message_id
    assert (letter.source, letter.wake_up) == (QueueName.UPDATE, wake_up("a", 3))
    assert (letter.reason, letter.receive_count) == ("no such model", 1)
    assert letter.sent_at == delivery.sent_at
    assert dies_at <= letter.died_at <= bench.clock()
    assert await bench.second.dead_letter_count() == 1
    assert (await bench.second.depth(QueueName.UPDATE)).backlog == 0


async def test_dead_letters_come_in_pages_by_message_id(bench: Bench) -> None:
    await bench.first.send(QueueName.CHANGE, [wake_up(str(n)) for n in range(5)])
    for delivery in await take(bench.first):
        await bench.first.dead_letter(delivery, "broken")

    found: list[str] = []
    after: str | None = None
    while page := await bench.first.dead_letters(limit=2, after=after):
        assert len(page) <= 2
        after = page[-1].message_id
        found += [letter.message_id for letter in page]

    assert len(found) == 5
    assert found == sorted(set(found))


async def test_redrive_sends_back_with_a_new_count(bench: Bench) -> None:
    await bench.first.send(QueueName.UPDATE, [wake_up("a"), wake_up("b")])
    first, second = await take(bench.first, name=QueueName.UPDATE)
    await bench.first.dead_letter(first, "broken")
    await bench.first.dead_letter(second, "broken")

    moved = await bench.second.redrive([first.message_id, first.message_id, "unknown"])

    assert moved == 1
    (again,) = await take(bench.second, name=QueueName.UPDATE)
    assert (again.wake_up, again.receive_count) == (first.wake_up, 1)
    assert again.message_id == first.message_id
    (left,) = await bench.first.dead_letters(limit=9)
    assert left.wake_up == second.wake_up


async def test_discard_removes_dead_letters_for_good(bench: Bench) -> None:
    await bench.first.send(QueueName.UPDATE, [wake_up("a"), wake_up("b"), wake_up("c")])
    first, second, held = await take(bench.first, name=QueueName.UPDATE)
    await bench.first.dead_letter(first, "broken")
    await bench.first.dead_letter(second, "broken")

    named = [first.message_id, first.message_id, held.message_id, "unknown"]
    assert await bench.second.discard(named) == 1

    (left,) = await bench.first.dead_letters(limit=9)
    assert left.wake_up == second.wake_up
    assert await bench.first.redrive([first.message_id]) == 0
    assert (await bench.first.depth(QueueName.UPDATE)).backlog == 1
    await bench.first.ack(held)
    assert await bench.first.discard([]) == 0


async def test_a_redriven_message_can_die_again(bench: Bench) -> None:
    await bench.first.send(QueueName.CHANGE, [wake_up("a")])
    delivery = await take_one(bench.first)
    await bench.first.dead_letter(delivery, "once")
    await bench.first.redrive([delivery.message_id])

    await bench.first.dead_letter(await take_one(bench.first), "twice")

    assert [letter.reason for letter in await bench.first.dead_letters(limit=9)] == ["twice"]


async def test_concurrent_receivers_never_share_a_message(bench: Bench) -> None:
    await bench.first.send(QueueName.CHANGE, [wake_up(str(n)) for n in range(100)])

    taken = await asyncio.gather(
        *[take(queue, limit=7) for queue in (bench.first, bench.second) for _ in range(10)]
    )

    found = [name for deliveries in taken for name in names(deliveries)]
    assert set(found) == {str(n) for n in range(100)}
    assert len(found) == 100 or not bench.delivers_once


async def test_a_long_poll_is_woken_by_a_send(bench: Bench) -> None:
    loop = asyncio.get_running_loop()
    waiting = asyncio.create_task(
        bench.first.receive(
            QueueName.CHANGE, limit=1, visibility_seconds=LONG_SECONDS, wait_seconds=20
        )
    )
    await asyncio.sleep(0.05)  # not a synchronisation: it must work at any moment
    began = loop.time()
    await bench.second.send(QueueName.CHANGE, [wake_up("a")])

    assert names(await waiting) == ["a"]
    assert loop.time() - began < bench.wake_seconds


async def test_a_long_poll_is_woken_by_what_is_given_back(bench: Bench) -> None:
    loop = asyncio.get_running_loop()
    await bench.first.send(QueueName.CHANGE, [wake_up("a")])
    held = await take_one(bench.first)
    waiting = asyncio.create_task(
        bench.second.receive(
            QueueName.CHANGE, limit=1, visibility_seconds=LONG_SECONDS, wait_seconds=20
        )
    )
    await asyncio.sleep(0.05)
    began = loop.time()
    await bench.first.retry_later(held, 0)

    assert names(await waiting) == ["a"]
    assert loop.time() - began < bench.wake_seconds


async def test_a_long_poll_ends_empty_at_its_time(bench: Bench) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()

    wait_seconds = bench.shortest_wait_seconds
    found = await take(bench.first, wait_seconds=wait_seconds)

    assert found == []
    assert 0.95 * wait_seconds <= loop.time() - began < wait_seconds + 4 * bench.wake_seconds


async def test_a_cancelled_long_poll_takes_nothing(bench: Bench) -> None:
    waiting = asyncio.create_task(
        bench.first.receive(
            QueueName.CHANGE, limit=1, visibility_seconds=LONG_SECONDS, wait_seconds=20
        )
    )
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    await bench.second.send(QueueName.CHANGE, [wake_up("a")])

    # Where the poll cannot be taken back in time, it gives back what it brings.
    assert names(await take(bench.second, wait_seconds=10)) == ["a"]


@pytest.mark.parametrize(("refund", "receive_count"), [(False, 2), (True, 1)])
async def test_reclaim_frees_one_receivers_leases(
    embedded: Bench, refund: bool, receive_count: int
) -> None:
    assert isinstance(embedded.second, ReclaimingQueue)
    await embedded.first.send(QueueName.CHANGE, [wake_up("a"), wake_up("b")])
    dead = await take_one(embedded.first)
    await take_one(embedded.second)

    assert await embedded.second.reclaim(receiver="first", refund=refund) == 1

    (again,) = await take(embedded.second)
    assert (again.wake_up, again.receive_count) == (wake_up("a"), receive_count)
    with pytest.raises(LeaseLostError):
        await embedded.first.ack(dead)


async def test_crashes_are_not_refunded_for_ever(embedded: Bench) -> None:
    """A message that kills the machine's process at each receive has to be given up at last."""
    assert isinstance(embedded.second, ReclaimingQueue)
    await embedded.first.send(QueueName.CHANGE, [wake_up("killer"), wake_up("neighbour")])
    killer, neighbour = await take(embedded.first)
    await embedded.first.ack(neighbour)
    counts = []

    for _ in range(CRASHES_REFUNDED + 3):
        counts.append(killer.receive_count)
        await embedded.second.reclaim(refund=True)
        killer = await take_one(embedded.first)

    assert counts == [1] * (CRASHES_REFUNDED + 1) + [2, 3]
    assert killer.receive_count == 4


async def test_an_outcome_starts_the_count_of_crashes_anew(embedded: Bench) -> None:
    assert isinstance(embedded.second, ReclaimingQueue)
    await embedded.first.send(QueueName.CHANGE, [wake_up("a")])
    for _ in range(CRASHES_REFUNDED):
        await take_one(embedded.first)
        await embedded.second.reclaim(refund=True)

    await embedded.first.retry_later(await take_one(embedded.first), 0)
    await take_one(embedded.first)
    await embedded.second.reclaim(refund=True)

    assert (await take_one(embedded.first)).receive_count == 2


async def test_reclaim_frees_all_and_leaves_delays_alone(embedded: Bench) -> None:
    assert isinstance(embedded.second, ReclaimingQueue)
    await embedded.first.send(QueueName.CHANGE, [wake_up("a"), wake_up("b"), wake_up("retried")])
    await embedded.first.send(QueueName.CHANGE, [wake_up("delayed")], delay_seconds=60)
    taken = await take(embedded.first)
    await embedded.first.retry_later(taken[2], 60)

    assert await embedded.second.reclaim() == 2

    with pytest.raises(LeaseLostError):
        await embedded.first.ack(taken[0])
    assert names(await take(embedded.second)) == ["a", "b"]


async def test_a_released_message_is_delivered_at_once_to_another(bench: Bench) -> None:
    await bench.first.send(QueueName.CHANGE, [wake_up("a")])
    delivery = await take_one(bench.first)

    await bench.first.release(delivery)

    again = await take_one(bench.second)
    assert again.message_id == delivery.message_id
    with pytest.raises(LeaseLostError):
        await bench.first.release(delivery)


async def test_who_promises_fairness_is_tested_for_it(bench: Bench, request: Any) -> None:
    promises = isinstance(bench.first, FairQueue) and bench.first.fair_between_namespaces

    assert promises is (request.node.callspec.params["bench"] in FAIR)


async def test_a_long_line_lets_a_single_message_through(fair: Bench) -> None:
    await send_to(fair, "a", 100)
    await take(fair.first, limit=4)
    await fair.pass_seconds(1)
    await send_to(fair, "b", 1)

    assert "b0" in turns(await take(fair.second, limit=2))


async def test_one_receive_takes_turns(fair: Bench) -> None:
    await send_to(fair, "a", 9)
    await send_to(fair, "b", 1)
    await send_to(fair, "c", 3)

    assert turns(await take(fair.first, limit=8)) == "a0 b0 c0 a1 c1 a2 c2 a3"


async def test_the_next_receive_goes_on_in_the_round(fair: Bench) -> None:
    for namespace in "abc":
        await send_to(fair, namespace, 3)

    taken = [turns(await take(q, limit=2)) for q in (fair.first, fair.second) * 2]

    assert taken == ["a0 b0", "c0 a1", "b1 c1", "a2 b2"]


async def test_each_of_the_queues_takes_turns_by_itself(fair: Bench) -> None:
    for queue in QueueName:
        for namespace in "ab":
            await fair.first.send(queue, [wake_up(str(n), namespace=namespace) for n in (0, 1)])

    for queue in QueueName:
        taken = await take(fair.first, limit=1, name=queue) + await take(
            fair.second, limit=3, name=queue
        )
        assert turns(taken) == "a0 b0 a1 b1"


async def test_many_newcomers_do_not_keep_a_namespace_waiting(fair: Bench) -> None:
    """One message of each who waited before it, and then it is its turn again."""
    await send_to(fair, "a", 5)
    served = ""
    for newcomer in "bcdefg":
        await send_to(fair, newcomer, 1)
        served += turns(await take(fair.first, limit=1)) + " "

    assert served.split() == ["a0", "b0", "a1", "c0", "d0", "a2"]


async def test_what_comes_back_waits_its_turn(fair: Bench) -> None:
    """A namespace whose messages fail at once gets no more of the queue than others."""
    await send_to(fair, "a", 3)
    await send_to(fair, "b", 3)
    served = ""
    for _ in range(3):
        failed, done = await take(fair.first, limit=2)
        served += turns([failed, done]) + " "
        await fair.pass_seconds(1)
        await fair.first.retry_later(failed, 0)
        await fair.first.ack(done)

    assert served.split() == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert turns(await take(fair.first)) == "a0 a1 a2"


async def test_what_is_released_keeps_its_place_in_its_namespace(fair: Bench) -> None:
    await send_to(fair, "a", 3)
    await send_to(fair, "b", 1)
    first, other = await take(fair.first, limit=2)
    await fair.first.release(first)
    await fair.first.release(other)

    # What is handed back is next, in either order.
    assert turns(await take(fair.second)) in ("a0 b0 a1 a2", "b0 a0 a1 a2")


async def test_a_delay_that_ends_gives_a_turn(fair: Bench) -> None:
    await send_to(fair, "b", 2, delay_seconds=10)
    await send_to(fair, "a", 50)
    assert turns(await take(fair.first, limit=2)) == "a0 a1"

    await fair.pass_seconds(11)

    assert turns(await take(fair.first, limit=3)) == "a2 b0 a3"


async def test_a_lease_that_runs_out_gives_a_turn(fair: Bench) -> None:
    await send_to(fair, "b", 1)
    await take(fair.first, visibility_seconds=10)
    await send_to(fair, "a", 50)

    await fair.pass_seconds(11)

    assert turns(await take(fair.second, limit=3)) == "a0 b0 a1"


async def test_redriven_letters_take_turns(fair: Bench) -> None:
    await send_to(fair, "b", 2)
    letters = await take(fair.first)
    for letter in letters:
        await fair.first.dead_letter(letter, "broken")
    await send_to(fair, "a", 50)

    assert await fair.first.redrive([letter.message_id for letter in letters]) == 2

    assert turns(await take(fair.first, limit=4)) == "a0 b0 a1 b1"


async def test_what_a_dead_receiver_held_takes_turns(fair: Bench) -> None:
    assert isinstance(fair.second, ReclaimingQueue)
    await send_to(fair, "b", 2)
    await take(fair.first)
    await send_to(fair, "a", 50)

    assert await fair.second.reclaim(receiver="first") == 2

    assert turns(await take(fair.second, limit=4)) == "a0 b0 a1 b1"


async def test_others_take_turns_without_those_that_are_not_asked_for(fair: Bench) -> None:
    assert isinstance(fair.first, FairQueue)
    for namespace, count in (("a", 3), ("b", 2), ("c", 1), ("d", 1)):
        await send_to(fair, namespace, count)

    taken = [
        turns(
            await fair.first.receive_of_others(
                QueueName.CHANGE, besides=besides, limit=limit, visibility_seconds=60
            )
        )
        for besides, limit in (({"a", "b"}, 1), ({"a"}, 2), ("abcd", 9), ((), 3))
    ]

    assert taken == ["c0", "b0 d0", "", "a0 b1 a1"]
    assert turns(await take(fair.second)) == "a2"


async def test_the_backlog_of_a_namespace_is_counted_as_far_as_it_is_asked_for(fair: Bench) -> None:
    assert isinstance(fair.second, FairQueue)
    await send_to(fair, "a", 2)
    await send_to(fair, "a", 1, delay_seconds=60)
    await send_to(fair, "b", 9)
    await take(fair.first, limit=1)
    await fair.first.send(QueueName.DELETE, [wake_up("d", namespace="a")])

    counts = [
        await fair.second.backlog_of(namespace, at_most=most)
        for namespace, most in (("a", 9), ("a", 3), ("b", 100), ("c", 5))
    ]

    assert counts == [4, 3, 9, 0]
