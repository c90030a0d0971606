"""The unmodified SDK talks to the Pinecone test server, which refuses what Pinecone refuses."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from pinecone import AsyncIndex, AsyncPinecone
from pinecone._internal.http_client import get_budget_registry
from pinecone.errors import NotFoundError, PineconeError, RateLimitError, UnauthorizedError

from tests.servers.pinecone import API_KEY, INDEX_NAME, Fault, FaultKind, PineconeServer
from tests.servers.pinecone_store import Store, Stored
from tests.servers.process import ServerProcess

HEADERS = {"Api-Key": API_KEY, "X-Pinecone-Api-Version": "2026-07"}
VECTOR = [1.0, 0.0, 0.0]


@pytest.fixture(autouse=True)
def own_retry_budget() -> Iterator[None]:
    get_budget_registry()._reset()
    yield
    get_budget_registry()._reset()


@pytest.fixture
def server() -> Iterator[PineconeServer]:
    with PineconeServer() as running:
        yield running


@pytest.fixture
async def index(server: PineconeServer) -> AsyncIterator[AsyncIndex]:
    async with AsyncIndex(host=server.url, api_key=API_KEY) as opened:
        yield opened


async def test_the_sdk_reads_what_it_wrote(index: AsyncIndex) -> None:
    written = await index.upsert(
        vectors=[
            {"id": "a", "values": [1.0, 0.0, 0.0], "metadata": {"year": 2024, "tags": ["x", "y"]}},
            {"id": "b", "values": [1.0, 1.0, 0.0]},
        ],
        namespace="docs",
    )
    assert written.upserted_count == 2
    assert written.response_info is not None
    found = await index.query(
        vector=VECTOR, top_k=5, namespace="docs", include_metadata=True, include_values=True
    )
    assert found.response_info is not None
    assert written.response_info.lsn_committed is not None
    assert found.response_info.is_reconciled(written.response_info.lsn_committed)
    by_id = {match.id: match for match in found.matches}
    assert by_id["a"].metadata == {"year": 2024.0, "tags": ["x", "y"]}
    assert isinstance(by_id["a"].metadata["year"], float), "Pinecone keeps 64-bit floats only"
    assert by_id["a"].score == pytest.approx(1.0)
    assert by_id["b"].score == pytest.approx(0.5**0.5)
    assert by_id["b"].values == [1.0, 1.0, 0.0]

    fetched = await index.fetch(ids=["a", "nothing"], namespace="docs")
    assert set(fetched.vectors) == {"a"}
    pages = [page async for page in index.list(prefix="a", namespace="docs")]
    assert [item.id for page in pages for item in page.vectors] == ["a"]
    await index.update(id="b", set_metadata={"lang": "en"}, namespace="docs")
    await index.delete(filter={"year": {"$gte": 2020}}, namespace="docs")
    stats = await index.describe_index_stats()
    assert (stats.dimension, stats.total_vector_count) == (3, 1)
    assert stats.namespaces["docs"].vector_count == 1
    left = await index.query(vector=VECTOR, top_k=5, namespace="docs", filter={"lang": "en"})
    assert [match.id for match in left.matches] == ["b"]


async def test_the_sdk_pages_through_a_list(index: AsyncIndex) -> None:
    vectors = [{"id": f"r{n:03}", "values": VECTOR} for n in range(250)]
    await index.upsert(vectors=vectors)
    pages = [[item.id for item in page.vectors] async for page in index.list(limit=100)]
    assert [len(page) for page in pages] == [100, 100, 50]
    assert (await index.describe_index_stats()).namespaces["__default__"].vector_count == 250


async def test_the_sdk_resolves_an_index_by_its_name(server: PineconeServer) -> None:
    async with AsyncPinecone(api_key=API_KEY, host=server.url) as control:
        described = await control.indexes.describe(INDEX_NAME)
        assert (described.host, described.dimension, described.metric) == (server.url, 3, "cosine")
        assert described.status.ready
        with pytest.raises(NotFoundError):
            await control.indexes.describe("another")


async def test_a_wrong_key_and_a_namespace_never_written(server: PineconeServer) -> None:
    async with AsyncIndex(host=server.url, api_key="wrong") as stranger:
        with pytest.raises(UnauthorizedError):
            await stranger.describe_index_stats()
    async with AsyncIndex(host=server.url, api_key=API_KEY) as index:
        with pytest.raises(NotFoundError):
            await index.delete(ids=["a"], namespace="never")
        assert (await index.query(vector=VECTOR, top_k=1, namespace="never")).matches == []


def wide(**metadata: Any) -> dict[str, Any]:
    return {"vectors": [{"id": "a", "values": VECTOR, "metadata": metadata}]}


def ids(*names: Any) -> dict[str, Any]:
    return {"vectors": [{"id": name, "values": VECTOR} for name in names]}


REFUSED: list[tuple[str, str, Any, int]] = [
    ("no vectors", "/vectors/upsert", {}, 400),
    ("an empty upsert", "/vectors/upsert", {"vectors": []}, 400),
    ("1,001 records", "/vectors/upsert", ids(*map(str, range(1001))), 400),
    ("an unknown member", "/vectors/upsert", {**ids("a"), "extra": 1}, 400),
    ("an unknown member of a record", "/vectors/upsert", {"vectors": [{"id": "a", "x": 1}]}, 400),
    ("an id twice", "/vectors/upsert", ids("a", "a"), 400),
    ("an id that is not ASCII", "/vectors/upsert", ids("ü"), 400),
    ("an id of 513 characters", "/vectors/upsert", ids("a" * 513), 400),
    ("an id that is no string", "/vectors/upsert", ids(1), 400),
    ("a namespace not ASCII", "/vectors/upsert", {**ids("a"), "namespace": "ü"}, 400),
    ("two dimensions", "/vectors/upsert", {"vectors": [{"id": "a", "values": [1, 0]}]}, 400),
    ("null", "/vectors/upsert", {"vectors": [{"id": "a", "values": [1, 0, None]}]}, 400),
    ("NaN", "/vectors/upsert", '{"vectors": [{"id": "a", "values": [NaN, 0, 1]}]}', 400),
    ("a zero vector", "/vectors/upsert", {"vectors": [{"id": "a", "values": [0, 0, 0]}]}, 400),
    ("more than 40 KB of metadata", "/vectors/upsert", wide(t="x" * 40_960), 400),
    ("a nested value", "/vectors/upsert", wide(t={"a": 1}), 400),
    ("a list of numbers", "/vectors/upsert", wide(t=[1]), 400),
    ("null metadata", "/vectors/upsert", wide(t=None), 400),
    ("a field named as an operator", "/vectors/upsert", wide(**{"$t": 1}), 400),
    ("no JSON", "/vectors/upsert", "{", 400),
    ("2 MB", "/vectors/upsert", "x" * 2_000_001, 413),
    ("top_k 0", "/query", {"topK": 0, "vector": VECTOR}, 400),
    ("top_k 10,001", "/query", {"topK": 10_001, "vector": VECTOR}, 400),
    ("a query without top_k", "/query", {"vector": VECTOR}, 400),
    ("a query of another dimension", "/query", {"topK": 1, "vector": [1.0]}, 400),
    ("an empty filter", "/query", {"topK": 1, "vector": VECTOR, "filter": {}}, 400),
    ("an unknown operator", "/query", {"topK": 1, "vector": VECTOR, "filter": {"$not": 1}}, 400),
    (
        "booleans in $in",
        "/query",
        {"topK": 1, "vector": VECTOR, "filter": {"a": {"$in": [True]}}},
        400,
    ),
    (
        "strings and numbers in $in",
        "/query",
        {"topK": 1, "vector": VECTOR, "filter": {"a": {"$in": ["x", 1]}}},
        400,
    ),
    ("text compared", "/query", {"topK": 1, "vector": VECTOR, "filter": {"a": {"$gt": "x"}}}, 400),
    ("1,001 ids to delete", "/vectors/delete", {"namespace": "", "ids": ["a"] * 1001}, 400),
    ("a delete of nothing", "/vectors/delete", {"namespace": ""}, 400),
    (
        "a delete of two things",
        "/vectors/delete",
        {"namespace": "", "ids": ["a"], "deleteAll": True},
        400,
    ),
]


@pytest.mark.parametrize(
    ("path", "body", "status"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
async def test_what_pinecone_refuses_is_refused(
    server: PineconeServer, path: str, body: Any, status: int
) -> None:
    async with ClientSession(headers=HEADERS) as session:
        data = io.BytesIO((body if isinstance(body, str) else json.dumps(body)).encode())
        url, kind = server.url + path, {"Content-Type": "application/json"}
        async with session.post(url, data=data, headers=kind) as answer:
            assert answer.status == status, await answer.text()
            assert (await answer.json())["message"]
        assert not server.served.store.namespaces, "it was written all the same"


async def test_a_result_of_more_than_4_mb_is_refused(
    server: PineconeServer, index: AsyncIndex
) -> None:
    heavy = {"t": "x" * 39_900}
    for part in range(0, 120, 40):
        vectors = [
            {"id": f"{n}", "values": VECTOR, "metadata": heavy} for n in range(part, part + 40)
        ]
        await index.upsert(vectors=vectors)
    with pytest.raises(PineconeError, match=r"exceeds the limit of 4MB"):
        await index.query(vector=VECTOR, top_k=120, include_metadata=True)
    fits = await index.query(vector=VECTOR, top_k=100, include_metadata=True)
    assert len(fits.matches) == 100
    assert len((await index.query(vector=VECTOR, top_k=120)).matches) == 120


@pytest.mark.parametrize(
    "address",
    ["/vectors/fetch", "/vectors/list?limit=101", "/vectors/list?limit=0", "/vectors/list?x=1"],
)
async def test_reads_are_checked_too(server: PineconeServer, address: str) -> None:
    async with ClientSession(headers=HEADERS) as session:
        async with session.get(server.url + address) as answer:
            assert answer.status == 400
        many = "&".join(f"ids=a{n}" for n in range(1001))
        async with session.get(f"{server.url}/vectors/fetch?{many}") as answer:
            assert answer.status == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X-Pinecone-Api-Version": "2026-07"}, 401),
        ({"Api-Key": API_KEY}, 400),
        ({"Api-Key": API_KEY, "X-Pinecone-Api-Version": "2024-07"}, 400),
    ],
    ids=["no key", "no version", "another version"],
)
async def test_headers_are_required(
    server: PineconeServer, headers: dict[str, str], status: int
) -> None:
    async with (
        ClientSession(headers=headers) as session,
        session.post(f"{server.url}/describe_index_stats", json={}) as answer,
    ):
        assert answer.status == status


def test_reads_show_writes_in_their_order_once_the_lag_is_over() -> None:
    now = [0.0]
    store = Store(name="i", dimension=1, metric="cosine", index_lag_seconds=5, clock=lambda: now[0])
    one, other = Stored((1.0,), None), Stored((-1.0,), None)
    first = store.write("docs", [("a", one)])
    now[0] = 3.0
    second = store.write("docs", [("a", other), ("b", one)])
    assert second > first
    seen = []
    for at in (4.0, 5.0, 7.9, 8.0):
        now[0] = at
        held = store.read("docs")
        seen.append((held.indexed, dict(held.shown)))
    assert seen[0] == (first - 1, {})
    assert seen[1] == seen[2] == (first, {"a": one})
    assert seen[3] == (second, {"a": other, "b": one})
    assert store.read("other").indexed < first


async def test_rates_are_refused_with_the_time_to_wait(server: PineconeServer) -> None:
    server.served.rates.per_second["query"] = 0.01
    async with ClientSession(headers=HEADERS) as session:
        body = {"topK": 1, "vector": VECTOR}
        async with session.post(f"{server.url}/query", json=body) as answer:
            assert answer.status == 429
            assert float(answer.headers["Retry-After"]) > 10


async def test_scripted_faults_come_once_each_and_after_the_write(
    server: PineconeServer, index: AsyncIndex
) -> None:
    async with ClientSession() as session:
        script = [{"kind": "500-after", "operation": "upsert"}]
        await session.post(f"{server.url}/_test/faults", json={"script": script})
        await index.upsert(vectors=[{"id": "a", "values": VECTOR}], namespace="docs")
        async with session.get(f"{server.url}/_test/") as answer:
            told = await answer.json()
        assert told["requests"] == {"upsert": 2}, "the SDK tries again by itself"
        async with session.get(f"{server.url}/_test/records") as answer:
            records = await answer.json()
    assert records == {"docs": {"a": {"id": "a", "values": VECTOR}}}


async def test_the_sdk_gives_up_after_four_tries_whatever_one_says(
    server: PineconeServer, index: AsyncIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the adapter's own decision replaces."""

    async def at_once(seconds: float) -> None:
        return None

    monkeypatch.setattr("pinecone._internal.http_client._async_retry_sleep", at_once)
    server.fail(*[Fault(kind=FaultKind.THROTTLED, retry_after=0.01)] * 4)
    with pytest.raises(RateLimitError):
        await index.describe_index_stats()
    assert server.served.requests["stats"] == 4


@pytest.mark.slow
async def test_it_runs_as_a_process() -> None:
    command = [sys.executable, "-m", "tests.servers.pinecone", "--port", "{port}"]
    options = ["--dimension", "3", "--index-lag-seconds", "3600", "--fault", "1.0:503:fetch"]
    root = str(Path(__file__).parents[2])
    server = ServerProcess([*command, *options], environment={"PYTHONPATH": root}, probe="/_test/")
    try:
        async with AsyncIndex(host=server.url, api_key=API_KEY) as index:
            await index.upsert(vectors=[{"id": "a", "values": VECTOR}], namespace="docs")
            assert (await index.query(vector=VECTOR, top_k=1, namespace="docs")).matches == []
            with pytest.raises(PineconeError):
                await index.fetch(ids=["a"], namespace="docs")
        async with ClientSession() as session, session.get(f"{server.url}/_test/") as answer:
            assert (await answer.json())["records"] == {"docs": 1}
    finally:
        server.stop()
