"""Keys for tests, and a service that asks for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from common.access import SCOPES_OF, Role, Scope
from common.api_keys import kept, new_key
from common.clock import Clock
from tests.fakes.keys import MemoryKeyStore
from webhook.authentication import Doorman
from webhook.key_verifier import KeyVerifier


@dataclass
class Keys:
    """A store, and the door that it opens."""

    store: MemoryKeyStore = field(default_factory=MemoryKeyStore)
    clock: Clock = lambda: 1000.0

    def made(
        self,
        scopes: Role | Iterable[Scope],
        *namespaces: str,
        expires_at: float | None = None,
    ) -> str:
        """A new key that the store knows."""
        key = new_key()
        self.store.kept[key.id] = kept(
            key,
            name="of a test",
            scopes=SCOPES_OF[scopes] if isinstance(scopes, Role) else scopes,
            namespaces=namespaces,
            created_at=1.0 + len(self.store.kept),
            expires_at=expires_at,
        )
        return key.text

    @property
    def doorman(self) -> Doorman:
        return Doorman([KeyVerifier(self.store, timeout_seconds=5, clock=self.clock)])


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}
