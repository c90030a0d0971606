"""How much may be taken in a time: a token bucket. Pure; the time is an argument."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """`per_second` come back, up to `burst`."""

    per_second: float
    burst: float


@dataclass(slots=True)
class TokenBucket:
    """Kept as the moment at which it is full again: nothing is added up, so nothing drifts.

    What is larger than the burst is possible too, from a full bucket: it leaves a debt, which is
    paid back at the rate before anything more is given. So what is taken within t seconds is at
    most rate * t + the burst, or + the one amount that is larger than it.
    """

    rate: Rate
    full_at: float = float("-inf")

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` may be taken; 0: now."""
        room = self.rate.burst - min(amount, self.rate.burst)
        return max(0.0, self.full_at - now - room / self.rate.per_second)

    def charge(self, amount: float, now: float) -> None:
        """Takes it, whether or not it may be taken."""
        self.full_at = max(self.full_at, now) + amount / self.rate.per_second

    def left(self, now: float) -> float:
        """What is in it; below 0: what it owes."""
        return self.rate.burst - max(0.0, self.full_at - now) * self.rate.per_second
