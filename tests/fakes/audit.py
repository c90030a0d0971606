"""An audit trail in a list."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from common.audit import chained, drop_event, millis, reaches
from common.ports.audit import AuditEntry, AuditEvent, AuditPlace, AuditQuery, ChainEnd


class MemoryAuditTrail:
    """Implements AuditTrail. Nothing survives the process. `failing`: what every append raises."""

    def __init__(self, *, key: bytes | None = None) -> None:
        self.kept: list[AuditEntry] = []
        self.failing: Exception | None = None
        self._key = key
        self._anchor = ChainEnd()

    @property
    def events(self) -> list[AuditEvent]:
        return [entry.event for entry in self.kept]

    async def append(self, events: Sequence[AuditEvent]) -> None:
        if self.failing is not None:
            raise self.failing
        self.kept += chained(await self.head(), events, self._key)

    async def entries(self, *, after: int = 0) -> AsyncIterator[AuditEntry]:
        for entry in [entry for entry in self.kept if entry.sequence > after]:
            yield entry

    async def page(
        self, wanted: AuditQuery, *, limit: int, before: AuditPlace | None = None
    ) -> list[AuditEntry]:
        found = self.kept[::-1]
        if before is not None:
            places = [AuditPlace(millis(entry.event.at), entry.hash) for entry in found]
            found = found[places.index(before) + 1 :]
        return [entry for entry in found if _wants(wanted, entry.event)][:limit]

    async def head(self) -> ChainEnd:
        return self.kept[-1].end if self.kept else self._anchor

    async def anchor(self) -> ChainEnd:
        return self._anchor

    async def drop(self, *, before: float, now: float, limit: int = 10_000) -> int:
        count = 0
        while count < min(limit, len(self.kept)) and self.kept[count].event.at < before:
            count += 1
        if count:
            self._anchor = self.kept[count - 1].end
            await self.append([drop_event(self._anchor, count, now)])
            self.kept = self.kept[count:]
        return count

    async def close(self) -> None:
        return None


def _wants(wanted: AuditQuery, event: AuditEvent) -> bool:
    return (
        reaches(wanted, event.namespace)
        and wanted.namespace in (None, event.namespace)
        and wanted.document_id in (None, event.document_id)
        and (wanted.since is None or millis(event.at) >= millis(wanted.since))
    )
