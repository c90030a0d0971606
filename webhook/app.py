"""The HTTP application: every route, and what each request goes through."""

from __future__ import annotations

import asyncio

import structlog
from aiohttp import web

from common.access import Scope
from common.settings import Settings
from webhook.audit_middleware import tell_refusals
from webhook.audit_route import get_audit
from webhook.authentication import guarded
from webhook.changes import post_changes
from webhook.compression import compressed
from webhook.connections import Runner, connection_limits_of
from webhook.cors import allow, preflight_of
from webhook.dead_letters import (
    delete_dead_letter,
    discard_dead_letters,
    get_dead_letter,
    list_dead_letters,
    redrive_dead_letters,
)
from webhook.docs_page import get_docs, get_docs_asset
from webhook.documents import (
    delete_document,
    get_chunks,
    get_content,
    get_document,
    get_history,
    list_documents,
    put_document,
)
from webhook.feed import STOPPING_SIGNAL
from webhook.idempotency import KEYED, KeyedRequests, idempotent
from webhook.openapi_route import get_openapi
from webhook.problems import Handler, problems
from webhook.request_ids import name_request, request_id_of
from webhook.scrub_route import get_scrub, post_scrub
from webhook.search_route import post_search
from webhook.services import SERVICES, Services
from webhook.shared_counts import COUNTS, SharedCounts
from webhook.sources.deliveries import UNDER_WAY, post_delivery
from webhook.status import (
    get_health,
    get_metrics,
    get_readiness,
    get_stats,
)
from webhook.unverified_bodies import UNVERIFIED, UnverifiedBodies
from webhook.work_to_the_end import WorkToTheEnd

_DOCUMENTS = "/v1/namespaces/{namespace}/documents"
_DOCUMENT = _DOCUMENTS + r"/{document_id:[\s\S]+}"

DELIVERIES_CLOSE_SECONDS = 30.0
"""Their senders may never send again, and are not waited for by the drain."""


def build_app(services: Services) -> web.Application:
    """Bodies are limited where they are read, by the settings, not by aiohttp."""
    origins = services.settings.cors_origins
    middlewares = [_name_request, preflight_of(origins), compressed, problems, tell_refusals]
    app = web.Application(middlewares=middlewares, client_max_size=0)
    app[SERVICES] = services
    app[KEYED] = KeyedRequests()
    app[UNDER_WAY] = WorkToTheEnd()
    app[UNVERIFIED] = UnverifiedBodies(services.settings.max_unverified_bytes)
    app[COUNTS] = SharedCounts(services.registry)
    app[STOPPING_SIGNAL] = asyncio.Event()
    app.on_shutdown.append(_stop)
    app.on_cleanup.append(_finish)
    app.on_response_prepare.append(_add_headers)
    app.on_response_prepare.append(allow(origins))
    app.add_routes(_routes())
    return app


def make_runner(app: web.Application, *, shutdown_seconds: float) -> web.AppRunner:
    """Runs the app within its settings' limits of connections, and so that a client that goes away
    ends its waits."""
    return Runner(
        app,
        connection_limits_of(app[SERVICES].settings),
        handler_cancellation=True,
        shutdown_timeout=shutdown_seconds,
    )


def _routes() -> list[web.RouteDef]:
    # A document's chunks, content and history come first: its own address takes any id.
    write, read, search, admin = Scope.WRITE, Scope.READ, Scope.SEARCH, Scope.ADMIN
    letters = "/v1/dead-letters"
    return [
        web.post("/v1/changes", guarded(idempotent(post_changes, body_limit=_json), write)),
        web.get(_DOCUMENTS, guarded(list_documents, read)),
        web.get(_DOCUMENT + "/chunks", guarded(get_chunks, read)),
        web.get(_DOCUMENT + "/content", guarded(get_content, read)),
        web.get(_DOCUMENT + "/history", guarded(get_history, read)),
        web.get(_DOCUMENT, guarded(get_document, read)),
        web.put(_DOCUMENT, guarded(idempotent(put_document, body_limit=_document), write)),
        web.delete(_DOCUMENT, guarded(idempotent(delete_document, body_limit=_json), write)),
        web.post("/v1/namespaces/{namespace}/search", guarded(post_search, search)),
        web.get("/v1/stats", guarded(get_stats, read)),
        web.get("/v1/scrub", guarded(get_scrub, admin)),
        web.post("/v1/scrub", guarded(post_scrub, admin)),
        web.get(letters, guarded(list_dead_letters, admin)),
        web.post(letters + "/redrive", guarded(redrive_dead_letters, admin)),
        web.post(letters + "/discard", guarded(discard_dead_letters, admin)),
        web.get(letters + "/{message_id}", guarded(get_dead_letter, admin)),
        web.delete(letters + "/{message_id}", guarded(delete_dead_letter, admin)),
        web.get("/v1/audit", guarded(get_audit, admin)),
        web.get("/metrics", guarded(get_metrics, admin)),
        web.post("/v1/sources/{name}", post_delivery),  # verified in the source's own way
        # Anybody may ask these: they tell nothing of what is kept.
        web.get("/healthz", get_health),
        web.get("/readyz", get_readiness),
        web.get("/openapi.json", get_openapi),
        web.get("/docs", get_docs),
        web.get("/docs/{digest}/{name}", get_docs_asset),
    ]


def _json(settings: Settings) -> int:
    return settings.max_body_bytes


def _document(settings: Settings) -> int:
    return settings.max_document_bytes


async def _stop(app: web.Application) -> None:
    app[STOPPING_SIGNAL].set()


async def _finish(app: web.Application) -> None:
    deliveries = app[UNDER_WAY].close(wait_seconds=DELIVERIES_CLOSE_SECONDS)
    await asyncio.gather(app[KEYED].close(), deliveries)


@web.middleware
async def _name_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every answer and every log line of a request carries its id."""
    structlog.contextvars.bind_contextvars(request_id=name_request(request))
    return await handler(request)


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["X-Request-Id"] = request_id_of()
    response.headers["X-Content-Type-Options"] = "nosniff"
