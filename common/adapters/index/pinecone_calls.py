"""One request to Pinecone: paced, counted, tried again, and over by its deadline."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from common import telemetry
from common.adapters.index.pinecone_errors import SDK_ERRORS, Explained, Kind, explain
from common.adapters.index.pinecone_rates import Pacer
from common.ports.errors import TransientError

T = TypeVar("T")

CONCURRENCY: Final = 16
"""Requests under way at once."""
TRIES_BY_DEADLINE: Final = 3
"""A single answer may take this part of the deadline, so that a lost one can be asked for again."""
BACKOFF_SECONDS: Final = 0.2
LONGEST_BACKOFF_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Ask:
    """`operation` is counted; `amounts` are taken from the namespace's buckets."""

    operation: str
    doing: str
    namespace: str = ""
    amounts: Mapping[str, float] = field(default_factory=dict)


def pause_seconds(attempt: int, retry_after: float | None, chance: float) -> float:
    """Before try `attempt` + 1 (from 0): full jitter; on top of what the service asked for."""
    backoff = chance * min(BACKOFF_SECONDS * 2.0**attempt, LONGEST_BACKOFF_SECONDS)
    return backoff + (retry_after or 0.0)


class Calls:
    """Deadlines are of the loop's clock: `asyncio.get_running_loop().time()`. `pause` sleeps."""

    def __init__(
        self,
        pacer: Pacer,
        *,
        call_seconds: float,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._pacer = pacer
        self._pause = pause
        self.call_seconds = call_seconds
        """Of one call of the port, all its requests and their tries together."""
        self._places = asyncio.Semaphore(CONCURRENCY)

    def deadline(self) -> float:
        now: float = asyncio.get_running_loop().time()
        return now + self.call_seconds

    async def run(self, ask: Ask, call: Callable[[], Awaitable[T]], until: float) -> T:
        """Writes must be idempotent: what failed may have taken effect. Raises PortErrors."""
        failures: list[Explained] = []
        try:
            async with asyncio.timeout_at(until):
                return await self._tried(ask, call, until, failures)
        except TimeoutError:
            why = f"; before: {failures[-1].line}" if failures else ""
            raise TransientError(
                f"cannot {ask.doing}: no answer within {self.call_seconds:g} s{why}",
                retry_after_seconds=failures[-1].retry_after_seconds if failures else None,
            ) from None

    async def _tried(
        self,
        ask: Ask,
        call: Callable[[], Awaitable[T]],
        until: float,
        failures: list[Explained],
    ) -> T:
        for attempt in itertools.count():
            await self._take_turn(ask, until)
            try:
                return await self._once(ask, call)
            except SDK_ERRORS as error:
                failure = explain(error, ask.doing)
                pause = pause_seconds(attempt, failure.retry_after_seconds, random.random())  # noqa: S311
                if failure.kind is not Kind.AGAIN or pause >= self._left(until):
                    raise failure.at_run_time() from error
                failures.append(failure)
            if failure.retry_after_seconds:
                self._pacer.hold(ask.namespace, ask.amounts, failure.retry_after_seconds)
            await self._pause(pause)
        raise AssertionError("the tries have no end")

    async def _once(self, ask: Ask, call: Callable[[], Awaitable[T]]) -> T:
        """The SDK's own time-out is of each read, so that a dripping answer would never end."""
        async with self._places:
            telemetry.OUTSIDE_CALLS.labels("pinecone", ask.operation).inc()
            async with asyncio.timeout(self.call_seconds / TRIES_BY_DEADLINE):
                return await call()

    async def _take_turn(self, ask: Ask, until: float) -> None:
        left = self._left(until)
        wait = self._pacer.reserve(ask.namespace, ask.amounts, left)
        if wait > left:
            raise TransientError(
                f"cannot {ask.doing}: too much is waiting for Pinecone's rates",
                retry_after_seconds=wait,
            )
        if wait > 0:
            await self._pause(wait)

    @staticmethod
    def _left(until: float) -> float:
        return until - asyncio.get_running_loop().time()
