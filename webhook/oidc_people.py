"""What somebody with a verified token may do: claims mapped to a role and to namespaces. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from common.access import EVERYWHERE, SCOPES_OF, Principal, PrincipalKind, Role
from common.oidc_issuers import VALUE, ClaimPath, OidcIssuer
from webhook.oidc_tokens import Claims

POWER = (Role.READER, Role.EDITOR, Role.ADMIN)
"""Each may all that those before it may."""
SPACE_SEPARATED = frozenset({"scope", "scp"})
"""Claims whose text is several values (RFC 8693). In any other, a space is part of a name."""


class NoAccessError(Exception):
    """The token is valid, and whose it is may do nothing here. The message is for that person."""


def person_of(claims: Claims, issuer: OidcIssuer) -> Principal:
    """Raises NoAccessError."""
    return Principal(
        id=f"user:{issuer.name}#{claims['sub']}",
        kind=PrincipalKind.PERSON,
        scopes=SCOPES_OF[_role_of(claims, issuer)],
        namespaces=_namespaces_of(claims, issuer),
    )


def _role_of(claims: Claims, issuer: OidcIssuer) -> Role:
    named = values_at(claims, issuer.role_claim)
    roles = [issuer.roles[name] for name in named if name in issuer.roles]
    if not roles and issuer.default_role is not None:
        return issuer.default_role
    if not roles:
        where = _told(issuer.role_claim)
        raise NoAccessError(f"this token is valid, and no role in its {where} may do anything here")
    return max(roles, key=POWER.index)


def _namespaces_of(claims: Claims, issuer: OidcIssuer) -> tuple[str, ...]:
    own = (
        pattern
        for value in values_at(claims, issuer.namespaces_claim)
        for pattern in _patterns_of(value, issuer)
    )
    reached = tuple(dict.fromkeys([*issuer.namespaces, *own]))
    if not reached:
        where = _told(issuer.namespaces_claim)
        raise NoAccessError(f"this token is valid, and its {where} names no namespace of yours")
    return reached


def _patterns_of(value: str, issuer: OidcIssuer) -> list[str]:
    """Whoever may choose a group's name may not choose a pattern, and reach what others have."""
    if value in issuer.namespace_map:
        return issuer.namespace_map[value]
    template = issuer.namespace_template or ("" if issuer.namespace_map else VALUE)
    if not template or not value or EVERYWHERE in value:
        return []
    return [template.replace(VALUE, value)]


def values_at(claims: Claims, path: ClaimPath | None) -> list[str]:
    """The texts that stand there: one, a list, or none where there is nothing of the kind.

    A path with dots is first taken for a claim of that name, as `https://docs.example/roles` is.
    """
    if path is None:
        return []
    value = _at(claims, path)
    if isinstance(value, str):
        name = path if isinstance(path, str) else path[-1]
        return value.split() if name in SPACE_SEPARATED else [value]
    return list(_texts(value))


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, list):
        yield from (one for one in value if isinstance(one, str))


def _at(claims: Claims, path: ClaimPath) -> object:
    if isinstance(path, str):
        return claims[path] if path in claims else _below(claims, path.split("."))
    return _below(claims, path)


def _below(value: object, names: Sequence[str]) -> object:
    for name in names:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def _told(path: ClaimPath | None) -> str:
    return f"claim {'.'.join(path) if isinstance(path, list) else path}"
