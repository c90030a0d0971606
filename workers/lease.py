"""The lease on a message, as an object: a holder whose lease expired may not write."""

from __future__ import annotations

from collections.abc import Callable


class LeaseExpiredError(Exception):
    """The message may be someone else's by now; what was done so far is harmless."""


class Lease:
    """Until when a message is ours. `clock` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float], deadline: float) -> None:
        self._clock = clock
        self._deadline = deadline

    def renew(self, deadline: float) -> None:
        self._deadline = max(self._deadline, deadline)

    def revoke(self) -> None:
        """Someone else has the message."""
        self._deadline = float("-inf")

    @property
    def remaining_seconds(self) -> float:
        return self._deadline - self._clock()

    def check(self) -> None:
        """Call before every write. Raises LeaseExpiredError."""
        if self.remaining_seconds <= 0:
            raise LeaseExpiredError("the lease on the message ran out; another worker goes on")
