"""What every index adapter promises; one line in FACTORIES adds another."""

from __future__ import annotations

import math
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from common import identity
from common.adapters.index.chroma import connect as connect_chroma
from common.adapters.index.pinecone import PineconeIndex
from common.adapters.index.pinecone_client import Client
from common.adapters.index.qdrant import connect as connect_qdrant
from common.adapters.index.qdrant_edge import QdrantEdgeIndex
from common.adapters.index.qdrant_edge_merge import build
from common.model import DocumentKey, MetadataValue, Record
from common.ports.index import (
    DimensionMismatchError,
    FieldFilter,
    Filter,
    FreshnessToken,
    Index,
    MetadataFilter,
)
from common.query_cache import CachedIndex
from common.settings import Settings
from tests.fakes.index import MemoryIndex, matches
from tests.servers.chroma import chroma_url
from tests.servers.pinecone import PineconeServer
from tests.servers.qdrant import QDRANT_KEY, qdrant_url


class MergingIndex(QdrantEdgeIndex):
    """Seals a shard at every second record and merges before a write returns."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, seal_records=2, build=build)

    async def upsert(self, namespace: str, records: Sequence[Record]) -> FreshnessToken:
        token = await super().upsert(namespace, records)
        await self.settled()
        return token

    async def delete(self, namespace: str, ids: Sequence[str]) -> None:
        await super().delete(namespace, ids)
        await self.settled()


def chroma_index() -> Index:
    """On a real server, whose other collections it does not see."""
    return connect_chroma(chroma_url(), Settings(), "test")


def qdrant_index() -> Index:
    """On what stands in for a server: tests/servers/qdrant_rest.py says how far."""
    return connect_qdrant(qdrant_url(), Settings(qdrant_api_key=SecretStr(QDRANT_KEY)), "test")


class PineconeOnServer(PineconeIndex):
    """On a server of its own. A delete shows when the server likes, and nobody can wait for it:
    here it has caught up before the delete returns."""

    def __init__(self, *, index_lag_seconds: float = 0.0) -> None:
        self.server = PineconeServer(index_lag_seconds=index_lag_seconds)
        client = Client(self.server.url, api_key=self.server.api_key, timeout_seconds=10)
        super().__init__(client, call_seconds=10)

    async def delete(self, namespace: str, ids: Sequence[str]) -> None:
        await super().delete(namespace, ids)
        self.server.served.store.index_everything()

    async def close(self) -> None:
        await super().close()
        self.server.stop()


FACTORIES: dict[str, Callable[[Path], Index]] = {
    "memory": lambda folder: MemoryIndex(),
    "qdrant-edge": lambda folder: QdrantEdgeIndex(folder / "index"),
    "qdrant-edge-merging": lambda folder: MergingIndex(folder / "index"),
    "cached": lambda folder: CachedIndex(MemoryIndex(), entries=5),
    "chroma": lambda folder: chroma_index(),
    "pinecone": lambda folder: PineconeOnServer(),
    "pinecone-lagging": lambda folder: PineconeOnServer(index_lag_seconds=0.05),
    "qdrant": lambda folder: qdrant_index(),
}
NAMESPACE = "docs"
SLOW = ("qdrant-edge-merging", "pinecone-lagging")
"""Too slow for many examples of what other cases show as well."""


@pytest.fixture(params=FACTORIES)
async def index(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Index]:
    made = FACTORIES[request.param](tmp_path)
    yield made
    await made.close()


def record(
    number: int,
    vector: tuple[float, ...] = (1.0, 0.0, 0.0),
    *,
    document: str = "a.md",
    generation: int = 1,
    metadata: dict[str, MetadataValue] | None = None,
) -> Record:
    key = identity.document_key(DocumentKey(NAMESPACE, document))
    return Record(
        id=identity.record_id(key, generation, number),
        vector=array("f", vector),
        document_id=document,
        generation=generation,
        number=number,
        doc_hash="h",
        heading_path=("Guide", "Start"),
        text=f"text {number}",
        metadata=metadata or {},
    )


async def write(index: Index, namespace: str, records: Sequence[Record]) -> None:
    """Only a write that was waited for is promised to show."""
    token = await index.upsert(namespace, records)
    await index.wait_visible(namespace, token, timeout_seconds=10)


async def ids(index: Index, prefix: str = "") -> set[str]:
    return {record_id async for record_id in index.list_ids(NAMESPACE, prefix)}


async def test_a_record_comes_back_whole(index: Index) -> None:
    metadata: dict[str, MetadataValue] = {
        "lang": "en", "year": 2024, "score": 0.5, "draft": False, "tags": ["a", "b"],
        'odd "name" 100%.x': "y",
    }  # fmt: skip
    written = record(3, (0.0, 2.0, 0.0), metadata=metadata)
    await write(index, NAMESPACE, [written])
    (match,) = await index.query(NAMESPACE, array("f", [0.0, 1.0, 0.0]), top_k=5)
    assert match.score == pytest.approx(1.0, abs=1e-5)
    assert match.score <= 1.0
    assert (match.id, match.document_id, match.generation, match.number) == (
        written.id, "a.md", 1, 3,
    )  # fmt: skip
    assert (match.text, match.heading_path, match.doc_hash) == ("text 3", ("Guide", "Start"), "h")
    assert match.metadata == metadata
    assert isinstance(match.metadata["draft"], bool)


async def test_the_nearest_come_first_and_no_more_than_asked(index: Index) -> None:
    await write(
        index,
        NAMESPACE,
        [record(0, (1.0, 0.0, 0.0)), record(1, (1.0, 1.0, 0.0)), record(2, (0.0, 0.0, 1.0))],
    )
    found = await index.query(NAMESPACE, array("f", [1.0, 0.1, 0.0]), top_k=2)
    assert [match.number for match in found] == [0, 1]
    assert found[0].score > found[1].score


async def test_deleted_records_are_gone_and_missing_ids_are_no_error(index: Index) -> None:
    first, second = record(0), record(1)
    await write(index, NAMESPACE, [first, second])
    await index.delete(NAMESPACE, [first.id, record(9).id])
    assert await ids(index) == {second.id}
    assert await index.count(NAMESPACE) == 1
    found = await index.query(NAMESPACE, array("f", [1.0, 0.0, 0.0]), top_k=5)
    assert [match.id for match in found] == [second.id]


async def test_a_namespace_never_written_is_empty(index: Index) -> None:
    assert await index.query("nowhere", array("f", [1.0, 0.0, 0.0]), top_k=3) == []
    assert await index.count("nowhere") == 0
    assert [i async for i in index.list_ids("nowhere")] == []
    await index.delete("nowhere", ["x#1#0"])
    assert await index.namespaces() == []


async def test_namespaces_do_not_see_each_other(index: Index) -> None:
    await write(index, NAMESPACE, [record(0)])
    await write(index, "ütf/8 name", [record(1)])
    assert await index.namespaces() == sorted([NAMESPACE, "ütf/8 name"])
    found = await index.query("ütf/8 name", array("f", [1.0, 0.0, 0.0]), top_k=5)
    assert [match.number for match in found] == [1]


async def test_a_namespace_has_a_dimension_of_its_own_unless_the_service_has_one_for_all(
    index: Index,
) -> None:
    await write(index, NAMESPACE, [record(0)])
    if isinstance(index, PineconeIndex):
        with pytest.raises(DimensionMismatchError, match="3"):
            await write(index, "other", [record(1, (1.0, 0.0))])
        return
    await write(index, "other", [record(1, (1.0, 0.0))])
    found = await index.query("other", array("f", [1.0, 0.0]), top_k=5)
    assert [match.number for match in found] == [1]


async def test_another_dimension_is_refused(index: Index) -> None:
    await write(index, NAMESPACE, [record(0)])
    with pytest.raises(DimensionMismatchError, match="3"):
        await write(index, NAMESPACE, [record(1, (1.0, 0.0))])
    assert await index.count(NAMESPACE) == 1


async def test_listing_by_document_and_generation(index: Index) -> None:
    mine = [record(n) for n in range(3)]
    later = record(0, generation=12)
    other = record(0, document="b.md")
    await write(index, NAMESPACE, [*mine, later, other])
    key = mine[0].id.partition("#")[0]
    assert await ids(index, f"{key}#") == {*(r.id for r in mine), later.id}
    assert await ids(index, f"{key}#1#") == {r.id for r in mine}
    assert await ids(index, key[:5]) >= {r.id for r in mine}


async def test_listing_reaches_beyond_a_page(index: Index) -> None:
    records = [record(n) for n in range(2300)]
    await write(index, NAMESPACE, records)
    assert await ids(index) == {r.id for r in records}


scalars = st.one_of(
    st.sampled_from(["en", "de", ""]), st.integers(-3, 3), st.booleans(),
    st.sampled_from([0.5, 1.0, -2.5]),
)  # fmt: skip
values = st.one_of(scalars, st.lists(st.sampled_from(["en", "de", "fr"]), max_size=3))
fields = st.sampled_from(["lang", "year", "a.b"])
metadatas = st.dictionaries(fields, values, max_size=3)
numbers = st.one_of(st.integers(-3, 3), st.sampled_from([0.5, 1.0, -2.5]))
conditions = st.one_of(
    st.builds(FieldFilter, fields, st.sampled_from(["eq", "ne"]), scalars),
    st.builds(
        FieldFilter, fields, st.sampled_from(["in", "nin"]),
        st.lists(scalars, min_size=1, max_size=3).map(tuple),
    ),
    st.builds(FieldFilter, fields, st.sampled_from(["gt", "gte", "lt", "lte"]), numbers),
)  # fmt: skip
filters = st.recursive(
    conditions,
    lambda inner: st.builds(
        Filter, st.sampled_from(["all", "any"]), st.lists(inner, min_size=1, max_size=3).map(tuple)
    ),
    max_leaves=4,
)


@pytest.fixture(scope="module", params=[n for n in FACTORIES if n not in SLOW])
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], Index]:
    folder = tmp_path_factory.mktemp("filters")
    counter = iter(range(10**6))
    return lambda: FACTORIES[request.param](folder / str(next(counter)))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(metadatas, min_size=1, max_size=8), st.lists(filters, min_size=1, max_size=6))
async def test_filters_select_what_their_definition_says(
    filled: Callable[[], Index],
    stored: list[dict[str, MetadataValue]],
    wheres: list[MetadataFilter],
) -> None:
    await select(filled(), stored, wheres)


@settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(metadatas, min_size=12, max_size=24), st.lists(filters, min_size=20, max_size=30))
async def test_filters_select_the_same_after_a_merge(
    tmp_path_factory: pytest.TempPathFactory,
    stored: list[dict[str, MetadataValue]],
    wheres: list[MetadataFilter],
) -> None:
    await select(MergingIndex(tmp_path_factory.mktemp("merged")), stored, wheres)


async def select(
    index: Index, stored: list[dict[str, MetadataValue]], wheres: list[MetadataFilter]
) -> None:
    """Half of the records are written first, so that a merge rewrites some of them."""
    records = [record(n, metadata=metadata) for n, metadata in enumerate(stored)]
    half = len(records) // 2
    try:
        for part in (records[:half], records[half:]):
            await write(index, NAMESPACE, part)
        for where in wheres:
            found = await index.query(NAMESPACE, array("f", [1.0, 0, 0]), top_k=50, where=where)
            expected = {n for n, metadata in enumerate(stored) if matches(metadata, where)}
            assert {match.number for match in found} == expected, where
    finally:
        await index.close()


@pytest.mark.parametrize("present", [True, False])
async def test_exists(index: Index, present: bool) -> None:
    await write(index, NAMESPACE, [record(0, metadata={"lang": "en"}), record(1)])
    found = await index.query(
        NAMESPACE, array("f", [1.0, 0, 0]), top_k=5, where=FieldFilter("lang", "exists", present)
    )
    assert [match.number for match in found] == [0 if present else 1]


async def test_fetched_records_come_back_whole_and_missing_ids_are_absent(index: Index) -> None:
    metadata: dict[str, MetadataValue] = {"lang": "en", "year": 2024, "score": 0.5, "tags": []}
    written = record(3, (0.0, 3.0, 4.0), metadata=metadata)
    await write(index, NAMESPACE, [written, record(4)])
    (found,) = await index.fetch(NAMESPACE, [written.id, record(9).id, written.id])
    length = math.hypot(*found.vector)
    assert [x / length for x in found.vector] == pytest.approx([0.0, 0.6, 0.8], abs=1e-6)
    assert replace(found, vector=written.vector) == written


async def test_floats_come_back_to_their_last_digit(index: Index) -> None:
    numbers = [n / 7 for n in range(1, 40)] + [1.7637e9 + n / 3 for n in range(40)]
    written = [record(n, metadata={"at": value, "n": n}) for n, value in enumerate(numbers)]
    await write(index, NAMESPACE, written)
    fetched = await index.fetch(NAMESPACE, [r.id for r in written])
    matched = await index.query(NAMESPACE, array("f", [1.0, 0, 0]), top_k=len(written))
    for found in (fetched, matched):
        assert {f.number: f.metadata["at"] for f in found} == dict(enumerate(numbers))


async def test_what_was_deleted_or_never_written_cannot_be_fetched(index: Index) -> None:
    await write(index, NAMESPACE, [record(0), record(1)])
    await index.delete(NAMESPACE, [record(0).id])
    found = await index.fetch(NAMESPACE, [record(0).id, record(1).id])
    assert [held.id for held in found] == [record(1).id]
    assert await index.fetch(NAMESPACE, []) == []
    assert await index.fetch("nowhere", [record(1).id]) == []


async def test_fetching_reaches_beyond_a_page(index: Index) -> None:
    records = [record(n) for n in range(2300)]
    await write(index, NAMESPACE, records)
    found = await index.fetch(NAMESPACE, [r.id for r in records])
    assert {r.id for r in found} == {r.id for r in records}
