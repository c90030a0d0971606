"""The HTTP application: every route, and what each request goes through."""

from __future__ import annotations

import asyncio
import re
from contextvars import ContextVar

import structlog
from aiohttp import web

from webhook.bodies import new_request_id
from webhook.changes import post_changes
from webhook.dead_letters import (
    delete_dead_letter,
    discard_dead_letters,
    get_dead_letter,
    list_dead_letters,
    redrive_dead_letters,
)
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
from webhook.openapi import get_openapi
from webhook.problems import Handler, problems
from webhook.scrub_route import get_scrub, post_scrub
from webhook.search_route import post_search
from webhook.services import SERVICES, Services
from webhook.status import (
    get_health,
    get_metrics,
    get_readiness,
    get_stats,
)

MAX_REQUEST_LINE_BYTES = 64 * 1024
"""Room for metadata as a query parameter, percent-encoded."""

_DOCUMENTS = "/v1/namespaces/{namespace}/documents"
_DOCUMENT = _DOCUMENTS + r"/{document_id:[\s\S]+}"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_request_id: ContextVar[str] = ContextVar("request_id")


def build_app(services: Services) -> web.Application:
    """Bodies are limited where they are read, by the settings, not by aiohttp."""
    app = web.Application(middlewares=[_name_request, problems], client_max_size=0)
    app[SERVICES] = services
    app[STOPPING_SIGNAL] = asyncio.Event()
    app.on_shutdown.append(_stop)
    app.on_response_prepare.append(_add_headers)
    app.add_routes(_routes())
    return app


def make_runner(app: web.Application, *, shutdown_seconds: float) -> web.AppRunner:
    """Runs the app so that a client that goes away ends its waits, and long URLs are read."""
    return web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=shutdown_seconds,
        max_line_size=MAX_REQUEST_LINE_BYTES,
    )


def _routes() -> list[web.RouteDef]:
    # A document's chunks, content and history come first: its own address takes any id.
    return [
        web.post("/v1/changes", post_changes),
        web.get(_DOCUMENTS, list_documents),
        web.get(_DOCUMENT + "/chunks", get_chunks),
        web.get(_DOCUMENT + "/content", get_content),
        web.get(_DOCUMENT + "/history", get_history),
        web.get(_DOCUMENT, get_document),
        web.put(_DOCUMENT, put_document),
        web.delete(_DOCUMENT, delete_document),
        web.post("/v1/namespaces/{namespace}/search", post_search),
        web.get("/v1/stats", get_stats),
        web.get("/v1/scrub", get_scrub),
        web.post("/v1/scrub", post_scrub),
        web.get("/v1/dead-letters", list_dead_letters),
        web.post("/v1/dead-letters/redrive", redrive_dead_letters),
        web.post("/v1/dead-letters/discard", discard_dead_letters),
        web.get("/v1/dead-letters/{message_id}", get_dead_letter),
        web.delete("/v1/dead-letters/{message_id}", delete_dead_letter),
        web.get("/healthz", get_health),
        web.get("/readyz", get_readiness),
        web.get("/metrics", get_metrics),
        web.get("/openapi.json", get_openapi),
    ]


async def _stop(app: web.Application) -> None:
    app[STOPPING_SIGNAL].set()


@web.middleware
async def _name_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every answer and every log line of a request carries its id."""
    given = request.headers.get("X-Request-Id", "")
    request_id = given if _REQUEST_ID.fullmatch(given) else new_request_id()
    _request_id.set(request_id)
    structlog.contextvars.bind_contextvars(request_id=request_id)
    return await handler(request)


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["X-Request-Id"] = _request_id.get("")
    response.headers["X-Content-Type-Options"] = "nosniff"
