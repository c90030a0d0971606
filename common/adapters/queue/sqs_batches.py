"""Callers that come within a moment of each other share one request of up to ten entries.

`Waiting` and `Pace` decide what goes together and when, without I/O; `Batcher` drives them.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from common.ports.errors import PortError, TransientError

MOST_ENTRIES = 10
MOST_BYTES = 256 * 1024
"""Of a batch of messages together. SQS takes 1 MiB by now; its emulators may be older."""
TRIES = 4
FIRST_PAUSE_SECONDS = 0.1

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Failure:
    """What became of one entry of a batch. `again`: another try may help."""

    error: PortError
    again: bool = False


@dataclass(slots=True, eq=False)
class Entry(Generic[Item]):
    """`due_at`: when it goes at the latest; `deadline`: when its caller stops waiting."""

    item: Item
    size_bytes: int
    due_at: float
    deadline: float
    done: asyncio.Future[None]
    tries: int = 0


class Waiting(Generic[Item]):
    """Entries that wait for company, in the order in which they came."""

    def __init__(self) -> None:
        self._entries: deque[Entry[Item]] = deque()

    def add(self, entry: Entry[Item]) -> None:
        self._entries.append(entry)

    @property
    def due_at(self) -> float | None:
        return min((entry.due_at for entry in self._entries), default=None)

    def take(self, now: float) -> list[Entry[Item]]:
        """The next batch, if one is full or has waited long enough; call until it is []."""
        count, due_at = self._fitting(), self.due_at
        full = count == MOST_ENTRIES or count < len(self._entries)
        if not full and (due_at is None or due_at > now):
            return []
        return [self._entries.popleft() for _ in range(count)]

    def _fitting(self) -> int:
        """How many of the first go together. One that is too large by itself goes alone."""
        size_bytes = 0
        for count, entry in enumerate(self._entries):
            size_bytes += entry.size_bytes
            if count == MOST_ENTRIES or (count and size_bytes > MOST_BYTES):
                return count
        return len(self._entries)


class Pace:
    """How long it pays to wait for company: only where so much is on its way that it will come.

    Keeps a moving mean of the gaps between arrivals. A batch that would not reach
    `WORTHWHILE` entries within the longest wait goes after the shortest.
    """

    WORTHWHILE = 4
    LONGEST_GAP_SECONDS = 1.0
    """A longer gap says no more than this one: it is quiet."""
    NEWEST_SHARE = 0.2

    def __init__(self) -> None:
        self._mean_gap = self.LONGEST_GAP_SECONDS
        self._last_at = float("-inf")

    def arrived(self, now: float) -> None:
        gap = min(now - self._last_at, self.LONGEST_GAP_SECONDS)
        self._mean_gap += self.NEWEST_SHARE * (gap - self._mean_gap)
        self._last_at = now

    def wait_seconds(self, shortest: float, longest: float) -> float:
        busy = self._mean_gap * self.WORTHWHILE <= longest
        return max(shortest, longest) if busy else shortest


@dataclass(slots=True, eq=False)
class Batcher(Generic[Item]):
    """`call` sends up to ten items and says of each what became of it (None: it is done).

    What it raises goes to every caller of the batch; a Failure to its own caller only, after
    tries with jittered pauses where these may help.
    """

    call: Callable[[Sequence[Item]], Awaitable[Sequence[Failure | None]]]
    shortest_wait_seconds: float
    jitter: random.Random = field(default_factory=random.Random)
    _waiting: Waiting[Item] = field(default_factory=Waiting)
    _pace: Pace = field(default_factory=Pace)
    _timer: asyncio.TimerHandle | None = None
    _calls: set[asyncio.Task[None]] = field(default_factory=set)
    _closed: bool = False

    async def do(
        self,
        item: Item,
        *,
        size_bytes: int = 0,
        longest_wait_seconds: float = 0.0,
        deadline: float,
        latest: float | None = None,
    ) -> None:
        """Returns when it is done. Raises TransientError at the deadline (loop time), too.

        `latest`: it goes no later, company or not. Cancelling takes back what did not go yet.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._pace.arrived(now)
        wait = self._pace.wait_seconds(self.shortest_wait_seconds, longest_wait_seconds)
        due_at = now + (0.0 if self._closed else wait)
        entry = Entry(item, size_bytes, due_at, deadline, loop.create_future())
        if latest is not None:
            entry.due_at = min(entry.due_at, latest)
        self._enter(entry)
        try:
            async with asyncio.timeout_at(deadline):
                await entry.done
        except TimeoutError as error:
            raise TransientError("SQS did not answer in time") from error

    async def close(self) -> None:
        """What waits goes now; returns when nothing is under way."""
        self._closed = True
        self._flush(float("inf"))
        while self._calls:
            await asyncio.wait(self._calls)

    def _enter(self, entry: Entry[Item]) -> None:
        """What is due goes by the timer: whoever comes in the same turn of the loop goes along."""
        self._waiting.add(entry)
        self._flush(float("-inf"))

    def _flush(self, now: float) -> None:
        while batch := self._waiting.take(now):
            wanted = [entry for entry in batch if not entry.done.done()]
            if wanted:
                call = asyncio.create_task(self._run(wanted))
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_at = self._waiting.due_at
        if due_at is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(due_at, lambda: self._flush(max(due_at, loop.time())))

    async def _run(self, batch: Sequence[Entry[Item]]) -> None:
        try:
            outcomes = await self.call([entry.item for entry in batch])
        except Exception as error:
            for entry in batch:
                _fail(entry, error)
            return
        for entry, outcome in zip(batch, outcomes, strict=True):
            self._settle(entry, outcome)

    def _settle(self, entry: Entry[Item], outcome: Failure | None) -> None:
        if outcome is None:
            if not entry.done.done():
                entry.done.set_result(None)
            return
        entry.tries += 1
        loop = asyncio.get_running_loop()
        pause = self.jitter.uniform(0.0, FIRST_PAUSE_SECONDS * 2.0**entry.tries)
        again_at = loop.time() + pause
        if not outcome.again or entry.tries == TRIES or again_at >= entry.deadline or self._closed:
            _fail(entry, outcome.error)
            return
        entry.due_at = again_at
        loop.call_at(again_at, self._enter, entry)


def _fail(entry: Entry[Item], error: Exception) -> None:
    if not entry.done.done():
        entry.done.set_exception(error)
