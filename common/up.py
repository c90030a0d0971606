"""`bloomweaver up`: the whole product in one process and its embedding workers.

The composition root of one machine: it owns the data folder and the embedded index, runs the
webhook, the apply consumers, the sweeper and the fleet, and drains them in that order's reverse.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Sequence
from importlib.metadata import entry_points

import structlog

from common import telemetry
from common.checks import require_usable
from common.composition import open_ports
from common.door import require_a_key_if_needed
from common.parts import Part, Ports
from common.ports.queue import ReclaimingQueue
from common.runner import run_until_signal
from common.settings import Settings
from common.starting import exit_code_of
from common.storage.data_folder import DataFolder

log = structlog.get_logger(__name__)

START_ORDER = ("consumers", "fleet", "webhook")
"""What answers users starts last and stops first."""


class PartFailedError(Exception):
    """A part of the process ended without being asked to."""


def run(settings: Settings) -> int:
    """Exit code: 0 after a drain, 1 when a part failed; else as `exit_code_of` says."""
    telemetry.configure_logging(settings.log_format, settings.log_level)
    return exit_code_of("up", settings, lambda: _run(settings))


def _run(settings: Settings) -> int:
    try:
        with DataFolder(settings.data_dir).own():
            return run_until_signal(lambda stop: _serve(settings, stop))
    except PartFailedError as error:
        log.error("up.failed", error=str(error), exc_info=error)
        return 1


async def _serve(settings: Settings, stop: asyncio.Event) -> None:
    async with open_ports(settings, receiver=f"up-{os.getpid()}", own_index=True) as ports:
        await require_usable(ports)
        # Before workers take up what waits: it would start, and end at the webhook.
        await require_a_key_if_needed(settings, receiver=f"up-{os.getpid()}")
        await _recover(ports)
        parts = _parts(ports)
        async with _running(parts):
            await asyncio.to_thread(_greet, settings)
            await _until(stop, [task for part in parts for task in part.tasks()])
            log.info("up.draining")
    log.info("up.stopped")


def _greet(settings: Settings) -> None:
    """On standard output, for people; logs go to standard error."""
    url = (settings.data_dir / "run" / "address").read_text()
    sys.stdout.write(
        f"BloomWeaver is up (Ctrl-C drains and stops)\n"
        f"  API       {url}/v1   described at {url}/openapi.json\n"
        f"  metrics   {url}/metrics   health {url}/healthz, {url}/readyz\n"
        f"  data      {settings.data_dir.absolute()}\n"
    )
    sys.stdout.flush()


async def _until(stop: asyncio.Event, tasks: Sequence[asyncio.Task[None]]) -> None:
    """Raises PartFailedError when a part ends by itself: half a service helps nobody."""
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done() and not stop.is_set():
                cause = None if task.cancelled() else task.exception()
                raise PartFailedError(f"{task.get_name()} ended: {cause!r}") from cause
    finally:
        stopped.cancel()


async def _recover(ports: Ports) -> None:
    """The owner of the data folder died with leases in hand: nobody works on them any more.

    Their receive counts are refunded: it was this machine that died, not the message's doing.
    The queue stops refunding a message that was there each time, so that a poison ends.
    """
    if isinstance(ports.queue, ReclaimingQueue):
        freed = await ports.queue.reclaim(refund=True)
        if freed:
            log.info("up.recovered", messages=freed)


def _parts(ports: Ports) -> Sequence[Part]:
    found = {entry.name: entry for entry in entry_points(group="bloomweaver.parts")}
    return [found[name].load()(ports) for name in START_ORDER]


@contextlib.asynccontextmanager
async def _running(parts: Sequence[Part]) -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        for part in parts:
            # Before it starts: one that fails half-way may be answering requests by then.
            stack.push_async_callback(part.stop)
            await part.start()
        yield
