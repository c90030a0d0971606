"""CORS: which sites' pages may call the service from a browser; none unless the settings say so.

Browsers send no cookie and no other credential by themselves: a page has to have a key or a token
of its own, so answers never allow credentials.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from webhook.problems import Handler

ANY = "*"
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")
ASKED_HEADERS = (
    "Authorization",
    "Content-Encoding",
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "X-API-Key",
    "X-Request-Id",
    "traceparent",
)
ANSWERED_HEADERS = (
    "ETag",
    "Idempotency-Replayed",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "X-Document-Version",
    "X-Request-Id",
)
"""What a page may read, beside what it may anyway."""
PREFLIGHT_SECONDS = 600

OnPrepare = Callable[[web.Request, web.StreamResponse], Awaitable[None]]


def is_listed(origin: str, origins: Sequence[str]) -> bool:
    """By name: `*` lists nobody."""
    return origin != ANY and origin.lower() in origins


def preflight_of(origins: Sequence[str]) -> Callable[..., Awaitable[web.StreamResponse]]:
    """A middleware that answers what browsers ask before they send: before anybody is asked who
    they are, since a preflight never says."""

    @web.middleware
    async def preflight(request: web.Request, handler: Handler) -> web.StreamResponse:
        asks = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        if not asks or _allowed(request, origins) is None:
            return await handler(request)
        headers = {
            "Access-Control-Allow-Methods": ", ".join(METHODS),
            "Access-Control-Allow-Headers": ", ".join(ASKED_HEADERS),
            "Access-Control-Max-Age": str(PREFLIGHT_SECONDS),
        }
        return web.Response(status=204, headers=headers)

    return preflight


def allow(origins: Sequence[str]) -> OnPrepare:
    """Says on every answer, streams and problems too, who may read it."""

    async def on_prepare(request: web.Request, response: web.StreamResponse) -> None:
        if origins and ANY not in origins:
            response.headers.add("Vary", "Origin")
        if (allowed := _allowed(request, origins)) is not None:
            response.headers["Access-Control-Allow-Origin"] = allowed
            response.headers["Access-Control-Expose-Headers"] = ", ".join(ANSWERED_HEADERS)

    return on_prepare


def _allowed(request: web.Request, origins: Sequence[str]) -> str | None:
    """What the answer allows; None: nothing."""
    origin = request.headers.get("Origin")
    if origin is None:
        return None
    if ANY in origins:
        return ANY
    return origin if is_listed(origin, origins) else None
