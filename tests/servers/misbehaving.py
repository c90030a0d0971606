"""A service that answers as it is told to, or not at all, and remembers what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

Act = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]


@dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Misbehaving:
    """Each request is answered by the next of `acts`; once they are used up, by the last."""

    acts: list[Act]
    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.asked.append(Asked(request.method, request.path, dict(request.headers), body))
        act = self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]
        return await act(request, body)

    @property
    def keys(self) -> set[str | None]:
        """The Idempotency-Keys of all requests."""
        return {one.headers.get("Idempotency-Key") for one in self.asked}

    async def silence(self, _request: web.Request, _body: bytes) -> web.StreamResponse:
        """No answer for as long as the server lives."""
        await self._ended.wait()
        return web.Response(status=500)

    def end(self) -> None:
        self._ended.set()


def saying(status: int, body: Any = None, **headers: str) -> Act:
    """An answer of JSON; underscores in header names are dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def act(_request: web.Request, _body: bytes) -> web.Response:
        return web.json_response(body, status=status, headers=named)

    return act


async def dropping(request: web.Request, _body: bytes) -> web.StreamResponse:
    """The connection is reset."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def passing_on(url: str, then: Callable[[], Awaitable[None]] | None = None) -> Act:
    """As the service at `url` answers; `then`: once it has."""

    async def act(request: web.Request, body: bytes) -> web.StreamResponse:
        kept = {k: v for k, v in request.headers.items() if k not in ("Host", "Content-Length")}
        # What is compressed was decompressed on its way in.
        kept.pop("Content-Encoding", None)
        async with (
            aiohttp.ClientSession() as session,
            session.request(request.method, url + str(request.rel_url), data=body, headers=kept)
            as answer,
        ):  # fmt: skip
            told = await answer.read()
        if then is not None:
            await then()
        return web.Response(body=told, status=answer.status, headers={
            "Content-Type": answer.headers["Content-Type"]})  # fmt: skip

    return act


def lost_on_the_way(act: Act) -> Act:
    """It is done, and its answer never arrives."""

    async def done(request: web.Request, body: bytes) -> web.StreamResponse:
        await act(request, body)
        return await dropping(request, body)

    return done


@asynccontextmanager
async def misbehaving(*acts: Act) -> AsyncIterator[Misbehaving]:
    server = Misbehaving(list(acts))
    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        server.url = f"http://{host}:{port}"
        yield server
    finally:
        server.end()
        await runner.cleanup()
