"""Takes in what lies in the landing zone's incoming area and no notification told of.

Notifications may be lost, and a bucket may have held files before it was set to notify anyone. What
lies there for so long is looked at like what a notification names, so that one which comes late
all the same finds nothing to do. Removals cannot be found so: nothing tells an object that someone
removed from one that a lifecycle rule expired, or that never was there.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from common import telemetry
from common.clock import Clock, system_clock
from common.ports.errors import PortError, TransientError
from webhook.intake import IntakeHandler

log = structlog.get_logger(__name__)

SHORTEST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
"""Before the next name where those before it failed in a row: an outage, or too long a backlog."""


@dataclass(slots=True)
class Tally:
    """Of one pass. Those in hand when it was cut short are neither settled nor left."""

    files: int = 0
    settled: int = 0
    left: int = 0
    """Something was wrong, as the log says; the next pass finds them again."""


@dataclass(slots=True, kw_only=True)
class IntakeListing:
    """One pass at a time. Several intakes may list at once, as they may take the same name."""

    handler: IntakeHandler
    clock: Clock = system_clock
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    jitter: random.Random = field(default_factory=random.Random)
    _failed_in_a_row: int = 0

    async def take_all(self, tally: Tally, stop: asyncio.Event) -> None:
        """Every name that is old enough, a bounded number at once, until `stop` is set.

        Raises what listing raises, once what is in hand is done. May be cancelled at any time.
        """
        names, turn = self._names(), asyncio.Lock()
        workers = [
            asyncio.create_task(self._work(names, turn, tally, stop))
            for _ in range(self.handler.settings.intake_concurrency)
        ]
        try:
            await asyncio.wait(workers)
        finally:
            await _cancel(workers)
        for worker in workers:
            worker.result()

    async def _names(self) -> AsyncIterator[str]:
        """In random order within a page, so that several intakes that list at once seldom meet."""
        before = self.clock() - self.handler.settings.intake_listing_age_seconds
        async for page in self.handler.landing.waiting(before=before):
            self.jitter.shuffle(page)
            for name in page:
                yield name

    async def _work(
        self, names: AsyncIterator[str], turn: asyncio.Lock, tally: Tally, stop: asyncio.Event
    ) -> None:
        while True:
            async with turn:
                name = await anext(names, None)
            if name is None or stop.is_set():
                return
            tally.files += 1
            await self._take(name, tally)

    async def _take(self, name: str, tally: Tally) -> None:
        try:
            await self.handler.reconcile(name)
        except Exception as error:
            tally.left += 1
            _tell("intake.left", error, name=name)
            if isinstance(error, TransientError):
                self._failed_in_a_row += 1
                await self.pause(self._pause_seconds())
        else:
            tally.settled += 1
            self._failed_in_a_row = 0

    def _pause_seconds(self) -> float:
        longest = SHORTEST_PAUSE_SECONDS * 2.0 ** min(self._failed_in_a_row, 10)
        return self.jitter.uniform(0.5, 1.0) * min(longest, LONGEST_PAUSE_SECONDS)


async def list_regularly(listing: IntakeListing, stop: asyncio.Event) -> None:
    """A pass at once and one after each interval, until `stop` is set; then what is in hand is
    finished, or given up for the next one to find. Ends at once where the interval is 0."""
    settings = listing.handler.settings
    interval_seconds = settings.intake_listing_interval_seconds
    stopped = asyncio.create_task(stop.wait())
    try:
        while interval_seconds and not stop.is_set():
            await _pass_until(listing, stop, stopped, settings.drain_timeout_seconds)
            await asyncio.wait([stopped], timeout=interval_seconds)
    finally:
        await _cancel([stopped])


async def list_within(listing: IntakeListing, seconds: float) -> dict[str, Any]:
    """One pass: its counts, and whether there was not enough time. Raises what listing raises."""
    tally, deadline = Tally(), asyncio.timeout(seconds)
    try:
        async with deadline:
            await listing.take_all(tally, asyncio.Event())
    except TimeoutError:
        if not deadline.expired():
            raise
    return _summary(tally, cut_short=deadline.expired())


async def _pass_until(
    listing: IntakeListing, stop: asyncio.Event, stopped: asyncio.Task[bool], drain_seconds: float
) -> None:
    task = asyncio.create_task(_survived_pass(listing, stop))
    try:
        await asyncio.wait([stopped, task], return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait([task], timeout=drain_seconds)
    finally:
        await _cancel([task])


async def _survived_pass(listing: IntakeListing, stop: asyncio.Event) -> None:
    tally = Tally()
    try:
        await listing.take_all(tally, stop)
    except Exception as error:
        _tell("intake.not_listed", error)
    _summary(tally, cut_short=stop.is_set())


def _summary(tally: Tally, *, cut_short: bool) -> dict[str, Any]:
    counts = {"files": tally.files, "settled": tally.settled, "left": tally.left}
    tell = log.warning if cut_short or tally.left else log.info
    tell("intake.listed", **counts, cut_short=cut_short)
    return {**counts, "cut_short": cut_short}


def _tell(event: str, error: Exception, **about: str) -> None:
    if isinstance(error, PortError):
        log.warning(event, **about, error=str(error))
        return
    telemetry.UNFORESEEN.labels("intake").inc()
    log.error(event, **about, exc_info=error)


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
