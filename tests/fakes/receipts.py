"""Receipts in memory, to be held against the real ones and to fail at will."""

from __future__ import annotations

from common.clock import Clock, system_clock
from common.ports.receipts import Receipt


class MemoryReceipts:
    def __init__(self, clock: Clock = system_clock) -> None:
        self._clock = clock
        self.kept: dict[tuple[str, str], Receipt] = {}
        self.errors: list[Exception] = []
        """Raised one by one by the next calls."""

    async def find(self, scope: str, delivery_id: str, *, now: float) -> Receipt | None:
        self._fail()
        found = self.kept.get((scope, delivery_id))
        return found if found and found.expires_at > now else None

    async def keep(self, scope: str, delivery_id: str, receipt: Receipt) -> bool:
        self._fail()
        found = self.kept.get((scope, delivery_id))
        if found is not None and found.expires_at > self._clock():
            return False
        self.kept[scope, delivery_id] = receipt
        return True

    async def close(self) -> None:
        pass

    def _fail(self) -> None:
        if self.errors:
            raise self.errors.pop(0)
