"""Connections of strangers: how many, for how long without a request, and what is said to bytes
that are no request.

aiohttp's server reads requests; here is what it leaves open. Its own answers to what its parser
refuses are plain text and a traceback in the log for each: here they are problem documents, and
a line at debug. A request's head has to be there `idle_seconds` after the connection was made or
after the answer before, however it trickles in: aiohttp's keep-alive timer counts from there, and
bytes do not move it.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import ContentEncodingError, LineTooLong
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

from common.settings import Settings
from webhook.addresses import address_of, is_of_this_machine, network_of
from webhook.bodies import unsupported_encoding
from webhook.problems import (
    EXPECTATION_FAILED,
    HEAD_TOO_LARGE,
    INTERNAL,
    MALFORMED_REQUEST,
    OVER_CAPACITY,
    RETRY_AFTER_SECONDS,
    Problem,
)
from webhook.request_ids import name_request

log = structlog.get_logger(__name__)

MAX_REQUEST_LINE_BYTES = 64 * 1024
"""Room for metadata as a query parameter, percent-encoded."""
MAX_HEADER_BYTES = 8190
"""Of one header's value, and of its name."""
MAX_HEADERS = 128
_TOO_MANY = "Too many headers"


_Handler = Callable[[BaseRequest], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """0 connections: as many as the system opens. Those of this machine itself, where a proxy may
    be, are not counted by address."""

    connections: int
    connections_per_address: int
    idle_seconds: float
    write_stall_seconds: float


def connection_limits_of(settings: Settings) -> ConnectionLimits:
    return ConnectionLimits(
        connections=settings.max_connections,
        connections_per_address=settings.max_connections_per_address,
        idle_seconds=settings.connection_idle_seconds,
        write_stall_seconds=settings.request_timeout_seconds,
    )


class Connection(RequestHandler):
    """One client's. An answer that the client does not take ends it: see `pause_writing`."""

    __slots__ = ("_stall", "_stall_seconds", "_unsent")

    def __init__(self, server: Server, *, stall_seconds: float, **more: Any) -> None:
        super().__init__(server, **more)
        self._stall_seconds = stall_seconds
        self._stall: asyncio.TimerHandle | None = None
        self._unsent = 0

    def pause_writing(self) -> None:
        """The client reads slower than it is answered. It is looked at now and then; when it took
        nothing in between it is taken for gone, so that nobody fills the memory with answers."""
        super().pause_writing()
        self._look_again()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_looking()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_looking()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """aiohttp's, as a problem. What its parser says repeats the bytes: they are not told."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is under way already")
        if status >= 500:
            log.error("connection.failed", exc_info=exc)
        else:
            log.debug("connection.not_http", address=address_of(request), why=type(exc).__name__)
        response = _problem_of(status, exc).response()
        response.force_close()
        return response

    def _look_again(self) -> None:
        self._unsent = self._waiting_bytes()
        loop = asyncio.get_running_loop()
        self._stall = loop.call_later(self._stall_seconds, self._look)

    def _look(self) -> None:
        if self._waiting_bytes() < self._unsent:
            self._look_again()
        elif self.transport is not None:
            log.info("connection.not_read", unsent_bytes=self._unsent)
            self.transport.abort()

    def _stop_looking(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _waiting_bytes(self) -> int:
        return 0 if self.transport is None else self.transport.get_write_buffer_size()


class Server(web.Server):
    """aiohttp's, with connections of ours, and no more of them than allowed."""

    def __init__(self, made: web.Server, limits: ConnectionLimits, **more: Any) -> None:
        super().__init__(
            _refusing_expectations(made.request_handler),
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            **more,
        )
        self._limits = limits
        self._networks: dict[RequestHandler, str] = {}
        self._by_network: Counter[str] = Counter()

    def __call__(self) -> Connection:
        return Connection(
            self,
            loop=self._loop,
            stall_seconds=self._limits.write_stall_seconds,
            keepalive_timeout=self._limits.idle_seconds,
            access_log=None,
            max_line_size=MAX_REQUEST_LINE_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
        )

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """One too many is told so and closed, before it has said anything."""
        network = _network_of(transport)
        if (refusal := self._refusal_of(network)) is not None:
            log.warning("connection.one_too_many", limit=refusal.limit, network=network)
            transport.write(_whole_answer(refusal))
            transport.close()
        self._networks[handler] = network
        self._by_network[network] += 1
        super().connection_made(handler, transport)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        if (network := self._networks.pop(handler, None)) is not None:
            self._by_network[network] -= 1
            if not self._by_network[network]:
                del self._by_network[network]
        super().connection_lost(handler, exc)

    def _refusal_of(self, network: str) -> Problem | None:
        limit, most = self._limits.connections, self._limits.connections_per_address
        if limit and len(self._connections) >= limit:
            return Problem(OVER_CAPACITY, f"there are {limit} connections already", limit=limit)
        if most and network and self._by_network[network] >= most:
            detail = f"there are {most} connections from {network} already"
            return Problem(OVER_CAPACITY, detail, limit=most, reason="address")
        return None


class Runner(web.AppRunner):
    """Runs the app on `Server`."""

    __slots__ = ("_limits",)

    def __init__(self, app: web.Application, limits: ConnectionLimits, **more: Any) -> None:
        super().__init__(app, **more)
        self._limits = limits

    async def _make_server(self) -> web.Server:
        return Server(await super()._make_server(), self._limits)


def _refusing_expectations(handle: _Handler) -> _Handler:
    """`handle`, but for a request that expects more than `100 Continue`. The application would
    answer it before its own middlewares see it, in plain text."""

    async def refusing(request: BaseRequest) -> web.StreamResponse:
        expected = request.headers.get("Expect", "")
        if request.version < HttpVersion11 or expected.lower() in ("", "100-continue"):
            return await handle(request)
        problem = Problem(
            EXPECTATION_FAILED, "Expect takes 100-continue alone", limit=["100-continue"]
        )
        response = problem.response()
        response.headers["X-Request-Id"] = name_request(request)
        response.force_close()  # it may hold its body back, or not
        return response

    return refusing


def _problem_of(status: int, error: BaseException | None) -> Problem:
    if status >= 500:
        return Problem(INTERNAL, "the service's log has the reason")
    if isinstance(error, LineTooLong):
        limit = error.args[1]
        detail = f"a line of the request's head is longer than {limit} bytes"
        return Problem(HEAD_TOO_LARGE, detail, limit=limit if isinstance(limit, int) else None)
    if isinstance(error, ContentEncodingError):
        return unsupported_encoding()
    if _TOO_MANY in str(error):
        detail = f"the request has more than {MAX_HEADERS} headers"
        return Problem(HEAD_TOO_LARGE, detail, limit=MAX_HEADERS)
    return Problem(MALFORMED_REQUEST, "this is not a request in HTTP/1.1")


def _network_of(transport: asyncio.Transport) -> str:
    """Empty where it is not counted by."""
    peer = transport.get_extra_info("peername")
    network = network_of(peer[0]) if isinstance(peer, tuple) else ""
    return "" if is_of_this_machine(network) else network


def _whole_answer(problem: Problem) -> bytes:
    """There is no request to make one for."""
    body = json.dumps(problem.body()).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\n"
        "Content-Type: application/problem+json\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"Retry-After: {RETRY_AFTER_SECONDS}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body
