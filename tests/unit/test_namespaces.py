"""How many namespaces there may be, whoever comes at once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from common.model import EmbeddingProfile
from tests.fakes.embedder import HashEmbedder
from tests.fakes.registry import MemoryRegistry
from webhook import namespaces as module
from webhook.namespaces import Namespaces, TooManyNamespacesError

PROFILE = HashEmbedder().profile


class Watched(MemoryRegistry):
    """Binds once `let` is set, and counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.let = asyncio.Event()
        self.let.set()
        self.bound = asyncio.Event()
        self.asked: list[str] = []

    async def bind_namespace(self, namespace: str, profile: EmbeddingProfile) -> EmbeddingProfile:
        await asyncio.sleep(0)  # as any real one, it lets others go on
        bound = await super().bind_namespace(namespace, profile)
        self.bound.set()
        await self.let.wait()
        return bound

    async def binding(self, namespace: str) -> EmbeddingProfile | None:
        self.asked.append(namespace)
        return await super().binding(namespace)

    async def namespaces(self) -> dict[str, EmbeddingProfile]:
        self.asked.append("all")
        return await super().namespaces()


@dataclass
class World:
    registry: Watched = field(default_factory=Watched)
    now: float = 100.0

    def limited(self, at_most: int) -> Namespaces:
        return Namespaces(self.registry, at_most, lambda: self.now)


async def refused(namespaces: Namespaces, name: str, *, used: int) -> bool:
    with pytest.raises(TooManyNamespacesError, match=f"{used} of .* already") as caught:
        await namespaces.bind(name, PROFILE)
    return caught.value.used == used and name not in await namespaces.registry.namespaces()


async def test_one_too_many_is_refused_and_those_that_are_there_are_not() -> None:
    world = World()
    limited = world.limited(2)
    assert await limited.bind("a", PROFILE) == PROFILE
    assert await limited.bind("b", PROFILE) == PROFILE
    assert await refused(limited, "c", used=2)
    assert await limited.bind("a", PROFILE) == PROFILE


async def test_many_at_once_do_not_share_the_last_place() -> None:
    limited = World().limited(3)
    names = [f"n{number}" for number in range(20)]
    told = await asyncio.gather(
        *(limited.bind(name, PROFILE) for name in names), return_exceptions=True
    )
    assert sum(isinstance(one, TooManyNamespacesError) for one in told) == 17
    assert len(await limited.registry.namespaces()) == 3


async def test_what_another_process_bound_counts_and_is_let_in() -> None:
    world = World()
    mine, other = world.limited(2), world.limited(2)
    await mine.bind("a", PROFILE)
    await other.bind("b", PROFILE)
    world.now += module.FRESH_SECONDS
    assert await refused(mine, "c", used=2)
    assert await mine.bind("b", PROFILE) == PROFILE


async def test_whoever_was_cancelled_may_have_bound_one() -> None:
    world = World()
    limited = world.limited(1)
    world.registry.let.clear()
    binding = asyncio.create_task(limited.bind("a", PROFILE))
    await world.registry.bound.wait()
    binding.cancel()
    await asyncio.gather(binding, return_exceptions=True)
    world.registry.let.set()
    assert await refused(limited, "b", used=1)


async def test_refusals_read_the_list_once_a_second() -> None:
    world = World()
    limited = world.limited(1)
    await limited.bind("a", PROFILE)
    world.registry.asked.clear()
    for number in range(50):
        assert await refused(limited, f"n{number}", used=1)
    assert world.registry.asked.count("all") == 50  # the test's own looks


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED_NAMESPACES", 2)
    world = World()
    limited = world.limited(9)
    for name in "abc":
        await limited.bind(name, PROFILE)
    world.registry.asked.clear()
    assert await limited.bind("c", PROFILE) == PROFILE
    assert world.registry.asked == []
    assert await limited.bind("a", PROFILE) == PROFILE
    assert world.registry.asked == ["a"]
