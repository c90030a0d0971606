"""When the newest version of a burst of edits is embedded: once its document has been quiet.

A burst is under way when a worker that has just embedded a version finds a newer one. To embed
that at once would cost one more embedding each time an embedding ends, for as long as the burst
goes on. So the worker waits until nothing was accepted for a moment, a bounded time in all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

from common.model import Desired

SHORTEST_PAUSE_SECONDS = 0.001
"""What rounding leaves of a wait is no reason to look again."""

Pause = Callable[[float], Awaitable[None]]
"""Sleep for so many seconds, or until the worker is to stop."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds; the settings `burst_quiet_seconds` and `burst_wait_seconds`. 0: no wait."""

    quiet_seconds: float = 0.5
    wait_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Burst:
    """What a worker has seen of one, in seconds of its own clock."""

    began: float
    """When it found a version newer than the one it had embedded."""
    version: int
    """The newest it has seen."""
    edited_at: float
    """When that version was accepted; at the latest, when it was first seen."""


def seen(burst: Burst | None, newest: Desired, now: float) -> Burst:
    """The burst after a look at the row.

    An edit is never later than the first look that finds it: an accepting clock that runs ahead
    lengthens no wait.
    """
    edited_at = min(newest.accepted_at, now)
    if burst is None:
        return Burst(now, newest.version, edited_at)
    if newest.version == burst.version:
        return burst
    return replace(burst, version=newest.version, edited_at=edited_at)


def seconds_to_wait(burst: Burst, now: float, patience: Patience) -> float:
    """Until the next look, if nothing newer comes; 0: embed now. A clock set back ends the wait."""
    if now < burst.began:
        return 0.0
    quiet_at = burst.edited_at + patience.quiet_seconds
    left = min(quiet_at, burst.began + patience.wait_seconds) - now
    return left if left >= SHORTEST_PAUSE_SECONDS else 0.0


@dataclass(slots=True)
class BurstWait:
    """A worker's way to wait: for how long, for how many documents at once, until it is to stop.

    A document that waits has one of the worker's places, though none of its lanes. `places` of
    them may, so that the others of the worker always go on.
    """

    patience: Patience = field(default_factory=Patience)
    places: int = 1
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    pause: Pause | None = None
    """None: in real time. Tests turn their clock instead."""
    _waiting: int = 0

    def has_place(self) -> bool:
        return self._waiting < self.places

    @contextmanager
    def place(self) -> Iterator[None]:
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    async def for_seconds(self, seconds: float) -> None:
        await (self.pause or self._until_stop)(seconds)

    async def _until_stop(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stop.wait()


def places_of(concurrency: int) -> int:
    """Half of a worker's places; none where it has but one."""
    return concurrency // 2
