"""The receipts port: what was answered to a delivery, for when it comes again.

Nothing is claimed before it is done: two deliveries of one id at the same time are both worked, and
the work is idempotent. A receipt only keeps what comes *later* from being worked again, when newer
changes may have been made since.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from common.ports.errors import TransientError

__all__ = ["Receipt", "Receipts", "TransientError"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    fingerprint: str
    """Of what was delivered, so that another thing under the same id is noticed; may be empty."""
    status: int
    """Of the HTTP answer."""
    body: bytes
    """JSON, at most MAX_BODY_BYTES; empty where it was larger."""
    expires_at: float
    """Seconds since the epoch; from then on it is as if it had never been."""


MAX_BODY_BYTES = 256 * 1024
MAX_ID_BYTES = 512


class Receipts(Protocol):
    """`scope` keeps ids of different senders apart. Raises TransientError when out of reach."""

    async def find(self, scope: str, delivery_id: str, *, now: float) -> Receipt | None: ...

    async def keep(self, scope: str, delivery_id: str, receipt: Receipt) -> bool:
        """The first one kept stays until it expires. When it returns it survives the death of any
        process; a loss of power may take the last ones, whose deliveries are then worked again.
        True: this one is kept. False: another was before, or this very one, by a request whose
        answer was lost."""

    async def close(self) -> None: ...
