"""Tokens (JWT, RFC 7519) as they are sent, and what they must say. Pure.

`read_token` believes nothing: what it returns is what the token says of itself. Only when its
signature has been verified do `check_claims` and `webhook.oidc_people` look at the rest.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from common.oidc_issuers import OidcIssuer

MAX_TOKEN_CHARACTERS = 8 * 1024
"""As much as one header may hold."""
MAX_SUBJECT_CHARACTERS = 255
LATEST_SECONDS = 253402300799.0
"""The end of the year 9999: what is later is no time."""

_LOOKS = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_TYPES = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
"""Without `typ` a token is taken for one of these; other kinds, such as logout tokens, are not for
calling anybody with."""

Claims = Mapping[str, Any]


class TokenError(Exception):
    """The token opens nothing. The message is for whoever sent it and does not repeat it."""


@dataclass(frozen=True, slots=True)
class Token:
    """What a token says; nothing of it is verified."""

    algorithm: str
    kid: str | None
    issuer: str
    claims: Claims


def looks_like_token(credential: str) -> bool:
    """Three parts of base64url with a dot between them; the last is empty where nobody signed."""
    return _LOOKS.fullmatch(credential) is not None


def read_token(text: str) -> Token:
    """Raises TokenError. Nothing is decoded of what is too long."""
    if len(text) > MAX_TOKEN_CHARACTERS:
        raise TokenError(f"it is longer than {MAX_TOKEN_CHARACTERS:,} characters")
    if not looks_like_token(text):
        raise TokenError("it is not three parts of base64url with a dot between them")
    header, claims, _ = text.split(".")
    said = _object(header, "header")
    algorithm, kid = said.get("alg"), said.get("kid")
    if "crit" in said:
        raise TokenError("its header asks for something that is not known here (crit)")
    if str(said.get("typ", "JWT")).lower() not in _TYPES:
        raise TokenError("it is of another type (typ) than tokens to call a service with")
    if not isinstance(algorithm, str) or not isinstance(kid, str | None):
        raise TokenError("alg and kid in its header have to be strings")
    payload = _object(claims, "payload")
    return Token(algorithm, kid, _issuer_of(payload), payload)


def _issuer_of(claims: Claims) -> str:
    if not isinstance(issuer := claims.get("iss"), str):
        raise TokenError("it does not say who issued it (iss)")
    return issuer


def _object(part: str, name: str) -> dict[str, Any]:
    """A member that is there twice would mean one thing here and another thing elsewhere."""
    try:
        text = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)).decode()
        said = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise TokenError(f"its {name} is no JSON object") from None
    if not isinstance(said, dict):
        raise TokenError(f"its {name} is no JSON object")
    return said


def _once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) != len(members):
        raise ValueError("a member is there twice")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def check_claims(claims: Claims, issuer: OidcIssuer, now: float) -> float:
    """Of a token that this issuer signed. Until when it is taken; that and `now` in seconds since
    the epoch. Raises TokenError."""
    ends_at = _check_times(claims, issuer.leeway_seconds, now)
    _check_audience(claims, issuer)
    _check_parties(claims, issuer)
    _check_subject(claims)
    if "events" in claims:
        raise TokenError("it tells of an event, and is not for calling a service with")
    if "cnf" in claims:
        raise TokenError("it is bound to a key of its holder (cnf), which is not verified here")
    return ends_at


def _check_times(claims: Claims, leeway_seconds: float, now: float) -> float:
    expires_at = _time(claims, "exp")
    if expires_at is None:
        raise TokenError("it never expires (exp)")
    if now >= expires_at + leeway_seconds:
        raise TokenError(f"it expired {now - expires_at:.0f} s ago, at {_told(expires_at)}")
    for claim in ("nbf", "iat"):
        begins_at = _time(claims, claim)
        if begins_at is not None and now < begins_at - leeway_seconds:
            ahead = f"{begins_at - now:.0f} s, at {_told(begins_at)}"
            raise TokenError(f"it begins in {ahead} ({claim}): compare the clocks")
    return expires_at + leeway_seconds


def _time(claims: Claims, claim: str) -> float | None:
    value = claims.get(claim)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TokenError(f"its {claim} is no time")
    if not 0 <= value <= LATEST_SECONDS:
        raise TokenError(f"its {claim} is no time")
    return float(value)


def _told(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _check_audience(claims: Claims, issuer: OidcIssuer) -> None:
    """A token that says whom it is for has to be for this service; one that does not, for an
    application that may call it."""
    if "aud" in claims:
        audience = _texts(claims["aud"])
        if not audience & set(issuer.audience):
            named = ", ".join(sorted(audience))[:200]
            raise TokenError(f"its audience (aud) is {named!r}, which is not this service")
    elif not issuer.client_ids and (issuer.audience or not issuer.authorized_parties):
        raise TokenError("it does not say whom it is for (aud)")
    elif issuer.client_ids and "client_id" not in claims:
        raise TokenError("it says neither whom it is for (aud) nor which application's (client_id)")


def _check_parties(claims: Claims, issuer: OidcIssuer) -> None:
    if issuer.client_ids and "client_id" in claims:
        _require_one_of(claims, "client_id", issuer.client_ids)
    if issuer.authorized_parties:
        _require_one_of(claims, "azp", issuer.authorized_parties)


def _require_one_of(claims: Claims, claim: str, accepted: list[str]) -> None:
    if claims.get(claim) not in accepted:
        named = str(claims.get(claim, "missing"))[:200]
        raise TokenError(f"its {claim} is {named!r}, which may not call this service")


def _texts(value: object) -> set[str]:
    listed = value if isinstance(value, list) else [value]
    return {one for one in listed if isinstance(one, str)}


def _check_subject(claims: Claims) -> None:
    """It stands in logs and in the audit trail."""
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject.strip():
        raise TokenError("it does not say whose it is (sub)")
    if len(subject) > MAX_SUBJECT_CHARACTERS or not subject.isprintable():
        raise TokenError(
            f"its sub is not of at most {MAX_SUBJECT_CHARACTERS} characters that can be printed"
        )
