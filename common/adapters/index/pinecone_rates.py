"""Token buckets for Pinecone's published rates. They apply per namespace.

Each bucket refills at nine tenths of its rate and holds one tenth, so that no second sees more than
the rate. They know of this process alone: what several processes send together may still be
answered with 429, which is told here as a hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from common.bounded_map import BoundedMap

RATES: Final[Mapping[str, float]] = {
    "upsert": 100.0,
    "query": 100.0,
    "fetch": 100.0,
    "list": 100.0,
    "delete": 100.0,
    "upserted_bytes": 50e6,
    "deleted_records": 5000.0,
}
"""A second."""
BURST: Final = 0.1
_BUCKETS: Final = 10_000


class TokenBucket:
    """Takes turns: who comes later waits longer. `clock` counts seconds."""

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._refill = rate * (1 - BURST)
        self._capacity = rate * BURST
        self._tokens = self._capacity
        self._at = clock()

    def wait_seconds(self, amount: float) -> float:
        """Until `amount`, at most a tenth of the rate, could be sent; nothing is taken yet."""
        self._fill()
        return max(amount - self._tokens, 0.0) / self._refill

    def take(self, amount: float) -> None:
        """May go into debt: the caller sends after the wait."""
        self._fill()
        self._tokens -= amount

    def hold(self, seconds: float) -> None:
        """Nobody sends for so long."""
        self._fill()
        self._tokens = min(self._tokens, -seconds * self._refill)

    def _fill(self) -> None:
        now = self._clock()
        self._tokens = min(self._capacity, self._tokens + (now - self._at) * self._refill)
        self._at = now


class Pacer:
    """One process's buckets."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._buckets: BoundedMap[tuple[str, str], TokenBucket] = BoundedMap(_BUCKETS, _BUCKETS)

    def reserve(self, namespace: str, amounts: Mapping[str, float], at_most: float) -> float:
        """Seconds to wait before sending. More than `at_most`: nothing was reserved."""
        buckets = {name: self._bucket(namespace, name) for name in amounts}
        wait = max((buckets[name].wait_seconds(n) for name, n in amounts.items()), default=0.0)
        if wait <= at_most:
            for name, amount in amounts.items():
                buckets[name].take(amount)
        return wait

    def hold(self, namespace: str, amounts: Mapping[str, float], seconds: float) -> None:
        """The service asked to be left alone with such requests."""
        for name in amounts:
            self._bucket(namespace, name).hold(seconds)

    def _bucket(self, namespace: str, name: str) -> TokenBucket:
        found = self._buckets.get((namespace, name))
        if found is None:
            found = TokenBucket(RATES[name], self._clock)
            self._buckets.put((namespace, name), found, 1)
        return found
