"""NDJSON in, NDJSON out: a result for each line in order, in constant memory.

A bounded window of lines is in flight. When it is full nothing more is read, so a slow registry,
or a client that does not read its results, slows the sender down instead of filling memory.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import structlog
from aiohttp import web

from common.access import Scope
from common.model import DocumentKey
from webhook.accept import Change
from webhook.acceptance import accept_change, result_of
from webhook.authentication import principal_of, require_scope
from webhook.bodies import (
    Line,
    LineSplitter,
    beside,
    check_content_encoding,
    given_traceparent,
    traceparent_of,
)
from webhook.callers import caller_of
from webhook.problems import (
    BODY_TIMEOUT,
    BROKEN_BODY,
    EARLIER_CHANGE_FAILED,
    STOPPING,
    TOO_LARGE,
    UNAVAILABLE,
    Problem,
    give_up_body,
    problem_of,
)
from webhook.services import SERVICES
from webhook.validation import change_of, parse_json

log = structlog.get_logger(__name__)

NDJSON_TYPES = ("application/x-ndjson", "application/jsonl")
STOPPING_SIGNAL: web.AppKey[asyncio.Event] = web.AppKey("stopping", asyncio.Event)
"""Set when the service begins to stop: feeds finish the lines in hand and end."""
FAILED_DOCUMENTS_AT_MOST = 1000
"""So many documents that could not be accepted mean an outage, which ends the feed."""
ANSWER_BATCH_BYTES = 64 * 1024
ASKED_AGAIN_SECONDS = 2.0
"""A feed may go on for days: its key may be revoked, its token expire, what it may do change."""


async def answer_feed(request: web.Request) -> web.StreamResponse:
    check_content_encoding(request)
    with request.app[SERVICES].limits.waiting(principal_of(request)):
        response = web.StreamResponse(headers={"Content-Type": NDJSON_TYPES[0]})
        await response.prepare(request)
        try:
            await Feed(request, response).run()
        except* ConnectionError:
            log.info("feed.disconnected")
        return response


class Feed:
    """One request's stream of changes."""

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        self._request = request
        self._response = response
        self._services = request.app[SERVICES]
        self._stopping = request.app[STOPPING_SIGNAL]
        settings = self._services.settings
        self._timeout_seconds = settings.request_timeout_seconds
        self._idle_seconds = settings.feed_idle_seconds
        self._line_limit = settings.max_body_bytes
        self._trace = given_traceparent(request)
        self._caller = caller_of(request)
        self._asked_at = asyncio.get_running_loop().time()
        self._limits = self._services.limits
        self._window: asyncio.Queue[asyncio.Future[bytes] | None] = asyncio.Queue(
            settings.accept_concurrency
        )
        self._sizes: deque[int] = deque()
        self._bytes_in_flight = 0
        self._answered = asyncio.Event()
        self._last: dict[DocumentKey, asyncio.Task[bytes]] = {}
        self._failed: set[DocumentKey] = set()

    async def run(self) -> None:
        """Raises an ExceptionGroup of ConnectionErrors when the client went away."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read(group))
            group.create_task(self._write())

    # --- reading ---

    async def _read(self, group: asyncio.TaskGroup) -> None:
        number = 0
        try:
            async for line in self._lines():
                self._refuse_to_go_on()
                await self._ask_again()
                number = line.number
                await self._begin(line, group)
        except ConnectionError:
            raise
        except Exception as error:
            # Not a line's own error: the feed ends here, and the last result says why.
            self._response.force_close()
            if isinstance(error, BROKEN_BODY):
                give_up_body(self._request)
            await self._enter(_done(_error_line(number + 1, problem_of(error), ends=True)), 0)
        await self._window.put(None)

    def _refuse_to_go_on(self) -> None:
        if self._stopping.is_set():
            raise Problem(STOPPING, "the service is stopping; send this line and the rest again")
        if len(self._failed) >= FAILED_DOCUMENTS_AT_MOST:
            raise Problem(UNAVAILABLE, "too many lines failed; send this line and the rest later")

    async def _ask_again(self) -> None:
        """Now and then, who it speaks for. Raises Problem (401, 403), which ends the feed."""
        now = asyncio.get_running_loop().time()
        if now < self._asked_at + ASKED_AGAIN_SECONDS:
            return
        principal = await self._services.authenticate(self._request)
        require_scope(principal, Scope.WRITE)
        self._caller = replace(self._caller, principal=principal)
        self._asked_at = now

    async def _lines(self) -> AsyncIterator[Line]:
        splitter = LineSplitter(self._line_limit)
        async for chunk in self._chunks():
            for line in splitter.feed(chunk):
                yield line
        for line in splitter.end():
            yield line

    async def _chunks(self) -> AsyncIterator[bytes]:
        """Until the body ends. Raises Problem when the service stops first, and when nothing came
        for too long: who is gone without a word would hold the feed's place for ever."""
        stop = asyncio.ensure_future(self._stopping.wait())
        idle = self._idle_seconds or None
        try:
            while True:
                read = asyncio.ensure_future(self._request.content.readany())
                try:
                    await asyncio.wait(
                        (read, stop), timeout=idle, return_when=asyncio.FIRST_COMPLETED
                    )
                    if stop.done() and not read.done():
                        raise Problem(STOPPING, "the service is stopping; send the rest again")
                    if not read.done():
                        raise _idle(self._idle_seconds)
                finally:
                    read.cancel()
                chunk = await read
                if not chunk:
                    return
                await self._wait_for_limits(size_bytes=len(chunk))
                yield chunk
        finally:
            stop.cancel()

    async def _wait_for_limits(self, *, changes: int = 0, size_bytes: int = 0) -> None:
        """Nothing more is read meanwhile, which slows the sender down to what it may send."""
        who, stopping = self._caller.principal, self._stopping
        await self._limits.wait_for(who, stopping, changes=changes, size_bytes=size_bytes)

    async def _begin(self, line: Line, group: asyncio.TaskGroup) -> None:
        size = len(line.data or b"")
        await self._wait_for_limits(changes=1)
        await self._wait_for_room(size)
        try:
            change = await self._parse(line)
        except Problem as problem:
            await self._enter(_done(_error_line(line.number, problem)), size)
            return
        task = group.create_task(self._accept(line.number, change, self._last.get(change.key)))
        self._last[change.key] = task
        task.add_done_callback(lambda done: self._forget(change.key, done))
        await self._enter(task, size)

    async def _parse(self, line: Line) -> Change:
        data = line.data
        if data is None:
            limit = self._line_limit
            raise Problem(TOO_LARGE, f"the line is longer than {limit} bytes", limit=limit)
        trace = self._trace or traceparent_of(self._request)
        settings = self._services.settings
        return await beside(
            len(data), lambda: change_of(parse_json(data), settings, traceparent=trace)
        )

    async def _wait_for_room(self, size: int) -> None:
        """Large lines share one budget, so that a window of them is not a window of gigabytes."""
        while self._bytes_in_flight and self._bytes_in_flight + size > self._line_limit:
            self._answered.clear()
            await self._answered.wait()
        self._bytes_in_flight += size

    async def _enter(self, answer: asyncio.Future[bytes], size: int) -> None:
        self._sizes.append(size)
        await self._window.put(answer)

    # --- accepting ---

    async def _accept(
        self, number: int, change: Change, earlier: asyncio.Task[bytes] | None
    ) -> bytes:
        """The result line. Waits for the same document's earlier line."""
        if earlier is not None:
            await asyncio.wait((earlier,))
        try:
            self._refuse_to_overtake(change.key)
            accepted = await accept_change(self._services, change, self._caller, charged=True)
        except Exception as error:
            problem = problem_of(error)
            if problem.kind.status >= 500:
                self._failed.add(change.key)
            return _error_line(number, problem)
        return _result_line({"line": number, **result_of(accepted)})

    def _refuse_to_overtake(self, key: DocumentKey) -> None:
        """Or sending the failed line again would bring an older content back."""
        if key in self._failed:
            raise Problem(
                EARLIER_CHANGE_FAILED,
                "an earlier line of this document was not accepted: send both again, in order",
            )

    def _forget(self, key: DocumentKey, task: asyncio.Task[bytes]) -> None:
        if self._last.get(key) is task:
            del self._last[key]

    # --- writing ---

    async def _write(self) -> None:
        held: list[bytes] = []
        size = 0
        while True:
            if held and (self._window.empty() or size >= ANSWER_BATCH_BYTES):
                await self._send(b"".join(held))
                held, size = [], 0
            answer = await self._window.get()
            if answer is None:
                break
            if held and not answer.done():
                await self._send(b"".join(held))
                held, size = [], 0
            line = await answer
            held.append(line)
            size += len(line)
            self._bytes_in_flight -= self._sizes.popleft()
            self._answered.set()
        await self._send(b"".join(held))

    async def _send(self, data: bytes) -> None:
        """Whole lines only. A client that reads nothing for so long is taken for gone."""
        if not data:
            return
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._response.write(data)
        except TimeoutError:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ConnectionAbortedError("the client does not read its results") from None


def _idle(seconds: float) -> Problem:
    return Problem(
        BODY_TIMEOUT,
        f"nothing came for {seconds:g} s: send the rest in a new feed; a blank line now and then "
        "keeps one open",
        limit=seconds,
    )


def _done(line: bytes) -> asyncio.Future[bytes]:
    answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    answer.set_result(line)
    return answer


def _error_line(number: int, problem: Problem, *, ends: bool = False) -> bytes:
    end = {"feed_ended": True} if ends else {}
    return _result_line({"line": number, "error": problem.body(), **end})


def _result_line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"
