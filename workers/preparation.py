"""What is done once for a machine before documents are embedded in numbers."""

from __future__ import annotations

import asyncio

import structlog

from common.ports.embedder import Embedder, PreparingEmbedder
from common.ports.errors import PortError
from workers.unforeseen import tell

__all__ = ["prepare", "prepare_unless"]

log = structlog.get_logger(__name__)


async def prepare(embedder: Embedder) -> None:
    """Never fails: what goes wrong costs speed, or is told again by whoever loads the model."""
    if not isinstance(embedder, PreparingEmbedder):
        return
    try:
        await embedder.prepare()
    except PortError as error:
        log.warning("embedder.not_prepared", error=str(error))
    except Exception as error:
        tell("preparation", error)


async def prepare_unless(stop: asyncio.Event, embedder: Embedder) -> None:
    """Prepare, or leave it when `stop` is set meanwhile."""
    tasks = [asyncio.create_task(prepare(embedder)), asyncio.create_task(stop.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
