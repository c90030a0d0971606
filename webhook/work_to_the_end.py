"""Work that goes on to its end whether or not who asked for it waits.

Clients go away while they wait, and some never ask again: what was begun must not end halfway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class WorkToTheEnd(Generic[T]):
    """Of this process, each under a name of its own."""

    _tasks: dict[object, asyncio.Task[T]] = field(default_factory=dict)

    def __len__(self) -> int:
        """How much is under way."""
        return len(self._tasks)

    def is_under_way(self, name: object) -> bool:
        return name in self._tasks

    async def result(self, name: object, work: Callable[[], Awaitable[T]]) -> T:
        """Of `work`, or of what is under way under this name. Raises what it raises. It goes on
        when who awaits this is cancelled."""
        task = self._tasks.get(name)
        if task is None:
            task = self._tasks[name] = asyncio.create_task(_awaited(work), name="to-the-end")
            task.add_done_callback(lambda done: self._forget(name, done))
        return await asyncio.shield(task)

    def _forget(self, name: object, task: asyncio.Task[T]) -> None:
        del self._tasks[name]
        if not task.cancelled():
            task.exception()  # nobody may be left to hear of it

    async def close(self, *, wait_seconds: float) -> None:
        """Once all is done. What takes longer ends in between, as in a crash."""
        tasks = list(self._tasks.values())
        if not tasks:
            return
        _, left = await asyncio.wait(tasks, timeout=wait_seconds)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def _awaited(work: Callable[[], Awaitable[T]]) -> T:
    return await work()
