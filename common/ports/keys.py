"""The key store port: API keys, without what could be used as one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from common.ports.errors import TransientError

__all__ = ["KeyStore", "StoredKey", "TransientError"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """An API key as it is kept. Times are seconds since the epoch; None: never."""

    id: str
    """The part of the key that anybody may see."""
    name: str
    """What its maker calls it."""
    salt: bytes
    digest: bytes
    """Of salt and secret (`common.api_keys`)."""
    scopes: tuple[str, ...]
    namespaces: tuple[str, ...]
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None


class KeyStore(Protocol):
    """Raises TransientError when out of reach. Keys are never deleted, so that the audit trail's
    names stay readable: a revoked one stays listed."""

    async def add(self, key: StoredKey) -> bool:
        """False: there is one of this id, which stays as it is."""

    async def get(self, key_id: str) -> StoredKey | None: ...

    async def list(self) -> list[StoredKey]:
        """All, the oldest first."""

    async def revoke(self, key_id: str, *, at: float) -> bool:
        """False: there is no such key. One that was revoked before keeps its time."""

    async def close(self) -> None: ...
