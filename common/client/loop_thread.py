"""An event loop in a thread of its own, for who has none or whose own is busy."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """Begins at once, ends with `stop`. A daemon: it keeps no program from ending."""

    def __init__(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._last = last
        self._stopping = False
        # Whom the garbage collector has call `stop` may be within `run`: the lock lets it in.
        self._lock = threading.RLock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="bloomweaver-client", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Its result, once it is there; raises what it raises. What interrupts the caller, Ctrl-C
        say, cancels it. RuntimeError: the client is closed, or was meanwhile."""
        future = self._begun(work)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise RuntimeError("the client was closed meanwhile") from None
        except BaseException:
            future.cancel()
            raise

    def _begun(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """What is begun before the loop is told to stop is ended by it; nothing is begun after."""
        inside = threading.current_thread() is self._thread
        with self._lock:
            if inside or self._stopping or not self._thread.is_alive():
                work.close()
                raise RuntimeError("the client is closed, or called from one of its own callbacks")
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def stop(self) -> None:
        """Ends what is under way, and does `last`. Safe to call again, and from any thread: whom
        the garbage collector calls cannot choose."""
        with self._lock:
            if not self._stopping:
                self._stopping = True
                self._loop.call_soon_threadsafe(self._loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._end()

    def _end(self) -> None:
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.run_until_complete(self._last())
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
