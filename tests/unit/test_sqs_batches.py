"""What goes into one request to SQS, when it goes, and what each caller is told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

import pytest

from common.adapters.queue.sqs_batches import (
    MOST_BYTES,
    TRIES,
    Batcher,
    Entry,
    Failure,
    Pace,
    Waiting,
)
from common.ports.errors import PermanentError, TransientError

Call = Callable[[Sequence[str]], Awaitable[Sequence[Failure | None]]]


def entry(name: str, *, size_bytes: int = 1, due_at: float = 100.0) -> Entry[str]:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    return Entry(name, size_bytes, due_at, 1000.0, future)


def items(batch: Sequence[Entry[str]]) -> list[str]:
    return [taken.item for taken in batch]


async def test_ten_go_at_once_and_the_rest_waits() -> None:
    waiting: Waiting[str] = Waiting()
    for n in range(13):
        waiting.add(entry(str(n)))

    assert items(waiting.take(0.0)) == [str(n) for n in range(10)]
    assert waiting.take(0.0) == []
    assert items(waiting.take(100.0)) == ["10", "11", "12"]


async def test_the_most_urgent_takes_the_others_along() -> None:
    waiting: Waiting[str] = Waiting()
    waiting.add(entry("patient"))
    waiting.add(entry("urgent", due_at=5.0))

    assert waiting.due_at == 5.0
    assert waiting.take(4.9) == []
    assert items(waiting.take(5.0)) == ["patient", "urgent"]
    assert waiting.due_at is None


async def test_a_batch_keeps_to_the_limit_of_bytes() -> None:
    waiting: Waiting[str] = Waiting()
    waiting.add(entry("a", size_bytes=MOST_BYTES - 1))
    waiting.add(entry("b", size_bytes=1))
    assert waiting.take(0.0) == []
    waiting.add(entry("c", size_bytes=1))

    assert items(waiting.take(0.0)) == ["a", "b"]
    assert items(waiting.take(100.0)) == ["c"]


async def test_what_is_too_large_goes_alone() -> None:
    waiting: Waiting[str] = Waiting()
    waiting.add(entry("large", size_bytes=2 * MOST_BYTES))
    waiting.add(entry("small"))

    assert items(waiting.take(0.0)) == ["large"]


def test_it_pays_to_wait_only_when_company_is_on_its_way() -> None:
    pace = Pace()
    pace.arrived(0.0)
    assert pace.wait_seconds(0.01, 1.0) == 0.01

    for n in range(50):
        pace.arrived(0.1 * n)
    assert pace.wait_seconds(0.01, 1.0) == 1.0
    assert pace.wait_seconds(0.01, 0.2) == 0.01

    pace.arrived(60.0)
    assert pace.wait_seconds(0.01, 1.0) == 0.01


class Calls:
    """Answers each call by a plan: what becomes of an item the n-th time it is sent."""

    def __init__(self, **plan: list[Failure | None]) -> None:
        self.made: list[list[str]] = []
        self.plan = plan

    async def __call__(self, sent: Sequence[str]) -> list[Failure | None]:
        self.made.append(list(sent))
        return [self.plan[item].pop(0) if self.plan.get(item) else None for item in sent]


def batcher_on(call: Call) -> Batcher[str]:
    return Batcher(call, shortest_wait_seconds=0.002, jitter=random.Random(1))


async def do(batcher: Batcher[str], *names: str, seconds: float = 20.0) -> list[object]:
    deadline = asyncio.get_running_loop().time() + seconds
    return await asyncio.gather(
        *[batcher.do(name, deadline=deadline) for name in names], return_exceptions=True
    )


async def test_callers_of_one_moment_share_a_request() -> None:
    calls = Calls()

    assert await do(batcher_on(calls), "a", "b", "c") == [None, None, None]

    assert calls.made == [["a", "b", "c"]]


async def test_a_part_that_may_succeed_is_tried_again_and_nothing_else() -> None:
    busy = Failure(TransientError("busy"), again=True)
    calls = Calls(b=[busy, busy])

    assert await do(batcher_on(calls), "a", "b") == [None, None]

    assert calls.made == [["a", "b"], ["b"], ["b"]]


async def test_a_failure_is_told_to_its_own_caller_only() -> None:
    wrong = PermanentError("the sender's fault")
    calls = Calls(b=[Failure(wrong)])

    assert await do(batcher_on(calls), "a", "b", "c") == [None, wrong, None]
    assert calls.made == [["a", "b", "c"]]


async def test_tries_come_to_an_end() -> None:
    error = TransientError("busy")
    calls = Calls(a=[Failure(error, again=True) for _ in range(TRIES + 1)])

    assert await do(batcher_on(calls), "a") == [error]
    assert len(calls.made) == TRIES


async def test_no_try_begins_after_the_deadline() -> None:
    error = TransientError("busy")
    calls = Calls(a=[Failure(error, again=True)])
    batcher = batcher_on(calls)
    batcher.jitter = random.Random(2)  # its first pause is longer than the deadline

    told = await do(batcher, "a", seconds=0.05)

    assert told == [error]  # what is wrong, and not that time is over
    assert calls.made == [["a"]]


async def test_a_request_that_fails_fails_for_all_of_it() -> None:
    async def away(sent: Sequence[str]) -> list[Failure | None]:
        raise TransientError(f"out of reach with {len(sent)}")

    told = await do(batcher_on(away), "a", "b")

    assert [str(error) for error in told] == ["out of reach with 2"] * 2


async def test_an_answer_that_does_not_come_ends_at_the_deadline() -> None:
    async def hang(sent: Sequence[str]) -> list[Failure | None]:
        await asyncio.sleep(0.2)
        return [None] * len(sent)

    batcher = batcher_on(hang)
    (told,) = await do(batcher, "a", seconds=0.02)

    assert isinstance(told, TransientError)
    await batcher.close()


async def test_what_is_cancelled_in_time_is_not_sent() -> None:
    calls = Calls()
    batcher = batcher_on(calls)
    deadline = asyncio.get_running_loop().time() + 20
    given_up = asyncio.create_task(batcher.do("given up", deadline=deadline))
    kept = asyncio.create_task(batcher.do("kept", deadline=deadline))
    await asyncio.sleep(0)
    given_up.cancel()
    await kept

    with pytest.raises(asyncio.CancelledError):
        await given_up
    assert calls.made == [["kept"]]


async def test_close_sends_what_waits() -> None:
    calls = Calls()
    batcher = Batcher(calls, shortest_wait_seconds=60.0)
    deadline = asyncio.get_running_loop().time() + 20
    waiting = asyncio.create_task(batcher.do("a", deadline=deadline))
    await asyncio.sleep(0)

    await batcher.close()

    await waiting
    assert calls.made == [["a"]]
