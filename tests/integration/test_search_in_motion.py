"""Searches while documents are being committed: whole, and answered."""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from common import identity
from common.model import Applied, DocumentKey, IdRange, Match, Record, Row, Status
from common.ports.errors import TransientError
from tests.builders import desired
from tests.fakes.embedder import HashEmbedder
from tests.fakes.index import MemoryIndex
from tests.fakes.registry import MemoryRegistry
from webhook.search import QUERIES_IN_MOTION_AT_MOST, Searcher

NOW = 1_000_000.0
NAMESPACE = "n"
QUERY = array("f", [1.0, 1.0])


class Index(MemoryIndex):
    """Calls `after_query` between each query and the reading of the rows."""

    after_query: Callable[[], Awaitable[None]] | None = None
    queries = 0

    def __init__(self) -> None:
        super().__init__()
        self.widths: list[int] = []
        """How many matches each query asked for."""

    async def query(self, *arguments: Any, **options: Any) -> list[Match]:
        self.queries += 1
        self.widths.append(options["top_k"])
        found = await super().query(*arguments, **options)
        if self.after_query:
            await self.after_query()
        return found


class World:
    """Documents of some chunks each, committed by hand."""

    def __init__(self) -> None:
        self.index, self.registry = Index(), MemoryRegistry()
        self.searcher = Searcher(self.index, self.registry, HashEmbedder(), lambda: NOW)

    async def commit(self, name: str, version: int, *, at: float, chunks: int = 2) -> None:
        """Upsert this version's records and switch to them; the old ones go at once."""
        await self.write(name, version, chunks)
        await self.switch(name, version, at=at, chunks=chunks)

    async def write(self, name: str, version: int, chunks: int) -> None:
        await self.index.upsert(NAMESPACE, [_record(name, version, n) for n in range(chunks)])

    async def switch(self, name: str, version: int, *, at: float, chunks: int) -> None:
        key = DocumentKey(NAMESPACE, name)
        row = self.registry.rows.get(key) or Row(key=key, revision=0, desired=desired())
        applied = Applied(
            version=version, manifest=(IdRange(version, 0, chunks - 1),), applied_at=at
        )
        accepted = replace(row.desired, version=version)
        assert await self.registry.put_if(
            replace(row, desired=accepted, applied=applied, status=Status.COMPLETED)
        )
        old = [i for i in self.index.records[NAMESPACE] if i.startswith(_name(name))]
        await self.index.delete(NAMESPACE, [i for i in old if f"#{version}#" not in i])

    async def seen(self, top_k: int = 50) -> dict[str, list[tuple[int, int]]]:
        """(version, chunk) of each document's hits."""
        hits = await self.searcher.search_vector(NAMESPACE, QUERY, top_k=top_k)
        shown: dict[str, list[tuple[int, int]]] = {}
        for hit in hits:
            shown.setdefault(hit.document_id, []).append((hit.version, hit.chunk))
        return {name: sorted(places) for name, places in shown.items()}


def _name(document_id: str) -> str:
    return identity.document_key(DocumentKey(NAMESPACE, document_id))


def _record(document_id: str, generation: int, number: int) -> Record:
    return Record(
        id=identity.record_id(_name(document_id), generation, number),
        vector=array("f", [1.0, 0.5 + number / 10]),
        document_id=document_id,
        generation=generation,
        number=number,
        doc_hash="h",
        heading_path=(),
        text=f"{document_id} {generation} {number}",
        metadata={},
    )


async def test_a_part_of_a_new_version_is_not_shown_whatever_the_clocks_say() -> None:
    """The query sees one of two records; the commit carries a time from before the query."""
    world = World()
    await world.write("a", 1, 1)

    async def commit() -> None:
        world.index.after_query = None
        await world.commit("a", 1, at=NOW - 60)

    world.index.after_query = commit
    assert await world.seen() == {"a": [(1, 0), (1, 1)]}


async def test_documents_that_stood_still_for_long_are_queried_once() -> None:
    world = World()
    await world.commit("a", 1, at=NOW - 3600)
    assert await world.seen() == {"a": [(1, 0), (1, 1)]}
    assert world.index.queries == 1


async def test_a_load_that_always_commits_something_does_not_stop_searches() -> None:
    world = World()
    await world.commit("a", 1, at=NOW)
    names = iter(range(100))

    async def load() -> None:
        await world.commit(f"new-{next(names)}", 1, at=NOW)

    world.index.after_query = load
    shown = await world.seen()
    assert shown["a"] == [(1, 0), (1, 1)]
    assert world.index.queries <= 3


async def test_a_document_that_moves_makes_no_other_wait_or_vanish() -> None:
    """b is committed during the first query, a during the second: each stood still once."""
    world = World()
    await world.commit("a", 1, at=NOW - 3600)
    await world.commit("b", 1, at=NOW - 3600)
    moves = iter([("b", 2), ("a", 2)])

    async def move() -> None:
        if step := next(moves, None):
            await world.commit(*step, at=NOW)

    world.index.after_query = move
    shown = await world.seen()
    assert shown["b"] == [(2, 0), (2, 1)]
    assert shown["a"] in ([(1, 0), (1, 1)], [(2, 0), (2, 1)])


async def test_a_document_committed_during_every_query_ends_the_search_with_an_error() -> None:
    world = World()
    await world.commit("a", 1, at=NOW)
    versions = iter(range(2, 100))

    async def again() -> None:
        await world.commit("a", next(versions), at=NOW)

    world.index.after_query = again
    with pytest.raises(TransientError, match="changed during each"):
        await world.seen()
    assert world.index.queries == QUERIES_IN_MOTION_AT_MOST


async def test_a_wider_query_leaves_out_nothing_that_was_there_before() -> None:
    """Hidden records fill the first page; what the wider one finds is looked at again as well."""
    world = World()
    await world.commit("z", 1, at=NOW - 3600, chunks=1)
    await world.index.upsert(
        NAMESPACE,
        [replace(_record("z", 9, n), vector=array("f", [1.0, 1.0])) for n in range(40)],
    )
    await world.commit("a", 1, at=NOW)
    assert (await world.seen(top_k=3)).get("a") == [(1, 0), (1, 1)]


async def test_a_load_that_moves_the_whole_page_is_no_reason_to_ask_for_more() -> None:
    """Everything was applied a moment ago: one more look of the same width tells."""
    world = World()
    for number in range(30):
        await world.commit(f"d{number}", 1, at=NOW)
    assert len(await world.seen(top_k=10)) >= 5
    assert world.index.widths == [world.index.widths[0]] * 2


async def test_hidden_records_that_fill_the_page_are_fetched_past() -> None:
    world = World()
    await world.write("hidden", 1, 60)
    await world.commit("shown", 1, at=NOW - 3600)
    assert await world.seen(top_k=5) == {"shown": [(1, 0), (1, 1)]}


async def test_a_version_that_an_earlier_search_saw_is_not_looked_at_again() -> None:
    world = World()
    await world.commit("a", 1, at=NOW)
    first = await world.seen()
    queries = world.index.queries
    assert await world.seen() == first == {"a": [(1, 0), (1, 1)]}
    assert world.index.queries == queries + 1


async def test_what_a_search_saw_during_another_ones_query_does_not_vouch_for_it() -> None:
    """The query sees one of two records; before it reads the row, all is committed and seen."""
    world = World()
    await world.write("a", 1, 1)

    async def commit() -> None:
        world.index.after_query = None
        await world.commit("a", 1, at=NOW)
        assert await world.seen() == {"a": [(1, 0), (1, 1)]}

    world.index.after_query = commit
    assert await world.seen() == {"a": [(1, 0), (1, 1)]}


async def test_an_earlier_version_that_was_seen_does_not_vouch_for_the_next() -> None:
    """The query sees one of the next version's two records."""
    world = World()
    await world.commit("a", 1, at=NOW)
    assert await world.seen() == {"a": [(1, 0), (1, 1)]}
    await world.write("a", 2, 1)

    async def commit() -> None:
        world.index.after_query = None
        await world.commit("a", 2, at=NOW)

    world.index.after_query = commit
    assert await world.seen() == {"a": [(2, 0), (2, 1)]}
