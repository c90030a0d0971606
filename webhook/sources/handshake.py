"""Notion's handshake: the token that its deliveries will be signed with comes once, unsigned.

Anybody can send one, so a source takes tokens only while its file says that it waits for one, a few
of them, and nothing else. None comes into force by itself: the operator reads them, tells Notion
which it was, and puts it where the source's secret is kept. The log never holds one.
"""

from __future__ import annotations

import structlog
from aiohttp import web

from common.clock import system_clock
from common.ports.receipts import Receipt, Receipts
from webhook.addresses import address_of, network_of
from webhook.bodies import Pace, read_body_at
from webhook.problems import OVER_CAPACITY, UNAUTHENTICATED, UNAVAILABLE, Problem, deadline
from webhook.services import SERVICES
from webhook.sources.loading import Source
from webhook.unverified_bodies import UNVERIFIED
from webhook.validation import parse_json

log = structlog.get_logger(__name__)

MAX_TOKENS = 4
"""Strangers can use them up; a name that nobody knows, for the source, keeps them out."""
KEPT_SECONDS = 24 * 3600.0
MAX_BODY_BYTES = 4096
MAX_TOKEN_CHARACTERS = 512
_FIELD = "verification_token"


async def take_token(request: web.Request, source: Source) -> None:
    """Once it is kept. Raises Problem: 401 for what is no token, 503 where it is not kept."""
    services = request.app[SERVICES]
    token = _token_in(await _small_body(request, source))
    if token is None:
        raise Problem(
            UNAUTHENTICATED,
            "this source waits for Notion's verification token and takes nothing else: once it "
            "came, `bloomweaver sources tokens NAME` shows it, and verify.secret names it",
            headers={"WWW-Authenticate": "Webhook-Signature"},
        )
    if services.receipts is None:
        raise Problem(UNAVAILABLE, "this process keeps nothing of deliveries")
    async with deadline(services.settings.request_timeout_seconds):
        await _keep(services.receipts, source.name, token)
    log.info("source.token_came", source=source.name, address=address_of(request))


async def tokens_of(receipts: Receipts, name: str) -> list[str]:
    """Those that came in the last day, the first one first. Raises TransientError."""
    found = [await _at(receipts, name, number) for number in range(MAX_TOKENS)]
    return [token for token in found if token is not None]


async def _small_body(request: web.Request, source: Source) -> bytes:
    seconds = request.app[SERVICES].settings.request_timeout_seconds
    with request.app[UNVERIFIED].hold(source.name, network_of(address_of(request))) as held:
        return await read_body_at(request, MAX_BODY_BYTES, Pace(stall_seconds=seconds), held.reach)


def _token_in(body: bytes) -> str | None:
    try:
        value = parse_json(body)
    except Problem:
        return None
    token = value.get(_FIELD) if isinstance(value, dict) and len(value) == 1 else None
    if not isinstance(token, str) or not 0 < len(token) <= MAX_TOKEN_CHARACTERS:
        return None
    return token if token.isascii() and token.isprintable() else None


async def _keep(receipts: Receipts, name: str, token: str) -> None:
    """In the first place that is free, or has it already: the first one kept stays."""
    expires_at = system_clock() + KEPT_SECONDS
    receipt = Receipt(fingerprint="", status=200, body=token.encode(), expires_at=expires_at)
    for number in range(MAX_TOKENS):
        await receipts.keep(_scope_of(name), str(number), receipt)
        if await _at(receipts, name, number) == token:
            return
    raise Problem(OVER_CAPACITY, "too many tokens came: look at those first", limit=MAX_TOKENS)


async def _at(receipts: Receipts, name: str, number: int) -> str | None:
    found = await receipts.find(_scope_of(name), str(number), now=system_clock())
    return None if found is None else found.body.decode()


def _scope_of(name: str) -> str:
    return f"token-of-source:{name}"
