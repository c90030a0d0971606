"""Runs a role's coroutine until it ends or SIGTERM or SIGINT asks it to drain."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

Serve = Callable[[asyncio.Event], Awaitable[None]]


def run_until_signal(serve: Serve) -> int:
    """0 after a clean stop; 130 or 143 when a second signal cut the drain short."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_supervise(serve))


async def _supervise(serve: Serve) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    hurry: list[int] = []
    work = asyncio.ensure_future(serve(stop))

    def on_signal(number: int) -> None:
        if stop.is_set():
            hurry.append(number)
            work.cancel()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    try:
        await work
    except asyncio.CancelledError:
        if not hurry:
            raise
    return 128 + hurry[0] if hurry else 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # uvloop is not built for every platform; asyncio's own loop does
        return None
    return uvloop.new_event_loop
