"""Idempotency-Key: a request that comes again is answered as it was, and nothing is done.

Accepting is idempotent by itself as long as nothing else happens to the document. The key is for a
client that lost the answer and sends again later, when somebody else may have written since: what
it sends must not bring its own older content back.

A request with a key is worked to its end even when its client goes away, since that client is the
one who will ask again. Answers are kept by principal, for `idempotency_hours`; those that say 'not
now' or 'not you' are not, so that the same key can be tried again.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog
from aiohttp import web

from common.clock import Clock, system_clock
from common.ports.errors import PortError
from common.ports.receipts import MAX_BODY_BYTES, Receipt, Receipts
from common.settings import Settings
from webhook.authentication import principal_of
from webhook.bodies import beside, media_type_of, read_body
from webhook.feed import NDJSON_TYPES
from webhook.problems import CONTENT_TYPE as PROBLEM_TYPE
from webhook.problems import (
    IDEMPOTENCY_KEY_IN_USE,
    IDEMPOTENCY_KEY_REUSED,
    MALFORMED_REQUEST,
    Handler,
    Problem,
    deadline,
    problem_of,
)
from webhook.services import SERVICES, Services
from webhook.work_to_the_end import WorkToTheEnd

log = structlog.get_logger(__name__)

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
MAX_KEY_CHARACTERS = 255
CLOSE_SECONDS = 5.0
"""On top of the drain, in which it was under way already."""
NOT_KEPT = frozenset({401, 403, 408, 409, 425, 429})
"""What may be answered differently a moment later, as all 5xx."""
LOST_ANSWER = b'{"answer_kept": false}'
"""In place of one that was too large to be kept."""

_KEY = re.compile(rf"[\x21-\x7e]{{1,{MAX_KEY_CHARACTERS}}}")
_GZIP = b"\x1f\x8b"
_FINGERPRINTED = ("Content-Type", "If-Match", "If-None-Match")

_Name = tuple[str, str]
"""Scope and key."""


@dataclass(slots=True)
class KeyedRequests:
    """Those under way in this process."""

    clock: Clock = system_clock
    _work: WorkToTheEnd[web.StreamResponse] = field(default_factory=WorkToTheEnd)

    async def answer(
        self, name: _Name, work: Callable[[], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """`work`'s result. It goes on when who asked is cancelled. Raises what it raises, and
        Problem (409)."""
        if self._work.is_under_way(name):
            detail = "it is being worked on: send it again in a moment, and you get its answer"
            raise Problem(IDEMPOTENCY_KEY_IN_USE, detail, headers={"Retry-After": "1"})
        return await self._work.result(name, work)

    async def close(self, *, wait_seconds: float = CLOSE_SECONDS) -> None:
        await self._work.close(wait_seconds=wait_seconds)


KEYED: web.AppKey[KeyedRequests] = web.AppKey("keyed", KeyedRequests)


def idempotent(handler: Handler, *, body_limit: Callable[[Settings], int]) -> Handler:
    """The handler, for requests with a key once each. `body_limit` is the handler's own, bytes."""

    async def once(request: web.Request) -> web.StreamResponse:
        key = key_of(request)
        services = request.app[SERVICES]
        if key is None or services.receipts is None:
            return await handler(request)
        if media_type_of(request) in NDJSON_TYPES:
            detail = f"{HEADER} is not for feeds: each line of one has a result of its own"
            raise Problem(MALFORMED_REQUEST, detail, field=HEADER)
        name = (principal_of(request).id, key)
        fingerprint = await _fingerprint(request, body_limit(services.settings))
        keyed, receipts = request.app[KEYED], services.receipts
        task = _Task(services, receipts, keyed.clock, name, fingerprint)
        return await keyed.answer(name, lambda: task.run(request, handler))

    return once


def key_of(request: web.Request) -> str | None:
    """As a string of RFC 8941, or bare as most clients send it. Raises Problem (400)."""
    given = request.headers.getall(HEADER, [])
    if not given:
        return None
    key = given[0].strip()
    if len(key) > 2 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if len(given) > 1 or not _KEY.fullmatch(key):
        detail = f"{HEADER} must be one key of 1 to {MAX_KEY_CHARACTERS} visible ASCII characters"
        raise Problem(MALFORMED_REQUEST, detail, field=HEADER, limit=MAX_KEY_CHARACTERS)
    return key


@dataclass(frozen=True, slots=True)
class _Task:
    """One request with a key."""

    services: Services
    receipts: Receipts
    clock: Clock
    name: _Name
    fingerprint: str

    async def run(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        async with deadline(self.services.settings.request_timeout_seconds):
            receipt = await self.receipts.find(*self.name, now=self.clock())
        if receipt is not None:
            return await _answer_of(receipt, self.fingerprint)
        try:
            response = await handler(request)
        except ConnectionError:
            raise
        except Exception as error:
            problem = problem_of(error)
            await self._keep(problem.response())
            raise problem from error
        await self._keep(response)
        return response

    async def _keep(self, response: web.StreamResponse) -> None:
        """Who asked has the answer at least: that it cannot be kept does not undo what was done."""
        if response.status >= 500 or response.status in NOT_KEPT:
            return
        settings = self.services.settings
        body = response.body if isinstance(response, web.Response) else None
        receipt = Receipt(
            fingerprint=self.fingerprint,
            status=response.status,
            body=await _packed(body if isinstance(body, bytes) else b""),
            expires_at=self.clock() + settings.idempotency_hours * 3600.0,
        )
        try:
            async with asyncio.timeout(settings.request_timeout_seconds):
                await self.receipts.keep(*self.name, receipt)
        except (PortError, TimeoutError) as error:
            log.warning("idempotency.not_kept", error=str(error) or "no answer in time")


async def _fingerprint(request: web.Request, limit: int) -> str:
    """Of what is asked, the body included. Raises Problem as `read_body`."""
    stall_seconds = request.app[SERVICES].settings.request_timeout_seconds
    body = await read_body(request, limit, stall_seconds=stall_seconds, keep=True)
    headers = [f"{name}: {request.headers.getall(name, [])}" for name in _FINGERPRINTED]
    asked = "\n".join([request.method, request.raw_path, *headers]).encode(errors="surrogateescape")

    def hashed() -> str:
        digest = hashlib.sha256(asked)
        digest.update(b"\0")
        digest.update(body)
        return digest.hexdigest()

    return await beside(len(body), hashed)


async def _answer_of(receipt: Receipt, fingerprint: str) -> web.Response:
    if receipt.fingerprint != fingerprint:
        detail = "the key names another request, with another address, body or condition"
        raise Problem(IDEMPOTENCY_KEY_REUSED, detail, field=HEADER)
    body = receipt.body
    if body.startswith(_GZIP):
        body = await asyncio.to_thread(gzip.decompress, body)
    return web.Response(
        body=body,
        status=receipt.status,
        content_type="application/json" if receipt.status < 400 else PROBLEM_TYPE,
        headers={REPLAYED: "true"},
    )


async def _packed(body: bytes) -> bytes:
    """Compressed where it would be too large to be kept."""
    if len(body) <= MAX_BODY_BYTES:
        return body
    packed = await asyncio.to_thread(gzip.compress, body, 5)
    return packed if len(packed) <= MAX_BODY_BYTES else LOST_ANSWER
