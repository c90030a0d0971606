"""The embedding worker as a process: its lanes run one-thread inferences; drains on SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sys

import structlog

from common import telemetry
from common.composition import open_ports
from common.model import QueueName
from common.parts import Ports, timers_of
from common.ports.embedder import CalibratingEmbedder, Embedder
from common.ports.errors import PermanentError, PortError
from common.runner import run_until_signal
from common.settings import Settings
from workers.burst import BurstWait, Patience, places_of
from workers.consumers import consumer_of
from workers.embed import EmbedHandler, sizes_for
from workers.loop import Consumer
from workers.preparation import prepare_unless
from workers.unforeseen import tell

log = structlog.get_logger(__name__)

M_ARENA_MAX = -8
"""mallopt's name for the number of heaps."""


def run(settings: Settings) -> int:
    """Exit code: 0 after a drain, 2 when the model or the settings are wrong."""
    telemetry.configure_logging(settings.log_format, settings.log_level)
    _share_heaps()
    try:
        return run_until_signal(lambda stop: _serve(settings, stop))
    except PermanentError as error:
        log.error("worker.cannot_start", error=str(error))
        return 2


def _share_heaps() -> None:
    """glibc would give each thread a heap of its own that keeps what it freed: 40 MB in all."""
    with contextlib.suppress(OSError, AttributeError):  # other C libraries do not
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


async def _serve(settings: Settings, stop: asyncio.Event) -> None:
    receiver = os.environ.get("BLOOMWEAVER_RECEIVER", f"embed-{os.getpid()}")
    async with open_ports(settings, receiver=receiver, own_index=False) as ports:
        aside = [asyncio.create_task(_watch_parent(stop))]
        try:
            await prepare_unless(stop, ports.embedder)
            if stop.is_set():
                return
            await ports.embedder.load()
            log.info("worker.ready", pid=os.getpid())
            aside.append(asyncio.create_task(_calibrate(ports.embedder)))
            await _consumer(ports, stop).run(stop)
        finally:
            for task in aside:
                task.cancel()
            await asyncio.gather(*aside, return_exceptions=True)


async def _calibrate(embedder: Embedder) -> None:
    """Without it a worker goes on with the batches that suit most machines."""
    if not isinstance(embedder, CalibratingEmbedder):
        return
    try:
        await embedder.calibrate()
    except (PortError, OSError) as error:
        log.warning("worker.not_calibrated", error=str(error))
    except Exception as error:
        tell("calibration", error)


def _consumer(ports: Ports, stop: asyncio.Event) -> Consumer:
    settings = ports.settings
    handler = EmbedHandler(
        registry=ports.registry,
        blobs=ports.blobs,
        queue=ports.queue,
        embedder=ports.embedder,
        vectors=ports.vectors,
        sizes=sizes_for(
            settings.chunk_target_tokens, settings.chunk_max_tokens, ports.profile.max_tokens
        ),
        timers=timers_of(settings),
        claim_seconds=settings.visibility_timeout_seconds,
        document_timeout_seconds=settings.document_timeout_seconds,
        bursts=BurstWait(
            Patience(settings.burst_quiet_seconds, settings.burst_wait_seconds),
            places=places_of(settings.embed_concurrency),
            stop=stop,
        ),
    )
    return consumer_of(ports, QueueName.CHANGE, handler, settings.embed_concurrency)


async def _watch_parent(stop: asyncio.Event) -> None:
    """A fleet's worker must not outlive the fleet: its standard input ends when the parent dies."""
    if "BLOOMWEAVER_RECEIVER" not in os.environ:
        return
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    log.warning("worker.parent_gone")
    stop.set()
