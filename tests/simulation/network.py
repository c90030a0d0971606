"""Between the handlers and the stores: the place where every fault of a call happens.

A call takes effect at one moment, on the way to which and back from which anything may go wrong.
What was sent is on its way whether its sender lives or not.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import types
from collections import Counter
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from common.ports.errors import TransientError
from tests.simulation.loop import Process, SimulatedLoop, current_process

T = TypeVar("T")

SLOW_ANSWERS = 0.5
"""The part of calls between whose effect and answer others get a turn."""

Effect = Callable[[], Coroutine[Any, Any, T]]
"""The real operation on a store in memory: it awaits nothing."""


@types.coroutine
def turn() -> Generator[None, None, None]:
    """Let others go first, as a call to another machine does."""
    yield


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How often what happens, per call. Drawn once a run, so that runs differ in kind."""

    refused: float = 0.0
    """Fails before it took effect."""
    unanswered: float = 0.0
    """Takes effect and fails: a timeout that succeeded."""
    slow: float = 0.0
    """Takes effect late, the answer comes later still."""
    abandoned: float = 0.0
    """The caller is told of a failure at once, and the call takes effect later."""
    slowest_seconds: float = 25.0

    @property
    def any(self) -> float:
        return self.refused + self.unanswered + self.slow + self.abandoned


class Network:
    """Carries calls. `calm` ends all faults; `over` ends everything."""

    def __init__(self, loop: SimulatedLoop, drawn: random.Random, rates: Rates) -> None:
        self.loop = loop
        self.random = drawn
        self.rates = rates
        self._trouble = rates.any
        self.calm = False
        self.over = False
        self.under_way = 0
        self._calls = 0
        self._numbers = itertools.count()
        self._alarms: list[tuple[int, int, asyncio.Future[None]]] = []
        self.faults: Counter[str] = Counter()
        self.trace: Callable[[str], None] | None = None
        self.struck: Callable[[Process], None] | None = None
        """Strikes a process in the moment its call took effect, `strikes` of all calls."""
        self.strikes = 0.0
        self._wires = Process("network")

    def chance(self, probability: float) -> bool:
        return not self.calm and self.random.random() < probability

    def tell(self, fault: str) -> None:
        self.faults[fault] += 1
        if self.trace:
            self.trace(f"{current_process().name}: {fault}")

    async def call(self, name: str, effect: Effect[T]) -> T:
        """Raises TransientError for what goes wrong on the way."""
        if self.over:
            raise asyncio.CancelledError
        await turn()
        if self.over:
            raise asyncio.CancelledError
        self._calls += 1
        if self._alarms and self._alarms[0][0] <= self._calls:
            self._ring()
        draw = 1.0 if self.calm else self.random.random()
        if draw < self._trouble:
            return await self._troubled(name, effect, draw)
        result = now(effect())
        await turn()
        self.check()
        return result

    async def calls_later(self, count: int) -> None:
        """Return after so many calls of anybody, in the middle of what they are doing; or after a
        second in which nobody had anything to do."""
        alarm: asyncio.Future[None] = self.loop.create_future()
        heapq.heappush(self._alarms, (self._calls + count, next(self._numbers), alarm))
        self.later(1.0, _answer, alarm, None)
        await alarm

    def _ring(self) -> None:
        while self._alarms and self._alarms[0][0] <= self._calls:
            alarm = heapq.heappop(self._alarms)[2]
            if not alarm.done():
                alarm.set_result(None)

    def later(self, seconds: float, callback: Callable[..., object], *args: object) -> None:
        """Call back outside of every process that can die."""
        self.loop.call_later(seconds, callback, *args, context=self._wires.context)

    async def slow_down(self, longest_seconds: float) -> None:
        await asyncio.sleep(self.random.uniform(0.0, longest_seconds))

    async def strike(self) -> None:
        """Between two calls: a process that is paused here goes on when it wakes."""
        if self.struck and self.chance(self.strikes):
            self.struck(current_process())
            await turn()
            self.check()

    def check(self) -> None:
        if self.over:
            raise asyncio.CancelledError

    async def _troubled(self, name: str, effect: Effect[T], draw: float) -> T:
        rates = self.rates
        if draw < rates.refused:
            self.tell(f"{name} refused")
            raise TransientError(f"{name}: refused")
        if draw < rates.refused + rates.unanswered:
            self.tell(f"{name} unanswered")
            now(effect())
            await turn()
            raise TransientError(f"{name}: no answer")
        answer: asyncio.Future[T] = self.loop.create_future()
        there = self.random.uniform(0.0, rates.slowest_seconds)
        self.under_way += 1
        self.loop.call_later(there, self._arrive, effect, answer, context=self._wires.context)
        if draw < rates.refused + rates.unanswered + rates.abandoned:
            self.tell(f"{name} abandoned")
            raise TransientError(f"{name}: no answer, but on its way")
        self.tell(f"{name} slow")
        return await answer

    def _arrive(self, effect: Effect[T], answer: asyncio.Future[T]) -> None:
        self.under_way -= 1
        if self.over:
            return
        try:
            result = now(effect())
        except Exception as error:
            if not answer.done():
                answer.set_exception(error)
                answer.exception()  # its caller may be gone: then nobody asks
            return
        back = self.random.uniform(0.0, self.rates.slowest_seconds / 4)
        self.loop.call_later(back, _answer, answer, result, context=self._wires.context)


def _answer(answer: asyncio.Future[T], result: T) -> None:
    if not answer.done():
        answer.set_result(result)


def now(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to its end a coroutine that awaits nothing."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("an effect must not wait")
