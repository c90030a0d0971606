"""Search in the embedded index while documents change: latency, recall, rate, and what is cached.

No HTTP and no embedding of queries: `Searcher.search_vector` on the real index and registry, in one
process with the writer, as in `bloomweaver up`. BLOOMWEAVER_BENCH_RECORDS sets the number of
records; tests/bench/search_world.py tells how their vectors lie.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from common.adapters.registry.sqlite import SqliteRegistry
from common.composition import connect
from common.model import Vector
from common.ports.embedder import Embedder, Passage
from common.ports.index import Index
from common.query_cache import CachedIndex
from common.settings import Settings
from tests.bench import corpus
from tests.bench.report import Line, Options, at_least, at_most, percentile, progress
from tests.bench.search_world import (
    CHUNKS,
    NAMESPACE,
    TOP_K,
    Floats,
    Spread,
    World,
    names_of,
    vector_of,
)
from webhook.search import Hit, Searcher

RECORDS = int(os.environ.get("BLOOMWEAVER_BENCH_RECORDS", "100000"))
WRITES_PER_SECOND = 20.0
"""Documents, each of CHUNKS new records in place of the old ones."""
QUERIES_PER_SECOND = 50.0
"""Of the client whose latency is told."""
LATENCIES = 1000
CLIENTS = 16
RATE_SECONDS = 8.0
REPEATED_QUERIES = 200
RECALL_QUERIES = 200

P50_MS, P99_MS, RECALL, RATE = 10.0, 30.0, 0.97, 500.0


def measure(_: Options) -> list[Line]:
    """One pass: filling the index is most of it."""
    return uvloop.run(_measure())


async def _measure() -> list[Line]:
    spread = Spread(await _embedded())
    with tempfile.TemporaryDirectory(prefix="bloomweaver-bench-") as folder:
        async with _opened(Path(folder), spread) as world:
            before = _megabytes()
            lines = await _fill(world)
            async with _writing(world) as written:
                lines += await _latency(world)
                lines += await _rates(world)
                lines.append(Line("search: documents written meanwhile", written()))
            lines += await _recall(world)
            grown = _megabytes() - before
        lines.append(Line("search: memory it took", f"{grown:,.0f} MB"))
    return lines


async def _embedded() -> Floats:
    """Of the corpus' chunks, each once."""
    with tempfile.TemporaryDirectory(prefix="bloomweaver-bench-") as folder:
        settings = Settings(data_dir=Path(folder))
        embedder: Embedder = connect("embedder", settings.embedder_url, settings, "bench")
        try:
            vectors = await embedder.embed_documents([Passage(t) for t in corpus.texts()])
        finally:
            await embedder.close()
    progress(f"search: {len(vectors)} chunks of the {corpus.name()} embedded")
    return np.array(vectors, np.float32)


@asynccontextmanager
async def _opened(folder: Path, spread: Spread) -> AsyncIterator[World]:
    settings = Settings(data_dir=folder, query_cache_entries=0)
    inner: Index = connect("index", settings.index_url, settings, "bench")
    index = CachedIndex(inner, entries=Settings(data_dir=folder).query_cache_entries)
    registry = SqliteRegistry(folder / "registry.sqlite")
    try:
        yield World(spread, index, registry, max(RECORDS // CHUNKS, 1))
    finally:
        await index.close()
        await registry.close()


# What is measured.


async def _fill(world: World) -> list[Line]:
    took = await world.fill()
    records = world.documents * CHUNKS
    progress(f"search: {records:,} records written in {took:.0f} s")
    settling = asyncio.create_task(world.settled())
    began = time.perf_counter()
    latencies = await _paced(world.cached, _queries(world, 2), settling.done)
    await settling
    building = time.perf_counter() - began
    progress(f"search: graphs built after {building:.0f} s")
    similarity = await asyncio.to_thread(world.similarity)
    return [
        Line("search: records", f"{records:,} in {world.documents:,} documents"),
        Line(
            "search: median similarity of nearest neighbours",
            f"{world.spread.similarity:.2f} real, {similarity:.2f} here",
        ),
        Line("search: writing them", f"{records / took:,.0f} records/s"),
        Line("search: until the graphs are built, after that", f"{building:.0f} s"),
        Line("search: queries meanwhile", _latency_text(latencies)),
    ]


async def _latency(world: World) -> list[Line]:
    left = itertools.count()
    latencies = await _paced(world.cached, _queries(world, 3), lambda: next(left) >= LATENCIES)
    progress(f"search: {_latency_text(latencies)}")
    p50, p99 = (1000 * percentile(latencies, share) for share in (0.5, 0.99))
    return [
        at_most("search: p50, 1 client, documents changing", p50, P50_MS, f"{p50:.1f} ms", " ms"),
        at_most("search: p99 of it", p99, P99_MS, f"{p99:.1f} ms", " ms"),
    ]


async def _rates(world: World) -> list[Line]:
    distinct = await _rate(world.cached, _queries(world, 4))
    some = list(itertools.islice(_queries(world, 5), REPEATED_QUERIES))
    uncached = await _rate(world.plain, itertools.cycle(some))
    repeated = await _rate(world.cached, itertools.cycle(some))
    name = f"search: {CLIENTS} clients, documents changing"
    return [
        at_least(f"{name}, no query twice", distinct, RATE, f"{distinct:,.0f}/s", "/s"),
        Line(f"{name}, {REPEATED_QUERIES} queries again and again", f"{repeated:,.0f}/s"),
        Line("search: the same without the cache", f"{uncached:,.0f}/s"),
    ]


async def _recall(world: World) -> list[Line]:
    vectors = world.spread.draw(RECALL_QUERIES, 6)
    exact = await asyncio.to_thread(world.nearest, vectors)
    found = [names_of(await _search(world.plain, vector_of(vector))) for vector in vectors]
    shares = [len(got & right) / TOP_K for got, right in zip(found, exact, strict=True)]
    recall = sum(shares) / len(shares)
    text = f"{recall:.3f}, worst query {min(shares):.1f}"
    return [at_least(f"search: recall@{TOP_K} against exact", recall, RECALL, text)]


async def _paced(
    searcher: Searcher, queries: Iterator[Vector[float]], enough: Callable[[], bool]
) -> list[float]:
    """Latencies in seconds at QUERIES_PER_SECOND; a late query delays the next one."""
    latencies = []
    while not enough():
        began = time.perf_counter()
        await _search(searcher, next(queries))
        latencies.append(time.perf_counter() - began)
        await asyncio.sleep(max(1 / QUERIES_PER_SECOND - latencies[-1], 0))
    return latencies


async def _rate(searcher: Searcher, queries: Iterator[Vector[float]]) -> float:
    """Queries a second of CLIENTS that ask again as soon as they are answered."""
    count = 0
    began = time.perf_counter()

    async def client() -> None:
        nonlocal count
        while time.perf_counter() - began < RATE_SECONDS:
            await _search(searcher, next(queries))
            count += 1

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    rate = count / (time.perf_counter() - began)
    progress(f"search: {rate:,.0f} queries/s from {CLIENTS} clients")
    return rate


@asynccontextmanager
async def _writing(world: World) -> AsyncIterator[Callable[[], str]]:
    """Documents are written again, one after the other, at WRITES_PER_SECOND at most."""
    began = time.perf_counter()
    count = 0

    async def write() -> None:
        nonlocal count
        for number in itertools.cycle(range(world.documents)):
            await world.rewrite(number)
            count += 1
            await asyncio.sleep(max(began + count / WRITES_PER_SECOND - time.perf_counter(), 0))

    async with _running(write()):
        yield lambda: f"{count / (time.perf_counter() - began):.1f}/s of {CHUNKS} chunks"


@asynccontextmanager
async def _running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Fails with `work`, and ends it."""
    task = asyncio.create_task(work)
    try:
        yield
        if task.done():
            await task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _search(searcher: Searcher, vector: Vector[float]) -> list[Hit]:
    hits = await searcher.search_vector(NAMESPACE, vector, top_k=TOP_K)
    if len(hits) != TOP_K:
        raise RuntimeError(f"{len(hits)} hits instead of {TOP_K}")
    return hits


def _queries(world: World, seed: int) -> Iterator[Vector[float]]:
    """Drawn like the records; no two are equal."""
    for number in itertools.count():
        for vector in world.spread.draw(100, seed, number):
            yield vector_of(vector)


def _latency_text(latencies: list[float]) -> str:
    p50, p99, worst = (1000 * percentile(latencies, share) for share in (0.5, 0.99, 1.0))
    return f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, worst {worst:.0f} ms of {len(latencies):,}"


def _megabytes() -> float:
    """Resident now; files that are mapped count while they are in memory."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024 / 1e6
