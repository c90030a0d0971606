"""How often a namespace with a quota is counted, and who waits for that."""

from __future__ import annotations

import asyncio

from common.model import DocumentKey, Status
from common.ports.registry import NamespaceCounts
from common.settings import NamespaceQuota
from tests.fakes.registry import MemoryRegistry
from webhook.accept import Change, ChangeType
from webhook.problems import Problem
from webhook.quotas import LOOK_SECONDS, Quotas
from webhook.shared_counts import COUNTING_SHARE


class Slow(MemoryRegistry):
    """A count takes `took` seconds of `now`, and ends once `let` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.took, self.counted = 100.0, 0.0, 0
        self.begun, self.let = asyncio.Event(), asyncio.Event()
        self.let.set()

    async def counts(self) -> list[NamespaceCounts]:
        self.counted += 1
        self.begun.set()
        await self.let.wait()
        self.now += self.took
        return [NamespaceCounts("full", {Status.COMPLETED: 1}), NamespaceCounts("free", {})]


def quotas_of(registry: Slow) -> Quotas:
    return Quotas(registry, {"*": NamespaceQuota(documents=1)}, 60.0, lambda: registry.now)


async def add(quotas: Quotas, namespace: str) -> bool:
    """Whether there is room."""
    key = DocumentKey(namespace, "a")
    try:
        async with quotas.room_for(Change(key=key, change_type=ChangeType.INSERT, content=b"x")):
            return True
    except Problem:
        return False


async def test_a_long_count_is_not_followed_by_the_next_at_once() -> None:
    registry = Slow()
    registry.took = 3.0
    quotas = quotas_of(registry)
    for _ in range(5):
        assert not await add(quotas, "full")
    assert registry.counted == 1
    registry.now += registry.took / COUNTING_SHARE
    assert not await add(quotas, "full")
    assert registry.counted == 2


async def test_whom_the_last_count_will_do_does_not_wait_for_the_next() -> None:
    registry = Slow()
    quotas = quotas_of(registry)
    assert not await add(quotas, "full")
    registry.now += LOOK_SECONDS / 2
    registry.let.clear()
    registry.begun.clear()
    refused = asyncio.create_task(add(quotas, "full"))
    await registry.begun.wait()
    async with asyncio.timeout(5):
        assert await add(quotas, "free")
    registry.let.set()
    assert not await refused


async def test_a_short_count_is_made_again() -> None:
    registry = Slow()
    quotas = quotas_of(registry)
    assert not await add(quotas, "full")
    registry.now += LOOK_SECONDS
    assert not await add(quotas, "full")
    assert registry.counted == 2
