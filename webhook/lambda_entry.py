"""The webhook as an AWS Lambda function behind an API Gateway HTTP API, or behind a function URL.

`handler` answers with the very application that `bloomweaver webhook` serves: it listens on a
socket of this sandbox, and each event makes one request to it. With a model in the image
(BLOOMWEAVER_EMBEDDER_URL=fastembed:/a/folder) it searches without any worker; with a profile alone
(profile:…) it accepts, and says so to who searches.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import structlog
from aiohttp import web
from yarl import URL

from common.composition import open_ports
from common.lambda_runtime import Context, Event, Sandbox, work_seconds
from common.lambda_sqs import records_of
from common.settings import Settings
from webhook.addresses import ADDRESS_HEADER
from webhook.intake import IntakeHandler
from webhook.intake_listing import IntakeListing, list_within
from webhook.intake_role import open_intake
from webhook.lambda_http import AnswerTooLargeError, HttpRequest, answer_of, request_of
from webhook.lambda_intake import take_batch
from webhook.problems import ANSWER_TOO_LARGE, UNAVAILABLE, Problem
from webhook.role import WebhookPart

log = structlog.get_logger(__name__)

WAIT_MARGIN_SECONDS = 0.5
"""A wait for a document ends so long before the request does: its answer has to be written."""
READINESS = "/readyz"
_AUTOMATIC = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
"""What the client would add of its own to a request that came without."""
_SCHEDULES = frozenset({"aws.events", "aws.scheduler"})
"""EventBridge's rules and its Scheduler, where they send no input of one's own."""


class Shell:
    """One request a time to the application behind the socket."""

    def __init__(self, socket: Path) -> None:
        # A new connection each time: one that was kept may have ended while the sandbox was frozen.
        self._client = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(str(socket), force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=_AUTOMATIC,
        )
        self._ends_at = 0.0
        self._settled: Callable[[], Awaitable[None]] | None = None

    def readiness_follows(self, settled: Callable[[], Awaitable[None]]) -> None:
        """Whoever asks for readiness waits for `settled`, as long as the request may take. A
        sandbox is frozen between requests: what loads would never be done for those who only
        look whether it is."""
        self._settled = settled

    async def close(self) -> None:
        await self._client.close()

    def most_wait_seconds(self) -> float:
        """What is left of the request under way."""
        left = self._ends_at - asyncio.get_running_loop().time()
        return max(left - WAIT_MARGIN_SECONDS, 0.0)

    async def answer(self, request: HttpRequest, seconds: float) -> dict[str, Any]:
        """What the function returns; a problem where it has no time or no room for more."""
        self._ends_at = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout(seconds):
                return await self._ask(request)
        except TimeoutError:
            detail = (
                f"no answer within {seconds:.3g} s; it may have taken effect, and sending it again "
                "is safe"
            )
            return _told(Problem(UNAVAILABLE, detail, limit=round(seconds, 3)), request)
        except AnswerTooLargeError:
            detail = (
                "a function may return 6 MB; ask for less at a time: a smaller limit or top_k, or "
                "the content from the blob store"
            )
            return _told(Problem(ANSWER_TOO_LARGE, detail), request)

    async def _ask(self, request: HttpRequest) -> dict[str, Any]:
        if request.target.partition("?")[0] == READINESS and self._settled is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.most_wait_seconds()):
                    await self._settled()
        url = URL(f"http://bloomweaver{request.target}", encoded=True)
        body = None if request.body is None else io.BytesIO(request.body)
        headers = {**request.headers, ADDRESS_HEADER: request.address}
        asked = self._client.request(
            request.method, url, headers=headers, data=body, allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None),
        )  # fmt: skip
        async with asked as response:
            return answer_of(response.status, response.headers.items(), await response.read())


def _told(problem: Problem, request: HttpRequest) -> dict[str, Any]:
    response = problem.response()
    headers = {**response.headers, "X-Request-Id": request.headers["x-request-id"]}
    body = response.body
    return answer_of(response.status, headers.items(), body if isinstance(body, bytes) else b"")


@contextlib.asynccontextmanager
async def open_shell(settings: Settings) -> AsyncIterator[Shell]:
    """The application, listening, and the shell in front of it."""
    embedded = settings.index_url.startswith("qdrant-edge:")
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="bloomweaver-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        socket = folder / "http"
        receiver = f"webhook-{os.getpid()}"
        opened = open_ports(settings, receiver=receiver, own_index=not embedded)
        ports = await stack.enter_async_context(opened)
        shell = Shell(socket)
        stack.push_async_callback(shell.close)

        async def listen(runner: web.AppRunner) -> None:
            await web.UnixSite(runner, socket).start()

        part = WebhookPart(ports, listen=listen, most_wait_seconds=shell.most_wait_seconds)
        stack.push_async_callback(part.stop)
        await part.start()
        shell.readiness_follows(part.settled)
        yield shell


SANDBOX: Sandbox[Shell] = Sandbox(open_shell)
INTAKE: Sandbox[IntakeHandler] = Sandbox(open_intake)


def handler(event: Event, context: Context) -> dict[str, Any]:
    """Raises CannotStartError and NotAnHttpEventError; API Gateway answers 500 then."""
    request = request_of(event)
    return SANDBOX.run(lambda shell: shell.answer(request, work_seconds(context)))


def intake(event: Event, context: Context) -> dict[str, Any]:
    """Takes in what S3 told of, from the batches of an SQS event source mapping; names what failed.

    The whole batch comes back when it raises NotABatchError or CannotStartError. An event of an
    EventBridge schedule, or {"listing": true}, has it look for what S3 told nobody of instead.
    """
    if event.get("listing") is True or event.get("source") in _SCHEDULES:
        return INTAKE.run(
            lambda handler: list_within(IntakeListing(handler=handler), work_seconds(context))
        )
    records = records_of(event)
    return INTAKE.run(lambda handler: take_batch(handler, records, work_seconds(context)))
