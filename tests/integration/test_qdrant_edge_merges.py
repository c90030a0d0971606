"""The embedded index while shards are sealed and merged: what is written, deleted, found, lost."""

from __future__ import annotations

import asyncio
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import structlog

from common.adapters.index import qdrant_edge_merge as merging
from common.adapters.index import qdrant_edge_namespace as namespaces
from common.adapters.index import qdrant_edge_shard as shards
from common.adapters.index.qdrant_edge import QdrantEdgeIndex
from common.adapters.index.qdrant_edge_merge import ChildBuild, MergeOrder
from common.adapters.index.qdrant_edge_records import copied_point, point
from common.identity import namespace_key
from common.model import Record
from common.ports.index import FieldFilter
from tests.integration.test_qdrant_edge import NAMESPACE, numbers, record

LIMIT = 20
VECTOR = array("f", [1.0, 30.0, 0.5])
STEPS = ("ordered", "copied", "built")


class HeldBuild:
    """Builds in this process, and stands still at each step of STEPS until it is let go on."""

    def __init__(self) -> None:
        self.at = {step: threading.Event() for step in STEPS}
        self.go_on = {step: threading.Event() for step in STEPS}

    def __call__(self, order: MergeOrder, on_copied: Callable[[], None]) -> None:
        def copied() -> None:
            on_copied()
            self._stand("copied")

        self._stand("ordered")
        merging.build(order, copied)
        self._stand("built")

    def _stand(self, step: str) -> None:
        self.at[step].set()
        assert self.go_on[step].wait(60)

    async def reaches(self, step: str) -> None:
        """Let all before `step` go on."""
        for passed in STEPS[: STEPS.index(step)]:
            self.go_on[passed].set()
        assert await asyncio.to_thread(self.at[step].wait, 60)

    def finish(self) -> None:
        for event in self.go_on.values():
            event.set()


def index_in(folder: Path, build: merging.Build = merging.build) -> QdrantEdgeIndex:
    return QdrantEdgeIndex(folder, seal_records=LIMIT, build=build)


def records(chosen: Iterable[int]) -> list[Record]:
    return [record(n, {"n": n}) for n in chosen]


def ids(chosen: Iterable[int]) -> list[str]:
    return [record(n).id for n in chosen]


def folders(root: Path) -> set[str]:
    return {path.name for path in (root / namespace_key(NAMESPACE)).glob("shard*")}


async def require(index: QdrantEdgeIndex, expected: set[int]) -> None:
    """It holds these records, whole, once each, and finds them all in the right order."""
    listed = [i async for i in index.list_ids(NAMESPACE)]
    assert sorted(listed) == sorted(ids(expected))
    assert await index.count(NAMESPACE) == len(expected)
    fetched = await index.fetch(NAMESPACE, ids(range(400)))
    assert {r.number: r.metadata for r in fetched} == {n: {"n": n} for n in expected}
    found = await index.query(NAMESPACE, VECTOR, top_k=1000)
    assert sorted(match.number for match in found) == sorted(expected)
    assert [m.score for m in found] == sorted((m.score for m in found), reverse=True)


@pytest.mark.parametrize("seed", range(2))
async def test_whatever_is_done_in_whatever_order_is_what_is_found(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    index, expected = index_in(tmp_path), set[int]()
    for _ in range(30):
        chosen = chance.sample(range(120), chance.randint(1, 15))
        match chance.choice(["write", "write", "delete", "settle", "reopen", "look"]):
            case "write":
                await index.upsert(NAMESPACE, records(chosen))
                expected |= set(chosen)
            case "delete":
                await index.delete(NAMESPACE, ids(chosen))
                expected -= set(chosen)
            case "settle":
                await index.settled()
            case "reopen":
                await index.close()
                index = index_in(tmp_path)
            case "look":
                await require(index, expected)
    await index.settled()
    await require(index, expected)
    assert len(folders(tmp_path)) <= 3
    await index.close()


async def test_no_more_are_found_in_several_shards_than_were_asked_for(tmp_path: Path) -> None:
    build = HeldBuild()
    index = index_in(tmp_path, build)
    await index.upsert(NAMESPACE, records(range(LIMIT)))
    await build.reaches("ordered")
    await index.upsert(NAMESPACE, records(range(LIMIT, LIMIT + 10)))

    everything = await index.query(NAMESPACE, VECTOR, top_k=1000)
    assert len(everything) == LIMIT + 10
    few = await index.query(NAMESPACE, VECTOR, top_k=4)
    assert [match.score for match in few] == [match.score for match in everything[:4]]

    build.finish()
    await index.close()


@pytest.mark.parametrize("step", STEPS)
async def test_queries_and_writes_go_on_during_a_merge_and_none_is_undone(
    tmp_path: Path, step: str
) -> None:
    held = HeldBuild()
    index = index_in(tmp_path, held)
    await index.upsert(NAMESPACE, records(range(30)))
    await held.reaches(step)

    await index.upsert(NAMESPACE, records(range(30, 40)))
    await index.delete(NAMESPACE, ids([3, 4, 5, 33]))
    await index.upsert(NAMESPACE, records([4, 6]))
    await require(index, {*range(40)} - {3, 5, 33})
    held.finish()
    await index.settled()
    await require(index, {*range(40)} - {3, 5, 33})
    await index.close()

    again = index_in(tmp_path)
    await require(again, {*range(40)} - {3, 5, 33})
    await again.close()


async def test_what_is_being_copied_does_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "FLUSH_RECORDS", 1)
    held = HeldBuild()
    index = index_in(tmp_path, held)
    await index.upsert(NAMESPACE, records(range(30)))
    await held.reaches("ordered")
    source = tmp_path / namespace_key(NAMESPACE) / "shard" / "segments"
    files = [path for path in source.rglob("*") if path.is_file()]
    before = [path.read_bytes() for path in files]
    await index.delete(NAMESPACE, ids([3, 4, 5]))
    assert [path.read_bytes() for path in files] == before
    await held.reaches("built")
    await index.delete(NAMESPACE, ids([6]))
    assert [path.read_bytes() for path in files] != before
    held.finish()
    await index.settled()
    await require(index, {*range(30)} - {3, 4, 5, 6})
    await index.close()


async def test_a_listing_that_a_merge_overtakes_names_each_record_once(tmp_path: Path) -> None:
    held = HeldBuild()
    index = index_in(tmp_path, held)
    await index.upsert(NAMESPACE, records(range(2500)))
    await index.upsert(NAMESPACE, records(range(2500, 2510)))
    listing = index.list_ids(NAMESPACE)
    seen = [await anext(listing)]
    held.finish()
    await index.settled()
    seen += [i async for i in listing]
    assert sorted(seen) == sorted(ids(range(2510)))
    await index.close()


async def test_a_record_that_is_written_again_replaces_the_one_in_an_older_shard(
    tmp_path: Path,
) -> None:
    index = index_in(tmp_path)
    await index.upsert(NAMESPACE, records(range(30)))
    await index.settled()
    await index.upsert(NAMESPACE, [replace(record(7), text="new")])
    (found,) = await index.fetch(NAMESPACE, ids([7]))
    assert found.text == "new"
    assert await index.count(NAMESPACE) == 30
    await index.close()


async def test_a_rewrite_that_was_cut_off_leaves_no_second_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = index_in(tmp_path)
    await index.upsert(NAMESPACE, records(range(30)))
    await index.settled()
    with monkeypatch.context() as patch:
        patch.setattr(namespaces.Namespace, "_delete", lambda *_: None)
        await index.upsert(NAMESPACE, records([7]))
        assert len(await index.query(NAMESPACE, VECTOR, top_k=100)) == 30
    await index.close()
    again = index_in(tmp_path)
    await require(again, set(range(30)))
    await again.close()


# --- death ----------------------------------------------------------------------------------------


async def test_a_death_at_any_step_loses_nothing_and_leaves_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of the folder is what a killed process leaves: the files are mapped."""
    taken: list[Path] = []

    def take() -> None:
        taken.append(tmp_path / f"killed-{len(taken)}")
        shutil.copytree(tmp_path / "index", taken[-1])

    def before(owner: object, name: str) -> None:
        done = getattr(owner, name)

        def step(*arguments: object, **named: object) -> object:
            take()
            return done(*arguments, **named)

        monkeypatch.setattr(owner, name, step)

    def built(order: MergeOrder, on_copied: Callable[[], None]) -> None:
        def copied() -> None:
            take()
            on_copied()

        merging.build(order, copied)

    index = index_in(tmp_path / "index", built)
    await index.upsert(NAMESPACE, records(range(LIMIT - 1)))
    await index.delete(NAMESPACE, ids([3]))
    before(namespaces, "create")
    before(namespaces, "_write")
    before(shards.Shard, "delete_held")
    before(namespaces, "remove")
    monkeypatch.setattr("common.adapters.index.qdrant_edge.remove", namespaces.remove)
    await index.upsert(NAMESPACE, records([30]))
    await index.settled()
    monkeypatch.undo()
    await index.close()

    assert len(taken) >= 7
    assert len({frozenset(folders(root)) for root in taken}) == 4
    first, last = {*range(LIMIT - 1)} - {3}, {*range(LIMIT - 1), 30} - {3}
    for root in taken:
        again = index_in(root)
        assert await numbers(again) in (first, last)
        await again.upsert(NAMESPACE, records([30]))
        await again.settled()
        await require(again, last)
        await again.close()
        named = namespaces.read_description(root / namespace_key(NAMESPACE))["shards"]
        assert folders(root) == {shard["folder"] for shard in named}


CHILD = """
import os, sys, time
from common.adapters.index.qdrant_edge_merge import _die_with
_die_with(int(sys.argv[2]))
with open(os.environ["ALIVE"], "w") as alive:
    alive.write("x")
    alive.flush()
    time.sleep(600)
"""

PARENT = """
import asyncio, sys
from pathlib import Path
from tests.integration.test_qdrant_edge_merges import *

async def main():
    index = index_in(Path(sys.argv[1]), sleeping_child())
    await index.upsert(NAMESPACE, records(range(LIMIT)))
    print("written", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def sleeping_child() -> ChildBuild:
    return ChildBuild([sys.executable, "-c", CHILD])


def ends(pipe: int) -> bool:
    """Whether the pipe's other side is closed within a minute."""
    readable, _, _ = select.select([pipe], [], [], 60)
    return bool(readable) and os.read(pipe, 1) == b""


@pytest.fixture
def alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipe that the sleeping child holds open."""
    pipe = tmp_path / "alive"
    os.mkfifo(pipe)
    monkeypatch.setenv("ALIVE", str(pipe))
    return pipe


async def test_closing_ends_a_build_at_once_and_the_next_start_begins_it_again(
    tmp_path: Path, alive: Path
) -> None:
    index = index_in(tmp_path / "index", sleeping_child())
    await index.upsert(NAMESPACE, records(range(30)))
    pipe = await asyncio.to_thread(os.open, alive, os.O_RDONLY)
    assert os.read(pipe, 1) == b"x"
    await index.close()
    assert ends(pipe)
    os.close(pipe)

    again = index_in(tmp_path / "index")
    await require(again, set(range(30)))
    await again.settled()
    await require(again, set(range(30)))
    assert len(folders(tmp_path / "index")) == 2
    await again.close()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a child outlives its parent elsewhere")
def test_a_build_dies_with_its_parent(tmp_path: Path, alive: Path) -> None:
    program = [sys.executable, "-c", PARENT, str(tmp_path / "index")]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "written\n"
        pipe = os.open(alive, os.O_RDONLY)
        assert os.read(pipe, 1) == b"x"
        parent.send_signal(signal.SIGKILL)
    assert ends(pipe)
    os.close(pipe)


# --- builds that fail -----------------------------------------------------------------------------

FAILURES = {
    "killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "says why": "import sys; print('copied', flush=True); sys.exit('no such luck')",
    "loses all": "import json, os, shutil, sys; target = json.loads(sys.argv[1])['target']; "
    "shutil.rmtree(target); os.mkdir(target); print('copied'); print('merged')",
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_build_that_fails_changes_nothing_and_is_tried_again_after_a_pause(
    tmp_path: Path, failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = index_in(tmp_path, ChildBuild([sys.executable, "-c", FAILURES[failure]]))
    with structlog.testing.capture_logs() as logs:
        await index.upsert(NAMESPACE, records(range(30)))
        await index.settled()
        await index.upsert(NAMESPACE, records(range(30, 60)))
        await index.delete(NAMESPACE, ids([1, 40]))
        await index.settled()
    (told,) = logs
    assert (told["event"], told["again_after_seconds"]) == ("index merge failed", 60)
    assert ("no such luck" in told["error"]) == (failure == "says why")
    await require(index, {*range(60)} - {1, 40})
    assert len(folders(tmp_path)) == 2

    now = shards_clock(monkeypatch, 61)
    with structlog.testing.capture_logs() as logs:
        await index.delete(NAMESPACE, ids([2]))
        await index.settled()
        await index.delete(NAMESPACE, ids([2]))
        await index.settled()
    assert [told["again_after_seconds"] for told in logs] == [120], now
    await index.close()
    mended = index_in(tmp_path)
    await require(mended, {*range(60)} - {1, 2, 40})
    await mended.settled()
    await require(mended, {*range(60)} - {1, 2, 40})
    await mended.close()


def shards_clock(monkeypatch: pytest.MonkeyPatch, seconds: float) -> float:
    """Let this much time pass for the index."""
    module = "common.adapters.index.qdrant_edge.time.monotonic"
    now = time.monotonic() + seconds
    monkeypatch.setattr(module, lambda: now)
    return now


async def test_without_room_for_a_merge_everything_else_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = index_in(tmp_path)
    monkeypatch.setattr(shards, "free_bytes", lambda path: shards.RESERVE_BYTES + 1)
    with structlog.testing.capture_logs() as logs:
        await index.upsert(NAMESPACE, records(range(30)))
        await index.settled()
    assert ["free some space" in told["error"] for told in logs] == [True]
    await index.upsert(NAMESPACE, records(range(30, 60)))
    await require(index, set(range(60)))
    assert folders(tmp_path) == {"shard"}

    monkeypatch.undo()
    shards_clock(monkeypatch, 61)
    await index.upsert(NAMESPACE, records([60]))
    await index.settled()
    await require(index, set(range(61)))
    assert len(folders(tmp_path)) == 2
    await index.close()


# --- the child and what it builds -----------------------------------------------------------------

DIMENSION, COUNT = 24, 6000


async def test_a_graph_built_by_the_child_finds_what_comparing_with_all_finds(
    tmp_path: Path,
) -> None:
    """The graph grows in a second merge; filters let half, a tenth and a thousandth pass."""
    chance = np.random.default_rng(3)
    centres = chance.normal(size=(60, DIMENSION))
    vectors = centres[chance.integers(0, 60, COUNT)] + 0.4 * chance.normal(size=(COUNT, DIMENSION))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    def made(n: int) -> Record:
        metadata = {"half": n % 2 == 0, "tenth": n % 10, "thousandth": n % 1000, "x": 0.1 + n}
        return replace(record(n, dict(metadata)), vector=array("f", vectors[n].tobytes()))

    index = QdrantEdgeIndex(tmp_path, seal_records=2000)
    for chosen in (range(3000), range(4000, COUNT)):
        await index.upsert(NAMESPACE, [made(n) for n in chosen])
        await index.settled()
    await index.upsert(NAMESPACE, [made(n) for n in range(3000, 4000)])
    await index.delete(NAMESPACE, [made(n).id for n in range(7)])
    (graph, _) = index._namespaces[NAMESPACE]._shards
    assert graph.slots > shards.EXACT_RECORDS_PER_EF * shards.MIN_EF, "the graph is not used"

    cases: dict[FieldFilter | None, list[bool]] = {
        None: [True] * COUNT,
        FieldFilter("half", "eq", True): [n % 2 == 0 for n in range(COUNT)],
        FieldFilter("tenth", "eq", 3): [n % 10 == 3 for n in range(COUNT)],
        FieldFilter("thousandth", "eq", 33): [n % 1000 == 33 for n in range(COUNT)],
    }
    for where, passing in cases.items():
        allowed = np.flatnonzero(passing)
        allowed = allowed[allowed >= 7]
        hits = wanted = 0
        for n in chance.integers(7, COUNT, 40):
            query = vectors[n] + 0.05 * chance.normal(size=DIMENSION).astype(np.float32)
            best = allowed[np.argsort(-(vectors[allowed] @ query))[:10]]
            nearest = array("f", query.tobytes())
            found = await index.query(NAMESPACE, nearest, top_k=10, where=where)
            hits += len({match.number for match in found} & set(best.tolist()))
            wanted += len(best)
        assert hits / wanted >= 0.98, where
    everything = await index.query(NAMESPACE, array("f", vectors[9].tobytes()), top_k=10_000)
    assert {match.number for match in everything} == set(range(7, COUNT))
    (same,) = await index.query(
        NAMESPACE, array("f", vectors[9].tobytes()), top_k=5, where=FieldFilter("x", "eq", 0.1 + 50)
    )
    assert same.number == 50
    await index.close()


def test_numbers_are_copied_as_they_were_first_written(tmp_path: Path) -> None:
    """The engine reads a fifth of such numbers back with another last digit."""
    written = {n: n / 7 for n in range(630, 660)}
    shards.create(tmp_path / "shard", 3)
    shard = shards.Shard.open(tmp_path / "shard", 3)
    shard.upsert([point(record(n, {'a "b"': value})) for n, value in written.items()])
    page, _ = shard.page(None, 100, whole=True)
    copied = [copied_point(stored).payload for stored in page]
    assert {c["number"]: c["metadata"]["a %22b%22"] for c in copied if c} == written
    shard.close()
