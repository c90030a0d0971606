"""The webhook as a part of `up`, and as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import structlog
from aiohttp import web

from common import telemetry
from common.checks import require_usable
from common.composition import open_ports
from common.door import is_loopback
from common.model import EmbeddingProfile
from common.parts import Ports, timers_of
from common.ports.embedder import NoModelError
from common.ports.index import Index
from common.ports.keys import KeyStore
from common.runner import run_until_signal
from common.settings import Settings
from common.starting import exit_code_of
from common.variants import variant_of
from webhook.accept import Acceptor
from webhook.admission import Admission, limits_of
from webhook.app import build_app, make_runner
from webhook.authentication import (
    Authenticate,
    Doorman,
    Verifier,
    authenticate_of,
)
from webhook.key_verifier import KeyVerifier
from webhook.limits import request_limits_of
from webhook.opened import open_own
from webhook.quotas import quotas_of
from webhook.search import Searcher
from webhook.search_vectors import QueryEmbedder, cached_queries
from webhook.services import Services
from webhook.sources.directory import SourceDirectory

log = structlog.get_logger(__name__)

NO_EMBEDDED_INDEX = (
    "this process cannot search: the embedded index lives in the process that owns it, which is "
    "`bloomweaver up`; send searches there"
)

Listen = Callable[[web.AppRunner], Awaitable[None]]
"""Opens what requests come in by."""


class WebhookPart:
    """Serves HTTP. Searches are answered where `ports.index` is open.

    `listen` None: on the settings' address and port; what it opens otherwise is no address of this
    machine alone, so that everybody is asked for a key. `most_wait_seconds` says how long a request
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
        self._listens_on = ports.settings.host if listen is None else None
        self._most_wait_seconds = most_wait_seconds
        self._own = contextlib.AsyncExitStack()
        self._runner: web.AppRunner | None = None
        self._model: asyncio.Task[None] | None = None
        self._admission: Admission | None = None
        self._source_watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises ConfigurationError, before anything listens, where everybody could call."""
        settings = self._ports.settings
        opening = open_own(settings, receiver=f"webhook-{os.getpid()}")
        own = await self._own.enter_async_context(opening)
        authenticate = await authentication_of(
            settings, own.keys, own.issuers, listens_on=self._listens_on
        )
        if self._ports.index is not None:
            self._model = asyncio.create_task(load_models(self._ports), name="load-model")
            self._model.add_done_callback(_tell_failure)
        self._admission = admission_of(self._ports)
        services = services_of(
            self._ports, authenticate, self._admission, self._unready, self._most_wait_seconds
        )
        sources = await self._open_sources(settings)
        services = replace(
            services,
            sources=sources,
            receipts=own.receipts,
            auditing=own.auditing,
            content_urls=own.content_urls,
            github=own.github,
            limits=request_limits_of(settings),
            quotas=quotas_of(settings, self._ports.registry),
        )
        self._runner = make_runner(
            build_app(services), shutdown_seconds=settings.drain_timeout_seconds
        )
        await self._runner.setup()
        await self._listen(self._runner)

    async def _open_sources(self, settings: Settings) -> SourceDirectory:
        here = self._listens_on is not None and is_loopback(self._listens_on)
        on_loopback = here and settings.auth != "required"
        sources = SourceDirectory(settings.sources_file, on_loopback=on_loopback)
        await sources.start()
        self._source_watch = asyncio.create_task(sources.watch(), name="watch-sources")
        return sources

    async def _listen_on_tcp(self, runner: web.AppRunner) -> None:
        settings = self._ports.settings
        await web.TCPSite(runner, settings.host, settings.port, backlog=512).start()
        address = _address(runner)
        await asyncio.to_thread(_write_address, settings.data_dir / "run" / "address", address)
        log.info("webhook.listening", url=address)

    def tasks(self) -> list[asyncio.Task[None]]:
        # aiohttp answers each request in a task of its own.
        return [self._source_watch] if self._source_watch else []

    async def stop(self) -> None:
        if self._runner:
            await self._runner.cleanup()
        if self._admission:
            await self._admission.close()
        if self._model:
            self._model.cancel()
            await asyncio.gather(self._model, return_exceptions=True)
        if self._source_watch:
            self._source_watch.cancel()
            await asyncio.gather(self._source_watch, return_exceptions=True)
        await self._own.aclose()

    async def settled(self) -> None:
        """Until the model is loaded or cannot be, as far as there is one."""
        if self._model is not None:
            await asyncio.wait([self._model])

    def _unready(self) -> list[str]:
        model = self._model
        if model is None:
            return []
        if not model.done():
            return ["the embedding model is being loaded"]
        if model.cancelled() or model.exception() is not None:
            return ["the embedding model cannot be loaded; the service's log says why"]
        return []


def _tell_failure(model: asyncio.Task[None]) -> None:
    """In the log alone: anybody may ask whether the service is ready."""
    if not model.cancelled() and (error := model.exception()) is not None:
        log.error("webhook.model_not_loaded", error=str(error), exc_info=error)


async def load_models(ports: Ports) -> None:
    """Of all variants. One that is known by its profile only is searched elsewhere, and the changes
    of its namespaces are accepted here."""
    for embedder in {id(e): e for e in (ports.embedder, *ports.variants.values())}.values():
        try:
            await embedder.load()
        except NoModelError as error:
            log.info("webhook.searches_elsewhere", why=str(error))


async def authentication_of(
    settings: Settings, keys: KeyStore, issuers: Sequence[Verifier] = (), *, listens_on: str | None
) -> Authenticate:
    """Raises as `authenticate_of`."""
    of_keys = KeyVerifier(keys, timeout_seconds=settings.request_timeout_seconds)
    doorman = Doorman([of_keys, *issuers])

    async def knows_anybody() -> bool:
        """Revoked keys too: a door that was closed once stays closed."""
        return bool(issuers) or bool(await keys.list())

    return await authenticate_of(settings, doorman, knows_anybody, listens_on=listens_on)


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
        max_namespaces=settings.max_namespaces,
    )


def services_of(
    ports: Ports,
    authenticate: Authenticate,
    admission: Admission,
    unready: Callable[[], list[str]],
    most_wait_seconds: Callable[[], float],
) -> Services:
    settings = ports.settings
    acceptor = acceptor_of(ports)
    searcher = _searcher(ports, ports.index) if ports.index is not None else None
    return Services(
        settings=settings,
        authenticate=authenticate,
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
