"""The keys that an issuer signs its tokens with, as it publishes them (RFC 7517)."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

import aiohttp
import jwt
from jwt.algorithms import AllowedPublicKeys
from pydantic import TypeAdapter, ValidationError

from common.oidc_issuers import Address, OidcIssuer
from common.ports.errors import PermanentError, TransientError

DEADLINE_SECONDS = 5.0
MAX_ANSWER_BYTES = 512 * 1024
MAX_KEYS = 100
MIN_RSA_BITS = 2048
FRESH_SECONDS, LEAST_FRESH_SECONDS, MOST_FRESH_SECONDS = 300.0, 60.0, 3600.0
"""How long keys are taken to be the issuer's newest: where it says nothing, and the bounds of what
it says."""

_MAX_AGE = re.compile(r"(?:^|[\s,])max-age=\"?(\d{1,9})", re.IGNORECASE)
_NEVER_FRESH = re.compile(r"(?:^|[\s,])no-(?:store|cache)\b", re.IGNORECASE)
_OF_CURVE = {"P-256": "ES256", "P-384": "ES384", "Ed25519": "EdDSA"}
_OF_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_ADDRESS: TypeAdapter[str] = TypeAdapter(Address)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """`algorithms`: those that it may verify, whatever a token says of itself."""

    kid: str | None
    algorithms: frozenset[str]
    public: AllowedPublicKeys


@dataclass(frozen=True, slots=True)
class PublishedKeys:
    keys: tuple[SigningKey, ...]
    url: str
    fresh_seconds: float


async def fetch_keys(issuer: OidcIssuer) -> PublishedKeys:
    """Ask the issuer, in two requests where it is not set where its keys are.

    Raises TransientError when it does not answer, PermanentError when what it answers is no set of
    keys or not its own.
    """
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await _fetched(issuer)
    except TimeoutError:
        line = f"the issuer {issuer.name} did not answer within {DEADLINE_SECONDS:g} s"
        raise TransientError(line) from None


async def _fetched(issuer: OidcIssuer) -> PublishedKeys:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        url = issuer.jwks_url or await _discovered(session, issuer)
        body, caching = await _get(session, url)
    return PublishedKeys(await asyncio.to_thread(keys_in, body, url), url, fresh_seconds(caching))


async def _discovered(session: aiohttp.ClientSession, issuer: OidcIssuer) -> str:
    """Where its discovery document says that its keys are."""
    url = f"{issuer.issuer.rstrip('/')}/.well-known/openid-configuration"
    said = _object((await _get(session, url))[0], url)
    if said.get("issuer") != issuer.issuer:
        raise PermanentError(
            f"{url} is of the issuer {str(said.get('issuer'))[:200]!r}, and the settings say "
            f"{issuer.issuer!r}: they must be the same to the letter"
        )
    try:
        return _ADDRESS.validate_python(said.get("jwks_uri"), strict=True)
    except ValidationError as error:
        why = error.errors()[0]["msg"]
        raise PermanentError(f"{url} has no jwks_uri that may be used: {why}") from None


async def _get(session: aiohttp.ClientSession, url: str) -> tuple[bytes, str]:
    """The body and its Cache-Control."""
    try:
        async with session.get(url, allow_redirects=False) as answer:
            _require_success(answer, url)
            return await _bounded(answer, url), answer.headers.get("Cache-Control", "")
    except TimeoutError:
        raise  # of the whole question
    except (aiohttp.ClientError, OSError, ValueError) as error:
        why = str(error) or type(error).__name__
        raise TransientError(f"{url} cannot be reached: {why}") from None


def _require_success(answer: aiohttp.ClientResponse, url: str) -> None:
    if answer.status == 200:
        return
    if 300 <= answer.status < 400:
        there = urljoin(url, answer.headers.get("Location", ""))[:200]
        raise PermanentError(f"{url} is elsewhere: set issuer or jwks_url to what is at {there}")
    if 400 <= answer.status < 500 and answer.status not in (408, 425, 429):
        raise PermanentError(f"{url} answers {answer.status}")
    raise TransientError(f"{url} answers {answer.status}")


async def _bounded(answer: aiohttp.ClientResponse, url: str) -> bytes:
    """Counted as it is once decompressed."""
    body = bytearray()
    async for piece in answer.content.iter_chunked(64 * 1024):
        body += piece
        if len(body) > MAX_ANSWER_BYTES:
            raise PermanentError(f"{url} answers more than {MAX_ANSWER_BYTES:,} bytes")
    return bytes(body)


def fresh_seconds(cache_control: str) -> float:
    """By the header of the answer, within bounds of our own."""
    if _NEVER_FRESH.search(cache_control):
        return LEAST_FRESH_SECONDS
    if (stated := _MAX_AGE.search(cache_control)) is None:
        return FRESH_SECONDS
    return min(max(float(stated[1]), LEAST_FRESH_SECONDS), MOST_FRESH_SECONDS)


def keys_in(body: bytes, url: str) -> tuple[SigningKey, ...]:
    """Those of the set that may verify tokens. Raises PermanentError; `url` is for its message."""
    listed = _object(body, url).get("keys")
    if not isinstance(listed, list) or len(listed) > MAX_KEYS:
        raise PermanentError(f"{url} is no set of at most {MAX_KEYS} keys")
    keys = tuple(_usable(listed))
    if not keys:
        raise PermanentError(f"{url} has no key that could verify a token: {len(listed)} others")
    return keys


def _usable(listed: list[object]) -> Iterator[SigningKey]:
    """Sets hold keys of other kinds and for other uses as well: those are left out."""
    for jwk in listed:
        try:
            if isinstance(jwk, dict) and (algorithms := _algorithms_of(jwk)):
                yield _signing_key(jwk, algorithms)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):
            continue  # What is damaged verifies nothing.


def _algorithms_of(jwk: Mapping[str, Any]) -> frozenset[str]:
    """None for what is no public key to verify with. A key is of one type, and may state the only
    algorithm that it is for. Raises TypeError for what is damaged."""
    for_others = jwk.get("use", "sig") != "sig" or "verify" not in jwk.get("key_ops", ["verify"])
    if for_others or "d" in jwk:
        return frozenset()
    if jwk.get("kty") == "RSA":
        possible = frozenset(_OF_RSA)
    elif jwk.get("kty") in ("EC", "OKP"):
        possible = frozenset({_OF_CURVE.get(str(jwk.get("crv")), "")} - {""})
    else:
        possible = frozenset()
    return possible & {jwk["alg"]} if "alg" in jwk else possible


def _signing_key(jwk: Mapping[str, Any], algorithms: frozenset[str]) -> SigningKey:
    """Raises what the library raises, and ValueError for a key that is too weak or has no name that
    could be told."""
    kid = jwk.get("kid")
    if not (kid is None or isinstance(kid, str)):
        raise ValueError("a kid is a string")
    public = jwt.PyJWK(dict(jwk), algorithm=min(algorithms)).key
    if getattr(public, "key_size", MIN_RSA_BITS) < MIN_RSA_BITS and jwk["kty"] == "RSA":
        raise ValueError("an RSA key of fewer bits can be broken")
    return SigningKey(kid, algorithms, public)


def _object(body: bytes, url: str) -> dict[str, Any]:
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        raise PermanentError(f"{url} answers no JSON") from None
    if not isinstance(said, dict):
        raise PermanentError(f"{url} answers JSON that is no object")
    return said
