"""`bloomweaver up` as a child process, for the demo."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import deque
from contextlib import suppress
from pathlib import Path

from common.cli.client import connect
from common.cli.configuration import variable
from common.cli.problems import CommandError
from common.settings import Settings

START_WITHIN_SECONDS = 60.0
STOP_WITHIN_SECONDS = 60.0
LOOK_EVERY_SECONDS = 0.05
LAST_LINES = 20


class ServiceProcess:
    """Starts a service on an empty folder and a free port, and stops it. Its log is a file."""

    def __init__(self, data_dir: Path, log: Path) -> None:
        self._data_dir = data_dir
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> str:
        """Returns its address once it is ready. Raises CommandError."""
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C in the terminal reaches the demo only, which then
            # stops the service in order.
            self._process = await asyncio.create_subprocess_exec(
                *self._command(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=child_environment(),
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(START_WITHIN_SECONDS):
                return await self._ready()
        except TimeoutError:
            raise CommandError(f"not ready within {START_WITHIN_SECONDS:g} s") from None

    async def stop(self) -> None:
        """SIGTERM, and wait for the drain. Raises CommandError unless it ends with 0."""
        process = self._running()
        process.terminate()
        try:
            async with asyncio.timeout(STOP_WITHIN_SECONDS):
                code = await process.wait()
        except TimeoutError:
            raise CommandError(f"did not stop within {STOP_WITHIN_SECONDS:g} s") from None
        if code != 0:
            raise CommandError(f"the service ended with {code} when it was asked to stop")

    async def kill(self) -> None:
        """Leave nothing behind, whatever happened: the process and the workers it started."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with suppress(CommandError):
            await self.stop()
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    def last_lines(self) -> str:
        try:
            with self._log.open(encoding="utf-8", errors="replace") as log:
                return "".join(deque(log, LAST_LINES)).rstrip()
        except OSError as error:
            return f"(no log: {error})"

    def _command(self) -> list[str]:
        return [
            sys.executable, "-m", "common.cli.main", "up",
            "--data-dir", str(self._data_dir), "--host", "127.0.0.1", "--port", "0",
        ]  # fmt: skip

    async def _ready(self) -> str:
        address = self._data_dir / "run" / "address"
        while not (url := _first_line(address)):
            await self._pause()
        async with connect(url) as client:
            while not await client.ready():
                await self._pause()
        return url

    async def _pause(self) -> None:
        code = self._running().returncode
        if code is not None:
            raise CommandError(f"the service ended with {code} before it was ready")
        await asyncio.sleep(LOOK_EVERY_SECONDS)

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError("start() comes first")
        return self._process


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").partition("\n")[0].strip()
    except OSError:
        return ""


def child_environment() -> dict[str, str]:
    """With the embedded adapters, whatever the environment or a .env file says: a demo must never
    write to the queue or the index that somebody uses."""
    embedded = {
        variable(name): str(field.get_default(call_default_factory=True, validated_data={}))
        for name, field in Settings.model_fields.items()
        if name.endswith("_url")
    }
    open_here = {variable("auth"): "auto", variable("oidc_issuers"): "[]"}
    return {**os.environ, **embedded, **open_here}
