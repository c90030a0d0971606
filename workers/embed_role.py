"""The embedding worker as a process: one intra-op thread, drains on SIGTERM."""

from __future__ import annotations

import asyncio
import os
import sys

import structlog

from common import telemetry
from common.composition import open_ports
from common.model import QueueName
from common.parts import Ports, timers_of
from common.ports.errors import PermanentError
from common.runner import run_until_signal
from common.settings import Settings
from workers.consumers import consumer_of
from workers.embed import EmbedHandler, sizes_for
from workers.loop import Consumer

log = structlog.get_logger(__name__)


def run(settings: Settings) -> int:
    """Exit code: 0 after a drain, 2 when the model or the settings are wrong."""
    telemetry.configure_logging(settings.log_format, settings.log_level)
    try:
        return run_until_signal(lambda stop: _serve(settings, stop))
    except PermanentError as error:
        log.error("worker.cannot_start", error=str(error))
        return 2


async def _serve(settings: Settings, stop: asyncio.Event) -> None:
    receiver = os.environ.get("BLOOMWEAVER_RECEIVER", f"embed-{os.getpid()}")
    async with open_ports(settings, receiver=receiver, own_index=False) as ports:
        orphaned = asyncio.create_task(_watch_parent(stop))
        try:
            await ports.embedder.load()
            log.info("worker.ready", pid=os.getpid())
            await _consumer(ports).run(stop)
        finally:
            orphaned.cancel()


def _consumer(ports: Ports) -> Consumer:
    settings = ports.settings
    handler = EmbedHandler(
        registry=ports.registry,
        blobs=ports.blobs,
        queue=ports.queue,
        embedder=ports.embedder,
        sizes=sizes_for(
            settings.chunk_target_tokens, settings.chunk_max_tokens, ports.profile.max_tokens
        ),
        timers=timers_of(settings),
        claim_seconds=settings.visibility_timeout_seconds,
        document_timeout_seconds=settings.document_timeout_seconds,
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
