"""The index on a Chroma server: what the conformance suite does not ask of every index."""

from __future__ import annotations

import asyncio
import math
import random
import uuid
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from aiohttp import web
from prometheus_client import REGISTRY
from pydantic import SecretStr

from common.adapters.index import chroma as adapter
from common.adapters.index.chroma import ChromaIndex
from common.model import Record
from common.ports.errors import PermanentError, TransientError
from common.ports.index import DimensionMismatchError, FieldFilter, IndexUnavailableError
from common.settings import Settings
from tests.conformance.test_index import NAMESPACE, ids, record
from tests.servers.chroma import ChromaServer, chroma
from tests.servers.http_log import answering

ONE = array("f", [1.0, 0.0, 0.0])


def prefix() -> str:
    return f"t{uuid.uuid4().hex[:12]}"


def index_at(url: str, *, token: str | None = None, seconds: float = 30) -> ChromaIndex:
    secret = SecretStr(token) if token else None
    settings = Settings(chroma_token=secret, request_timeout_seconds=seconds)
    return cast("ChromaIndex", adapter.connect(f"chroma:{url}", settings, "test"))


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[ChromaIndex]:
    index = index_at(url, **options)
    try:
        yield index
    finally:
        await index.close()


@pytest.fixture
async def index() -> AsyncIterator[ChromaIndex]:
    async with opened(f"{chroma().url}?prefix={prefix()}") as made:
        yield made


async def test_rivals_that_create_a_namespace_lose_nothing() -> None:
    url = f"{chroma().url}?prefix={prefix()}"
    async with opened(url) as one, opened(url) as two, opened(url) as three:
        rivals = [one, two, three] * 2
        await asyncio.gather(*(r.upsert(NAMESPACE, [record(n)]) for n, r in enumerate(rivals)))
        assert await ids(one) == {record(n).id for n in range(len(rivals))}
        assert await one.namespaces() == [NAMESPACE]


async def test_of_two_dimensions_one_wins() -> None:
    url = f"{chroma().url}?prefix={prefix()}"
    async with opened(url) as one, opened(url) as two:
        written = await asyncio.gather(
            one.upsert(NAMESPACE, [record(0)]),
            two.upsert(NAMESPACE, [record(1, (1.0, 0.0))]),
            return_exceptions=True,
        )
        refused = [error for error in written if error != ""]
        assert [type(error) for error in refused] == [DimensionMismatchError]
        assert await one.count(NAMESPACE) == 1


async def test_another_dimension_is_told_at_the_start(index: ChromaIndex) -> None:
    await index.check_dimension(384)
    await index.upsert(NAMESPACE, [record(0)])
    await index.check_dimension(3)
    with pytest.raises(DimensionMismatchError, match="'docs' holds vectors of 3 dimensions"):
        await index.check_dimension(384)


async def test_a_query_of_another_dimension_is_refused(index: ChromaIndex) -> None:
    await index.upsert(NAMESPACE, [record(0)])
    with pytest.raises(DimensionMismatchError):
        await index.query(NAMESPACE, array("f", [1.0]), top_k=1)


async def test_a_vector_that_is_not_finite_is_never_sent(index: ChromaIndex) -> None:
    with pytest.raises(PermanentError, match="not finite"):
        await index.upsert(NAMESPACE, [record(0), record(1, (math.nan, 0.0, 0.0))])
    assert await index.namespaces() == []


async def test_a_collection_that_someone_deleted_is_made_again(index: ChromaIndex) -> None:
    await index.upsert(NAMESPACE, [record(0)])
    await delete_collection(index)
    assert await index.query(NAMESPACE, ONE, top_k=1) == []
    await index.upsert(NAMESPACE, [record(1)])
    await delete_collection(index)
    await index.upsert(NAMESPACE, [record(2)])
    assert await ids(index) == {record(2).id}


async def test_a_collection_that_another_process_made_again_is_found() -> None:
    url = f"{chroma().url}?prefix={prefix()}"
    async with opened(url) as one, opened(url) as two:
        await one.upsert(NAMESPACE, [record(0)])
        await two.upsert(NAMESPACE, [record(1)])
        await delete_collection(two)
        await two.upsert(NAMESPACE, [record(2)])
        assert await ids(one) == {record(2).id}


async def delete_collection(index: ChromaIndex) -> None:
    connection = index._connection
    assert connection is not None
    name = index._where.names.of(NAMESPACE)
    await connection.call("delete it", lambda: connection._server.delete_collection(name))


async def test_what_others_keep_on_the_server_is_left_alone(index: ChromaIndex) -> None:
    async with opened(f"{chroma().url}?prefix={prefix()}") as other:
        await other.upsert(NAMESPACE, [record(7)])
        await index.upsert("more", [record(0)])
        assert await index.namespaces() == ["more"]
        assert await index.count(NAMESPACE) == 0
        assert await other.count(NAMESPACE) == 1


async def test_a_collection_of_ours_that_measures_otherwise_is_refused(index: ChromaIndex) -> None:
    connection = await index._connected()
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


async def test_listing_misses_nothing_while_records_are_deleted(
    index: ChromaIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "IDS_A_RANGE", 10)
    records = [record(n) for n in range(100)]
    await index.upsert(NAMESPACE, records)
    listed: list[str] = []
    async for record_id in index.list_ids(NAMESPACE):
        if not listed:
            await index.delete(NAMESPACE, [record_id, *(r.id for r in records[:40])])
        listed.append(record_id)
    assert {r.id for r in records[40:]} <= set(listed)
    assert len(listed) == len(set(listed))


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


async def test_the_check_tells_what_is_there(index: ChromaIndex) -> None:
    await index.upsert(NAMESPACE, [record(0)])
    assert "1 namespaces" in await index.check()


@pytest.mark.parametrize("wrong", ["database=nowhere", "tenant=nobody"])
async def test_the_check_names_a_missing_database(wrong: str) -> None:
    async with opened(f"{chroma().url}?{wrong}") as index:
        with pytest.raises(PermanentError, match="tenant and database in BLOOMWEAVER_INDEX_URL"):
            await index.check()


async def test_a_server_out_of_reach_is_transient() -> None:
    async with opened("http://127.0.0.1:1") as index:
        for call in (index.check(), index.count(NAMESPACE), index.upsert(NAMESPACE, [record(0)])):
            with pytest.raises(TransientError, match="cannot"):
                await call


async def test_a_server_that_never_answers_is_not_waited_for() -> None:
    async def never(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with answering(never) as log, opened(log.url, seconds=0.2) as index:
        with pytest.raises(TransientError, match="no answer within"):
            await index.count(NAMESPACE)


async def test_a_connection_that_was_closed_meanwhile_is_opened_again() -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        if len(asked) == 1:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response("1.0.0")

    async with answering(answer) as log, opened(log.url) as index:
        connection = await index._connected()
        assert await connection.version() == "1.0.0"
    assert len(asked) == 2


async def test_a_server_that_takes_less_gets_less_at_once(
    index: ChromaIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def most_records() -> int:
        return 4

    connection = await index._connected()
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


async def test_the_token_is_sent_and_never_told() -> None:
    async def refuse(request: web.Request) -> web.Response:
        return web.json_response({"error": "AuthError", "message": "Forbidden"}, status=403)

    async with (
        answering(refuse) as log,
        answering(refuse) as elsewhere,
        opened(log.url, token="secret-1") as index,
        opened(elsewhere.url, token="secret-2") as other,
    ):
        with pytest.raises(PermanentError, match="BLOOMWEAVER_CHROMA_TOKEN") as refused:
            await index.check()
        with pytest.raises(TransientError):
            await index.count(NAMESPACE)
        with pytest.raises(TransientError):
            await other.count(NAMESPACE)
        assert {asked.headers["authorization"] for asked in log.asked} == {"Bearer secret-1"}
        assert elsewhere.asked[0].headers["authorization"] == "Bearer secret-2"
        assert "secret-1" not in str(refused.value)


async def test_a_server_that_asks_to_be_left_alone_says_how_long() -> None:
    async def busy(request: web.Request) -> web.Response:
        return web.Response(status=429, headers={"Retry-After": "7"}, text="slow down")

    async with answering(busy) as log, opened(log.url) as index:
        with pytest.raises(TransientError) as told:
            await index.count(NAMESPACE)
        assert told.value.retry_after_seconds == 7


async def test_a_page_of_something_else_is_no_answer() -> None:
    async def page(request: web.Request) -> web.Response:
        return web.Response(text="<html>It works!</html>")

    async with answering(page) as log, opened(log.url) as index:
        with pytest.raises(TransientError, match="not Chroma's"):
            await index.count(NAMESPACE)


async def test_requests_are_counted(index: ChromaIndex) -> None:
    def upserts() -> float:
        labels = {"service": "chroma", "operation": "upsert"}
        return REGISTRY.get_sample_value("bloomweaver_outside_calls_total", labels) or 0.0

    before = upserts()
    await index.upsert(NAMESPACE, [record(n) for n in range(2 * adapter.RECORDS_A_CALL + 1)])
    assert upserts() == before + 3


async def test_a_closed_index_says_so(index: ChromaIndex) -> None:
    await index.close()
    with pytest.raises(IndexUnavailableError):
        await index.count(NAMESPACE)


@pytest.mark.slow
async def test_nothing_acknowledged_is_lost_when_the_server_is_killed() -> None:
    """Killed three times in the middle of writes; what was not acknowledged is written again."""
    server = await asyncio.to_thread(ChromaServer)
    acknowledged: list[Record] = []
    async with opened(server.url) as index:
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
