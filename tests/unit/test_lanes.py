"""Lanes: many callers, shared inferences, and what a caller that goes away leaves behind."""

from __future__ import annotations

import asyncio
import threading
from array import array
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest

from common.adapters.embedder.lanes import Lanes
from common.model import Vector
from common.ports.embedder import TransientError
from common.ports.errors import PermanentError


@dataclass(frozen=True)
class Text:
    value: str
    kind: str = "passage"

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.value

    @property
    def length(self) -> int:
        return len(self.value)


def texts(*values: str) -> list[Text]:
    return [Text(value) for value in values]


@dataclass
class Model:
    """A text's vector is its length. An inference waits in the model until it is let out."""

    batches: list[list[str]] = field(default_factory=list)
    gate: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def compute(self, works: Sequence[Text]) -> list[Vector[float]]:
        self.batches.append([work.value for work in works])
        self.entered.release()
        assert self.gate.acquire(timeout=10), "the test let nothing out"
        if any("bad" in work.value for work in works):
            raise ValueError("broken text")
        if any("lost" in work.value for work in works):
            return []
        if any("never" in work.value for work in works):
            raise PermanentError("no such text")
        return [array("f", [len(work.value)]) for work in works]

    def let_out(self, inferences: int = 1000) -> None:
        self.gate.release(inferences)

    async def holds(self, inferences: int = 1) -> None:
        for _ in range(inferences):
            assert await asyncio.to_thread(self.entered.acquire, timeout=10)


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
async def lanes(model: Model) -> AsyncIterator[Lanes[Text]]:
    made = Lanes(model.compute, count=1, max_padded_tokens=32)
    yield made
    model.let_out()
    await made.close()


async def begun(lanes: Lanes[Text], *values: str) -> asyncio.Task[list[Vector[float]]]:
    """A call that has reached the queue."""
    task = asyncio.create_task(lanes.embed(texts(*values)))
    await asyncio.sleep(0)
    return task


async def test_vectors_come_in_the_order_of_the_texts(model: Model, lanes: Lanes[Text]) -> None:
    model.let_out()
    values = ["a" * n for n in (9, 1, 30, 2, 9, 60, 0)]
    vectors = await lanes.embed(texts(*values))
    assert [vector[0] for vector in vectors] == [9, 1, 30, 2, 9, 60, 0]
    assert await lanes.embed([]) == []


async def test_a_lone_text_starts_at_once(model: Model, lanes: Lanes[Text]) -> None:
    task = await begun(lanes, "alone")
    await model.holds()
    assert model.batches == [["alone"]]
    model.let_out()
    await task


async def test_texts_of_many_calls_share_a_batch(model: Model, lanes: Lanes[Text]) -> None:
    calls = [await begun(lanes, "first")]
    await model.holds()
    calls += [await begun(lanes, value) for value in ("aaaa", "bbbbb", "c" * 40, "dddd")]
    model.let_out()
    await asyncio.gather(*calls)
    assert model.batches == [["first"], ["aaaa", "dddd", "bbbbb"], ["c" * 40]]


async def test_kinds_are_not_mixed(model: Model, lanes: Lanes[Text]) -> None:
    calls = [await begun(lanes, "first")]
    await model.holds()
    calls.append(await begun(lanes, "pass"))
    calls.append(asyncio.create_task(lanes.embed([Text("find", "query")])))
    await asyncio.sleep(0)
    model.let_out()
    await asyncio.gather(*calls)
    assert model.batches == [["first"], ["pass"], ["find"]]


async def test_lanes_work_side_by_side(model: Model) -> None:
    two = Lanes(model.compute, count=2, max_padded_tokens=1)
    calls = [await begun(two, value) for value in ("aaa", "bbb", "ccc")]
    await model.holds(2)
    assert sorted(model.batches) == [["aaa"], ["bbb"]]
    model.let_out()
    await asyncio.gather(*calls)
    await two.close()


async def test_a_long_document_does_not_hold_up_a_short_one(
    model: Model, lanes: Lanes[Text]
) -> None:
    lanes.max_padded_tokens = 1
    long = await begun(lanes, *(f"long {n}" for n in range(100)))
    await model.holds()
    short = await begun(lanes, "short")
    model.let_out()
    await asyncio.gather(long, short)
    assert ["short"] in model.batches[:3]


async def test_equal_texts_are_embedded_once(model: Model, lanes: Lanes[Text]) -> None:
    first = await begun(lanes, "same", "one", "same")
    await model.holds()
    in_flight = set(model.batches[0])
    calls = [await begun(lanes, "same", "two"), await begun(lanes, "two", "one")]
    model.let_out()
    found = await asyncio.gather(first, *calls)
    assert [[vector[0] for vector in vectors] for vectors in found] == [[4, 3, 4], [4, 3], [3, 3]]
    embedded = [value for batch in model.batches for value in batch]
    assert sorted(embedded) == ["one", "same", "two"]
    assert "same" in in_flight


async def test_a_cancelled_call_takes_its_waiting_texts_with_it(
    model: Model, lanes: Lanes[Text]
) -> None:
    held = await begun(lanes, "held")
    await model.holds()
    cancelled = await begun(lanes, "unwanted", "shared")
    other = await begun(lanes, "shared")
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    model.let_out()
    assert (await other)[0][0] == 6
    await held
    assert cancelled.cancelled()
    assert model.batches == [["held"], ["shared"]]


async def test_whoever_still_waits_for_an_inference_under_way_gets_it(
    model: Model, lanes: Lanes[Text]
) -> None:
    cancelled = await begun(lanes, "shared")
    await model.holds()
    other = await begun(lanes, "shared")
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    late = await begun(lanes, "shared")
    model.let_out()
    assert [(await call)[0][0] for call in (other, late)] == [6, 6]
    assert model.batches == [["shared"]]


async def test_nobody_fails_for_a_neighbour(model: Model, lanes: Lanes[Text]) -> None:
    held = await begun(lanes, "held")
    await model.holds()
    bad, never = await begun(lanes, "bad", "good"), await begun(lanes, "never")
    good = await begun(lanes, "fine")
    model.let_out()
    found = await asyncio.gather(held, bad, never, good, return_exceptions=True)
    assert isinstance(found[1], TransientError)
    assert "broken text" in str(found[1])
    assert isinstance(found[2], PermanentError)
    assert isinstance(found[3], list)


async def test_a_model_that_returns_too_few_vectors_keeps_no_lane(
    model: Model, lanes: Lanes[Text]
) -> None:
    model.let_out()
    with pytest.raises(TransientError, match="0 vectors for 1"):
        await lanes.embed(texts("lost"))
    assert await lanes.embed(texts("four")) == [array("f", [4])]


async def test_what_failed_is_tried_anew_by_the_next_call(model: Model, lanes: Lanes[Text]) -> None:
    model.let_out()
    for _ in range(2):
        with pytest.raises(TransientError):
            await lanes.embed(texts("bad"))
    assert model.batches == [["bad"], ["bad"]]


async def test_a_failed_call_leaves_the_queue(model: Model, lanes: Lanes[Text]) -> None:
    lanes.max_padded_tokens = 1
    held = await begun(lanes, "held")
    await model.holds()
    other = await begun(lanes, "other 1", "other 2")
    failing = await begun(lanes, "bad", "unwanted")
    model.let_out(3)
    await model.holds(3)
    assert model.batches[1:] == [["other 1"], ["bad"], ["other 2"]]
    with pytest.raises(TransientError):
        await failing
    model.let_out()
    await asyncio.gather(held, other)
    await lanes.embed(texts("last"))
    assert model.batches[4:] == [["last"]]


async def test_an_idle_lane_is_lent_and_then_works_on(model: Model, lanes: Lanes[Text]) -> None:
    model.let_out()
    assert await lanes.try_while_idle(lambda: 7) == 7
    assert (await lanes.embed(texts("work")))[0][0] == 4


async def test_a_lane_that_was_lent_to_somebody_who_left_works_on(
    model: Model, lanes: Lanes[Text]
) -> None:
    """Cancelled before its thread began: what nobody runs could never give the lane back."""
    blocked = threading.Event()
    lanes._executor.submit(blocked.wait, 10)
    lent = asyncio.create_task(lanes.try_while_idle(lambda: 1))
    await asyncio.sleep(0)  # submitted, and not begun
    lent.cancel()
    with pytest.raises(asyncio.CancelledError):
        await lent
    blocked.set()
    model.let_out()
    async with asyncio.timeout(10):
        assert await lanes.embed(texts("abc")) == [array("f", [3])]


async def test_a_busy_lane_is_not_lent(model: Model, lanes: Lanes[Text]) -> None:
    call = await begun(lanes, "work")
    await model.holds()
    assert await lanes.try_while_idle(lambda: 7) is None
    model.let_out()
    await call


async def test_what_was_measured_beside_work_does_not_count(
    model: Model, lanes: Lanes[Text]
) -> None:
    lent, arrived = threading.Event(), threading.Event()

    def measured() -> int:
        lent.set()
        assert arrived.wait(10)
        return 7

    aside = asyncio.create_task(lanes.try_while_idle(measured))
    await asyncio.to_thread(lent.wait, 10)
    model.let_out()
    call = await begun(lanes, "work")
    arrived.set()
    assert await aside is None
    assert (await call)[0][0] == 4


async def test_closing_waits_for_what_is_under_way_and_refuses_the_rest(model: Model) -> None:
    made = Lanes(model.compute, count=1, max_padded_tokens=32)
    under_way = await begun(made, "work")
    await model.holds()
    waiting = await begun(made, "more")
    closing = asyncio.create_task(made.close())
    with pytest.raises(TransientError):
        await waiting
    model.let_out()
    await closing
    assert (await under_way)[0][0] == 4
    with pytest.raises(TransientError):
        await made.embed(texts("late"))
