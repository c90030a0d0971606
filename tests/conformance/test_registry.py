"""What every registry adapter must do. A new adapter is one more line in CASES."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.adapters.registry.dynamodb import DynamoDbRegistry
from common.adapters.registry.sqlite import SqliteRegistry
from common.model import (
    Applied,
    Claim,
    Desired,
    DocumentKey,
    EmbeddingProfile,
    Event,
    EventKind,
    Garbage,
    GarbageState,
    IdRange,
    MetadataValue,
    Row,
    Status,
)
from common.ports.registry import KEPT_EVENTS, History, NamespaceCounts, Registry
from tests.fakes.registry import MemoryRegistry
from tests.servers.aws import ministack, moto, use
from tests.servers.process import ServerProcess
from tests.servers.tables import create_table

PROFILE = EmbeddingProfile(model="m", fingerprint="f", dimension=384, max_tokens=256)
HARD_IDS = ["a%", "a_", "a%b", "a_b", "ab", "A%", "a", "b", "é", "a\0b", "a\U0010ffff", "a\ud7ff"]
any_id = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


@contextlib.asynccontextmanager
async def sqlite(path: Path) -> AsyncIterator[tuple[Registry, Registry]]:
    first, second = SqliteRegistry(path / "r.sqlite"), SqliteRegistry(path / "r.sqlite")
    yield first, second
    await first.close()
    await second.close()


@contextlib.asynccontextmanager
async def memory(path: Path) -> AsyncIterator[tuple[Registry, Registry]]:
    registry = MemoryRegistry()
    yield registry, registry


Pair = tuple[Registry, Registry]
Opens = Callable[[Path], AbstractAsyncContextManager[Pair]]


def dynamodb(server: Callable[[], ServerProcess]) -> Opens:
    """A table of its own for each test, on a server that all tests share."""

    @contextlib.asynccontextmanager
    async def opens(path: Path) -> AsyncIterator[Pair]:
        with pytest.MonkeyPatch.context() as patch:
            use(patch, server())
            table = await create_table()
            first, second = (DynamoDbRegistry(table, deadline_seconds=30) for _ in range(2))
            yield first, second
            await first.close()
            await second.close()

    return opens


CASES: dict[str, Opens] = {
    "memory": memory,
    "sqlite": sqlite,
    "dynamodb-moto": dynamodb(moto),
    "dynamodb-ministack": dynamodb(ministack),
}
SLOW = [name for name in CASES if name.startswith("dynamodb")]


@pytest.fixture(params=[pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CASES])
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    """One registry as two processes see it."""
    async with CASES[request.param](tmp_path) as opened:
        yield opened


@pytest.fixture
def registry(pair: Pair) -> Registry:
    return pair[0]


def new_row(document_id: str = "d", namespace: str = "docs", **changes: Any) -> Row:
    desired = Desired(
        version=1,
        content_hash="c",
        metadata_hash="m",
        blob_key="raw/x",
        content_type="text/plain",
        metadata={"text": "x", "whole": 1, "real": 1.0, "yes": True, "many": ["a", "b"]},
        source_version=2**53,
        tombstone=False,
        accepted_at=1.25,
        size_bytes=3,
        traceparent="00-1",
    )
    row = Row(key=DocumentKey(namespace, document_id), revision=0, desired=desired)
    return replace(row, **changes)


async def store(registry: Registry, row: Row) -> Row:
    stored = await registry.put_if(row)
    assert stored is not None
    return stored


async def all_ids(registry: Registry, namespace: str, limit: int = 2, **where: Any) -> list[str]:
    found: list[str] = []
    cursor: str | None = None
    while True:
        page = await registry.scan(namespace, cursor=cursor, limit=limit, **where)
        assert len(page.rows) <= limit
        found += [row.key.document_id for row in page.rows]
        cursor = page.cursor
        if cursor is None:
            return found


async def test_a_row_is_read_as_it_was_stored(pair: Pair) -> None:
    row = new_row(
        "é\0\U0001f33c",
        applied=Applied(
            version=3, manifest=(IdRange(1, 0, 4), IdRange(2, 1, 1)), applied_at=2.5, chunk_count=6
        ),
        garbage=(Garbage(IdRange(3, 0, 9), GarbageState.OPEN, 77.5),),
        status=Status.PROCESSING,
        attempts=2,
        error="no such thing",
        claim=Claim(3, "m1", 9.5),
        sweep_at=123.5,
        updated_at=5.5,
    )

    stored = await store(pair[0], row)

    assert stored == replace(row, revision=1)
    read = await pair[1].get(row.key)
    assert read == stored
    assert [type(value) for value in read.desired.metadata.values()] == [
        str,
        int,
        float,
        bool,
        list,
    ]


async def test_a_missing_row_is_none(registry: Registry) -> None:
    await store(registry, new_row("d", "docs"))

    assert await registry.get(DocumentKey("other", "d")) is None


async def test_put_if_refuses_what_is_not_the_stored_revision(pair: Pair) -> None:
    first = await store(pair[0], new_row())
    second = await store(pair[1], replace(first, attempts=1))

    assert second.revision == 2
    assert await pair[0].put_if(replace(first, attempts=9)) is None
    assert await pair[0].put_if(new_row(attempts=9)) is None
    assert await pair[0].put_if(new_row("missing", revision=1)) is None
    assert await pair[0].get(first.key) == second
    assert await pair[0].get(DocumentKey("docs", "missing")) is None


async def test_one_of_fifty_concurrent_writers_wins(pair: Pair) -> None:
    row = await store(pair[0], new_row())

    results = await asyncio.gather(
        *[pair[n % 2].put_if(replace(row, attempts=n)) for n in range(50)]
    )

    winners = [result for result in results if result is not None]
    assert len(winners) == 1
    assert await pair[1].get(row.key) == winners[0]


async def test_one_of_fifty_concurrent_inserts_wins(pair: Pair) -> None:
    results = await asyncio.gather(*[pair[n % 2].put_if(new_row(attempts=n)) for n in range(50)])

    assert len([result for result in results if result is not None]) == 1


async def test_delete_if_compares_the_revision(registry: Registry) -> None:
    first = await store(registry, new_row())
    second = await store(registry, first)

    assert not await registry.delete_if(first)
    assert await registry.get(first.key) == second
    assert await registry.delete_if(second)
    assert await registry.get(first.key) is None
    assert not await registry.delete_if(second)


async def test_get_many_leaves_missing_keys_out(registry: Registry) -> None:
    # More than one query or request takes: 500 and 100 keys.
    many = 250 if isinstance(registry, DynamoDbRegistry) else 1201
    rows = await asyncio.gather(*[store(registry, new_row(str(n))) for n in range(many)])
    other = await store(registry, new_row("0", "other"))
    keys = [row.key for row in rows]

    found = await registry.get_many([*keys, other.key, keys[0], DocumentKey("docs", "missing")])

    assert found == {row.key: row for row in [*rows, other]}
    assert await registry.get_many([]) == {}


async def test_get_many_tells_rows_with_line_breaks_in_them_apart(registry: Registry) -> None:
    breaks = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
    rows = [await store(registry, new_row(f"{n}{breaks}")) for n in range(3)]

    found = await registry.get_many([row.key for row in rows])

    assert found == {row.key: row for row in rows}


async def test_scan_goes_through_all_pages_in_order(registry: Registry) -> None:
    for name in HARD_IDS:
        await store(registry, new_row(name))
    await store(registry, new_row("elsewhere", "other"))

    assert await all_ids(registry, "docs") == sorted(HARD_IDS)


@pytest.mark.parametrize("prefix", ["a%", "a_", "a", "é", "a\0", "a\ud7ff", "a\U0010ffff", "zz"])
async def test_scan_by_prefix_takes_no_character_for_a_wildcard(
    registry: Registry, prefix: str
) -> None:
    for name in HARD_IDS:
        await store(registry, new_row(name))

    expected = sorted(name for name in HARD_IDS if name.startswith(prefix))
    assert await all_ids(registry, "docs", prefix=prefix) == expected


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(ids=st.sets(any_id, max_size=6), prefix=any_id, namespace=any_id)
async def test_scan_by_prefix_for_any_text(
    registry: Registry, ids: set[str], prefix: str, namespace: str
) -> None:
    ids |= {prefix, prefix + "x"}
    namespace += secrets.token_hex(8)  # Those of the examples before stay.
    await asyncio.gather(*[store(registry, new_row(name, namespace)) for name in ids])

    expected = sorted(name for name in ids if name.startswith(prefix))
    assert await all_ids(registry, namespace, prefix=prefix) == expected
    assert await all_ids(registry, namespace, limit=5) == sorted(ids)


async def test_scan_by_status(registry: Registry) -> None:
    for number, status in enumerate([*Status, *Status]):
        await store(registry, new_row(f"d{number}", status=status))

    for number, status in enumerate(Status):
        expected = sorted([f"d{number}", f"d{number + len(Status)}"])
        assert await all_ids(registry, "docs", limit=1, status=status) == expected
    assert await all_ids(registry, "docs", status=Status.PENDING, prefix="d5") == ["d5"]


async def test_the_last_full_page_has_no_cursor(registry: Registry) -> None:
    for name in ("a", "b"):
        await store(registry, new_row(name))

    assert (await registry.scan("docs", limit=2)).cursor is None
    assert (await registry.scan("nothing", limit=2)).rows == []


async def test_pages_are_complete_while_others_insert(pair: Pair) -> None:
    old = [f"old-{n:03d}" for n in range(60)]
    for name in old:
        await store(pair[0], new_row(name))

    async def insert() -> None:
        for n in range(60):
            await store(pair[1], new_row(f"old-{n:03d}-new"))

    found, _ = await asyncio.gather(all_ids(pair[0], "docs", limit=3), insert())

    assert set(found) >= set(old)
    assert found == sorted(set(found))


@pytest.mark.parametrize("cursor", ["", "a", "!!!!", "YWJj", "YWZ0ZXI6/w==", "é", "YWZ0ZXI6_w=="])
async def test_a_broken_cursor_is_refused(registry: Registry, cursor: str) -> None:
    with pytest.raises(ValueError, match="cursor"):
        await registry.scan("docs", cursor=cursor)


async def test_due_rows_come_the_longest_due_first(registry: Registry) -> None:
    for name, sweep_at in {"c": 30.0, "a": 10.0, "never": None, "b": 20.0, "later": 99.0}.items():
        await store(registry, new_row(name, f"ns-{name}", sweep_at=sweep_at))

    due = await registry.due(before=30.0, limit=10)

    assert [row.key.document_id for row in due] == ["a", "b", "c"]
    assert [row.key.document_id for row in await registry.due(before=30.0, limit=2)] == ["a", "b"]


async def test_a_row_that_was_put_off_is_not_due(registry: Registry) -> None:
    row = await store(registry, new_row(sweep_at=10.0))
    row = await store(registry, replace(row, sweep_at=50.0))
    assert await registry.due(before=20.0, limit=10) == []

    await store(registry, replace(row, sweep_at=None))
    assert await registry.due(before=1e12, limit=10) == []


async def test_a_namespace_is_bound_once(pair: Pair) -> None:
    other = replace(PROFILE, dimension=768)

    assert await pair[0].bind_namespace("docs", PROFILE) == PROFILE
    assert await pair[1].bind_namespace("docs", other) == PROFILE
    assert await pair[1].bind_namespace("new", other) == other
    assert await pair[0].binding("new") == other
    assert await pair[0].binding("newer") is None
    assert await pair[0].namespaces() == {"docs": PROFILE, "new": other}


async def test_concurrent_binders_agree(pair: Pair) -> None:
    profiles = [replace(PROFILE, dimension=n) for n in range(20)]

    bound = await asyncio.gather(
        *[pair[n % 2].bind_namespace("docs", profile) for n, profile in enumerate(profiles)]
    )

    assert len(set(bound)) == 1
    assert bound[0] in profiles


async def test_counts_by_namespace_and_status(registry: Registry) -> None:
    for name, status, chunks in [
        ("a", Status.COMPLETED, 4),
        ("b", Status.COMPLETED, 3),
        ("c", Status.FAILED, 2),
    ]:
        applied = Applied(version=1, chunk_count=chunks)
        row = new_row(name, status=status, applied=applied)
        await store(registry, replace(row, desired=replace(row.desired, size_bytes=10 * chunks)))
    row = await store(registry, new_row("d", "another"))
    gone = replace(row.desired, tombstone=True, size_bytes=0)
    await store(registry, replace(row, status=Status.DELETED, desired=gone))

    assert await registry.counts() == [
        NamespaceCounts("another", {Status.DELETED: 1}, 0, 0),
        NamespaceCounts("docs", {Status.COMPLETED: 2, Status.FAILED: 1}, 9, 90),
    ]


async def test_what_could_not_be_read_again_is_not_stored(registry: Registry) -> None:
    row = new_row()
    metadata: dict[str, MetadataValue] = {"score": float("nan")}

    with pytest.raises(ValueError, match="NaN"):
        await registry.put_if(replace(row, desired=replace(row.desired, metadata=metadata)))
    with pytest.raises(ValueError, match="surrogates"):
        await registry.put_if(new_row("\udc00"))

    assert await registry.get(row.key) is None


# --- history


def event(number: int) -> Event:
    return Event(number + 0.5, EventKind.ERROR, number, f"no. {number}")


def news(first: int, last: int) -> tuple[Event, ...]:
    return tuple(event(number) for number in range(first, last + 1))


async def all_events(registry: Registry, key: DocumentKey, limit: int = 1000) -> list[Event]:
    found: list[Event] = []
    cursor: str | None = None
    while True:
        page = await registry.history(key, cursor=cursor, limit=limit)
        assert len(page.events) <= limit
        found += page.events
        cursor = page.cursor
        if cursor is None:
            return found


async def test_news_become_history_and_are_no_part_of_the_row(pair: Pair) -> None:
    row = new_row(news=(Event(1.25, EventKind.ACCEPTED, 1, "é\U0001f33c\n'"),))

    stored = await store(pair[0], row)

    assert stored.news == ()
    assert await pair[1].get(row.key) == stored
    assert (await pair[1].scan("docs")).rows == [stored]
    assert await pair[1].history(row.key) == History(list(row.news), None)


async def test_history_comes_newest_first_in_pages(pair: Pair) -> None:
    row = await store(pair[0], new_row(news=news(1, 2)))
    row = await store(pair[1], row)
    row = await store(pair[1], replace(row, news=news(3, 5)))
    await store(pair[0], new_row("d", "other", news=news(7, 7)))

    assert await all_events(pair[0], row.key) == list(news(1, 5))[::-1]
    assert await all_events(pair[0], row.key, limit=2) == list(news(1, 5))[::-1]
    page = await pair[0].history(row.key, limit=2)
    await store(pair[1], replace(row, news=news(6, 6)))
    older = await pair[0].history(row.key, limit=3, cursor=page.cursor)
    assert older == History(list(news(1, 3))[::-1], None)
    assert await pair[0].history(DocumentKey("docs", "missing")) == History([], None)


async def test_a_lost_race_tells_nothing(pair: Pair) -> None:
    first = await store(pair[0], new_row(news=news(1, 1)))
    await store(pair[1], replace(first, news=news(2, 2)))

    assert await pair[0].put_if(replace(first, news=news(3, 3))) is None
    assert await pair[0].put_if(new_row(news=news(4, 4))) is None

    assert await all_events(pair[0], first.key) == list(news(1, 2))[::-1]


async def test_only_the_newest_events_are_kept(registry: Registry) -> None:
    other = await store(registry, new_row("other", news=news(1, 3)))
    row = new_row()
    writes, each = 150, 30
    for first in range(1, writes * each, each):
        row = await store(registry, replace(row, news=news(first, first + each - 1)))
        row = await store(registry, row)  # so that every even write tells nothing

    found = await all_events(registry, row.key)

    assert KEPT_EVENTS <= len(found) <= 2 * KEPT_EVENTS
    assert found == list(news(1, writes * each))[: -len(found) - 1 : -1]
    assert await all_events(registry, other.key) == list(news(1, 3))[::-1]


async def test_a_removed_row_takes_its_history_with_it(registry: Registry) -> None:
    other = await store(registry, new_row("other", news=news(1, 1)))
    first = await store(registry, new_row(news=news(1, 2)))
    second = await store(registry, first)

    assert not await registry.delete_if(first)
    assert len(await all_events(registry, first.key)) == 2
    assert await registry.delete_if(second)
    assert await all_events(registry, first.key) == []
    assert await all_events(registry, other.key) == [event(1)]

    await store(registry, new_row(news=news(9, 9)))
    assert await all_events(registry, first.key) == [event(9)]


@pytest.mark.parametrize("cursor", ["", "a", "-1", "1.x", "²", "YWZ0ZXI6_w=="])
async def test_a_broken_cursor_of_history_is_refused(registry: Registry, cursor: str) -> None:
    with pytest.raises(ValueError, match="cursor"):
        await registry.history(new_row().key, cursor=cursor)
