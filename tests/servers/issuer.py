"""An issuer of tokens inside the test: its discovery document and its keys, over a real socket."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from tests import tokens
from tests.tokens import Signer

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
DISCOVERY, KEYS = "/realms/docs/.well-known/openid-configuration", "/realms/docs/certs"


class IssuerServer:
    """Publishes `signers`. `answers` puts another answer, by path, in the place of one of its."""

    def __init__(self, *signers: Signer) -> None:
        self.signers = list(signers)
        self.asked: Counter[str] = Counter()
        self.answers: dict[str, Answer] = {}
        self.headers: dict[str, str] = {}
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/realms/docs"

    @property
    def keys_url(self) -> str:
        return f"http://127.0.0.1:{self.port}{KEYS}"

    def claims(self, **given: Any) -> dict[str, Any]:
        return tokens.claims(iss=self.url, **given)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked[request.path] += 1
        if request.path in self.answers:
            return await self.answers[request.path](request)
        if request.path == DISCOVERY:
            said = {"issuer": self.url, "jwks_uri": self.keys_url, "response_types_supported": []}
            return web.json_response(said)
        if request.path == KEYS:
            keys = [signer.jwk for signer in self.signers]
            return web.json_response({"keys": keys}, headers=self.headers)
        return web.Response(status=404)

    async def start(self) -> None:
        """On the port that it had before, if it had one."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    async def go_away(self) -> None:
        """Nothing listens any more."""
        if self._runner is not None:
            await self._runner.cleanup()
        self._runner = None


@asynccontextmanager
async def an_issuer(*signers: Signer) -> AsyncIterator[IssuerServer]:
    server = IssuerServer(*signers)
    await server.start()
    try:
        yield server
    finally:
        await server.go_away()


def says(body: bytes | str, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        data = body.encode() if isinstance(body, str) else body
        return web.Response(body=data, status=status, headers=headers)

    return answer


async def hangs(_: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def never_ends(request: web.Request) -> web.StreamResponse:
    """Sends as long as it is read."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" " * 65536)
