"""Whether a receipt is still ours, by our own clock: SQS does not tell.

SQS answers a delete with a stale receipt as if it had been done. So a holder whose visibility
timeout may have ended does not ask at all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from common.ports.queue import Delivery, LeaseLostError

_MANY = 1000


class Leases:
    """Deadlines by receipt, in seconds of `clock` (monotonic)."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._held: dict[str, float] = {}
        self._settling: set[str] = set()

    def __len__(self) -> int:
        """What is in hand; what was left to run out is forgotten now and then."""
        return len(self._held) + len(self._settling)

    def hold(self, receipt: str, until: float) -> None:
        if len(self._held) >= _MANY:
            now = self._clock()
            self._held = {held: end for held, end in self._held.items() if end > now}
        self._held[receipt] = until

    def renew(self, delivery: Delivery, until: float) -> None:
        """Nothing when it was settled meanwhile."""
        if delivery.receipt in self._held:
            self._held[delivery.receipt] = max(self._held[delivery.receipt], until)

    def lose(self, delivery: Delivery) -> None:
        self._held.pop(delivery.receipt, None)

    def is_settling(self, delivery: Delivery) -> bool:
        return delivery.receipt in self._settling

    def deadline(self, delivery: Delivery) -> float:
        """Raises LeaseLostError when it is over."""
        until = self._held.get(delivery.receipt)
        if until is None:
            raise LeaseLostError(
                f"the receipt of message {delivery.message_id} is stale: it was settled or lost"
            )
        if until <= self._clock():
            del self._held[delivery.receipt]
            raise LeaseLostError(
                f"the receipt of message {delivery.message_id} is stale: its lease ran out"
            )
        return until

    @contextlib.contextmanager
    def settling(self, delivery: Delivery) -> Iterator[float]:
        """Until when the message may be settled. Whoever fails to, holds it on."""
        until = self.deadline(delivery)
        del self._held[delivery.receipt]
        self._settling.add(delivery.receipt)
        try:
            yield until
        except LeaseLostError:
            raise
        except BaseException:
            self._held[delivery.receipt] = until
            raise
        finally:
            self._settling.discard(delivery.receipt)
