"""Texts that are too large for the index: searched for, shown, scrubbed as all others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from common.adapters.index.pinecone import PineconeIndex
from common.adapters.index.pinecone_client import Client
from common.chunking.chunker import ChunkSizes
from common.model import MetadataValue
from common.ports.errors import TransientError
from tests.builders import TIMERS
from tests.fakes.embedder import DIMENSION
from tests.pipeline import NAMESPACE, Pipeline, pipeline
from tests.servers.pinecone import PineconeServer
from tests.unit.pinecone_builders import record
from webhook.search import Hit, Searcher
from workers.scrub import Scrubber

METADATA: dict[str, MetadataValue] = {"notes": "n" * 37_000, "year": 2024}
LETTERS = "\N{GRINNING FACE}"


def section(name: str, word: str) -> str:
    """Some 4 KB in one chunk: too much beside 37 KB of metadata."""
    return f"## {name}\n\n{word} {LETTERS * 1000}\n\n"


@dataclass
class World:
    flow: Pipeline
    server: PineconeServer

    @property
    def searcher(self) -> Searcher:
        flow = self.flow
        return Searcher(flow.index, flow.registry, flow.embedder, flow.clock, blobs=flow.blobs)

    async def search(self, words: str) -> list[Hit]:
        return await self.searcher.search(NAMESPACE, words, top_k=10)

    async def applied(self, *sections: str) -> None:
        await self.flow.insert("a.md", "# Guide\n\n" + "".join(sections), metadata=METADATA)
        await self.flow.run()

    def held(self) -> list[dict[str, Any]]:
        """The metadata of every record in the index."""
        stored = self.server.served.store.namespaces[NAMESPACE].truth.values()
        return [dict(one.metadata or {}) for one in stored]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    with PineconeServer(dimension=DIMENSION) as server:
        client = Client(server.url, api_key=server.api_key, timeout_seconds=30)
        index = PineconeIndex(client, call_seconds=30)
        async with pipeline(tmp_path) as flow:
            flow.index = index  # type: ignore[assignment]
            flow.sizes = ChunkSizes(target_tokens=200, max_tokens=400)
            yield World(flow, server)
        await index.close()


async def test_a_hit_whose_text_is_in_the_pack_shows_it(world: World) -> None:
    await world.applied(section("One", "apple"), section("Two", "pear"), "## Three\n\nsmall plum\n")
    without = [metadata for metadata in world.held() if "_text" not in metadata]
    assert len(without) == 2
    assert len(world.held()) > 2, "the small chunk's text is in the index"
    hits = {hit.heading_path[-1]: hit for hit in await world.search("apple pear plum")}
    assert f"apple {LETTERS * 1000}" in hits["One"].text
    assert f"pear {LETTERS * 1000}" in hits["Two"].text
    assert hits["Two"].heading_path == ("Guide", "Two")
    assert "small plum" in hits["Three"].text
    assert all(hit.metadata == METADATA for hit in hits.values())


async def test_a_page_that_is_larger_than_an_answer_of_pinecone_is_short(world: World) -> None:
    await world.applied(*(section(f"S{n}", f"word{n}") for n in range(120)))
    world.flow.clock.now += 1000  # so that nobody asks twice for what was just committed
    asked = world.server.served.requests["query"]
    hits = await world.searcher.search(NAMESPACE, "word1", top_k=200)
    assert len(hits) == 64
    assert all(hit.text for hit in hits)
    assert world.server.served.requests["query"] == asked + 3, "258, 129 and 64 matches"


async def test_hidden_records_that_fill_an_answer_end_the_widening(world: World) -> None:
    """They are nearer than all that is visible, and more than one answer of Pinecone's holds."""
    await world.applied("## One\n\napple\n")
    vector = await world.flow.embedder.embed_query("apple")
    hidden = [record(n, vector=vector, metadata=METADATA) for n in range(150)]
    token = await world.flow.index.upsert(NAMESPACE, hidden)
    await world.flow.index.wait_visible(NAMESPACE, token, timeout_seconds=10)
    asked = world.server.served.requests["query"]
    assert await world.searcher.search(NAMESPACE, "apple", top_k=10) == []
    assert world.server.served.requests["query"] == asked + 5, "20, then 640, 320, 160 and 80"


async def test_a_kept_record_shows_the_text_of_its_new_place(world: World) -> None:
    await world.applied(section("One", "apple"), section("Two", "pear"))
    before = set(world.server.served.store.namespaces[NAMESPACE].truth)
    await world.applied("## New\n\nquince\n\n", section("One", "apple"), section("Two", "pear"))
    assert before & set(world.server.served.store.namespaces[NAMESPACE].truth), "none was kept"
    hits = {hit.heading_path[-1]: hit for hit in await world.search("apple pear quince")}
    assert "apple" in hits["One"].text
    assert "pear" in hits["Two"].text
    assert "quince" in hits["New"].text
    assert {hit.version for hit in hits.values()} == {2}


async def test_a_scrub_takes_a_text_in_the_pack_for_no_damage(world: World) -> None:
    await world.applied(section("One", "apple"), "## Two\n\npear\n")
    flow = world.flow
    scrub = Scrubber(
        registry=flow.registry,
        blobs=flow.blobs,
        queue=flow.queue,
        index=flow.index,
        timers=TIMERS,
        pause_seconds=0.0,
        clock=flow.clock,
    )
    report = await scrub.scrub(namespace=None, repair=False)
    assert report.findings == ()
    assert report.records_checked >= 2
    damaged = next(i for i, m in _stored(world) if "_text" in m)
    _stored_metadata(world, damaged)["_text"] = "another text"
    report = await scrub.scrub(namespace=None, repair=False)
    assert [finding.kind.value for finding in report.findings] == ["wrong_record"]


def _stored(world: World) -> list[tuple[str, Any]]:
    truth = world.server.served.store.namespaces[NAMESPACE].truth
    return [(record_id, one.metadata) for record_id, one in truth.items()]


def _stored_metadata(world: World, record_id: str) -> Any:
    return world.server.served.store.namespaces[NAMESPACE].shown[record_id].metadata


async def test_a_lost_pack_hides_a_text_and_no_hit(world: World) -> None:
    await world.applied(section("One", "apple"), "## Two\n\npear\n")
    async for blob in world.flow.blobs.list("packs"):
        await world.flow.blobs.delete([blob.key])
    texts = {hit.text for hit in await world.search("apple pear")}
    assert "" in texts
    assert any("pear" in text for text in texts)


async def test_a_blob_store_out_of_reach_is_an_outage(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.applied(section("One", "apple"))

    async def fails(key: str) -> bytes:
        raise TransientError("no route to the blobs")

    monkeypatch.setattr(world.flow.blobs, "get", fails)
    with pytest.raises(TransientError, match="no route"):
        await world.search("apple")


async def test_no_blob_is_read_for_texts_that_the_index_has(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.applied("## Two\n\npear\n")
    monkeypatch.setattr(world.flow.blobs, "get", None)
    assert any("pear" in hit.text for hit in await world.search("pear"))
