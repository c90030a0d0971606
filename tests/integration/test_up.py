"""What `up` does when one of its parts ends without being asked to."""

from __future__ import annotations

import asyncio

import pytest

from common.up import PartFailedError, _until


async def _ends() -> None:
    raise ValueError("disk on fire")


async def _runs_on() -> None:
    await asyncio.Event().wait()


async def test_a_part_that_ends_takes_the_process_with_it() -> None:
    healthy = asyncio.create_task(_runs_on())
    broken = asyncio.create_task(_ends(), name="update-consumer")
    with pytest.raises(PartFailedError, match=r"update-consumer ended: .*disk on fire"):
        await _until(asyncio.Event(), [healthy, broken])
    healthy.cancel()


async def test_it_waits_for_the_signal_otherwise() -> None:
    healthy = asyncio.create_task(_runs_on())
    stop = asyncio.Event()
    waiting = asyncio.create_task(_until(stop, [healthy]))
    await asyncio.sleep(0)
    assert not waiting.done()
    stop.set()
    await waiting
    healthy.cancel()
