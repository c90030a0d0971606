"""What the entry points for AWS Lambda share: one event loop and one set of open ports a sandbox.

Lambda gives a sandbox one event at a time and freezes it in between, so everything is opened at the
first event and kept for the next ones: the loop, the connections, a model in memory.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Generic, Protocol, TypeVar

import structlog
from pydantic import ValidationError
from pydantic_settings import SettingsError

from common import telemetry
from common.ports.errors import PermanentError, TransientError
from common.secret_environment import PROCESS, ids_set
from common.secrets import without_read_secrets, without_secrets
from common.settings import Settings, mistakes_in

log = structlog.get_logger(__name__)

T = TypeVar("T")
OpenedT = TypeVar("OpenedT")
Open = Callable[[Settings], AbstractAsyncContextManager[OpenedT]]
Event = dict[str, Any]

_IN_A_SANDBOX: dict[str, Any] = {
    "data_dir": "/tmp/bloomweaver",  # noqa: S108 - all that a function may write to, and its alone
    "vectors_url": "none:",
    "fuse_graph": False,
    "log_format": "json",
    "sqs_settle_wait_seconds": 0.005,  # what is handed back must not wait beyond the margin
}
"""In place of the defaults of a machine; what the environment says goes before them."""
LEAST_MARGIN_SECONDS = 1.0
LARGEST_MARGIN_SECONDS = 10.0


class CannotStartError(Exception):
    """The function is set up wrongly; the message says what to mend. The next event tries again."""


class Context(Protocol):
    """What is used of the object that Lambda passes beside the event."""

    def get_remaining_time_in_millis(self) -> int: ...


def work_seconds(context: Context) -> float:
    """How long an event may be worked on from now: what is left, less what handing back may take.

    To be asked once everything is open: a cold start takes its time from the same event.
    """
    left = context.get_remaining_time_in_millis() / 1000
    margin = min(max(left / 10, LEAST_MARGIN_SECONDS), LARGEST_MARGIN_SECONDS)
    return max(left - margin, 0.0)


def sandbox_settings() -> Settings:
    """Raises CannotStartError."""
    unset = {k: v for k, v in _IN_A_SANDBOX.items() if f"BLOOMWEAVER_{k.upper()}" not in os.environ}
    try:
        return Settings(**unset)
    except (ValidationError, SettingsError) as error:
        raise CannotStartError(without_read_secrets(mistakes_in(error))) from None


async def _read_secrets() -> None:
    """At each start of what is kept, so that a secret that was mended is found. Raises
    PermanentError, TransientError."""
    if ids_set() or PROCESS.read:
        from common.aws.secret_values import read_secrets

        await read_secrets()


class Sandbox(Generic[OpenedT]):
    """Keeps what `open_` yields from the first event on. Events come one at a time."""

    def __init__(self, open_: Open[OpenedT]) -> None:
        self._open = open_
        self._runner: asyncio.Runner | None = None
        self._held = AsyncExitStack()
        self._opened: OpenedT | None = None

    def run(self, work: Callable[[OpenedT], Awaitable[T]]) -> T:
        """What `work` returns. Raises CannotStartError, after a line in the log; then nothing is
        kept, so that the next event finds what was mended since."""
        if self._runner is None:
            self._runner = asyncio.Runner()
            _on_termination(self.close)
        return self._runner.run(self._run(work))

    async def _run(self, work: Callable[[OpenedT], Awaitable[T]]) -> T:
        if self._opened is None:
            self._opened = await self._start()
        return await work(self._opened)

    async def _start(self) -> OpenedT:
        settings: Settings | None = None
        try:
            await _read_secrets()
            settings = sandbox_settings()
            telemetry.configure_logging(settings.log_format, settings.log_level)
            return await self._held.enter_async_context(self._open(settings))
        except (PermanentError, TransientError, CannotStartError, OSError) as error:
            said = str(error)
            line = without_secrets(said, settings) if settings else without_read_secrets(said)
            log.error("function.cannot_start", error=line)
            raise CannotStartError(line) from None

    def close(self) -> None:
        """Everything that is open; the next event opens it anew."""
        runner, self._runner, self._opened = self._runner, None, None
        if runner is not None:
            runner.run(self._held.aclose())
            runner.close()


def _on_termination(close: Callable[[], None]) -> None:
    """Lambda ends a sandbox with SIGTERM where an extension asks for it, and without any signal
    otherwise: nothing depends on it, but connections are closed rather than cut."""
    main = threading.current_thread() is threading.main_thread()
    if "AWS_LAMBDA_FUNCTION_NAME" not in os.environ or not main:
        return

    def end(_number: int, _frame: object) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            close()
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, end)
