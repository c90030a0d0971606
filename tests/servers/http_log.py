"""An HTTP server inside the test that records what it is asked, and answers as the test says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass
class HttpLog:
    url: str = ""
    asked: list[Asked] = field(default_factory=list)

    async def note(self, request: web.Request) -> None:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.asked.append(Asked(request.method, request.path, dict(request.query), headers, body))


@asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[HttpLog]:
    """Everything is answered by `answer`."""
    log = HttpLog()

    async def handle(request: web.Request) -> web.StreamResponse:
        await log.note(request)
        return await answer(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    async with _served(app, log):
        yield log


@asynccontextmanager
async def recording(app: web.Application) -> AsyncIterator[HttpLog]:
    """`app` answers."""
    log = HttpLog()

    async def note(request: web.Request, response: web.StreamResponse) -> None:
        await log.note(request)

    app.on_response_prepare.append(note)
    async with _served(app, log):
        yield log


@asynccontextmanager
async def _served(app: web.Application, log: HttpLog) -> AsyncIterator[None]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        log.url = f"http://{host}:{port}"
        yield
    finally:
        await runner.cleanup()
