"""What was embedded once is not embedded again: moves, renames, boilerplate, reverts, interrupted
work; and a cache that is away, hangs or lies changes nothing but the count."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from common import telemetry
from common.adapters.vectors.sqlite import SqliteVectorCache
from common.model import QueueName, Vector
from common.ports.embedder import Passage
from common.ports.errors import PermanentError, TransientError
from common.ports.vectors import VectorCache
from tests import pipeline as pipeline_module
from tests.fakes.embedder import HashEmbedder
from tests.pipeline import Pipeline, pipeline
from workers import reuse
from workers.embed import SLICE_CHUNKS, SLICES_IN_FLIGHT
from workers.lease import Lease

CHANGE, CREATE, UPDATE, DELETE = QueueName


def document(*sections: str) -> str:
    return "\n\n".join(f"# Part {n}\n\n{text}" for n, text in enumerate(sections))


THREE = document("alpha beta", "gamma delta", "epsilon zeta")
LONG = document(*(f"section number {n} tells of nothing" for n in range(100)))


NOTHING_HANGS_SECONDS = 20.0
"""A defect should fail the test, not hang it."""


@pytest.fixture
async def flow(tmp_path: Path) -> AsyncIterator[Pipeline]:
    async with pipeline(tmp_path) as made:
        yield made


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[SqliteVectorCache]:
    """What the worker processes of a machine share."""
    made = SqliteVectorCache(tmp_path / "vectors.sqlite", limit_bytes=2**24, unused_seconds=1e9)
    yield made
    await made.close()


def reused(source: str) -> float:
    return telemetry.totals().get(f"bloomweaver_vectors_reused_total{{{source}}}", 0.0)


async def embedded_by(flow: Pipeline) -> list[str]:
    """Run all there is to do; the texts that went through the model."""
    flow.embedder.embedded.clear()
    async with asyncio.timeout(NOTHING_HANGS_SECONDS):
        await flow.run()
    return list(flow.embedder.embedded)


# --- moves and repeats


@pytest.mark.parametrize("order", ["delete first", "insert first", "together"])
async def test_a_rename_embeds_nothing(flow: Pipeline, order: str) -> None:
    await flow.insert("old.md", THREE)
    await flow.run()
    flow.embedder.embedded.clear()
    if order != "insert first":
        await flow.delete("old.md")
    if order == "delete first":
        await flow.run()
    await flow.insert("new.md", THREE)
    if order == "insert first":
        await flow.run()
        await flow.delete("old.md")
    before = reused("cache")
    assert await embedded_by(flow) == []
    assert flow.embedder.embedded == []
    assert len(await flow.shown("new.md")) == 3
    assert await flow.index.count("docs") == 3
    assert reused("cache") - before == (0 if order == "insert first" else 3)


async def test_a_rename_embeds_nothing_in_another_process(
    flow: Pipeline, disk: SqliteVectorCache, tmp_path: Path
) -> None:
    flow.vectors = disk
    await flow.insert("old.md", THREE)
    await flow.run()
    await disk.close()
    flow.vectors = again = SqliteVectorCache(
        tmp_path / "vectors.sqlite", limit_bytes=2**24, unused_seconds=1e9
    )
    await flow.delete("old.md")
    await flow.insert("new.md", THREE)
    assert await embedded_by(flow) == []
    assert len(await flow.shown("new.md")) == 3
    await again.close()


async def test_boilerplate_is_embedded_once_for_all_documents(flow: Pipeline) -> None:
    for n in range(5):
        await flow.insert(f"{n}.md", f"text of {n}\n\n# Licence\n\nall rights reserved")
    texts = await embedded_by(flow)
    assert sum("all rights reserved" in text for text in texts) == 1
    assert len(texts) == 6


async def test_a_document_that_is_split_in_two_embeds_nothing(flow: Pipeline) -> None:
    await flow.insert("one.md", THREE)
    await flow.run()
    first, rest = THREE.split("\n\n# Part 1", 1)
    await flow.insert("one.md", first)
    await flow.insert("two.md", "# Part 1" + rest)
    assert await embedded_by(flow) == []
    assert len(await flow.shown("two.md")) == 2


async def test_a_revert_embeds_nothing(flow: Pipeline) -> None:
    for text in (THREE, document("something else"), document("and else again")):
        await flow.insert("a.md", text)
        await flow.run()
    await flow.insert("a.md", THREE)
    assert await embedded_by(flow) == []
    assert len(await flow.shown("a.md")) == 3


async def test_what_comes_from_the_cache_is_what_the_model_would_make(flow: Pipeline) -> None:
    await flow.insert("a.md", THREE)
    await flow.insert("b.md", document("alpha beta"))
    await flow.run()
    held = {(r.document_id, r.number): r for r in flow.index.records["docs"].values()}
    assert held["b.md", 0].text == held["a.md", 0].text
    assert held["b.md", 0].vector == held["a.md", 0].vector


async def test_tenants_do_not_share(flow: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    await flow.insert("a.md", THREE)
    await flow.run()
    monkeypatch.setattr(pipeline_module, "NAMESPACE", "another")
    await flow.insert("a.md", THREE)
    assert len(await embedded_by(flow)) == 3


async def test_models_do_not_share(flow: Pipeline, tmp_path: Path) -> None:
    await flow.insert("a.md", THREE)
    await flow.run()
    async with pipeline(tmp_path / "other") as other:
        other.vectors = flow.vectors
        other.embedder.profile = replace(other.embedder.profile, fingerprint="2")
        await other.insert("a.md", THREE)
        assert len(await embedded_by(other)) == 3


async def test_what_the_applied_pack_has_is_not_asked_for(flow: Pipeline) -> None:
    await flow.insert("a.md", THREE)
    await flow.run()
    flow.vectors = asked = Watched(flow.vectors)
    await flow.insert("a.md", THREE.replace("gamma", "changed"))
    before = reused("pack")
    assert len(await embedded_by(flow)) == 1
    assert [len(hashes) for hashes in asked.gets] == [1]
    assert reused("pack") - before == 2


async def test_the_log_tells_what_was_embedded_and_what_was_not(flow: Pipeline) -> None:
    await flow.insert("a.md", document("alpha beta", "new text"))
    await flow.insert("b.md", document("alpha beta", "other text"))
    with capture_logs() as logs:
        await flow.run()
    told = [
        (line["chunks"], line["embedded"], line["reused"])
        for line in logs
        if line["event"] == "document.embedded"
    ]
    assert told == [(2, 2, 0), (2, 1, 1)]


class Watched:
    """Passes on to another cache; a subclass breaks it."""

    def __init__(self, cache: VectorCache) -> None:
        self._cache = cache
        self.gets: list[Sequence[str]] = []
        self.puts: list[int] = []

    async def get_many(
        self, namespace: str, profile_id: str, hashes: Sequence[str]
    ) -> dict[str, Vector[float]]:
        self.gets.append(hashes)
        return await self._cache.get_many(namespace, profile_id, hashes)

    async def put_many(
        self, namespace: str, profile_id: str, vectors: Mapping[str, Vector[float]]
    ) -> None:
        self.puts.append(len(vectors))
        await self._cache.put_many(namespace, profile_id, vectors)

    async def close(self) -> None:
        await self._cache.close()


# --- interrupted work


class Dies(HashEmbedder):
    """After so many passages; forgets nothing of what it was given."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    async def embed_documents(self, passages: Sequence[Passage]) -> list[Vector[float]]:
        if len(self.embedded) >= self.after:
            raise TransientError("the worker is being killed")
        return await super().embed_documents(passages)


async def test_the_work_of_a_killed_worker_on_a_large_document_is_kept(
    flow: Pipeline, disk: SqliteVectorCache
) -> None:
    flow.vectors = disk
    flow.embedder = Dies(after=48)
    await flow.insert("a.md", LONG)
    delivery = await flow.receive(CHANGE)
    assert delivery
    with pytest.raises(TransientError):
        await flow.handle(delivery)
    assert len(flow.embedder.embedded) == 48
    flow.embedder = HashEmbedder()
    await flow.handle(delivery)
    under_way = SLICES_IN_FLIGHT * SLICE_CHUNKS  # ready, perhaps, but not in the cache yet
    assert len(flow.embedder.embedded) <= 100 - 48 + under_way < 100
    await flow.run()
    assert len(await flow.shown("a.md")) == 100


class Gated(HashEmbedder):
    """Calls wait until they are let through, one by one or all."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[tuple[int, asyncio.Event]] = []
        self.came = asyncio.Event()
        self.error: Exception | None = None

    async def embed_documents(self, passages: Sequence[Passage]) -> list[Vector[float]]:
        gate = asyncio.Event()
        self.waiting.append((len(passages), gate))
        self.came.set()
        await gate.wait()
        if self.error:
            raise self.error
        return await super().embed_documents(passages)

    async def calls(self, count: int) -> None:
        """Until so many have come, ever."""
        while len(self.waiting) < count:
            self.came.clear()
            await self.came.wait()


async def test_a_large_document_keeps_a_window_of_slices_under_way(flow: Pipeline) -> None:
    flow.embedder = model = Gated()
    flow.vectors = cache = Watched(flow.vectors)
    await flow.insert("a.md", LONG)
    work = asyncio.create_task(flow.step(CHANGE))
    await model.calls(SLICES_IN_FLIGHT)
    assert sum(size for size, _ in model.waiting) == SLICE_CHUNKS * SLICES_IN_FLIGHT == 32
    model.waiting[1][1].set()  # the second is ready first: another one begins at once
    await model.calls(SLICES_IN_FLIGHT + 1)
    assert cache.puts == [SLICE_CHUNKS]
    assert len(model.waiting) == SLICES_IN_FLIGHT + 1
    for n in range(100 // SLICE_CHUNKS + 1):
        await model.calls(n + 1)
        model.waiting[n][1].set()
    await work
    assert sum(size for size, _ in model.waiting) == 100
    await flow.run()
    assert len(await flow.shown("a.md")) == 100


async def test_a_slice_that_fails_ends_the_others(flow: Pipeline) -> None:
    flow.embedder = model = Gated()
    await flow.insert("a.md", LONG)
    work = asyncio.create_task(flow.step(CHANGE))
    await model.calls(SLICES_IN_FLIGHT)
    model.error = PermanentError("the model cannot read this")
    model.waiting[2][1].set()
    with pytest.raises(PermanentError, match="cannot read"):
        await work
    assert len(asyncio.all_tasks()) == 1


# --- a cache that is no help


class Away(Watched):
    async def get_many(self, *args: object) -> dict[str, Vector[float]]:
        self.gets.append([])
        raise TransientError("locked")

    async def put_many(self, *args: object) -> None:
        self.puts.append(0)
        raise TransientError("the disk is full")


class Odd(Away):
    async def get_many(self, *args: object) -> dict[str, Vector[float]]:
        self.gets.append([])
        raise RuntimeError("nobody foresaw this")


class Hangs(Away):
    async def get_many(self, *args: object) -> dict[str, Vector[float]]:
        self.gets.append([])
        await asyncio.Event().wait()
        raise AssertionError

    async def put_many(self, *args: object) -> None:
        self.puts.append(0)
        await asyncio.Event().wait()


class Short(Watched):
    async def get_many(
        self, namespace: str, profile_id: str, hashes: Sequence[str]
    ) -> dict[str, Vector[float]]:
        return {chunk_hash: array("f", [1.0]) for chunk_hash in hashes}


@pytest.mark.parametrize("broken", [Away, Odd, Hangs, Short])
async def test_a_cache_that_is_no_help_changes_nothing_but_the_count(
    flow: Pipeline, broken: type[Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reuse, "CACHE_SECONDS", 0.01)
    flow.vectors = broken(flow.vectors)
    for name in ("a.md", "b.md"):
        await flow.insert(name, THREE)
    with capture_logs():
        assert len(await embedded_by(flow)) == 6
    for name in ("a.md", "b.md"):
        assert len(await flow.shown(name)) == 3
    assert {len(record.vector) for record in flow.index.records["docs"].values()} == {32}


@pytest.mark.parametrize("broken", [Away, Hangs])
async def test_a_cache_that_failed_is_left_alone_for_a_while(
    flow: Pipeline, broken: type[Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it costs to ask it is paid once, told once, and not by every document."""
    monkeypatch.setattr(reuse, "CACHE_SECONDS", 0.01)
    flow.vectors = cache = broken(flow.vectors)
    embed = flow.handlers()[CHANGE]
    with capture_logs() as logs:
        for n in range(5):
            await flow.insert(f"{n}.md", document(f"text {n}"))
            delivery = await flow.receive(CHANGE)
            assert delivery
            await embed(delivery, Lease(flow.clock, flow.clock.now + 30))
    assert (len(cache.gets), len(cache.puts)) == (1, 1)
    told = [line["call"] for line in logs if line["event"] == "vectors.unavailable"]
    assert told == ["get", "put"]


async def test_it_is_asked_again_after_the_rest(
    flow: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reuse, "REST_SECONDS", 0.0)
    flow.vectors = cache = Away(flow.vectors)
    embed = flow.handlers()[CHANGE]
    with capture_logs():
        for n in range(3):
            await flow.insert(f"{n}.md", document(f"text {n}"))
            delivery = await flow.receive(CHANGE)
            assert delivery
            await embed(delivery, Lease(flow.clock, flow.clock.now + 30))
    assert (len(cache.gets), len(cache.puts)) == (3, 3)
