"""A repeated search asks neither the model nor the index, and yet nothing stale is shown."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from common.model import Match, Vector
from common.query_cache import CachedIndex
from tests.fakes.embedder import HashEmbedder
from tests.fakes.index import MemoryIndex
from tests.pipeline import NAMESPACE, Pipeline, pipeline
from webhook.search import RECENT_SECONDS, Searcher
from webhook.search_vectors import CachedQueryEmbedder

QUERY = "how many herring does a puffin catch"
BIRDS = 12
"""More than a search for one hit asks the index for."""


class Index(MemoryIndex):
    queries = 0

    async def query(self, *arguments: Any, **options: Any) -> list[Match]:
        self.queries += 1
        return await super().query(*arguments, **options)


class Embedder(HashEmbedder):
    queries = 0

    async def embed_query(self, text: str) -> Vector[float]:
        self.queries += 1
        return await super().embed_query(text)


@dataclass
class Aviary:
    flow: Pipeline
    index: Index
    embedder: Embedder
    searcher: Searcher

    async def put(self, name: str, text: str) -> None:
        await self.flow.insert(name, text)
        await self.flow.run()

    async def found(self, top_k: int = 1) -> list[tuple[str, int, str]]:
        hits = await self.searcher.search(NAMESPACE, QUERY, top_k=top_k)
        return [(hit.document_id, hit.version, hit.text) for hit in hits]

    async def repeated(self, top_k: int = 1) -> tuple[list[tuple[str, int, str]], int]:
        """The hits, and how often the index was asked."""
        before = self.index.queries
        return await self.found(top_k), self.index.queries - before


@pytest.fixture
async def aviary(tmp_path: Path) -> AsyncIterator[Aviary]:
    """Applied long ago. The puffin answers the question best; the others hardly do."""
    async with pipeline(tmp_path) as flow:
        index, embedder = Index(), Embedder()
        flow.index = cast("Any", CachedIndex(index, entries=100))
        flow.embedder = embedder
        queries = CachedQueryEmbedder(embedder, entries=100)
        searcher = Searcher(flow.index, flow.registry, queries, flow.clock)
        made = Aviary(flow, index, embedder, searcher)
        await made.put("puffin", f"{QUERY} and bring home")
        for number in range(BIRDS):
            await made.put(f"bird-{number}", f"bird {number} sings does not catch many things")
        flow.clock.now += 2 * RECENT_SECONDS
        yield made


async def test_a_repeated_search_asks_neither_the_model_nor_the_index(aviary: Aviary) -> None:
    first = await aviary.found()
    assert [name for name, _, _ in first] == ["puffin"]
    assert await aviary.repeated() == (first, 0)
    assert aviary.embedder.queries == 1


async def test_a_new_version_of_a_match_shows_at_once(aviary: Aviary) -> None:
    await aviary.found()
    await aviary.put("puffin", f"{QUERY} a dozen it is")
    hits, _ = await aviary.repeated()
    assert hits == [("puffin", 2, f"{QUERY} a dozen it is")]


async def test_a_new_document_that_answers_better_shows_at_once(aviary: Aviary) -> None:
    await aviary.found()
    await aviary.put("razorbill", QUERY)
    hits, _ = await aviary.repeated()
    assert hits == [("razorbill", 1, QUERY)]


async def test_a_deleted_document_vanishes_at_once(aviary: Aviary) -> None:
    await aviary.found()
    await aviary.flow.delete("puffin")
    await aviary.flow.run()
    hits, _ = await aviary.repeated()
    assert hits[0][0] != "puffin"


async def test_a_document_that_is_hidden_but_not_collected_yet_vanishes_too(
    aviary: Aviary,
) -> None:
    """The index is not written to: the answer is kept, the row alone says that it is gone."""

    async def nothing(*arguments: Any) -> None:
        return None

    await aviary.found()
    aviary.flow.index.delete = nothing  # type: ignore[assignment]
    await aviary.flow.delete("puffin")
    await aviary.flow.run()
    hits, queries = await aviary.repeated()
    assert hits[0][0] != "puffin"
    assert queries == 0


async def test_writes_that_concern_other_questions_leave_the_answer(aviary: Aviary) -> None:
    first = await aviary.found()
    await aviary.put("elsewhere", "quite unlike everything else written here")
    assert await aviary.repeated() == (first, 0)


async def test_the_second_look_at_what_was_applied_just_now_costs_no_second_query(
    aviary: Aviary,
) -> None:
    await aviary.put("razorbill", QUERY)
    hits, queries = await aviary.repeated()
    assert (hits, queries) == ([("razorbill", 1, QUERY)], 1)
