"""Verifies people's tokens (OpenID Connect): the driver around `oidc_tokens`, `oidc_key_cache` and
`oidc_people`."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import jwt
import structlog

from common.access import Principal
from common.bounded_map import BoundedMap
from common.clock import Clock, system_clock
from common.oidc_issuers import OidcIssuer
from common.oidc_keys import SigningKey
from common.ports.errors import TransientError
from webhook.oidc_key_cache import KeyCache, UnknownKeyError
from webhook.oidc_people import NoAccessError, person_of
from webhook.oidc_tokens import Token, TokenError, check_claims, looks_like_token, read_token
from webhook.problems import FORBIDDEN, UNAUTHENTICATED, UNAVAILABLE, Problem

log = structlog.get_logger(__name__)

CHALLENGE = 'Bearer error="invalid_token"'
REMEMBERED_SECONDS = 60.0
"""A token is sent with every request, and verifying it takes longer than the rest of many. The key
that it is signed with may be taken back meanwhile, so that it is not for long."""
MAX_REMEMBERED = 1000

_SIGNATURES = jwt.PyJWS()


@dataclass(frozen=True, slots=True)
class _Verified:
    """`until`: seconds since the epoch."""

    principal: Principal
    until: float


class OidcVerifier:
    """Tokens of the issuers that the settings name, and of no other. Belongs to one event loop."""

    def __init__(self, caches: Sequence[tuple[OidcIssuer, KeyCache]], clock: Clock = system_clock):
        self._issuers = {issuer.issuer: (issuer, cache) for issuer, cache in caches}
        self._clock = clock
        self._remembered: BoundedMap[bytes, _Verified] = BoundedMap(MAX_REMEMBERED, MAX_REMEMBERED)

    def recognises(self, credential: str) -> bool:
        return looks_like_token(credential)

    async def principal(self, credential: str) -> Principal:
        """Raises Problem: 401 for what is wrong with the token, 403 where it may do nothing here,
        503 while its issuer's keys cannot be had."""
        digest = hashlib.sha256(credential.encode("utf-8", "surrogatepass")).digest()
        known = self._remembered.get(digest)
        if known is None or self._clock() >= known.until:
            known = await self._verified_or_refused(credential)
            self._remembered.put(digest, known, size=1)
        return known.principal

    async def _verified_or_refused(self, credential: str) -> _Verified:
        try:
            return await self._verified(credential)
        except (TokenError, UnknownKeyError) as error:
            detail = f"this token is refused: {error}"
            headers = {"WWW-Authenticate": CHALLENGE}
            raise Problem(UNAUTHENTICATED, detail, headers=headers) from None
        except NoAccessError as error:
            raise Problem(FORBIDDEN, str(error)) from None
        except TransientError as error:
            log.warning("oidc.undecided", error=str(error))
            detail = "the keys of this token's issuer cannot be fetched just now; send it again"
            raise Problem(UNAVAILABLE, detail) from None

    async def close(self) -> None:
        await asyncio.gather(*(cache.close() for _, cache in self._issuers.values()))

    async def _verified(self, credential: str) -> _Verified:
        token = read_token(credential)
        if token.issuer not in self._issuers:
            raise TokenError(f"its issuer {token.issuer[:200]!r} (iss) is not known here")
        issuer, cache = self._issuers[token.issuer]
        if token.algorithm not in issuer.algorithms:
            raise TokenError(
                f"it is signed by {token.algorithm[:20]!r} (alg), and {issuer.name} is taken to "
                f"sign by {', '.join(issuer.algorithms)}"
            )
        _check_signature(credential, token, await cache.key(token.kid, token.algorithm))
        now = self._clock()
        ends_at = check_claims(token.claims, issuer, now)
        return _Verified(person_of(token.claims, issuer), min(ends_at, now + REMEMBERED_SECONDS))


def _check_signature(credential: str, token: Token, key: SigningKey) -> None:
    """The one algorithm that was chosen before. Raises TokenError."""
    try:
        _SIGNATURES.decode(credential, key.public, algorithms=[token.algorithm])
    except jwt.PyJWTError:
        raise TokenError("its signature is not of its issuer's key") from None
