"""`none:`: nothing is written down."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from common.ports.audit import (
    AuditEntry,
    AuditEvent,
    AuditPlace,
    AuditQuery,
    ChainEnd,
    NoAuditTrailError,
)
from common.settings import Settings


class NoAuditTrail:
    """Implements AuditTrail."""

    async def append(self, events: Sequence[AuditEvent]) -> None:
        return None

    async def entries(self, *, after: int = 0) -> AsyncIterator[AuditEntry]:
        for entry in await self.page(AuditQuery(), limit=0):
            yield entry

    async def page(
        self, wanted: AuditQuery, *, limit: int, before: AuditPlace | None = None
    ) -> list[AuditEntry]:
        raise _nothing_kept()

    async def head(self) -> ChainEnd:
        raise _nothing_kept()

    async def anchor(self) -> ChainEnd:
        raise _nothing_kept()

    async def drop(self, *, before: float, now: float, limit: int = 10_000) -> int:
        return 0

    async def check(self) -> str:
        return "no audit trail is kept"

    async def close(self) -> None:
        return None


def _nothing_kept() -> NoAuditTrailError:
    return NoAuditTrailError(
        "no audit trail is kept here: set BLOOMWEAVER_AUDIT_URL to sqlite: or postgresql://…"
    )


def connect(url: str, settings: Settings, receiver: str) -> NoAuditTrail:
    return NoAuditTrail()
