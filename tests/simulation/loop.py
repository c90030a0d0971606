"""An event loop in which time is a number and every choice of order is drawn from a seed.

Tasks belong to simulated processes. Within one process callbacks run in the order in which they
became ready, as in asyncio; which process goes next is drawn. A process can be paused (as by
SIGSTOP) or killed (as by SIGKILL: not even its `finally` blocks run). When no callback is ready,
time jumps to the next timer.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

BURIALS = 20
BURIAL_STEPS = 100_000

_Entry = tuple[Callable[..., object], tuple[Any, ...], contextvars.Context]


class Process:
    """What lives and dies together. `skew_seconds` is how far its wall clock is off."""

    __slots__ = ("alive", "context", "name", "paused", "ready", "skew_seconds", "slept_seconds")

    def __init__(self, name: str, skew_seconds: float = 0.0) -> None:
        self.name = name
        self.skew_seconds = skew_seconds
        self.slept_seconds = 0.0
        self.ready: deque[_Entry] = deque()
        self.paused = False
        self.alive = True
        self.context = contextvars.copy_context()
        self.context.run(_PROCESS.set, self)


_PROCESS: contextvars.ContextVar[Process] = contextvars.ContextVar("process")


def current_process() -> Process:
    return _PROCESS.get()


class _Timer:
    """What call_at returns: can be cancelled, sorts by time and then by order of its making."""

    __slots__ = ("args", "callback", "cancelled", "context")

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context,
    ) -> None:
        self.callback, self.args, self.context = callback, args, context
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def fire(self) -> None:
        """It may have been cancelled since it became due."""
        if not self.cancelled:
            self.callback(*self.args)


class SimulatedLoop(asyncio.AbstractEventLoop):
    """Only what asyncio's tasks, futures, timeouts, sleeps and threads need.

    A function given to a thread runs at once and whole, and its result comes later: threads
    share nothing in this project, so only the moment of their end matters.
    """

    def __init__(self, drawn: random.Random) -> None:
        self._random = drawn.random
        self._now = 0.0
        self._timers: list[tuple[float, int, _Timer]] = []
        self._sequence = 0
        self._runnable: list[Process] = []
        self._tasks: list[tuple[asyncio.Task[Any], Process]] = []
        self.steps = 0
        self.tokens = itertools.count(1)
        """In the place of random ids."""
        self._stopped = False
        self.errors: list[BaseException] = []
        """What no task awaited: a defect, or a process that would have ended."""

    # --- running ----------------------------------------------------------------------------

    def run_until_stopped(self, *, until: float, steps: int) -> bool:
        """Turn until stop(); False when `until` (seconds) or the number of steps came first."""
        self._stopped = False
        asyncio.events._set_running_loop(self)
        try:
            return self._run(until, self.steps + steps)
        finally:
            asyncio.events._set_running_loop(None)

    def run_until(self, done: Callable[[], bool], *, until: float, steps: int) -> bool:
        """Turn until `done()`, which is asked before every step; whether it came to that."""
        while steps and not done():
            before = self.steps
            self.run_until_stopped(until=until, steps=1)
            if self.steps == before:
                break
            steps -= 1
        return done()

    def stop(self) -> None:
        self._stopped = True

    def _run(self, until: float, last_step: int) -> bool:
        """One callback of one process at a time; when none is ready, time passes."""
        runnable, drawn = self._runnable, self._random
        while not self._stopped and self.steps < last_step:
            count = len(runnable)
            if not count:
                if not self._pass_time(until):
                    return False
                continue
            place = int(drawn() * count) if count > 1 else 0
            process = runnable[place]
            callback, args, context = process.ready.popleft()
            if not process.ready:
                runnable[place] = runnable[-1]
                runnable.pop()
            self.steps += 1
            context.run(callback, *args)
        return self._stopped

    def _pass_time(self, until: float) -> bool:
        timers = self._timers
        while timers and timers[0][2].cancelled:
            heapq.heappop(timers)
        if not timers or timers[0][0] > until:
            return False
        self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            timer = heapq.heappop(timers)[2]
            if not timer.cancelled:
                self.call_soon(timer.fire, context=timer.context)
        return True

    # --- processes --------------------------------------------------------------------------

    def spawn(self, process: Process, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task in `process`, from wherever."""
        return process.context.copy().run(self.create_task, coroutine)

    def pause(self, process: Process) -> None:
        process.paused = True
        self._park(process)

    def resume(self, process: Process) -> None:
        if process.paused:
            process.paused = False
            if process.ready and process.alive:
                self._runnable.append(process)

    def kill(self, process: Process) -> None:
        """Nothing of it runs again; what it had sent is on its way all the same."""
        process.alive = False
        self._park(process)

    def _park(self, process: Process) -> None:
        if process in self._runnable:
            self._runnable.remove(process)

    def bury(self) -> None:
        """Cancel every task that is left and let it end, those of killed processes too."""
        left: list[tuple[asyncio.Task[Any], Process]] = []
        for _ in range(BURIALS):
            left = [(task, process) for task, process in self._tasks if not task.done()]
            if not left:
                return
            for task, process in left:
                process.alive = True
                process.paused = False
                if process.ready and process not in self._runnable:
                    self._runnable.append(process)
                task.cancel()
            self.run_until_stopped(until=self._now, steps=BURIAL_STEPS)
        raise AssertionError(f"tasks that cannot be cancelled: {left}")

    # --- what asyncio calls -----------------------------------------------------------------

    def time(self) -> float:
        return self._now

    def call_soon(  # type: ignore[override]
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> None:
        if context is None:
            context = contextvars.copy_context()
        process = context[_PROCESS]
        ready = process.ready
        if not ready and process.alive and not process.paused:
            self._runnable.append(process)
        ready.append((callback, args, context))

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> _Timer:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> _Timer:
        timer = _Timer(callback, args, context or contextvars.copy_context())
        self._sequence += 1
        heapq.heappush(self._timers, (when, self._sequence, timer))
        return timer

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, name: object = None, context: Any = None
    ) -> asyncio.Task[T]:
        task = asyncio.Task(coro, loop=self, name="t", context=context)
        self._tasks.append((task, context[_PROCESS] if context else _PROCESS.get()))
        return task

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        future = self.create_future()
        try:
            result = func(*args)
        except Exception as error:
            self.call_soon(_fail, future, error)
        else:
            self.call_soon(_finish, future, result)
        return future

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.errors.append(error or RuntimeError(str(context.get("message"))))


def _finish(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[T], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
