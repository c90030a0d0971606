"""An embedding worker that also serves embeddings over HTTP, or that does nothing else."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

from common import telemetry
from common.checks import require_usable
from common.composition import connect, open_ports
from common.ports.embedder import Embedder
from common.runner import run_until_signal
from common.settings import Settings
from common.starting import exit_code_of
from common.variants import own_variant
from workers.embed_role import embed_consumer, share_heaps, with_model
from workers.instance import looked_after
from workers.serve import EmbeddingServer


def run(settings: Settings) -> int:
    """Exit code: 0 after a drain; else as `exit_code_of` says."""
    telemetry.configure_logging(settings.log_format, settings.log_level)
    share_heaps()
    serve = _beside_the_queue if settings.serve_queue else _alone
    return exit_code_of(
        "serve", settings, lambda: run_until_signal(lambda stop: serve(settings, stop))
    )


async def _alone(settings: Settings, stop: asyncio.Event) -> None:
    """Needs neither queue nor registry, and opens none."""
    embedder: Embedder = connect("embedder", own_variant(settings).embedder_url, settings, "serve")
    try:
        await with_model(embedder, stop, lambda: _serve(embedder, settings, stop, stop.wait))
    finally:
        await embedder.close()


async def _beside_the_queue(settings: Settings, stop: asyncio.Event) -> None:
    receiver = f"serve-{os.getpid()}"
    async with open_ports(settings, receiver=receiver, own_index=False) as ports:
        await require_usable(ports)
        embedder, consumer = ports.embedder, embed_consumer(ports, stop)

        def work() -> Awaitable[None]:
            return consumer.run(stop)

        async with looked_after(settings, consumer, stop):
            await with_model(embedder, stop, lambda: _serve(embedder, settings, stop, work))


async def _serve(
    embedder: Embedder,
    settings: Settings,
    stop: asyncio.Event,
    work: Callable[[], Awaitable[object]],
) -> None:
    """Requests and `work` drain side by side once `stop` is set."""
    server = EmbeddingServer(embedder, settings)
    closing = asyncio.create_task(server.close_at(stop))
    try:
        await server.start()
        await work()
        await closing
    finally:
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        await server.close()
