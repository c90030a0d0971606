"""Embeddings over HTTP in OpenAI's shape, batched with whatever else the model is given."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

import structlog
from aiohttp import web

from common import telemetry
from common.model import Vector
from common.ports.embedder import Embedder, Passage
from common.ports.errors import PortError
from common.settings import Settings
from workers.serve_requests import BUSY, SERVER, EmbeddingRequest, RefusedError, answer, parse

__all__ = ["EmbeddingServer", "build_app"]

log = structlog.get_logger(__name__)

INLINE_BYTES = 64 * 1024
"""What is parsed at once; larger bodies are parsed in a thread, beside other requests."""
RETRY_AFTER_SECONDS = 1
QUERIES_AT_ONCE = 64

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Service:
    """Answers with the vectors of one loaded embedder."""

    def __init__(self, embedder: Embedder, settings: Settings) -> None:
        self._embedder = embedder
        self._settings = settings
        self._began = int(time.time())
        self.profile = embedder.profile
        self.waiting = 0
        self.stopping = False

    async def embeddings(self, request: web.Request) -> web.Response:
        with self._place():
            body = await self._body(request)
            wanted = await _beside(len(body), lambda: self._parse(body))
            vectors, tokens = await self._vectors(wanted)
            model = self.profile.model
            said = await asyncio.to_thread(answer, wanted, vectors, model=model, tokens=tokens)
        telemetry.SERVED_TEXTS.inc(len(vectors))
        return web.Response(body=said, content_type="application/json")

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [self._model()]})

    async def model(self, request: web.Request) -> web.Response:
        if request.match_info["model"] != self.profile.model:
            raise RefusedError(
                "there is no such model here", status=404, param="model", code="model_not_found"
            )
        return web.json_response(self._model())

    async def health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def readiness(self, _: web.Request) -> web.Response:
        if self.stopping:
            raise RefusedError("the service is stopping", status=503, kind=SERVER)
        return web.json_response({"status": "ready"})

    async def metrics(self, _: web.Request) -> web.Response:
        """Counters of all processes of the data folder, and what waits in this one."""
        counters = await asyncio.to_thread(telemetry.render_metrics)
        name = "bloomweaver_embedding_requests_waiting"
        gauge = f"# HELP {name} Requests in hand\n# TYPE {name} gauge\n{name} {self.waiting}\n"
        return web.Response(
            body=counters + gauge.encode(),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Raises RefusedError (429) when as many as may wait are waiting."""
        if self.waiting >= self._settings.serve_max_waiting:
            raise RefusedError(
                f"{self.waiting} requests are waiting; send it again in a moment",
                status=429, kind=BUSY, code="rate_limit_exceeded",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )  # fmt: skip
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    async def _body(self, request: web.Request) -> bytes:
        seconds = self._settings.request_timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                return await request.read()
        except TimeoutError:
            raise RefusedError(f"the body did not come within {seconds:g} s", status=408) from None

    def _parse(self, body: bytes) -> EmbeddingRequest:
        return parse(
            body,
            model=self.profile.model,
            dimension=self.profile.dimension,
            max_inputs=self._settings.serve_max_inputs,
        )

    async def _vectors(self, wanted: EmbeddingRequest) -> tuple[list[Vector[float]], int]:
        """And how many tokens were read: beyond the window a text is cut, and not counted."""
        tokenizer = await self._embedder.tokenizer()
        ids = await asyncio.to_thread(tokenizer.encode, wanted.texts)
        tokens = sum(min(len(each), self.profile.max_tokens) for each in ids)
        if wanted.is_query:
            return await self._queries(wanted.texts), tokens
        passages = [Passage(text, each) for text, each in zip(wanted.texts, ids, strict=True)]
        return await self._embedder.embed_documents(passages), tokens

    async def _queries(self, texts: Sequence[str]) -> list[Vector[float]]:
        places = asyncio.Semaphore(QUERIES_AT_ONCE)

        async def one(text: str) -> Vector[float]:
            async with places:
                return await self._embedder.embed_query(text)

        tasks = [asyncio.create_task(one(text)) for text in texts]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    def _model(self) -> dict[str, object]:
        return {
            "id": self.profile.model,
            "object": "model",
            "created": self._began,
            "owned_by": "bloomweaver",
        }


def build_app(embedder: Embedder, settings: Settings) -> web.Application:
    service = _Service(embedder, settings)

    async def stop(_: web.Application) -> None:
        service.stopping = True

    app = web.Application(middlewares=[_errors], client_max_size=settings.serve_max_body_bytes)
    app.on_shutdown.append(stop)
    app.add_routes(
        [
            web.post("/v1/embeddings", service.embeddings),
            web.get("/v1/models", service.models),
            web.get("/v1/models/{model:.+}", service.model),
            web.get("/healthz", service.health),
            web.get("/readyz", service.readiness),
            web.get("/metrics", service.metrics),
        ]
    )
    return app


class EmbeddingServer:
    """Listens from `start` until `close`, which lets requests in hand end."""

    def __init__(self, embedder: Embedder, settings: Settings) -> None:
        self._settings = settings
        self._runner = web.AppRunner(
            build_app(embedder, settings),
            access_log=None,
            handler_cancellation=True,  # who goes away makes room for the others
            shutdown_timeout=settings.drain_timeout_seconds,
        )

    async def start(self) -> None:
        """Raises OSError for an address that cannot be listened on."""
        await self._runner.setup()
        host, port = self._settings.serve_host, self._settings.serve_port
        await web.TCPSite(self._runner, host, port, backlog=512).start()
        host, port = self._runner.addresses[0][:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        log.info("serve.listening", url=url)

    async def close_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        await self.close()

    async def close(self) -> None:
        """Listen no longer; requests in hand have the drain timeout to end. May be repeated."""
        await self._runner.cleanup()


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        response = await handler(request)
    except ConnectionError:
        raise  # the client is gone: there is nobody to tell
    except Exception as error:
        refused = _refused(error)
        response = web.Response(
            body=refused.body(), status=refused.status, content_type="application/json"
        )
        if refused.retry_after_seconds:
            response.headers["Retry-After"] = str(refused.retry_after_seconds)
    if request.path == "/v1/embeddings":
        telemetry.SERVED.labels(str(response.status)).inc()
    return response


def _refused(error: Exception) -> RefusedError:
    """What nobody expected is logged and not told."""
    match error:
        case RefusedError():
            return error
        case web.HTTPRequestEntityTooLarge():
            return RefusedError("the body is larger than the limit", status=413)
        case web.HTTPException():
            return RefusedError(f"{error.status}: {error.reason}", status=error.status)
        case PortError():
            log.warning("serve.unavailable", error=str(error))
            return RefusedError(
                "the model is not available just now; send it again",
                status=503, kind=SERVER, retry_after_seconds=RETRY_AFTER_SECONDS,
            )  # fmt: skip
    log.error("serve.failed", exc_info=error)
    return RefusedError("something unexpected went wrong", status=500, kind=SERVER)


async def _beside(size_bytes: int, work: Callable[[], EmbeddingRequest]) -> EmbeddingRequest:
    """Here if it is small, else in a thread, so that other requests go on meanwhile."""
    return work() if size_bytes <= INLINE_BYTES else await asyncio.to_thread(work)
