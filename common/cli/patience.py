"""How long a service that went away is waited for: capped exponential backoff from its last
sign of life, so that a long replay survives any number of restarts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from common.cli.problems import ApiError, is_passing

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
LONGEST_ASKED_SECONDS = 30.0


class Patience:
    """Retries what may pass, until `seconds` went by without progress."""

    def __init__(
        self,
        seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        on_retry: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._sleep = sleep
        self._on_retry = on_retry
        self._alive_at = clock()
        self._fruitless = 0

    def progress(self) -> None:
        """The service gave a sign of life: patience begins anew."""
        self._alive_at = self._clock()
        self._fruitless = 0

    def attempts(self) -> AsyncRetrying:
        """`async for attempt in …: with attempt: …`; the last error is raised as it is."""
        return AsyncRetrying(
            retry=retry_if_exception(is_passing),
            wait=self._pause,
            stop=self._exhausted,
            sleep=self._sleep,
            before_sleep=self._tell,
            reraise=True,
        )

    def _pause(self, state: RetryCallState) -> float:
        pause = FIRST_PAUSE_SECONDS * 2.0 ** min(self._fruitless, 10)
        self._fruitless += 1
        return max(min(pause, LONGEST_PAUSE_SECONDS), _asked_for(state))

    def _exhausted(self, _state: RetryCallState) -> bool:
        return self._clock() - self._alive_at >= self._seconds

    def _tell(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        # Once per interruption: a restart that takes a while is one event for whoever looks on.
        if self._on_retry and error is not None and self._fruitless == 1:
            self._on_retry(error)


def _asked_for(state: RetryCallState) -> float:
    """Seconds for which the service asks to be left alone."""
    error = state.outcome.exception() if state.outcome else None
    if not isinstance(error, ApiError):
        return 0.0
    return min(error.problem.retry_after_seconds, LONGEST_ASKED_SECONDS)
