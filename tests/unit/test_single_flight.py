"""Equal questions at one time: asked once, and nobody suffers from another's end."""

from __future__ import annotations

import asyncio

import pytest

from common.single_flight import JOIN_SECONDS, SingleFlight


class Question:
    """Answered by hand; tells how often it was asked, and whether that was ended."""

    def __init__(self) -> None:
        self.asked = 0
        self.ended = 0
        self.answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def ask(self) -> int:
        self.asked += 1
        try:
            return await asyncio.shield(self.answer)
        except asyncio.CancelledError:
            self.ended += 1
            raise


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_equal_questions_share_an_answer_and_later_ones_ask_again() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    question = Question()
    both = [asyncio.create_task(flights.run("q", question.ask)) for _ in range(2)]
    other = asyncio.create_task(flights.run("other", question.ask))
    await settle()
    assert question.asked == 2
    question.answer.set_result(7)
    assert [await task for task in (*both, other)] == [(7, False), (7, True), (7, False)]
    await flights.run("q", question.ask)
    assert question.asked == 3


async def test_one_that_is_cancelled_takes_nothing_from_the_others() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    question = Question()
    first, second = (asyncio.create_task(flights.run("q", question.ask)) for _ in range(2))
    await settle()
    first.cancel()
    await settle()
    assert first.cancelled()
    question.answer.set_result(7)
    assert await second == (7, True)


async def test_when_all_are_cancelled_the_question_ends_and_nobody_joins_its_end() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    question = Question()
    both = [asyncio.create_task(flights.run("q", question.ask)) for _ in range(2)]
    await settle()
    for task in both:
        task.cancel()
    late = asyncio.create_task(flights.run("q", question.ask))
    await settle()
    assert (question.asked, question.ended) == (2, 1)
    question.answer.set_result(7)
    assert await late == (7, False)


async def test_an_error_reaches_all_who_share_it() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    question = Question()
    both = [asyncio.create_task(flights.run("q", question.ask)) for _ in range(2)]
    await settle()
    question.answer.set_exception(ValueError("no"))
    for task in both:
        with pytest.raises(ValueError, match="no"):
            await task


async def test_a_question_that_hangs_is_not_joined_for_ever() -> None:
    clock = Clock()
    flights: SingleFlight[str, int] = SingleFlight(clock)
    hanging, question = Question(), Question()
    first = asyncio.create_task(flights.run("q", hanging.ask))
    await settle()
    clock.now = JOIN_SECONDS + 0.1
    second = asyncio.create_task(flights.run("q", question.ask))
    await settle()
    hanging.answer.set_result(1)
    await settle()
    third = asyncio.create_task(flights.run("q", question.ask))
    await settle()
    assert (hanging.asked, question.asked) == (1, 1)
    question.answer.set_result(7)
    assert [await first, await second, await third] == [(1, False), (7, False), (7, True)]
