"""A scrub's repairs. Each is a transition of the row by compare-and-set, or goes on what no row
names; what is left to do after it is ordinary work that the sweeper knows of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from common.model import DocumentKey, QueueName, Row, Status, WakeUp
from common.ports.errors import PortError
from common.ports.queue import Queue
from common.scrubbing import Finding, FindingKind
from common.transitions import Base, base_of, doom_orphans, mend, rewrite
from workers.collect import DELETE_IDS, collect
from workers.rows import change_row
from workers.scrub_checks import REWRITTEN
from workers.scrub_looks import Looker, Pairs

log = structlog.get_logger(__name__)

CORRECTED = frozenset({FindingKind.ROW, FindingKind.MANIFEST})


@dataclass(slots=True, kw_only=True)
class Repairer:
    """Repairs one document at a time. Cancelled or killed anywhere, it leaves only valid rows."""

    looks: Looker
    queue: Queue

    async def repair(self, row: Row, findings: Sequence[Finding], orphans: Pairs) -> list[Finding]:
        """The findings as they are after it; those that time has overtaken are left out."""
        kinds = {finding.kind for finding in findings if finding.repairable}
        if kinds & CORRECTED:
            await self._correct(row.key)
        rewritten = None
        if why := ", ".join(sorted(kinds & REWRITTEN)):
            rewritten = await self._rewrite(row.key, base_of(row), f"a scrub found: {why}")
        if orphans:
            await self._doom(row.key, orphans)
        await self._collect(row.key)
        overtaken = kinds & REWRITTEN if rewritten is False else frozenset()
        return [
            replace(finding, repaired=finding.kind in kinds)
            for finding in findings
            if finding.kind not in overtaken
        ]

    async def remove(self, namespace: str, ids: Sequence[str], key: DocumentKey | None) -> bool:
        """Delete records whose document has no row; False: it has one by now.

        A document that begins again begins with generations that were never used: its records
        cannot be among these.
        """
        if key is not None and await self.looks.within(self.looks.registry.get(key)) is not None:
            return False
        for start in range(0, len(ids), DELETE_IDS):
            part = ids[start : start + DELETE_IDS]
            await self.looks.within(self.looks.index.delete(namespace, part))
        return True

    async def _correct(self, key: DocumentKey) -> None:
        looks = self.looks
        mended = await looks.within(
            change_row(looks.registry, key, lambda row: mend(row, looks.clock(), looks.timers))
        )
        if mended is not None:
            await self._wake(mended)

    async def _rewrite(self, key: DocumentKey, seen: Base, why: str) -> bool:
        """False: it is not that version's trouble any more."""
        looks = self.looks
        damaged = await looks.within(
            change_row(
                looks.registry,
                key,
                lambda row: rewrite(row, seen, why, looks.clock(), looks.timers),
            )
        )
        if damaged is None:
            return False
        await self._wake(damaged)
        return True

    async def _doom(self, key: DocumentKey, orphans: Pairs) -> None:
        looks = self.looks
        await looks.within(
            change_row(
                looks.registry,
                key,
                lambda row: doom_orphans(row, orphans, looks.clock(), looks.timers),
            )
        )

    async def _collect(self, key: DocumentKey) -> None:
        looks = self.looks
        try:
            await looks.within(collect(looks.registry, looks.index, key, looks.clock, looks.timers))
        except PortError as error:
            log.warning("scrub.left_to_the_sweeper", document=key.document_id, error=str(error))

    async def _wake(self, row: Row) -> None:
        if not row.behind or row.status is Status.FAILED:
            return
        wake_up = WakeUp(
            namespace=row.key.namespace,
            document_id=row.key.document_id,
            version=row.desired.version,
            traceparent=row.desired.traceparent,
        )
        queue = QueueName.DELETE if row.desired.tombstone else QueueName.CHANGE
        try:
            await self.looks.within(self.queue.send(queue, [wake_up]))
        except PortError as error:
            log.warning("scrub.left_to_the_sweeper", document=row.key.document_id, error=str(error))
