"""The delete handler: hide at once, then collect the records."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from common import telemetry
from common.clock import Clock, system_clock
from common.ports.index import Index
from common.ports.queue import Delivery
from common.ports.registry import Registry
from common.transitions import Timers, commit_tombstone
from workers.collect import collect
from workers.lease import Lease
from workers.outcome import Done, HandlerOutcome
from workers.rows import change_row

log = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class DeleteHandler:
    """Commits tombstones."""

    registry: Registry
    index: Index
    timers: Timers
    clock: Clock = system_clock

    async def __call__(self, delivery: Delivery, lease: Lease) -> HandlerOutcome:
        key = delivery.wake_up.key
        hidden = await change_row(
            self.registry, key, lambda row: commit_tombstone(row, self.clock(), self.timers)
        )
        if hidden is not None:
            telemetry.APPLIED.labels("delete").inc()
            freshness = max(hidden.applied.applied_at - hidden.desired.accepted_at, 0.0)
            telemetry.FRESHNESS_SECONDS.observe(freshness)
            log.info("document.deleted", freshness_seconds=round(freshness, 3))
        await collect(self.registry, self.index, key, self.clock, self.timers, lease=lease)
        return Done("deleted" if hidden else "nothing to delete")
