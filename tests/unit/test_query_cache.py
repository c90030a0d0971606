"""Answers are kept until a write could change them, however queries and writes interleave."""

from __future__ import annotations

import asyncio
import itertools
import math
from array import array
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import query_cache
from common.model import Match, MetadataValue, Record
from common.ports.capacity import CapacityAware
from common.ports.errors import TransientError
from common.ports.index import FieldFilter
from common.query_cache import DOUBT_SECONDS, CachedIndex, cached
from tests.fakes.index import MemoryIndex

NAMESPACE = "docs"
EAST, NORTH = (1.0, 0.0), (0.0, 1.0)
T = TypeVar("T")


def at(degrees: float) -> tuple[float, float]:
    return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))


def record(name: str, vector: Sequence[float], **metadata: MetadataValue) -> Record:
    return Record(
        id=name, vector=array("f", vector), document_id=name, generation=1, number=0,
        doc_hash="h", heading_path=("Guide",), text=f"text of {name}", metadata=metadata,
    )  # fmt: skip


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Index(MemoryIndex):
    """Counts queries. Where a test holds it, a call waits before it looks or takes effect, and
    again before it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = 0
        self.held: list[Step] = []
        self.holding = False

    async def query(self, *arguments: Any, **options: Any) -> list[Match]:
        self.queries += 1
        step = await self._step()
        found = await super().query(*arguments, **options)
        await step.end.wait()
        return found

    async def upsert(self, namespace: str, records: Sequence[Record]) -> str:
        step = await self._step()
        token = await super().upsert(namespace, records)
        await step.end.wait()
        return token

    async def delete(self, namespace: str, ids: Sequence[str]) -> None:
        step = await self._step()
        await super().delete(namespace, ids)
        await step.end.wait()

    async def _step(self) -> Step:
        step = Step()
        if self.holding:
            self.held.append(step)
            await step.begin.wait()
        else:
            step.end.set()
        return step


@dataclass
class Step:
    begin: asyncio.Event = field(default_factory=asyncio.Event)
    end: asyncio.Event = field(default_factory=asyncio.Event)


class World:
    def __init__(self, **options: Any) -> None:
        self.index, self.clock = Index(), Clock()
        self.cache = CachedIndex(self.index, **{"entries": 100, "clock": self.clock, **options})

    async def add(self, *records: Record, namespace: str = NAMESPACE) -> None:
        await self.cache.upsert(namespace, records)

    async def ask(
        self,
        vector: Sequence[float] = EAST,
        top_k: int = 2,
        namespace: str = NAMESPACE,
        **more: Any,
    ) -> list[str]:
        found = await self.cache.query(namespace, array("f", vector), top_k=top_k, **more)
        return [match.id for match in found]

    async def asked(self, *arguments: Any, **options: Any) -> tuple[list[str], bool]:
        """The answer, and whether the index was asked for it."""
        before = self.index.queries
        return await self.ask(*arguments, **options), self.index.queries > before

    async def started(self, call: Coroutine[Any, Any, T]) -> tuple[asyncio.Task[T], Step]:
        """A call that the index holds before it does anything."""
        self.index.holding = True
        task = asyncio.create_task(call)
        await settle()
        self.index.holding = False
        return task, self.index.held.pop()


async def settle() -> None:
    for _ in range(12):
        await asyncio.sleep(0)


@pytest.fixture
async def world() -> World:
    """`near` at 10 degrees and `mid` at 40 are the answer to EAST; `far` is no part of it."""
    made = World()
    await made.add(record("near", at(10)), record("mid", at(40)), record("far", at(80)))
    assert await made.ask() == ["near", "mid"]
    return made


async def test_a_repeated_query_does_not_ask_the_index(world: World) -> None:
    assert await world.asked() == (["near", "mid"], False)


@pytest.mark.parametrize(
    "other",
    [{"vector": at(1)}, {"top_k": 1}, {"where": FieldFilter("a", "exists", False)},
     {"namespace": "other"}],
)  # fmt: skip
async def test_another_query_asks_the_index(world: World, other: dict[str, Any]) -> None:
    assert (await world.asked(**other))[1]


async def test_filters_that_compare_equal_may_mean_different_things() -> None:
    world = World()
    await world.add(record("flag", EAST, x=True), record("one", EAST, x=1))
    for value, expected in ((True, ["flag"]), (1, ["one"]), (True, ["flag"])):
        assert await world.ask(where=FieldFilter("x", "eq", value)) == expected


async def test_a_nearer_record_shows_at_once(world: World) -> None:
    await world.add(record("new", at(39)))
    assert await world.asked() == (["near", "new"], True)


async def test_a_record_as_near_as_the_worst_match_is_no_chance_to_take(world: World) -> None:
    await world.add(record("tie", at(40)))
    assert (await world.asked())[1]


async def test_records_further_away_and_of_other_namespaces_change_nothing(world: World) -> None:
    await world.add(record("new", at(60)))
    await world.add(record("elsewhere", at(0)), namespace="other")
    await world.cache.delete(NAMESPACE, ["far", "nowhere"])
    assert await world.asked() == (["near", "mid"], False)


async def test_the_length_of_a_vector_does_not_matter(world: World) -> None:
    await world.add(record("long", [100 * x for x in at(60)]))
    assert await world.asked() == (["near", "mid"], False)
    await world.add(record("short", [0.01 * x for x in at(20)]))
    assert await world.asked() == (["near", "short"], True)


async def test_a_deleted_match_vanishes_at_once(world: World) -> None:
    await world.cache.delete(NAMESPACE, ["mid"])
    assert await world.asked() == (["near", "far"], True)


async def test_a_match_that_is_written_again_is_read_again(world: World) -> None:
    await world.add(record("mid", at(85)))
    assert await world.asked() == (["near", "far"], True)


async def test_an_answer_with_room_for_more_is_changed_by_any_record(world: World) -> None:
    assert await world.ask(top_k=4) == ["near", "mid", "far"]
    await world.add(record("opposite", at(180)))
    assert await world.asked(top_k=4) == (["near", "mid", "far", "opposite"], True)


async def test_a_namespace_that_was_never_written_may_be_asked_in_any_dimension() -> None:
    world = World()
    assert await world.ask((1.0,)) == []
    assert await world.ask((1.0, 0.0, 0.0)) == []
    await world.add(record("a", EAST))
    assert await world.ask() == ["a"]


async def test_a_large_write_is_looked_at_in_a_thread(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_cache, "INLINE_SCORES", 1)
    await world.add(record("w", at(60)), record("x", at(70)))
    assert await world.asked() == (["near", "mid"], False)
    await world.add(record("new", at(5)), record("y", at(60)))
    assert await world.asked() == (["new", "near"], True)


async def test_what_a_caller_does_to_an_answer_is_seen_by_no_other() -> None:
    world = World()
    await world.add(record("a", EAST, tags=["x"], lang="en"))
    for _ in range(3):
        (match,) = found = await world.cache.query(NAMESPACE, array("f", EAST), top_k=1)
        assert match.metadata == {"tags": ["x"], "lang": "en"}
        tags = match.metadata["tags"]
        assert isinstance(tags, list)
        tags.append("spoilt")
        match.metadata["lang"] = "spoilt"
        found.clear()
    assert world.index.queries == 1


# What is under way.


async def test_an_answer_from_before_a_write_is_not_kept_after_it() -> None:
    world = World()
    await world.add(record("mid", at(40)))
    asking, step = await world.started(world.ask(top_k=1))
    step.begin.set()
    await settle()
    await world.add(record("near", at(10)))
    step.end.set()
    assert await asking == ["mid"]
    assert await world.asked(top_k=1) == (["near"], True)


async def test_an_answer_with_what_was_deleted_meanwhile_is_not_kept(world: World) -> None:
    asking, step = await world.started(world.ask(at(5)))
    step.begin.set()
    await settle()
    await world.cache.delete(NAMESPACE, ["mid"])
    step.end.set()
    assert await asking == ["near", "mid"]
    assert await world.ask(at(5)) == ["near", "far"]


async def test_an_answer_that_a_write_under_way_does_not_change_is_kept() -> None:
    world = World()
    await world.add(record("near", at(10)))
    asking, step = await world.started(world.ask(top_k=1))
    step.begin.set()
    await settle()
    await world.add(record("mid", at(40)))
    step.end.set()
    assert await asking == ["near"]
    assert await world.asked(top_k=1) == (["near"], False)


async def test_an_answer_kept_while_a_write_is_under_way_ends_with_it(world: World) -> None:
    writing, step = await world.started(world.add(record("new", at(0))))
    assert await world.ask((1.0, 0.01)) == ["near", "mid"]
    step.begin.set()
    step.end.set()
    await writing
    assert await world.asked((1.0, 0.01)) == (["new", "near"], True)
    assert await world.ask() == ["new", "near"]


async def test_the_end_of_a_query_does_not_spoil_the_check_of_one_that_began_before() -> None:
    world = World()
    await world.add(record("mid", at(40)))
    older, older_step = await world.started(world.ask(top_k=1))
    older_step.begin.set()
    await settle()
    await world.add(record("near", at(10)))
    assert await world.ask(at(90), top_k=1) == ["mid"]
    older_step.end.set()
    assert await older == ["mid"]
    assert await world.ask(top_k=1) == ["near"]


async def test_more_writes_than_can_be_remembered_leave_nothing_to_chance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(query_cache, "LOGGED_RECORDS", 3)
    world = World()
    await world.add(record("mid", at(40)))
    asking, step = await world.started(world.ask(top_k=1))
    step.begin.set()
    await settle()
    for number in range(3):
        await world.add(record(f"n{number}", at(10 + 30 * number)))
    step.end.set()
    assert await asking == ["mid"]
    assert await world.ask(top_k=1) == ["n0"]


async def test_equal_queries_at_one_time_ask_the_index_once() -> None:
    world = World()
    await world.add(record("a", EAST))
    first, step = await world.started(world.ask())
    second = asyncio.create_task(world.ask())
    await settle()
    first.cancel()
    step.begin.set()
    step.end.set()
    assert await second == ["a"]
    assert world.index.queries == 1


async def test_who_asks_after_a_write_does_not_share_an_answer_from_before() -> None:
    world = World()
    await world.add(record("mid", at(40)))
    before, step = await world.started(world.ask(top_k=1))
    step.begin.set()
    await settle()
    await world.add(record("near", at(10)))
    after = asyncio.create_task(world.ask(top_k=1))
    await settle()
    step.end.set()
    assert await before == ["mid"]
    assert await after == ["near"]


# Writes that fail.


async def test_while_it_is_unknown_what_a_write_did_the_index_is_asked(world: World) -> None:
    def away(what: str) -> None:
        raise TransientError(what)

    world.index.before_write = away
    with pytest.raises(TransientError):
        await world.add(record("new", at(0)))
    world.index.records[NAMESPACE]["new"] = record("new", at(0))
    assert await world.asked() == (["new", "near"], True)
    world.clock.now += DOUBT_SECONDS - 1
    del world.index.records[NAMESPACE]["new"]
    assert await world.asked() == (["near", "mid"], True)
    world.clock.now += 2
    assert await world.asked() == (["near", "mid"], True)
    assert await world.asked() == (["near", "mid"], False)


async def test_a_cancelled_write_may_still_take_effect(world: World) -> None:
    writing, _ = await world.started(world.cache.delete(NAMESPACE, ["near"]))
    writing.cancel()
    await asyncio.wait([writing])
    await world.index.delete(NAMESPACE, ["near"])
    assert await world.ask() == ["mid", "far"]


async def test_an_answer_from_before_a_failed_write_is_not_kept(world: World) -> None:
    asking, step = await world.started(world.ask(at(5)))
    writing, _ = await world.started(world.cache.delete(NAMESPACE, ["near"]))
    step.begin.set()
    await settle()
    writing.cancel()
    await asyncio.wait([writing])
    step.end.set()
    assert await asking == ["near", "mid"]
    await world.index.delete(NAMESPACE, ["near"])
    world.clock.now += DOUBT_SECONDS + 1
    assert await world.ask(at(5)) == ["mid", "far"]


# Bounds.


async def test_few_answers_are_kept_and_few_bytes(world: World) -> None:
    few = World(entries=3)
    for degrees in range(10):
        await few.ask(at(degrees))
    assert len(few.cache) == len(few.cache._shelf(NAMESPACE).held()) == 3
    assert not (await few.asked(at(9)))[1]
    assert (await few.asked(at(0)))[1]
    small = World(max_bytes=2000)
    await small.add(record("a", EAST))
    for degrees in range(10):
        await small.ask(at(degrees))
    assert 0 < len(small.cache) < 3
    await world.cache.close()
    assert len(world.cache) == 0


async def test_what_went_leaves_room_for_others(world: World) -> None:
    for round_number in range(30):
        for degrees in range(12):
            await world.ask(at(degrees))
        await world.add(record(f"r{round_number}", at(-round_number)))
        assert await world.ask() == ["r0", "r1" if round_number else "near"]
    assert len(world.cache._shelf(NAMESPACE).answers) <= 16


def test_nothing_is_kept_when_nothing_is_wanted() -> None:
    index = Index()
    assert cached(index, entries=0) is index


async def test_room_on_the_disk_is_told_by_those_who_know_it() -> None:
    class Local(MemoryIndex):
        async def free_bytes(self) -> int:
            return 7

    local = cached(Local(), entries=5)
    assert isinstance(local, CapacityAware)
    assert await local.free_bytes() == 7
    assert not isinstance(cached(MemoryIndex(), entries=5), CapacityAware)


# Whatever the interleaving.

Put = tuple[str, tuple[int, ...]]
vectors = st.tuples(st.integers(-3, 3), st.integers(-3, 3)).filter(any)
events = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.lists(vectors, min_size=1, max_size=3)),
        st.tuples(st.just("delete"), st.lists(st.integers(0, 30), min_size=1, max_size=3)),
        st.tuples(st.just("ask"), st.tuples(st.sampled_from([(1, 0), (1, 1), (-2, 1)]),
                                            st.integers(1, 3))),
        st.tuples(st.just("begin"), st.integers(0, 5)),
        st.tuples(st.just("end"), st.integers(0, 5)),
        st.tuples(st.just("cancel"), st.integers(0, 9)),
    ),
    min_size=5, max_size=40,
)  # fmt: skip


@dataclass(eq=False)
class Call:
    task: asyncio.Task[Any]
    puts: dict[str, tuple[int, int]] = field(default_factory=dict)
    deletes: frozenset[str] = frozenset()
    query: tuple[tuple[int, int], int] | None = None
    known: list[Call] = field(default_factory=list)
    """Writes that had returned before this query began."""
    told: bool = False


class Story:
    """Plays events on a cache, and checks each answer when it is given."""

    def __init__(self) -> None:
        self.world = World(entries=4)
        self.world.index.holding = True
        self.calls: list[Call] = []
        self.names = itertools.count()
        self.answers = 0

    async def play(self, kind: str, what: Any) -> None:
        if kind in ("begin", "end"):
            waiting = [s for s in self.world.index.held if not getattr(s, kind).is_set()]
            if waiting:
                getattr(waiting[what % len(waiting)], kind).set()
        elif kind == "cancel":
            open_calls = [call for call in self.calls if not call.task.done()]
            if open_calls:
                open_calls[what % len(open_calls)].task.cancel()
        else:
            self.calls.append(getattr(self, kind)(what))
        await settle()
        self.check()

    def put(self, given: list[tuple[int, int]]) -> Call:
        puts = {f"r{next(self.names)}": vector for vector in given}
        records = [record(name, vector) for name, vector in puts.items()]
        return Call(asyncio.create_task(self.world.add(*records)), puts=puts)

    def delete(self, numbers: list[int]) -> Call:
        """Only of what was written before: an id is never used again."""
        there = [name for call in self.calls if self._returned(call) for name in call.puts]
        ids = frozenset(there[n % len(there)] for n in numbers) if there else frozenset({"none"})
        return Call(asyncio.create_task(self.world.cache.delete(NAMESPACE, [*ids])), deletes=ids)

    def ask(self, query: tuple[tuple[int, int], int]) -> Call:
        vector, top_k = query
        asking = self.world.cache.query(NAMESPACE, array("f", vector), top_k=top_k)
        known = [call for call in self.calls if call.query is None and self._returned(call)]
        return Call(asyncio.create_task(asking), query=query, known=known)

    @staticmethod
    def _returned(call: Call) -> bool:
        return call.task.done() and not call.task.cancelled()

    def check(self) -> None:
        for call in self.calls:
            if call.query is not None and not call.told and self._returned(call):
                call.told = True
                self.answers += 1
                found = [(match.id, match.score) for match in call.task.result()]
                unsure = [c for c in self.calls if c.query is None and c not in call.known]
                assert self._possible(call, unsure, found), (call.query, found)

    def _possible(self, call: Call, unsure: list[Call], found: list[tuple[str, float]]) -> bool:
        """Whether some of the writes that were under way, and all that were over, explain it."""
        names = {name for name, _ in found}
        maybe = {name: v for c in unsure for name, v in c.puts.items()}
        gone = {name for c in unsure for name in c.deletes}
        sure = {name: v for c in call.known for name, v in c.puts.items()}
        for c in call.known:
            sure = {name: v for name, v in sure.items() if name not in c.deletes}
        if not names <= sure.keys() | maybe.keys():
            return False
        # A write that was under way is seen whole or not at all: its other records are there too.
        there = {n: v for n, v in sure.items() if n not in gone or n in names}
        for c in unsure:
            if names & c.puts.keys():
                there |= {n: v for n, v in c.puts.items() if n not in gone or n in names}
        assert call.query is not None
        vector, top_k = call.query
        best = sorted((cosine(vector, v) for v in there.values()), reverse=True)[:top_k]
        return [score for _, score in found] == pytest.approx(best, abs=1e-6) and all(
            score == pytest.approx(cosine(vector, there[name]), abs=1e-6) for name, score in found
        )

    async def finish(self) -> None:
        """Let everything go on; what is asked then is the truth."""
        self.world.index.holding = False
        for step in self.world.index.held:
            step.begin.set()
            step.end.set()
        await asyncio.wait([call.task for call in self.calls])
        self.check()
        for vector, top_k in itertools.product([(1, 0), (1, 1), (-2, 1)], [1, 2, 3]):
            asked = array("f", vector)
            truth = await self.world.index.query(NAMESPACE, asked, top_k=top_k)
            found = await self.world.cache.query(NAMESPACE, asked, top_k=top_k)
            assert [m.score for m in found] == [m.score for m in truth]
            assert {m.id for m in found} <= self.world.index.records[NAMESPACE].keys()


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


@settings(max_examples=300, deadline=None)
@given(events)
async def test_every_answer_is_one_that_the_index_could_have_given(
    story: list[tuple[str, Any]],
) -> None:
    told = Story()
    for kind, what in story:
        await told.play(kind, what)
    if told.calls:
        await told.finish()
