"""Whose delivery it is, before anything of it is looked at: its source, its sender, its body.

What the headers show is decided before the body is read. A signature is of the body: its headers
are looked at first, and the body is read within what strangers' bodies may take of the memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web

from common.access import Principal, PrincipalKind, Scope
from common.clock import system_clock
from common.settings import MEBIBYTE, Settings
from webhook.addresses import address_of, network_of
from webhook.authentication import anybody_here, speak_for
from webhook.bodies import Pace, beside, read_body_at
from webhook.problems import GONE, NOT_FOUND, UNAUTHENTICATED, Problem
from webhook.services import SERVICES, Services
from webhook.signatures import Basic, Headers, SharedToken, SignatureError, Unverified
from webhook.sources.loading import Source
from webhook.unverified_bodies import UNVERIFIED

log = structlog.get_logger(__name__)

MAX_BODY_BYTES_UNASKED = 8 * MEBIBYTE
"""A delivery is read whole before it is parsed; a source may say another limit."""
LEAST_BYTES_PER_SECOND = 32 * 1024
"""Of a body that takes room from others until it is verified: senders are servers."""


def source_of(services: Services, name: str) -> Source:
    """Raises Problem (404, 410)."""
    source = services.sources.get(name) if services.sources else None
    if source is None:
        raise Problem(NOT_FOUND, "there is no source of this name; sources.yaml names them")
    if source.config.stopped:
        raise Problem(GONE, "this source has been stopped: send nothing more to it")
    return source


def headers_of(request: web.Request) -> Headers:
    found: dict[str, list[str]] = {}
    for name, value in request.headers.items():
        found.setdefault(name.lower(), []).append(value)
    return found


def principal_of_source(source: Source) -> Principal:
    return Principal(
        id=f"source:{source.name}",
        kind=PrincipalKind.SOURCE,
        scopes=frozenset({Scope.WRITE}),
        namespaces=source.config.reach,
    )


async def verified_body(request: web.Request, source: Source, headers: Headers) -> bytes:
    """The request speaks for its source from here on. Raises Problem: 401, 403 for a page of
    another site that asks on somebody's behalf, 408, 413, 429 beyond what the source may send or
    where too many guess its password, and 503."""
    arrival = _Arrival(request, source, headers, system_clock())
    if source.verification.signs_body:
        return await arrival.signed_body()
    return await arrival.body_of_known_sender()


class _Arrival:
    def __init__(self, request: web.Request, source: Source, headers: Headers, now: float) -> None:
        """`now`: when the head arrived, by which the age of a signature is told: a body that is
        sent slowly makes it no older."""
        self._request = request
        self._services = request.app[SERVICES]
        self._source = source
        self._headers = headers
        self._now = now

    async def body_of_known_sender(self) -> bytes:
        verification = self._source.verification

        async def known(request: web.Request) -> Principal:
            if isinstance(verification, Unverified):
                await anybody_here(request)
            self._require(lambda: verification.check_headers(self._headers, now=self._now))
            return principal_of_source(self._source)

        await self._authenticate(known, _guess_of(self._source, self._headers))
        settings = self._services.settings
        pace = Pace(stall_seconds=settings.request_timeout_seconds)
        return await read_body_at(self._request, _limit_of(self._source, settings), pace)

    async def signed_body(self) -> bytes:
        verification, unverified = self._source.verification, self._request.app[UNVERIFIED]
        self._require(lambda: verification.check_headers(self._headers, now=self._now))
        settings = self._services.settings
        limit = min(_limit_of(self._source, settings), unverified.largest)
        pace = Pace(
            stall_seconds=settings.request_timeout_seconds,
            least_bytes_per_second=LEAST_BYTES_PER_SECOND,
        )
        with unverified.hold(self._source.name, network_of(address_of(self._request))) as held:
            body = await read_body_at(self._request, limit, pace, held.reach)

            def verify() -> None:
                verification.verify(self._headers, body, now=self._now)

            async def known(_: web.Request) -> Principal:
                await beside(len(body), lambda: self._require(verify))
                return principal_of_source(self._source)

            await self._authenticate(known, b"")
        return body

    async def _authenticate(
        self, known: Callable[[web.Request], Awaitable[Principal]], guess: bytes
    ) -> None:
        limits = self._services.limits
        speak_for(self._request, await limits.authenticated(self._request, known, guess))

    def _require(self, verify: Callable[[], None]) -> None:
        """Raises Problem (401)."""
        try:
            verify()
        except SignatureError as error:
            name, address = self._source.name, address_of(self._request)
            log.warning("source.refused", source=name, address=address, why=str(error))
            challenge = {"WWW-Authenticate": error.challenge}
            raise Problem(UNAUTHENTICATED, str(error), headers=challenge) from None


def _limit_of(source: Source, settings: Settings) -> int:
    return min(source.config.max_body_bytes or MAX_BODY_BYTES_UNASKED, settings.max_body_bytes)


def _guess_of(source: Source, headers: Headers) -> bytes:
    """What a password or token is recognised by, and cannot be told from; empty: none was sent.
    One that is right for one source is a guess at another."""
    verification = source.verification
    if isinstance(verification, Basic):
        given = headers.get("authorization", ())
    elif isinstance(verification, SharedToken):
        given = headers.get(verification.header, ())
    else:
        return b""
    if not given:
        return b""
    told = "\0".join(["source", source.name, *given])
    return hashlib.sha256(told.encode(errors="surrogateescape")).digest()
