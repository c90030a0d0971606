"""How long a request is tried again: capped exponential backoff, and what the service asks for."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from common.client.errors import ApiError, NoAnswerInTimeError, is_passing

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
LONGEST_ASKED_SECONDS = 30.0


class Patience:
    """Retries what may pass, until `seconds` went by without progress: a long feed survives any
    number of restarts of the service."""

    def __init__(
        self,
        seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        on_retry: Callable[[BaseException], None] | None = None,
    ) -> None:
        """`on_retry` is told the error at the first retry of each interruption."""
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

    def attempts(self, passes: Callable[[BaseException], bool] = is_passing) -> AsyncRetrying:
        """`async for attempt in …: with attempt: …`; the last error is raised as it is. `passes`:
        after which errors another attempt makes sense."""
        return AsyncRetrying(
            retry=retry_if_exception(passes),
            wait=self._pause,
            stop=self._exhausted,
            sleep=self._sleep,
            before_sleep=self._tell,
            reraise=True,
        )

    def _pause(self, state: RetryCallState) -> float:
        pause = FIRST_PAUSE_SECONDS * 2.0 ** min(self._fruitless, 10)
        self._fruitless += 1
        return max(min(pause, LONGEST_PAUSE_SECONDS), min(_asked_for(state), LONGEST_ASKED_SECONDS))

    def _exhausted(self, _state: RetryCallState) -> bool:
        return self._clock() - self._alive_at >= self._seconds

    def _tell(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        # Once per interruption: a restart that takes a while is one event for whoever looks on.
        if self._on_retry and error is not None and self._fruitless == 1:
            self._on_retry(error)


class Deadline(Patience):
    """For one request: nothing is tried that would begin after `seconds`, so that who is asked to
    come back later than that hears it at once. But a first attempt that gets no answer is tried
    once more, however long it took: its own deadline may be as long as `seconds`. Pauses vary, so
    that many clients that were sent away together do not come back together."""

    def _pause(self, state: RetryCallState) -> float:
        longest = super()._pause(state)
        return max(longest * random.uniform(0.5, 1.0), _asked_for(state))  # noqa: S311 - no secret

    def _exhausted(self, state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        if state.attempt_number == 1 and isinstance(error, NoAnswerInTimeError):
            return self._seconds <= 0
        return self._clock() - self._alive_at + state.upcoming_sleep >= self._seconds


def _asked_for(state: RetryCallState) -> float:
    """Seconds for which the service asks to be left alone."""
    error = state.outcome.exception() if state.outcome else None
    return error.problem.retry_after_seconds if isinstance(error, ApiError) else 0.0
