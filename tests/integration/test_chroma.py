"""The index on a Chroma server: what the suites for every index and every server do not ask."""

from __future__ import annotations

import asyncio
import math
import random
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from aiohttp import web

from common.adapters.index.chroma import ChromaIndex, connect
from common.model import Record
from common.ports.errors import PermanentError, TransientError
from common.ports.index import FieldFilter
from common.settings import Settings
from tests.conformance.test_index import NAMESPACE, ids, record
from tests.servers.chroma import ChromaServer, chroma, chroma_url
from tests.servers.http_log import answering

ONE = array("f", [1.0, 0.0, 0.0])


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[ChromaIndex]:
    index = cast("ChromaIndex", connect(url, Settings(), "test"))
    try:
        yield index
    finally:
        await index.close()


@pytest.fixture
async def index() -> AsyncIterator[ChromaIndex]:
    async with opened(chroma_url()) as made:
        yield made


async def test_a_collection_that_someone_deleted_is_made_again(index: ChromaIndex) -> None:
    await index.upsert(NAMESPACE, [record(0)])
    await delete_collection(index)
    assert await index.query(NAMESPACE, ONE, top_k=1) == []
    await index.upsert(NAMESPACE, [record(1)])
    await delete_collection(index)
    await index.upsert(NAMESPACE, [record(2)])
    assert await ids(index) == {record(2).id}


async def test_a_collection_that_another_process_made_again_is_found() -> None:
    url = chroma_url()
    async with opened(url) as one, opened(url) as two:
        await one.upsert(NAMESPACE, [record(0)])
        await two.upsert(NAMESPACE, [record(1)])
        await delete_collection(two)
        await two.upsert(NAMESPACE, [record(2)])
        assert await ids(one) == {record(2).id}


async def delete_collection(index: ChromaIndex) -> None:
    connection = await index._connection.opened()
    name = index._where.names.of(NAMESPACE)
    await connection.call("delete it", lambda: connection._server.delete_collection(name))


async def test_a_collection_of_ours_that_measures_otherwise_is_refused(index: ChromaIndex) -> None:
    connection = await index._connection.opened()
    name = index._where.names.of(NAMESPACE)
    await connection.call("create it", lambda: connection._server.create_collection(name))
    with pytest.raises(PermanentError, match="does not measure by cosine"):
        await index.upsert(NAMESPACE, [record(0)])


async def test_a_filter_too_long_for_the_server_is_applied_here(index: ChromaIndex) -> None:
    """The nearest that passes comes after more neighbours than the first round asks for."""
    records = [
        record(n, (1.0, n / 100, 0.0), metadata={"tags": ["wanted" if n in (60, 70, 80) else "x"]})
        for n in range(90)
    ]
    await index.upsert(NAMESPACE, records)
    where = FieldFilter("tags", "in", ("wanted", *(f"t{n}" for n in range(999))))
    found = await index.query(NAMESPACE, ONE, top_k=2, where=where)
    assert [match.number for match in found] == [60, 70]
    found = await index.query(NAMESPACE, ONE, top_k=5, where=where)
    assert [match.number for match in found] == [60, 70, 80]


async def test_a_long_list_of_values_is_sent(index: ChromaIndex) -> None:
    await index.upsert(NAMESPACE, [record(n, metadata={"year": 2000 + n}) for n in range(5)])
    where = FieldFilter("year", "nin", tuple(range(2002, 3002)))
    found = await index.query(NAMESPACE, ONE, top_k=9, where=where)
    assert {match.number for match in found} == {0, 1}


async def test_texts_and_field_names_of_any_kind_come_back(index: ChromaIndex) -> None:
    odd = {"": 1, "$ne": "a", "#x": True, "chroma:document": "b", 'q"\\ %.x': 0.1, "ü": [""]}
    texts = ["", " ", "a\0b", "ü\u2028𝄞", "x" * 100_000]
    written = [record(n, metadata=cast("Any", odd)) for n in range(len(texts))]
    for n, text in enumerate(texts):
        object.__setattr__(written[n], "text", text)
    await index.upsert(NAMESPACE, written)
    found = {r.number: r for r in await index.fetch(NAMESPACE, [r.id for r in written])}
    assert [found[n].text for n in range(len(texts))] == texts
    assert all(r.metadata == odd for r in found.values())
    for name in odd:
        hits = await index.query(NAMESPACE, ONE, top_k=9, where=FieldFilter(name, "exists", True))
        assert len(hits) == len(texts), name


async def test_the_graph_finds_the_nearest(index: ChromaIndex) -> None:
    """More records than Chroma keeps outside its graph."""
    draw = random.Random(4)
    vectors = [tuple(draw.gauss(0, 1) for _ in range(16)) for _ in range(3000)]
    await index.upsert(NAMESPACE, [record(n, v) for n, v in enumerate(vectors)])
    found = wanted = 0
    for _ in range(20):
        query = tuple(draw.gauss(0, 1) for _ in range(16))
        nearest = sorted(range(3000), key=lambda n: -cosine(query, vectors[n]))[:10]
        hits = await index.query(NAMESPACE, array("f", query), top_k=10)
        found += len({hit.number for hit in hits} & set(nearest))
        wanted += 10
    assert found >= 0.98 * wanted


def cosine(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


# What the server and the network may do.


@pytest.mark.parametrize("wrong", ["database=nowhere", "tenant=nobody"])
async def test_the_check_names_a_missing_database(wrong: str) -> None:
    async with opened(f"chroma:{chroma().url}?{wrong}") as index:
        with pytest.raises(PermanentError, match="tenant and database in BLOOMWEAVER_INDEX_URL"):
            await index.check()


async def test_a_server_that_takes_less_gets_less_at_once(
    index: ChromaIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def most_records() -> int:
        return 4

    connection = await index._connection.opened()
    monkeypatch.setattr(connection, "most_records", most_records)
    sizes: list[int] = []
    write = index._upsert

    async def noted(collection: Any, records: list[Record]) -> None:
        sizes.append(len(records))
        await write(collection, records)

    monkeypatch.setattr(index, "_upsert", noted)
    await index.upsert(NAMESPACE, [record(n) for n in range(10)])
    assert sizes == [4, 4, 2]
    assert await index.count(NAMESPACE) == 10


async def test_of_records_with_one_id_the_last_is_kept(index: ChromaIndex) -> None:
    await index.upsert(NAMESPACE, [record(0), record(0, metadata={"lang": "en"})])
    (held,) = await index.fetch(NAMESPACE, [record(0).id])
    assert held.metadata == {"lang": "en"}


async def test_a_page_of_something_else_is_no_answer() -> None:
    async def page(request: web.Request) -> web.Response:
        return web.Response(text="<html>It works!</html>")

    async with answering(page) as log, opened(f"chroma:{log.url}") as index:
        with pytest.raises(TransientError, match="not Chroma's"):
            await index.count(NAMESPACE)


@pytest.mark.slow
async def test_nothing_acknowledged_is_lost_when_the_server_is_killed() -> None:
    """Killed three times in the middle of writes; what was not acknowledged is written again."""
    server = await asyncio.to_thread(ChromaServer)
    acknowledged: list[Record] = []
    async with opened(f"chroma:{server.url}") as index:
        for kill in range(3):
            enough = asyncio.Event()
            writing = asyncio.create_task(write_until_it_fails(index, kill, acknowledged, enough))
            await enough.wait()
            await asyncio.to_thread(server.stop)
            assert isinstance(await writing, TransientError)
            await asyncio.to_thread(server.start_again)
        wanted = {r.id for r in acknowledged}
        assert wanted <= await ids(index)
        fetched = {r.id: r.text for r in await index.fetch(NAMESPACE, sorted(wanted))}
        assert fetched == {r.id: r.text for r in acknowledged}
        found = await index.query(NAMESPACE, ONE, top_k=len(acknowledged) + 500)
        assert wanted <= {match.id for match in found}
        await index.upsert(NAMESPACE, [record(0, generation=99)])
    server.stop()


def spread(number: int, generation: int) -> tuple[float, ...]:
    """A graph over equal vectors loses some of them, killed or not."""
    return (math.cos(number), math.sin(number), 0.1 * (generation + 1))


async def write_until_it_fails(
    index: ChromaIndex, generation: int, acknowledged: list[Record], enough: asyncio.Event
) -> Exception:
    for number in range(10_000):
        batch = [
            record(10 * number + i, spread(10 * number + i, generation), generation=generation + 1)
            for i in range(10)
        ]
        try:
            await index.upsert(NAMESPACE, batch)
        except TransientError as error:
            return error
        acknowledged += batch
        if number == 20:
            enough.set()
    raise AssertionError("the server outlived it")
