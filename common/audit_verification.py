"""Verifies a whole audit trail, in constant memory, while others append to it."""

from __future__ import annotations

from common.audit import Verification, Wrong
from common.ports.audit import AuditTrail, ChainEnd


async def verify(
    trail: AuditTrail,
    *,
    key: bytes | None = None,
    kept: ChainEnd | None = None,
    keyed_from: int = 0,
) -> tuple[Verification, Wrong | None]:
    """What was verified, and the first entry that is wrong. `kept`: a head from before, which must
    be part of the chain. Raises NoAuditTrailError, TransientError."""
    while True:
        anchor = await trail.anchor()
        verification = Verification(anchor=anchor, key=key, kept=kept, keyed_from=keyed_from)
        wrong = await _folded(trail, verification)
        # Entries that were dropped for their age meanwhile are not missing.
        if wrong is None or await trail.anchor() == anchor:
            return verification, wrong


async def _folded(trail: AuditTrail, verification: Verification) -> Wrong | None:
    async for entry in trail.entries(after=verification.anchor.sequence):
        if wrong := verification.take(entry):
            return wrong
    return verification.end()
