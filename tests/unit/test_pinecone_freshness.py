"""Waiting for a write to show."""

from __future__ import annotations

import asyncio

import pytest

from common.adapters.index.pinecone_freshness import Freshness
from common.ports.errors import TransientError

FOREVER = 60.0


class Index:
    """Shows one write more at each look; `pause` gives everybody a turn and takes no time."""

    def __init__(self, *, shown: int = 0, step: int = 1) -> None:
        self.shown, self.step, self.looks = shown, step, 0
        self.pauses: list[float] = []
        self.failures: list[Exception] = []
        self.looked = asyncio.Event()

    async def look(self, namespace: str) -> int | None:
        self.looks += 1
        self.looked.set()
        if self.failures:
            raise self.failures.pop(0)
        self.shown += self.step
        return self.shown

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0)


async def test_it_looks_until_the_write_shows_ever_more_seldom() -> None:
    index = Index()
    await Freshness(index.look, index.pause).wait("docs", 20, FOREVER)
    assert index.looks == 20
    assert index.pauses == sorted(index.pauses)
    assert index.pauses[-1] == 1.0


async def test_one_look_at_a_time_serves_all_who_wait() -> None:
    index = Index()
    freshness = Freshness(index.look, index.pause)
    await asyncio.gather(*(freshness.wait("docs", 1 + n % 10, FOREVER) for n in range(100)))
    assert index.looks == 10


async def test_what_a_query_told_needs_no_look() -> None:
    index = Index()
    freshness = Freshness(index.look, index.pause)
    freshness.seen("docs", 7)
    freshness.seen("docs", 3)
    await freshness.wait("docs", 7, FOREVER)
    assert index.looks == 0
    await freshness.wait("other", 1, FOREVER)
    assert index.looks == 1, "another namespace has numbers of its own"


async def test_a_query_of_somebody_else_ends_the_wait() -> None:
    index = Index(step=0)
    freshness = Freshness(index.look, index.pause)
    waiting = asyncio.create_task(freshness.wait("docs", 5, FOREVER))
    await index.looked.wait()
    freshness.seen("docs", 5)
    await waiting


async def test_an_index_that_does_not_catch_up_ends_in_a_transient_error() -> None:
    index = Index(step=0)
    index.failures = [TransientError("no route")] * 1_000_000
    with pytest.raises(TransientError, match="no route"):
        await Freshness(index.look, index.pause).wait("docs", 5, 0.05)


async def test_a_look_that_fails_is_followed_by_another() -> None:
    index = Index(shown=4)
    index.failures = [TransientError("busy")] * 3
    await Freshness(index.look, index.pause).wait("docs", 5, FOREVER)
    assert index.looks == 4


async def test_nobody_looks_when_nobody_waits_any_more() -> None:
    index = Index(step=0)
    freshness = Freshness(index.look, index.pause)
    waiting = asyncio.create_task(freshness.wait("docs", 5, FOREVER))
    await index.looked.wait()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    before = index.looks
    for _ in range(20):
        await asyncio.sleep(0)
    assert index.looks <= before + 1
    assert len(asyncio.all_tasks()) == 1
