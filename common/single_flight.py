"""Equal questions asked at one time are asked once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

K = TypeVar("K")
T = TypeVar("T")

JOIN_SECONDS = 1.0
"""A question that hangs must not take everybody along who asks the same later."""


@dataclass(slots=True, eq=False)
class _Flight(Generic[T]):
    task: asyncio.Task[T]
    began: float
    waiting: int = 0


class SingleFlight(Generic[K, T]):
    """Belongs to one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._flights: dict[K, _Flight[T]] = {}

    async def run(self, key: K, ask: Callable[[], Coroutine[Any, Any, T]]) -> tuple[T, bool]:
        """What `ask` returns or raises, and whether it was under way for somebody else already.

        A caller that is cancelled takes nothing from the others; the last one ends the question.
        """
        found = self._flights.get(key)
        joined = found is not None and self._clock() - found.began <= JOIN_SECONDS
        flight = found if found is not None and joined else self._begin(key, ask)
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task), joined
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                # Nobody may join what is being cancelled.
                self._forget(key, flight)
                flight.task.cancel()

    def _begin(self, key: K, ask: Callable[[], Coroutine[Any, Any, T]]) -> _Flight[T]:
        flight = _Flight(asyncio.create_task(ask()), self._clock())
        self._flights[key] = flight
        flight.task.add_done_callback(partial(self._landed, key, flight))
        return flight

    def _landed(self, key: K, flight: _Flight[T], task: asyncio.Task[T]) -> None:
        self._forget(key, flight)
        if not task.cancelled():
            task.exception()  # Looked at, so that asyncio reports no error that nobody waited for.

    def _forget(self, key: K, flight: _Flight[T]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
