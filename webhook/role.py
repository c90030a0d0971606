"""The webhook as a part of `up`, and as a process of its own."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
from aiohttp import web

from common import telemetry
from common.checks import require_usable
from common.composition import open_ports
from common.model import EmbeddingProfile
from common.parts import Ports, timers_of
from common.ports.embedder import NoModelError
from common.ports.index import Index
from common.runner import run_until_signal
from common.settings import Settings
from common.starting import exit_code_of
from common.variants import variant_of
from webhook.accept import Acceptor
from webhook.admission import Admission, limits_of
from webhook.app import build_app, make_runner
from webhook.search import Searcher
from webhook.search_vectors import QueryEmbedder, cached_queries
from webhook.services import Services

log = structlog.get_logger(__name__)

NO_EMBEDDED_INDEX = (
    "this process cannot search: the embedded index lives in the process that owns it, which is "
    "`bloomweaver up`; send searches there"
)

Listen = Callable[[web.AppRunner], Awaitable[None]]
"""Opens what requests come in by."""


class WebhookPart:
    """Serves HTTP. Searches are answered where `ports.index` is open.

    `listen` None: on the settings' address and port. `most_wait_seconds` says how long a request
    may wait for a document just now, whatever it asks for.
    """

    def __init__(
        self,
        ports: Ports,
        *,
        listen: Listen | None = None,
        most_wait_seconds: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self._ports = ports
        self._listen = listen or self._listen_on_tcp
        self._most_wait_seconds = most_wait_seconds
        self._runner: web.AppRunner | None = None
        self._model: asyncio.Task[None] | None = None
        self._admission: Admission | None = None

    async def start(self) -> None:
        settings = self._ports.settings
        if self._ports.index is not None:
            self._model = asyncio.create_task(load_models(self._ports), name="load-model")
        self._admission = admission_of(self._ports)
        services = services_of(self._ports, self._admission, self._unready, self._most_wait_seconds)
        self._runner = make_runner(
            build_app(services), shutdown_seconds=settings.drain_timeout_seconds
        )
        await self._runner.setup()
        await self._listen(self._runner)

    async def _listen_on_tcp(self, runner: web.AppRunner) -> None:
        settings = self._ports.settings
        await web.TCPSite(runner, settings.host, settings.port, backlog=512).start()
        address = _address(runner)
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


async def load_models(ports: Ports) -> None:
    """Of all variants. One that is known by its profile only is searched elsewhere, and the changes
    of its namespaces are accepted here."""
    for embedder in {id(e): e for e in (ports.embedder, *ports.variants.values())}.values():
        try:
            await embedder.load()
        except NoModelError as error:
            log.info("webhook.searches_elsewhere", why=str(error))


def admission_of(ports: Ports) -> Admission:
    stores = [ports.registry, ports.blobs, ports.queue, ports.index]
    return Admission(ports.queue, stores, limits_of(ports.settings))


def acceptor_of(ports: Ports) -> Acceptor:
    """Binds each namespace to the profile of its embedding variant."""
    settings = ports.settings
    profiles = {name: embedder.profile for name, embedder in ports.variants.items()}

    def profile_of(namespace: str) -> EmbeddingProfile:
        return profiles.get(variant_of(settings, namespace).name, ports.profile)

    return Acceptor(
        registry=ports.registry,
        blobs=ports.blobs,
        queue=ports.queue,
        profile=ports.profile,
        timers=timers_of(settings),
        profile_of=profile_of,
    )


def services_of(
    ports: Ports,
    admission: Admission,
    unready: Callable[[], list[str]],
    most_wait_seconds: Callable[[], float],
) -> Services:
    settings = ports.settings
    acceptor = acceptor_of(ports)
    searcher = _searcher(ports, ports.index) if ports.index is not None else None
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
        most_wait_seconds=most_wait_seconds,
    )


def _searcher(ports: Ports, index: Index) -> Searcher:
    entries = ports.settings.query_cache_entries
    embedder = cached_queries(ports.embedder, entries=entries)
    variants = {name: cached_queries(one, entries=entries) for name, one in ports.variants.items()}

    def embedder_of(namespace: str) -> QueryEmbedder:
        return variants.get(variant_of(ports.settings, namespace).name, embedder)

    return Searcher(index, ports.registry, embedder, blobs=ports.blobs, embedder_of=embedder_of)


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
    """Exit code: 0 after a drain; else as `exit_code_of` says."""
    telemetry.configure_logging(settings.log_format, settings.log_level)
    return exit_code_of(
        "webhook", settings, lambda: run_until_signal(lambda stop: _serve(settings, stop))
    )


async def _serve(settings: Settings, stop: asyncio.Event) -> None:
    embedded = settings.index_url.startswith("qdrant-edge:")
    receiver = f"webhook-{os.getpid()}"
    async with open_ports(settings, receiver=receiver, own_index=not embedded) as ports:
        await require_usable(ports)
        part = WebhookPart(ports)
        try:
            await part.start()
            await stop.wait()
        finally:
            await part.stop()
