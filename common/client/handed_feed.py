"""A feed whose changes are handed to it one by one, from outside its event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

C = TypeVar("C")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Broken:
    """In place of a change: the source raised this."""

    error: Exception


class HandedFeed(Generic[C, R]):
    """`feed` makes results of changes. Everything here runs in the loop it was started in."""

    def __init__(self, feed: Callable[[AsyncIterator[C]], AsyncGenerator[R, None]]) -> None:
        self._feed = feed
        self._changes: asyncio.Queue[C | Broken | None] = asyncio.Queue(1)
        self._results: list[R] = []
        self._came = asyncio.Event()
        self._collecting: asyncio.Task[None] | None = None

    async def hand(self, change: C | Broken | None) -> list[R]:
        """Returns once the feed has room for it; the results that came meanwhile. None: that was
        the last. A feed that has ended takes nothing, and `more` tells why."""
        collecting = self._begun()
        put = asyncio.ensure_future(self._changes.put(change))
        await asyncio.wait((put, collecting), return_when=asyncio.FIRST_COMPLETED)
        put.cancel()
        return self._taken()

    @property
    def over(self) -> bool:
        """Whether the feed ended, by itself or by an error."""
        return self._collecting is not None and self._collecting.done()

    async def more(self) -> list[R]:
        """The next results; none: there are no more. Raises what the feed and the source raise."""
        while not self._results and not self.over:
            await self._came.wait()
            self._came.clear()
        if not self._results:
            await self._begun()
        return self._taken()

    async def close(self) -> None:
        """Ends it, whatever is under way."""
        collecting = self._begun()
        collecting.cancel()
        await asyncio.gather(collecting, return_exceptions=True)

    def _begun(self) -> asyncio.Task[None]:
        if self._collecting is None:
            self._collecting = asyncio.create_task(self._collect(), name="feed-results")
            self._collecting.add_done_callback(lambda _: self._came.set())
        return self._collecting

    async def _collect(self) -> None:
        results = self._feed(self._handed())
        try:
            async for result in results:
                self._results.append(result)
                self._came.set()
        finally:
            await results.aclose()

    async def _handed(self) -> AsyncIterator[C]:
        while (change := await self._changes.get()) is not None:
            if isinstance(change, Broken):
                raise change.error
            yield change

    def _taken(self) -> list[R]:
        results, self._results = self._results, []
        return results


def until_broken(changes: Iterable[C]) -> Iterator[C | Broken]:
    """The changes, and what ends them before their end as the last."""
    try:
        yield from changes
    except Exception as error:
        yield Broken(error)
