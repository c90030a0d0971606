"""Accepting unread means what accepting means: the same changes, one registry that reads the row
and one that does not, and every version, row and history must be equal."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common import telemetry, transitions
from common.adapters.registry.dynamodb import DynamoDbRegistry
from common.adapters.registry.dynamodb_accept import MOST_CHANGES
from common.adapters.registry.dynamodb_item import row_key
from common.model import (
    Applied,
    DocumentKey,
    Garbage,
    GarbageState,
    IdRange,
    MetadataValue,
    QueueName,
    Row,
)
from common.ports.registry import AcceptingRegistry, Found, Registry
from common.transitions import Timers
from tests.builders import desired
from tests.fakes.blobs import MemoryBlobStore
from tests.fakes.embedder import HashEmbedder
from tests.fakes.queue import MemoryQueue
from tests.fakes.registry import MemoryRegistry
from tests.pipeline import Clock
from tests.servers.aws import ministack, use
from tests.servers.tables import create_table
from webhook.accept import Acceptor, Change, ChangeType, NothingToUpdateError

pytestmark = pytest.mark.slow

Step = Callable[[Row, float], Row | None]
PROFILE = HashEmbedder().profile
TIMERS = Timers(
    stale_after_seconds=60,
    attempt_lease_seconds=45,
    collect_grace_seconds=90,
    tombstone_retention_seconds=1000,
)


@pytest.fixture
async def registry(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DynamoDbRegistry]:
    use(monkeypatch, ministack())
    opened = DynamoDbRegistry(await create_table(), deadline_seconds=30)
    yield opened
    await opened.close()


@dataclass
class Side:
    """One way of accepting; everything but the registry is its own."""

    registry: Registry
    clock: Clock
    timers: Timers = TIMERS
    blobs: MemoryBlobStore = field(default_factory=MemoryBlobStore)
    queue: MemoryQueue = field(init=False)
    acceptor: Acceptor = field(init=False)

    def __post_init__(self) -> None:
        self.queue = MemoryQueue(clock=self.clock)
        self.acceptor = Acceptor(
            self.registry, self.blobs, self.queue, PROFILE, self.timers, self.clock
        )

    async def accept(self, change: Change) -> Any:
        try:
            return await self.acceptor.accept(change)
        except NothingToUpdateError:
            return "nothing to update"

    async def work(self, key: DocumentKey, step: Step) -> None:
        row = await self.registry.get(key)
        written = step(row, self.clock.now) if row else None
        if written is not None:
            assert await self.registry.put_if(written) is not None


def calls() -> dict[str, float]:
    """Requests to DynamoDB so far, by operation."""
    return {
        sample.labels["operation"]: sample.value
        for metric in telemetry.OUTSIDE_CALLS.collect()
        for sample in metric.samples
        if sample.name.endswith("_total") and sample.labels["service"] == "dynamodb"
    }


def since(before: dict[str, float]) -> dict[str, float]:
    return {name: n - before.get(name, 0) for name, n in calls().items() if n > before.get(name, 0)}


def insert(document_id: str, text: str, **changes: Any) -> Change:
    key = DocumentKey("docs", document_id)
    return replace(Change(key=key, change_type=ChangeType.INSERT, content=text.encode()), **changes)


# --- what happens to documents between the changes


def _claim(row: Row, now: float) -> Row | None:
    return transitions.claim(row, f"m{int(now)}", now, now + 30, TIMERS)


def _begin(row: Row, now: float) -> Row | None:
    return transitions.begin(row, 3, now, TIMERS)[0]


def _commit(row: Row, now: float) -> Row | None:
    own = row.garbage[-1].ids if row.garbage else None
    applied = Applied(
        version=row.desired.version,
        doc_hash=f"d{row.desired.version}",
        manifest=(own,) if own else (IdRange(1, 0, 0),),
        chunk_count=3,
    )
    base = transitions.base_of(row)
    done = transitions.commit(row, base=base, applied=applied, own=own, now=now, timers=TIMERS)
    return done if isinstance(done, Row) else None


def _hide(row: Row, now: float) -> Row | None:
    return transitions.commit_tombstone(row, now, TIMERS)


def _fail(row: Row, now: float) -> Row | None:
    return transitions.fail(row, row.desired.version, "too bad", now, TIMERS)


def _doom(row: Row, now: float) -> Row | None:
    return transitions.doom_expired(row, now, TIMERS)


def _collect(row: Row, now: float) -> Row | None:
    return transitions.forget(row, transitions.collectable(row, now), now, TIMERS)


def _rewrite(row: Row, now: float) -> Row | None:
    return transitions.rewrite(row, transitions.base_of(row), "damage", now, TIMERS)


STEPS: list[Step] = [_claim, _begin, _commit, _hide, _fail, _doom, _collect, _rewrite]

source_versions = st.none() | st.integers(0, 4)
metadata: st.SearchStrategy[dict[str, MetadataValue] | None] = st.sampled_from(
    [None, {}, {"lang": "de"}, {"n": 0.1}]
)
changes = st.builds(
    Change,
    key=st.just(DocumentKey("docs", "d")),
    change_type=st.sampled_from([ChangeType.INSERT, ChangeType.INSERT, ChangeType.UPDATE]),
    content=st.sampled_from([b"one", b"two", b"three"]),
    content_type=st.sampled_from([None, "text/plain", "text/markdown"]),
    metadata=metadata,
    source_version=source_versions,
)
others = st.builds(
    Change,
    key=st.just(DocumentKey("docs", "d")),
    change_type=st.sampled_from([ChangeType.DELETE, ChangeType.UPDATE]),
    metadata=metadata,
    source_version=source_versions,
)
actions = st.one_of(changes, changes, others, st.sampled_from(STEPS))
histories = st.lists(st.tuples(actions, st.sampled_from([0.0, 0.25, 20.0, 70.0])), max_size=14)


def _but_for_the_sweep(row: Row | None) -> Row | None:
    return row and replace(row, sweep_at=None)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(history=histories)
async def test_both_ways_of_accepting_mean_the_same(
    registry: DynamoDbRegistry, history: list[tuple[Change | Step, float]]
) -> None:
    clock = Clock()
    read, unread = Side(MemoryRegistry(), clock), Side(registry, clock)
    key = DocumentKey(secrets.token_hex(8), "d")
    for action, seconds in history:
        clock.now += seconds
        if isinstance(action, Change):
            change = replace(action, key=key)
            assert await unread.accept(change) == await read.accept(change)
        else:
            for side in (read, unread):
                await side.work(key, action)
        await _must_be_equal(key, read, unread)


async def _must_be_equal(key: DocumentKey, read: Side, unread: Side) -> None:
    registry = unread.registry
    assert isinstance(registry, DynamoDbRegistry)
    expected, row = await read.registry.get(key), await registry.get(key)
    assert _but_for_the_sweep(row) == _but_for_the_sweep(expected)
    if row is not None and expected is not None:
        # Never later, and something that is to be swept is never forgotten.
        assert (row.sweep_at is None) == (expected.sweep_at is None)
        assert (row.sweep_at or 0) <= (expected.sweep_at or 0)
        item = await registry._calls.get(row_key(key))
        assert item is not None  # what is summed up is in the item itself
        assert item["size_bytes"] == {"N": str(expected.desired.size_bytes)}
    told = await unread.registry.history(key)
    assert told.events == (await read.registry.history(key)).events
    for queue in QueueName:
        assert await unread.queue.depth(queue) == await read.queue.depth(queue)


# --- what it costs


async def test_a_change_with_content_is_one_request(registry: DynamoDbRegistry) -> None:
    assert isinstance(registry, AcceptingRegistry)
    side = Side(registry, Clock())
    await side.accept(insert("first", "binds the namespace"))

    for change in (
        insert("d", "one"),
        insert("d", "two", metadata={"n": 1}),
        Change(key=DocumentKey("docs", "d"), change_type=ChangeType.DELETE),
        insert("d", "three", source_version=7),
    ):
        before = calls()
        await side.accept(change)
        assert since(before) == {"UpdateItem": 1}


async def test_a_change_that_changes_nothing_is_one_request(registry: DynamoDbRegistry) -> None:
    side = Side(registry, Clock())
    await side.accept(insert("d", "one", source_version=7))

    before = calls()
    again = await side.accept(insert("d", "one"))
    older = await side.accept(insert("d", "other", source_version=6))

    assert (again.outcome, older.outcome) == ("unchanged", "superseded")
    assert (again.version, older.version) == (1, 1)
    assert since(before) == {"UpdateItem": 2}


async def test_what_keeps_something_reads_the_row(registry: DynamoDbRegistry) -> None:
    side = Side(registry, Clock())
    await side.accept(insert("d", "one", metadata={"n": 1}))

    before = calls()
    update = Change(key=DocumentKey("docs", "d"), change_type=ChangeType.UPDATE, metadata={"n": 2})
    assert (await side.accept(update)).version == 2

    assert since(before) == {"GetItem": 1, "PutItem": 1}


async def test_many_edits_in_a_row_are_taken_in_now_and_then(registry: DynamoDbRegistry) -> None:
    side = Side(registry, Clock())
    key = DocumentKey("docs", "d")
    edits = 3 * MOST_CHANGES
    before = calls()

    for n in range(edits):
        side.clock.now += 1
        assert (await side.accept(insert("d", f"text {n}"))).version == n + 1

    # Full writes, a page of history and the namespace's binding.
    assert since(before) == {"UpdateItem": edits, "PutItem": edits // (MOST_CHANGES + 1) + 1 + 1}
    told = (await registry.history(key)).events
    assert [event.version for event in told] == list(range(edits, 0, -1))
    assert [event.at for event in told] == [1000.0 + n for n in range(edits, 0, -1)]


async def test_many_writers_at_once_each_get_a_version_of_their_own(
    registry: DynamoDbRegistry,
) -> None:
    side = Side(registry, Clock())

    accepted = await asyncio.gather(*[side.accept(insert("d", f"text {n}")) for n in range(40)])

    assert sorted(result.version for result in accepted) == list(range(1, 41))
    row = await registry.get(DocumentKey("docs", "d"))
    assert row is not None
    assert (row.desired.version, row.revision) == (40, 40)


async def test_what_cannot_be_expressed_is_left_to_the_caller(registry: DynamoDbRegistry) -> None:
    key = DocumentKey("docs", "d")

    async def blind(**changes: Any) -> int | Found:
        change = desired(**changes)
        return await registry.accept_blind(key, change, now=1000.0, stale_after_seconds=60)

    assert await blind(source_version=10**40) == Found(None)
    row = Row(key=key, revision=0, desired=desired("one", source_version=10**40))
    stored = await registry.put_if(row)
    assert stored is not None
    # Compared with a number that DynamoDB cannot hold.
    assert await blind(text="two", source_version=5) == Found(stored)
    assert await registry.get(key) == stored


async def test_a_change_is_never_swept_later_than_accept_says(
    registry: DynamoDbRegistry,
) -> None:
    """Where the garbage ends after the change is to be swept, and where it ends before."""
    for document_id, not_before, expected in (("late", 1070.0, 1060.0), ("soon", 1030.0, 1030.0)):
        garbage = (Garbage(IdRange(1, 0, 0), GarbageState.DOOMED, not_before),)
        key = DocumentKey("docs", document_id)
        row = Row(key=key, revision=0, desired=desired("one"), garbage=garbage)
        assert await registry.put_if(row) is not None

        await Side(registry, Clock()).accept(insert(document_id, "two"))

        stored = await registry.get(key)
        assert stored is not None
        assert (stored.desired.version, stored.sweep_at) == (2, expected)


async def test_the_bytes_are_there_before_the_row_names_them(registry: DynamoDbRegistry) -> None:
    side = Side(registry, Clock())
    change = insert("d", "one")
    there: list[int] = []

    async def watched(*args: Any, **kwargs: Any) -> int | Found:
        there.append(len(side.blobs.held))
        return await DynamoDbRegistry.accept_blind(registry, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "accept_blind", watched)
        await side.accept(change)

    assert there == [1]


async def test_an_old_blob_that_was_collected_meanwhile_is_put_again(
    registry: DynamoDbRegistry,
) -> None:
    side = Side(registry, Clock())
    await side.accept(insert("other", "one"))

    async def collecting(*args: Any, **kwargs: Any) -> int | Found:
        version = await DynamoDbRegistry.accept_blind(registry, *args, **kwargs)
        side.blobs.held.clear()  # By a sweeper that read the rows before this one was written.
        return version

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "accept_blind", collecting)
        await side.accept(insert("d", "one"))

    assert [data for data, _ in side.blobs.held.values()] == [b"one"]
