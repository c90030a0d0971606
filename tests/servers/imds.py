"""The instance metadata service, version 2, as strict as EC2's: no token, no answer."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

INSTANCE = "i-0123456789abcdef0"
LONGEST_TOKEN_SECONDS = 21600
_TOKEN, _LIFETIME = "X-aws-ec2-metadata-token", "X-aws-ec2-metadata-token-ttl-seconds"


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass
class MetadataServer:
    """`values` by path below /latest/meta-data/: what is not there is answered with 404."""

    values: dict[str, str] = field(default_factory=dict)
    url: str = ""
    asked: list[str] = field(default_factory=list)
    tokens_given: int = 0
    failures: int = 0
    """So many of the next requests are answered with 500."""
    held: asyncio.Event = field(default_factory=_set)
    """While it is clear, what is asked of tags waits."""
    _tokens: dict[str, float] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def revoke_tokens(self) -> None:
        self._tokens.clear()

    async def token(self, request: web.Request) -> web.Response:
        """403 behind a proxy, 400 without a lifetime of 1 s to 6 h."""
        if "X-Forwarded-For" in request.headers:
            return web.Response(status=403)
        lifetime = request.headers.get(_LIFETIME, "")
        if not lifetime.isdigit() or not 1 <= int(lifetime) <= LONGEST_TOKEN_SECONDS:
            return web.Response(status=400)
        token = f"token-{next(self._numbers)}=="
        self._tokens[token] = time.monotonic() + int(lifetime)
        self.tokens_given += 1
        return web.Response(text=token, headers={_LIFETIME: lifetime})

    async def value(self, request: web.Request) -> web.Response:
        path = request.match_info["path"]
        self.asked.append(path)
        if self.failures:
            self.failures -= 1
            return web.Response(status=500)
        if time.monotonic() >= self._tokens.get(request.headers.get(_TOKEN, ""), 0.0):
            return web.Response(status=401)
        if path.startswith("tags/"):
            await self.held.wait()
        if path not in self.values:
            return web.Response(status=404, text="<html>404 - Not Found</html>")
        return web.Response(text=self.values[path])


@asynccontextmanager
async def metadata_service(instance_id: str = INSTANCE) -> AsyncIterator[MetadataServer]:
    """Of an instance that nothing was said to yet."""
    server = MetadataServer({"instance-id": instance_id})
    app = web.Application()
    app.add_routes(
        [
            web.put("/latest/api/token", server.token),
            web.get("/latest/meta-data/{path:.+}", server.value),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield server
    finally:
        await runner.cleanup()
