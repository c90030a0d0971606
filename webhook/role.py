"""The webhook as a part of `up`, and as a process of its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import structlog
from aiohttp import web

from common import telemetry
from common.composition import open_ports
from common.parts import Ports, timers_of
from common.ports.errors import PermanentError
from common.runner import run_until_signal
from common.settings import Settings
from webhook.accept import Acceptor
from webhook.admission import Admission, limits_of
from webhook.app import build_app, make_runner
from webhook.search import Searcher
from webhook.search_vectors import cached_queries
from webhook.services import Services

log = structlog.get_logger(__name__)

NO_EMBEDDED_INDEX = (
    "this process cannot search: the embedded index lives in the process that owns it, which is "
    "`bloomweaver up`; send searches there"
)


class WebhookPart:
    """Serves HTTP. Searches are answered where `ports.index` is open."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._runner: web.AppRunner | None = None
        self._model: asyncio.Task[None] | None = None
        self._admission: Admission | None = None

    async def start(self) -> None:
        settings = self._ports.settings
        if self._ports.index is not None:
            self._model = asyncio.create_task(self._ports.embedder.load(), name="load-model")
        self._admission = admission_of(self._ports)
        app = build_app(_services(self._ports, self._admission, self._unready))
        self._runner = make_runner(app, shutdown_seconds=settings.drain_timeout_seconds)
        await self._runner.setup()
        await web.TCPSite(self._runner, settings.host, settings.port, backlog=512).start()
        address = _address(self._runner)
        await asyncio.to_thread(_write_address, settings.data_dir / "run" / "address", address)
        log.info("webhook.listening", url=address)

    def tasks(self) -> list[asyncio.Task[None]]:
        return []  # aiohttp answers each request in a task of its own

    async def stop(self) -> None:
        if self._runner:
            await self._runner.cleanup()
        if self._admission:
            await self._admission.close()
        if self._model:
            self._model.cancel()
            await asyncio.gather(self._model, return_exceptions=True)

    def _unready(self) -> list[str]:
        model = self._model
        if model is None:
            return []
        if not model.done():
            return ["the embedding model is being loaded"]
        if model.cancelled() or model.exception() is not None:
            return [f"the embedding model cannot be loaded: {model.exception()}"]
        return []


def admission_of(ports: Ports) -> Admission:
    stores = [ports.registry, ports.blobs, ports.queue, ports.index]
    return Admission(ports.queue, stores, limits_of(ports.settings))


def _services(ports: Ports, admission: Admission, unready: Callable[[], list[str]]) -> Services:
    settings = ports.settings
    acceptor = Acceptor(
        registry=ports.registry,
        blobs=ports.blobs,
        queue=ports.queue,
        profile=ports.profile,
        timers=timers_of(settings),
    )
    searcher = None
    if ports.index is not None:
        embedder = cached_queries(ports.embedder, entries=settings.query_cache_entries)
        searcher = Searcher(ports.index, ports.registry, embedder)
    return Services(
        settings=settings,
        registry=ports.registry,
        blobs=ports.blobs,
        queue=ports.queue,
        profile=ports.profile,
        acceptor=acceptor,
        admission=admission,
        searcher=searcher,
        why_no_search="" if searcher else NO_EMBEDDED_INDEX,
        fleet=ports.fleet_status,
        unready=unready,
        scrub=ports.scrub,
    )


def _address(runner: web.AppRunner) -> str:
    host, port = runner.addresses[0][:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _write_address(path: Path, address: str) -> None:
    """Whole or not at all: `demo` and the tests read it while it is being written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(address)
    temporary.replace(path)


def run(settings: Settings) -> int:
    """Exit code: 0 after a drain, 1 when the machine refuses, 2 when the settings are wrong."""
    telemetry.configure_logging(settings.log_format, settings.log_level)
    try:
        return run_until_signal(lambda stop: _serve(settings, stop))
    except PermanentError as error:
        log.error("webhook.cannot_start", error=str(error))
        return 2
    except OSError as error:  # a full disk, a port in use
        log.error("webhook.cannot_start", error=f"{error.strerror or error} {error.filename or ''}")
        return 1


async def _serve(settings: Settings, stop: asyncio.Event) -> None:
    embedded = settings.index_url.startswith("qdrant-edge:")
    receiver = f"webhook-{os.getpid()}"
    async with open_ports(settings, receiver=receiver, own_index=not embedded) as ports:
        part = WebhookPart(ports)
        try:
            await part.start()
            await stop.wait()
        finally:
            await part.stop()
