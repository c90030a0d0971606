"""How often everybody's documents are counted, however many ask."""

from __future__ import annotations

import asyncio

from common.model import Status
from common.ports.registry import NamespaceCounts
from tests.fakes.registry import MemoryRegistry
from webhook.shared_counts import COUNTING_SHARE, FRESH_SECONDS, SharedCounts

COUNTS = [
    NamespaceCounts("a", {Status.COMPLETED: 5, Status.DELETED: 2}, 9),
    NamespaceCounts("b", {Status.PENDING: 1}),
]


class Slow(MemoryRegistry):
    """A count takes `took` seconds of `now`."""

    now = 100.0
    took = 0.0
    counted = 0

    async def counts(self) -> list[NamespaceCounts]:
        await asyncio.sleep(0)
        self.now += self.took
        self.counted += 1
        return COUNTS


async def test_those_who_ask_at_once_share_a_count_and_one_pays() -> None:
    registry = Slow()
    shared = SharedCounts(registry, lambda: registry.now)
    told = await asyncio.gather(*(shared.lately() for _ in range(10)))
    assert [paid for _, paid in told] == [8] + [0] * 9
    assert all(counts == COUNTS for counts, _ in told)
    registry.now += FRESH_SECONDS
    assert (await shared.lately())[1] == 8
    assert registry.counted == 2


async def test_a_long_count_is_good_for_longer() -> None:
    registry = Slow()
    registry.took = 3.0
    shared = SharedCounts(registry, lambda: registry.now)
    await shared.lately()
    registry.now += 3.0 / COUNTING_SHARE - 3.5
    assert (await shared.lately())[1] == 0
    registry.now += 1.0
    assert (await shared.lately())[1] == 8
