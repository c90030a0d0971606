"""A proxy before a DynamoDB server that loses answers, throttles, or answers in its place."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

Forward = Callable[[], Awaitable[dict[str, Any]]]


class LostAnswer(Exception):  # noqa: N818 - an event, not an error
    """The connection breaks after the server did what it was asked."""


class Throttled(Exception):  # noqa: N818
    """The server does nothing; the name of its error."""


Fault = Callable[[dict[str, Any], Forward], Awaitable[dict[str, Any]]]
"""Given a request and what forwards it: the answer, or one of the exceptions above."""


@dataclass
class DynamoDbProxy:
    """`faults`: by operation; the first in its list takes the next such request."""

    target: str
    url: str = ""
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        operation = request.headers.get("X-Amz-Target", ".").split(".")[1]
        self.seen.append(operation)
        body = await request.read()
        headers = {k: v for k, v in request.headers.items() if k.lower() != "host"}
        answer: list[tuple[int, bytes]] = []

        async def forward() -> dict[str, Any]:
            async with (
                aiohttp.ClientSession() as session,
                session.post(self.target, data=body, headers=headers) as response,
            ):
                answer[:] = [(response.status, await response.read())]
            return dict(json.loads(answer[0][1]))

        waiting = self.faults.get(operation, [])
        fault = waiting.pop(0) if waiting else None
        try:
            if fault is None:
                await forward()
                status, content = answer[0]
            else:
                status, content = 200, json.dumps(await fault(json.loads(body), forward)).encode()
        except LostAnswer:
            assert request.transport is not None
            request.transport.abort()
            raise
        except Throttled as error:
            kind = {"__type": f"com.amazonaws.dynamodb.v20120810#{error}", "message": "slow down"}
            status, content = 400, json.dumps(kind).encode()
        return web.Response(body=content, status=status, content_type="application/x-amz-json-1.0")


@contextlib.asynccontextmanager
async def dynamodb_proxy(target: str) -> AsyncIterator[DynamoDbProxy]:
    proxy = DynamoDbProxy(target)
    app = web.Application(client_max_size=2**24)
    app.router.add_route("*", "/{path:.*}", proxy.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    proxy.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield proxy
    finally:
        await runner.cleanup()


async def loses_the_answer(_request: dict[str, Any], forward: Forward) -> dict[str, Any]:
    await forward()
    raise LostAnswer


def throttles(error: str) -> Fault:
    async def throttle(_request: dict[str, Any], _forward: Forward) -> dict[str, Any]:
        raise Throttled(error)

    return throttle
