"""What goes wrong at the Pinecone test server: scripted, or by chance; and its rates."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tests.servers.pinecone_errors import RefusedError

RATES: Mapping[str, float] = {
    "upsert": 100.0,
    "query": 100.0,
    "update": 100.0,
    "delete": 100.0,
    "upserted_bytes": 50e6,
    "updated_records": 100.0,
    "deleted_records": 5000.0,
    "by_metadata": 5.0,
}
"""Published, a second and namespace."""


class FaultKind(StrEnum):
    THROTTLED = "429"
    BROKEN_BEFORE = "500-before"
    BROKEN_AFTER = "500-after"
    """The write took effect."""
    UNAVAILABLE = "503"
    DROPPED_BEFORE = "drop-before"
    DROPPED_AFTER = "drop-after"
    """The write took effect; the connection ends without an answer."""
    SLOW = "slow"
    """The write took effect; the answer takes `seconds`."""
    GARBLED = "garbled"
    """The write took effect; the answer is no JSON."""
    STATUS = "status"
    """Refused with `status`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    kind: FaultKind
    operation: str = ""
    """upsert, query, …; empty: any."""
    retry_after: float | None = None
    seconds: float = 0.0
    status: int = 0

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Fault:
        return cls(**{**value, "kind": FaultKind(value["kind"])})


BEFORE = {
    FaultKind.THROTTLED: 429,
    FaultKind.BROKEN_BEFORE: 500,
    FaultKind.UNAVAILABLE: 503,
}


@dataclass(slots=True)
class Faults:
    """`script` is used up from its front; after it each request may meet one `by_chance`."""

    script: list[Fault] = field(default_factory=list)
    by_chance: list[tuple[float, Fault]] = field(default_factory=list)
    random: random.Random = field(default_factory=lambda: random.Random(1))

    def next(self, operation: str) -> Fault | None:
        for place, fault in enumerate(self.script):
            if fault.operation in ("", operation):
                return self.script.pop(place)
        for probability, fault in self.by_chance:
            if fault.operation in ("", operation) and self.random.random() < probability:
                return fault
        return None


@dataclass(slots=True)
class Rates:
    """A token bucket per namespace and rate, a second deep."""

    per_second: dict[str, float] = field(default_factory=lambda: dict(RATES))
    clock: Callable[[], float] = time.monotonic
    refused: int = 0
    _buckets: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)

    def take(self, namespace: str, amounts: Mapping[str, float]) -> None:
        """Raises RefusedError (429) when one of the buckets is empty; then nothing is taken."""
        now = self.clock()
        left = {name: self._left(namespace, name, now) - n for name, n in amounts.items()}
        for name, tokens in left.items():
            if tokens < 0:
                self.refused += 1
                wait = -tokens / self.per_second[name]
                raise RefusedError(429, f"Too many requests: {name}", retry_after=wait)
        for name, tokens in left.items():
            self._buckets[namespace, name] = (tokens, now)

    def _left(self, namespace: str, name: str, now: float) -> float:
        rate = self.per_second[name]
        tokens, since = self._buckets.get((namespace, name), (rate, now))
        return min(rate, tokens + (now - since) * rate)
