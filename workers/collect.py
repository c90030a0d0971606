"""Collect garbage in two steps: doom what expired, then delete what is doomed."""

from __future__ import annotations

from common import identity, telemetry
from common.clock import Clock
from common.model import DocumentKey
from common.ports.index import Index
from common.ports.registry import Registry
from common.transitions import Timers, collectable, doom_expired, forget
from workers.lease import Lease
from workers.rows import change_row

DELETE_IDS = 1000


async def collect(
    registry: Registry,
    index: Index,
    key: DocumentKey,
    clock: Clock,
    timers: Timers,
    *,
    lease: Lease | None = None,
) -> int:
    """How many record ids were deleted. A crash anywhere leaves garbage for the next call."""
    row = await registry.get(key)
    if row is None or not row.garbage:
        return 0
    doomed = await change_row(registry, key, lambda r: doom_expired(r, clock(), timers))
    ranges = collectable(doomed or row, clock())
    if not ranges:
        return 0
    ids = identity.record_ids(identity.document_key(key), ranges)
    for start in range(0, len(ids), DELETE_IDS):
        if lease is not None:
            lease.check()
        await index.delete(key.namespace, ids[start : start + DELETE_IDS])
    await change_row(registry, key, lambda r: forget(r, ranges, clock(), timers))
    telemetry.RECORDS.labels("deleted").inc(len(ids))
    return len(ids)
