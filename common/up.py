"""`bloomweaver up`: the whole product in one process and its embedding workers.

The composition root of one machine: it owns the data folder and the embedded index, runs the
webhook, the apply consumers, the sweeper and the fleet, and drains them in that order's reverse.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from importlib.metadata import entry_points

import structlog

from common import telemetry
from common.composition import open_ports
from common.parts import Part, Ports
from common.ports.errors import PermanentError
from common.ports.queue import ReclaimingQueue
from common.runner import run_until_signal
from common.settings import Settings
from common.storage.data_folder import DataFolder

log = structlog.get_logger(__name__)

START_ORDER = ("consumers", "fleet", "webhook")
"""What answers users starts last and stops first."""


def run(settings: Settings) -> int:
    """Exit code: 0 after a drain, 2 when the data folder or the settings cannot be used."""
    telemetry.configure_logging(settings.log_format, settings.log_level)
    try:
        folder = DataFolder(settings.data_dir)
        with folder.own():
            return run_until_signal(lambda stop: _serve(settings, stop))
    except PermanentError as error:
        log.error("up.cannot_start", error=str(error))
        return 2


async def _serve(settings: Settings, stop: asyncio.Event) -> None:
    async with open_ports(settings, receiver=f"up-{os.getpid()}", own_index=True) as ports:
        await _recover(ports)
        async with _running(_parts(ports)):
            await stop.wait()
            log.info("up.draining")
    log.info("up.stopped")


async def _recover(ports: Ports) -> None:
    """The owner of the data folder died with leases in hand: nobody works on them any more.

    Their receive counts are refunded: it was this machine that died, not the message's doing.
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
            await part.start()
            stack.push_async_callback(part.stop)
        yield
