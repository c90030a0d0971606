"""Waiting until queries show a write: one look at a time serves everybody who waits.

A write's number (LSN) is shown once a query of its namespace tells of one that is at least as high.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from common.bounded_map import BoundedMap
from common.ports.errors import PortError, TransientError

FIRST_PAUSE_SECONDS: Final = 0.05
LONGEST_PAUSE_SECONDS: Final = 1.0
GROWTH: Final = 1.5
_NAMESPACES: Final = 10_000


@dataclass(slots=True, eq=False)
class _Watch:
    """Of one namespace, while somebody waits."""

    waiting: list[tuple[int, asyncio.Future[None]]] = field(default_factory=list)
    task: asyncio.Task[None] | None = None
    trouble: str = ""
    """Why the last look failed."""


class Freshness:
    """`look` asks the index how far a namespace is shown. `pause` sleeps."""

    def __init__(
        self,
        look: Callable[[str], Awaitable[int | None]],
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._look, self._pause = look, pause
        self._shown: BoundedMap[str, int] = BoundedMap(_NAMESPACES, _NAMESPACES)
        self._watches: dict[str, _Watch] = {}

    def seen(self, namespace: str, lsn: int | None) -> None:
        """Every query's answer tells."""
        shown = max(lsn or 0, self._shown.get(namespace) or 0)
        self._shown.put(namespace, shown, 1)
        if watch := self._watches.get(namespace):
            for wanted, future in watch.waiting:
                if wanted <= shown and not future.done():
                    future.set_result(None)

    async def wait(self, namespace: str, wanted: int, timeout_seconds: float) -> None:
        """Raises TransientError after `timeout_seconds`."""
        if wanted <= (self._shown.get(namespace) or 0):
            return
        watch = self._watches.setdefault(namespace, _Watch())
        waiter = wanted, asyncio.get_running_loop().create_future()
        watch.waiting.append(waiter)
        if watch.task is None:
            watch.task = asyncio.create_task(self._keep_looking(namespace, watch))
        try:
            async with asyncio.timeout(timeout_seconds):
                await waiter[1]
        except TimeoutError:
            why = f" ({watch.trouble})" if watch.trouble else ""
            raise TransientError(
                f"the index does not show a write after {timeout_seconds:g} s{why}"
            ) from None
        finally:
            watch.waiting.remove(waiter)
            if not watch.waiting:
                self._end(namespace, watch)

    async def _keep_looking(self, namespace: str, watch: _Watch) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                self.seen(namespace, await self._look(namespace))
                watch.trouble = ""
            except PortError as error:
                watch.trouble = str(error)
            await self._pause(pause)
            pause = min(pause * GROWTH, LONGEST_PAUSE_SECONDS)

    def _end(self, namespace: str, watch: _Watch) -> None:
        if watch.task is not None:
            watch.task.cancel()
        if self._watches.get(namespace) is watch:
            del self._watches[namespace]
