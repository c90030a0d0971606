"""Changes as an NDJSON stream of any length that survives interruptions.

Results come back in the order of the changes. After a lost connection the stream is taken up at
the first change that has no result. Changes after it may have been accepted before; they are sent
again in the same order, so each document ends where the feed leaves it.

The source is read by a task of its own, ahead of the answers by a bounded window: it is read as
fast as the service answers, and a connection that breaks does not disturb it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from contextlib import aclosing, suppress
from typing import Protocol

from common.client.answers import problem_in, result_of
from common.client.changes import AnyChange, line_of
from common.client.errors import JSON, UnreachableError, error_of
from common.client.patience import Patience
from common.client.results import ChangeRefused, ChangeResult

WINDOW_LINES = 1024
WINDOW_BYTES = 16 * 1024 * 1024
"""Of changes without a result; one that is larger travels alone."""
IDLE_SECONDS = 10.0
"""A source that gives nothing for so long ends the request; its next change begins another. The
service gives a body up that stops for longer."""

Source = AsyncIterable[AnyChange | bytes] | Iterable[AnyChange | bytes]
"""Bytes are one change as a line of JSON; a blank line is none."""


class Wire(Protocol):
    """One connection at a time."""

    @property
    def url(self) -> str: ...

    def feed(self, lines: AsyncIterator[bytes]) -> AsyncGenerator[JSON, None]:
        """Raises ApiError, UnreachableError."""


class Feed:
    """One source, to its end."""

    def __init__(self, wire: Wire, source: Source, patience: Patience) -> None:
        self._wire = wire
        self._patience = patience
        self._window = Window(source, patience.progress)

    async def results(self) -> AsyncGenerator[ChangeResult | ChangeRefused, None]:
        """Raises UnreachableError or ApiError when patience ends, or when the feed as a whole is
        refused; and what the source raises, once what it gave before is answered."""
        reader = asyncio.create_task(self._window.read(), name="feed-source")
        try:
            while await self._window.has_more():
                self._patience.progress()
                async with aclosing(self._persistent()) as results:
                    async for result in results:
                        yield result
            await reader
        finally:
            reader.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await reader

    async def _persistent(self) -> AsyncGenerator[ChangeResult | ChangeRefused, None]:
        """Of one request, and of those that take it up when it breaks."""
        async for attempt in self._patience.attempts():
            with attempt:
                async with aclosing(self._request()) as results:
                    async for result in results:
                        yield result

    async def _request(self) -> AsyncGenerator[ChangeResult | ChangeRefused, None]:
        window = self._window
        window.rewind()
        async with aclosing(self._wire.feed(window.unsent())) as lines:
            async for line in lines:
                yield self._taken(line)
                # What whoever takes the results does with them is no silence of the service.
                self._patience.progress()
        if window.unanswered:
            raise UnreachableError(self._wire.url, "the connection ended before the last result")

    def _taken(self, line: JSON) -> ChangeResult | ChangeRefused:
        """Raises ApiError for what is no change's own result, and for what may pass."""
        window = self._window
        problem = problem_in(line["error"]) if "error" in line else None
        if not window.unanswered:
            # Not a change's result: the service says why it ends the feed.
            told = {"title": "the service answered a line that it was not sent"}
            raise error_of(problem or problem_in(told))
        if problem and (problem.passing or line.get("feed_ended")):
            raise error_of(problem)
        if line.get("line", window.line) != window.line:
            told = {"title": f"the service answered line {line['line']} instead of {window.line}"}
            raise error_of(problem_in(told))
        window.answer()
        self._patience.progress()
        return result_of(line, window.answered, self._wire.url)


class Window:
    """The changes that have no result yet, in their order: some were sent, some are to be."""

    def __init__(self, source: Source, on_rested: Callable[[], None] = lambda: None) -> None:
        """`on_rested` is told when there is something to answer again: until then the service
        owed nothing."""
        self._source = source
        self._on_rested = on_rested
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._sent = 0
        self._answered_here = 0
        self._connection = 0
        self._ended = False
        self._moved = asyncio.Event()
        self.answered = 0

    @property
    def unanswered(self) -> int:
        """How many were sent on this connection and have no result."""
        return self._sent

    @property
    def line(self) -> int:
        """The place on this connection, from 1, of the change whose result is next."""
        return self._answered_here + 1

    def rewind(self) -> None:
        """A new connection: nothing was sent on it."""
        self._sent = 0
        self._answered_here = 0
        self._connection += 1
        self._notify()

    def answer(self) -> None:
        """The oldest has its result."""
        self._size -= len(self._lines.popleft())
        self._sent -= 1
        self._answered_here += 1
        self.answered += 1
        self._notify()

    async def has_more(self) -> bool:
        """Whether there is anything to send, once that is known."""
        while not self._lines and not self._ended:
            await self._moved.wait()
        return bool(self._lines)

    async def read(self) -> None:
        """The source, to its end, no faster than answers come. Raises what the source raises."""
        try:
            async for change in _each(self._source):
                line = line_of(change)
                if not line:
                    continue
                await self._room(len(line))
                if not self._lines:
                    self._on_rested()
                self._lines.append(line)
                self._size += len(line)
                self._notify()
                # Who reads a file, say, never waits: the others need their turn.
                await asyncio.sleep(0)
        finally:
            self._ended = True
            self._notify()

    async def _room(self, size: int) -> None:
        """Once it is full, not before it is half empty: lines that go out one by one cost both
        sides more than those that go out together."""
        if not self._is_full(size, 1):
            return
        while self._lines and self._is_full(size, 2):
            await self._moved.wait()

    def _is_full(self, size: int, parts: int) -> bool:
        """Of one of so many parts."""
        many = len(self._lines) * parts >= WINDOW_LINES
        return bool(self._lines) and (many or (self._size + size) * parts > WINDOW_BYTES)

    async def unsent(self) -> AsyncIterator[bytes]:
        """The body of a request: what was not sent on this connection, until the source ends or
        rests, or another connection takes over."""
        connection = self._connection
        while connection == self._connection:
            if self._sent < len(self._lines):
                line = self._lines[self._sent]
                self._sent += 1
                yield line + b"\n"
                # A socket that takes everything at once would else keep the results unread.
                await asyncio.sleep(0)
            elif self._ended or not await self._moves_soon():
                return

    async def _moves_soon(self) -> bool:
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                await self._moved.wait()
        except TimeoutError:
            return False
        return True

    def _notify(self) -> None:
        """Who waits looks again. Each waits for an event of its own time, so that none is missed
        and none is seen twice."""
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()


async def _each(source: Source) -> AsyncIterator[AnyChange | bytes]:
    if isinstance(source, AsyncIterable):
        async for change in source:
            yield change
    else:
        for change in source:
            yield change
