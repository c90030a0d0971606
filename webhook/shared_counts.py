"""How many documents each namespace has, counted once for all who ask at about the same time.

A count reads the whole registry, of everybody's namespaces: who may ask as often as they like must
not have it counted as often.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aiohttp import web

from common.ports.registry import NamespaceCounts, Registry

FRESH_SECONDS = 1.0
"""So long a count is good for, at least."""
COUNTING_SHARE = 0.1
"""And at most this part of the time is spent counting."""


@dataclass(slots=True)
class SharedCounts:
    registry: Registry
    clock: Callable[[], float] = time.monotonic
    _counts: Sequence[NamespaceCounts] = ()
    _good_until: float = float("-inf")
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def lately(self) -> tuple[Sequence[NamespaceCounts], int]:
        """The counts, and how many documents were counted for them just now: 0, where they are of
        a moment ago. Raises what the registry raises."""
        async with self._one_at_a_time:
            if self.clock() < self._good_until:
                return self._counts, 0
            began = self.clock()
            counts = await self.registry.counts()
            took = self.clock() - began
            self._counts = counts
            self._good_until = began + max(FRESH_SECONDS, took / COUNTING_SHARE)
            return counts, documents_in(counts)


def documents_in(counts: Sequence[NamespaceCounts]) -> int:
    """Deleted ones, too: they were counted."""
    return sum(sum(count.documents.values()) for count in counts)


COUNTS: web.AppKey[SharedCounts] = web.AppKey("counts", SharedCounts)
