"""The embedding worker as a process: its lanes run one-thread inferences; drains on SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sys
from collections.abc import Awaitable, Callable

import structlog

from common import telemetry
from common.checks import require_usable
from common.composition import open_ports
from common.model import QueueName
from common.parts import Ports, timers_of
from common.ports.embedder import CalibratingEmbedder, Embedder
from common.ports.errors import PortError
from common.runner import run_until_signal
from common.settings import Settings
from common.starting import exit_code_of
from workers.burst import BurstWait, Patience, places_of
from workers.consumers import consumer_of
from workers.embed import EmbedHandler, sizes_for
from workers.instance import looked_after
from workers.loop import Consumer
from workers.preparation import prepare_unless
from workers.unforeseen import tell

log = structlog.get_logger(__name__)

M_ARENA_MAX = -8
"""mallopt's name for the number of heaps."""


def run(settings: Settings) -> int:
    """Exit code: 0 after a drain; else as `exit_code_of` says."""
    telemetry.configure_logging(settings.log_format, settings.log_level)
    share_heaps()
    return exit_code_of(
        "worker", settings, lambda: run_until_signal(lambda stop: _serve(settings, stop))
    )


def share_heaps() -> None:
    """glibc would give each thread a heap of its own that keeps what it freed: 40 MB in all."""
    with contextlib.suppress(OSError, AttributeError):  # other C libraries do not
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


async def _serve(settings: Settings, stop: asyncio.Event) -> None:
    receiver = os.environ.get("BLOOMWEAVER_RECEIVER", f"embed-{os.getpid()}")
    async with open_ports(settings, receiver=receiver, own_index=False) as ports:
        await require_usable(ports)
        consumer = embed_consumer(ports, stop)
        async with looked_after(settings, consumer, stop):
            await with_model(ports.embedder, stop, lambda: consumer.run(stop))


async def with_model(
    embedder: Embedder, stop: asyncio.Event, work: Callable[[], Awaitable[object]]
) -> None:
    """Await `work` with the model loaded; not at all when `stop` is set before it is."""
    aside = [asyncio.create_task(_watch_parent(stop))]
    try:
        await prepare_unless(stop, embedder)
        if stop.is_set():
            return
        await embedder.load()
        log.info("worker.ready", pid=os.getpid())
        aside.append(asyncio.create_task(_calibrate(embedder)))
        await work()
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


def embed_consumer(ports: Ports, stop: asyncio.Event) -> Consumer:
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
