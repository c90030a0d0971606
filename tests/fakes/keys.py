"""A key store in memory, which can be out of reach."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from common.ports.errors import TransientError
from common.ports.keys import StoredKey


@dataclass
class MemoryKeyStore:
    """Implements KeyStore."""

    kept: dict[str, StoredKey] = field(default_factory=dict)
    out_of_reach: bool = False
    looks: int = 0
    """How often one key was asked for."""

    async def close(self) -> None:
        """Nothing is open."""

    async def add(self, key: StoredKey) -> bool:
        self._reach()
        return self.kept.setdefault(key.id, key) is key

    async def get(self, key_id: str) -> StoredKey | None:
        self._reach()
        self.looks += 1
        return self.kept.get(key_id)

    async def list(self) -> list[StoredKey]:
        self._reach()
        return sorted(self.kept.values(), key=lambda key: (key.created_at, key.id))

    async def revoke(self, key_id: str, *, at: float) -> bool:
        self._reach()
        key = self.kept.get(key_id)
        if key is not None and key.revoked_at is None:
            self.kept[key_id] = replace(key, revoked_at=at)
        return key is not None

    def _reach(self) -> None:
        if self.out_of_reach:
            raise TransientError("the key store is out of reach")
