"""Work that goes on when who asked for it is gone."""

from __future__ import annotations

import asyncio

from webhook.work_to_the_end import WorkToTheEnd


async def test_who_asked_goes_away_and_the_work_goes_on() -> None:
    under_way: WorkToTheEnd[int] = WorkToTheEnd()
    begun, go, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> int:
        begun.set()
        await go.wait()
        ended.set()
        return 1

    asked = asyncio.create_task(under_way.result("a", work))
    await begun.wait()
    asked.cancel()
    await asyncio.wait([asked])
    assert under_way.is_under_way("a")
    assert len(under_way) == 1
    again = asyncio.create_task(under_way.result("a", work))
    go.set()
    assert await again == 1
    assert asked.cancelled()
    assert ended.is_set()
    assert not under_way.is_under_way("a")


async def test_what_outlasts_the_close_ends() -> None:
    under_way: WorkToTheEnd[int] = WorkToTheEnd()
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work() -> int:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return 1

    asked = asyncio.create_task(under_way.result("a", work))
    await begun.wait()
    await under_way.close(wait_seconds=0)
    assert ended.is_set()
    await asyncio.wait([asked])
    assert asked.cancelled()
