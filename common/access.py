"""Who may do what: scopes, roles, and the wall around namespaces. Pure.

A principal is whoever a request speaks for: an API key, a person, a source of webhooks, or anybody
on this machine. It reaches the namespaces that it is bound to and no other, whatever its scopes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

EVERYWHERE = "*"


class Scope(StrEnum):
    WRITE = "changes:write"
    READ = "documents:read"
    SEARCH = "search"
    ADMIN = "admin"
    """Dead letters, scrubs and metrics; it includes the others."""


class Role(StrEnum):
    """What people are given; a name for scopes."""

    READER = "reader"
    EDITOR = "editor"
    ADMIN = "admin"


SCOPES_OF: dict[Role, frozenset[Scope]] = {
    Role.READER: frozenset({Scope.READ, Scope.SEARCH}),
    Role.EDITOR: frozenset({Scope.READ, Scope.SEARCH, Scope.WRITE}),
    Role.ADMIN: frozenset(Scope),
}


class PrincipalKind(StrEnum):
    KEY = "key"
    PERSON = "person"
    SOURCE = "source"
    LOCAL = "local"
    """Anybody on this machine, while the service listens on loopback and knows no key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """`id` names it in limits, logs and the audit trail, and is no secret: `key:8f2k…`."""

    id: str
    kind: PrincipalKind
    scopes: frozenset[Scope]
    namespaces: tuple[str, ...] = ()
    """Names, or beginnings of names that end in an asterisk. None at all: nothing is reached."""

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def reaches(self, namespace: str) -> bool:
        return any(_matches(pattern, namespace) for pattern in self.namespaces)

    @property
    def reaches_all(self) -> bool:
        return EVERYWHERE in self.namespaces

    def reached(self, namespaces: Iterable[str]) -> list[str]:
        return [namespace for namespace in namespaces if self.reaches(namespace)]


def _matches(pattern: str, namespace: str) -> bool:
    if pattern.endswith(EVERYWHERE):
        return namespace.startswith(pattern[:-1])
    return namespace == pattern


ANYBODY_HERE = Principal(
    id="local", kind=PrincipalKind.LOCAL, scopes=frozenset(Scope), namespaces=(EVERYWHERE,)
)
