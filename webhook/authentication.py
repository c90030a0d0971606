"""Who a request speaks for, and whether it may do what it asks.

Checked before anything of the body is read. A route names the scope that it needs; a namespace in
the path must be one that the principal reaches. Namespaces in bodies are checked where each change
is accepted (`webhook.acceptance`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

import structlog
from aiohttp import web

from common.access import ANYBODY_HERE, Principal, Scope
from common.door import is_loopback, no_key
from common.settings import Settings
from webhook.cors import is_listed
from webhook.problems import FORBIDDEN, UNAUTHENTICATED, Handler, Problem
from webhook.services import SERVICES

log = structlog.get_logger(__name__)

_PASSED_ON = ("Forwarded", "X-Forwarded-For", "X-Real-IP")
Authenticate = Callable[[web.Request], Awaitable[Principal]]
"""Raises Problem (401, 403)."""

_PRINCIPAL = web.RequestKey("principal", Principal)


class Verifier(Protocol):
    """Knows one kind of credential."""

    def recognises(self, credential: str) -> bool:
        """Whether it is of this kind, by its looks."""

    async def principal(self, credential: str) -> Principal:
        """Raises Problem (401) that says what is wrong with it, and TransientError."""


@dataclass(frozen=True, slots=True)
class Doorman:
    """Asks everybody for an API key or a token.

    `Authorization: Bearer …`, or `X-API-Key: …` for senders that can set nothing else.
    """

    verifiers: Sequence[Verifier] = field(default_factory=tuple)

    async def __call__(self, request: web.Request) -> Principal:
        credential = credential_of(request)
        for verifier in self.verifiers:
            if verifier.recognises(credential):
                return await verifier.principal(credential)
        raise unauthenticated("this credential is neither an API key nor a token known here")


async def anybody_here(request: web.Request) -> Principal:
    """For a service on loopback that knows no key. A web page that the browser on this machine
    shows is not somebody on this machine, nor is whoever a proxy or a tunnel speaks for: whatever
    they send is refused. A page whose origin the settings name is let in."""
    if any(name in request.headers for name in _PASSED_ON):
        raise Problem(FORBIDDEN, "without an API key nothing that a proxy passes on is taken")
    if not is_loopback(_host_of(request)):
        raise Problem(FORBIDDEN, "this service answers under a name of this machine only")
    origin = request.headers.get("Origin")
    if origin is not None and is_listed(origin, request.app[SERVICES].settings.cors_origins):
        return ANYBODY_HERE
    if origin is not None and not is_loopback(_host_in(origin)):
        raise Problem(FORBIDDEN, "without an API key no other site's page may call this service")
    if request.headers.get("Sec-Fetch-Site") == "cross-site":
        raise Problem(FORBIDDEN, "without an API key no other site's page may call this service")
    return ANYBODY_HERE


def guarded(handler: Handler, scope: Scope) -> Handler:
    """The handler for those who may. Its principal is `principal_of(request)`."""

    async def checked(request: web.Request) -> web.StreamResponse:
        services = request.app[SERVICES]
        principal = await services.limits.authenticated(request, services.authenticate)
        request[_PRINCIPAL] = principal
        require_scope(principal, scope)
        if (namespace := request.match_info.get("namespace")) is not None:
            require_reach(principal, namespace)
        return await handler(request)

    return checked


def principal_of(request: web.Request) -> Principal:
    """Of a guarded handler's request."""
    return request[_PRINCIPAL]


def known_principal_of(request: web.Request) -> Principal | None:
    """Of any request, also of one that was refused for what its principal may not."""
    return request.get(_PRINCIPAL)


def speak_for(request: web.Request, principal: Principal) -> None:
    """For handlers that verify their requests in a way of their own."""
    request[_PRINCIPAL] = principal


def require_scope(principal: Principal, scope: Scope) -> None:
    if not principal.may(scope):
        detail = f"this needs the scope {scope}, and you have {_listed(principal)}"
        raise Problem(FORBIDDEN, detail, limit=sorted(principal.scopes))


def require_reach(principal: Principal, namespace: str) -> None:
    """The same answer whether or not there is such a namespace."""
    if not principal.reaches(namespace):
        detail = f"namespace {namespace[:128]!r} is not one of yours"
        raise Problem(FORBIDDEN, detail, field="namespace")


def require_reach_of_all(principal: Principal) -> None:
    if not principal.reaches_all:
        raise Problem(FORBIDDEN, "this tells of all namespaces, and you are bound to some")


def credential_of(request: web.Request) -> str:
    """Raises Problem (401) when there is none, or more than one: who stands in between may have
    looked at another."""
    given = request.headers.getall("Authorization", [])
    keys = request.headers.getall("X-API-Key", [])
    if len(keys) > 1:
        raise unauthenticated("the X-API-Key header must be one")
    key = keys[0].strip() if keys else ""
    scheme, _, token = given[0].strip().partition(" ") if given else ("", "", "")
    token = token.strip()
    if len(given) > 1 or (given and (scheme.lower() != "bearer" or not token)):
        raise unauthenticated("the Authorization header must be one: Bearer and an API key")
    if key and token and key != token:
        raise unauthenticated("Authorization and X-API-Key differ: send one of them")
    if not (token or key):
        raise unauthenticated(
            "this needs an API key: send `Authorization: Bearer KEY`; "
            "`bloomweaver keys create` makes one"
        )
    return token or key


def unauthenticated(detail: str) -> Problem:
    return Problem(UNAUTHENTICATED, detail, headers={"WWW-Authenticate": "Bearer"})


def _host_of(request: web.Request) -> str:
    """Without port; empty where the header is missing or cannot be read."""
    return _host_in(f"//{request.headers.get('Host', '')}")


def _host_in(url: str) -> str:
    """Empty where there is none to be read."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _listed(principal: Principal) -> str:
    return ", ".join(sorted(principal.scopes)) or "none"


@dataclass(slots=True)
class OpenUntilKnown:
    """On loopback: anybody, until there is a key, or an issuer of tokens, to ask for."""

    doorman: Doorman
    knows_anybody: Callable[[], Awaitable[bool]]
    look_seconds: float = 2.0
    """A key that was made just now closes the door so long after, at most."""
    _asks: bool = False
    _looked_at: float = float("-inf")

    async def __call__(self, request: web.Request) -> Principal:
        if await self._asks_now():
            return await self.doorman(request)
        return await anybody_here(request)

    async def _asks_now(self) -> bool:
        """Never opens again while this process lives: a key that was revoked last must not open
        the door to everybody."""
        now = asyncio.get_running_loop().time()
        if not self._asks and now - self._looked_at >= self.look_seconds:
            if await self.knows_anybody():
                self._asks = True  # never False: a look begun before may end after one that found
            self._looked_at = now
        return self._asks


async def authenticate_of(
    settings: Settings,
    doorman: Doorman,
    knows_anybody: Callable[[], Awaitable[bool]],
    *,
    listens_on: str | None,
) -> Authenticate:
    """`listens_on`: the address that requests come in by; None where it is no TCP address, as in a
    function. Raises ConfigurationError where everybody could call a service that knows nobody."""
    if settings.auth == "off":
        log.warning("webhook.open_to_everybody", listens_on=listens_on)
        return open_to_everybody
    if listens_on is None or settings.auth == "required":
        return doorman
    if is_loopback(listens_on):
        return OpenUntilKnown(doorman, knows_anybody)
    if not await knows_anybody():
        raise no_key(listens_on)
    return doorman


async def open_to_everybody(request: web.Request) -> Principal:
    """Where something in front of the service has asked already."""
    del request
    return ANYBODY_HERE
