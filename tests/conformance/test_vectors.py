"""What every vector cache must do. A new adapter is one more line in CASES."""

from __future__ import annotations

import asyncio
import contextlib
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.adapters.vectors.memory import MemoryVectorCache
from common.adapters.vectors.none import NoVectorCache
from common.adapters.vectors.sqlite import SqliteVectorCache
from common.model import Vector
from common.ports.vectors import VectorCache
from tests.pipeline import Clock

LIMIT_BYTES = 400_000
UNUSED_SECONDS = 50_000.0
DIMENSION = 384


@dataclass
class Case:
    cache: VectorCache
    clock: Clock


@contextlib.asynccontextmanager
async def memory(path: Path) -> AsyncIterator[Case]:
    clock = Clock()
    yield Case(
        MemoryVectorCache(limit_bytes=LIMIT_BYTES, unused_seconds=UNUSED_SECONDS, clock=clock),
        clock,
    )


@contextlib.asynccontextmanager
async def sqlite(path: Path) -> AsyncIterator[Case]:
    clock = Clock()
    cache = SqliteVectorCache(
        path / "vectors.sqlite",
        limit_bytes=LIMIT_BYTES,
        unused_seconds=UNUSED_SECONDS,
        clock=clock,
    )
    yield Case(cache, clock)
    await cache.close()


CASES: dict[str, Callable[[Path], AbstractAsyncContextManager[Case]]] = {
    "memory": memory,
    "sqlite": sqlite,
}


@pytest.fixture(params=CASES)
async def case(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Case]:
    async with CASES[request.param](tmp_path) as opened:
        yield opened


def vector(seed: int) -> Vector[float]:
    return array("f", [float(seed), -0.1, 1e-30] + [1 / 3] * (DIMENSION - 3))


def many(first: int, count: int) -> dict[str, Vector[float]]:
    return {f"h{n}": vector(n) for n in range(first, first + count)}


async def test_vectors_come_back_bit_by_bit(case: Case) -> None:
    put = {"a": vector(1), "b": vector(2)}
    await case.cache.put_many("docs", "model", put)
    assert await case.cache.get_many("docs", "model", ["a", "unknown", "b"]) == put


async def test_nothing_is_asked_and_nothing_is_put(case: Case) -> None:
    await case.cache.put_many("docs", "model", {})
    assert await case.cache.get_many("docs", "model", []) == {}


async def test_neither_namespaces_nor_profiles_share(case: Case) -> None:
    await case.cache.put_many("docs", "model", {"a": vector(1)})
    assert await case.cache.get_many("other", "model", ["a"]) == {}
    assert await case.cache.get_many("docs", "other", ["a"]) == {}
    await case.cache.put_many("other", "model", {"a": vector(2)})
    assert await case.cache.get_many("docs", "model", ["a"]) == {"a": vector(1)}


async def test_names_do_not_run_into_each_other(case: Case) -> None:
    await case.cache.put_many("ab", "c", {"d": vector(1)})
    assert await case.cache.get_many("a", "bc", ["d"]) == {}
    assert await case.cache.get_many("ab", "", ["cd"]) == {}


async def test_a_later_put_replaces(case: Case) -> None:
    await case.cache.put_many("docs", "model", {"a": vector(1)})
    await case.cache.put_many("docs", "model", {"a": vector(2)})
    assert await case.cache.get_many("docs", "model", ["a"]) == {"a": vector(2)}


async def test_more_than_one_query_holds(case: Case) -> None:
    put = many(0, 120)
    await case.cache.put_many("docs", "model", put)
    hashes = [f"other{n}" for n in range(2000)] + list(put)
    assert await case.cache.get_many("docs", "model", hashes) == put


async def test_calls_side_by_side(case: Case) -> None:
    await asyncio.gather(
        *(case.cache.put_many("docs", "model", {f"h{n}": vector(n)}) for n in range(50))
    )
    got = await asyncio.gather(
        *(case.cache.get_many("docs", "model", [f"h{n}"]) for n in range(50))
    )
    assert got == [{f"h{n}": vector(n)} for n in range(50)]


async def test_what_was_used_last_outlives_the_bound(case: Case) -> None:
    """Ten times as much as fits is put; one vector is asked for now and then."""
    await case.cache.put_many("docs", "model", {"often": vector(-1)})
    for first in range(0, 2000, 20):
        case.clock.now += 60
        await case.cache.put_many("docs", "model", many(first, 20))
        assert await case.cache.get_many("docs", "model", ["often"]) == {"often": vector(-1)}
    kept = await case.cache.get_many("docs", "model", list(many(0, 2000)))
    assert 50 < len(kept) <= LIMIT_BYTES / (4 * DIMENSION)
    assert set(many(1980, 20)) <= set(kept)
    assert not set(many(0, 1500)) & set(kept)


async def test_what_nobody_asks_for_is_forgotten(case: Case) -> None:
    await case.cache.put_many("docs", "model", {"used": vector(1), "unused": vector(2)})
    case.clock.now += UNUSED_SECONDS - 1
    assert await case.cache.get_many("docs", "model", ["used"]) == {"used": vector(1)}
    await case.cache.put_many("docs", "model", {})  # a use is noted before what comes after it
    case.clock.now += 2
    found = await case.cache.get_many("docs", "model", ["used", "unused"])
    assert found == {"used": vector(1)}


async def test_nothing_is_remembered_where_nothing_is_wanted() -> None:
    cache = NoVectorCache()
    await cache.put_many("docs", "model", {"a": vector(1)})
    assert await cache.get_many("docs", "model", ["a"]) == {}
    await cache.close()
