"""What only this adapter can get wrong: lost answers, throttling, items that are too large, history
in pages, indexes that are behind, rows of a newer program, keys at DynamoDB's limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from common.adapters.registry.dynamodb import DynamoDbRegistry, connect
from common.adapters.registry.dynamodb_events import PAGE_EVENTS
from common.adapters.registry.dynamodb_item import INLINE_BYTES, KEPT_WRITES
from common.adapters.registry.dynamodb_table import STATUS_INDEX, definition
from common.aws.clients import TRIES, shared_clients
from common.aws.errors import AwsSetupError
from common.composition import connect as connect_any
from common.model import (
    Applied,
    DocumentKey,
    Event,
    EventKind,
    Garbage,
    GarbageState,
    IdRange,
    Row,
    Status,
)
from common.ports.errors import TransientError
from common.ports.registry import Found, IdListingRegistry
from common.settings import Settings
from common.wire import DamagedDataError
from tests.builders import desired
from tests.servers.aws import ministack, use
from tests.servers.dynamodb_proxy import (
    DynamoDbProxy,
    Fault,
    Forward,
    LostAnswer,
    dynamodb_proxy,
    loses_the_answer,
    throttles,
)
from tests.servers.tables import create_table

pytestmark = pytest.mark.slow

KEY = DocumentKey("docs", "d")
LIMIT_SECONDS = 30.0


@pytest.fixture
async def table(monkeypatch: pytest.MonkeyPatch) -> str:
    use(monkeypatch, ministack())
    return await create_table()


@pytest.fixture
async def pair(table: str) -> AsyncIterator[tuple[DynamoDbRegistry, DynamoDbRegistry]]:
    first, second = (DynamoDbRegistry(table, deadline_seconds=LIMIT_SECONDS) for _ in range(2))
    yield first, second
    await first.close()
    await second.close()


@pytest.fixture
def registry(pair: tuple[DynamoDbRegistry, DynamoDbRegistry]) -> DynamoDbRegistry:
    return pair[0]


@pytest.fixture
async def proxy(table: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DynamoDbProxy]:
    """What is opened from now on goes through it; the table was made before."""
    async with dynamodb_proxy(ministack().url) as opened:
        monkeypatch.setenv("AWS_ENDPOINT_URL", opened.url)
        clients = shared_clients()
        await clients.client("dynamodb")  # Opening it takes longer than the shortest deadline.
        yield opened
        await clients.release()


@pytest.fixture
async def behind_proxy(table: str, proxy: DynamoDbProxy) -> AsyncIterator[DynamoDbRegistry]:
    opened = DynamoDbRegistry(table, deadline_seconds=LIMIT_SECONDS)
    yield opened
    await opened.close()


def new_row(document_id: str = "d", **changes: Any) -> Row:
    return Row(key=DocumentKey("docs", document_id), revision=0, desired=desired(), **changes)


def event(number: int) -> Event:
    return Event(number + 0.5, EventKind.ERROR, number, f"no. {number}")


async def store(registry: DynamoDbRegistry, row: Row) -> Row:
    stored = await registry.put_if(row)
    assert stored is not None
    return stored


async def items_of(table: str) -> list[dict[str, Any]]:
    """All that the table holds."""
    clients = shared_clients()
    try:
        client = await clients.client("dynamodb")
        pages = client.get_paginator("scan").paginate(TableName=table)
        return [item async for page in pages for item in page["Items"]]
    finally:
        await clients.release()


async def overwrite(table: str, document_id: str, **attributes: Any) -> None:
    """As another program would have written it."""
    item = next(item for item in await items_of(table) if item["sk"]["S"] == document_id)
    clients = shared_clients()
    try:
        client = await clients.client("dynamodb")
        await client.put_item(TableName=table, Item=item | attributes)
    finally:
        await clients.release()


# --- lost answers


async def test_a_write_whose_answer_was_lost_is_stored(
    proxy: DynamoDbProxy, behind_proxy: DynamoDbRegistry
) -> None:
    proxy.faults["PutItem"] = [loses_the_answer]
    first = await behind_proxy.put_if(new_row(news=(event(1),)))
    proxy.faults["PutItem"] = [loses_the_answer]
    second = await behind_proxy.put_if(replace(new_row(attempts=1, news=(event(2),)), revision=1))

    assert first is not None
    assert second is not None
    assert await behind_proxy.get(KEY) == second
    assert (await behind_proxy.history(KEY)).events == [event(2), event(1)]
    assert proxy.seen.count("PutItem") == 4


async def test_a_write_whose_answer_was_lost_is_known_behind_others(
    table: str, proxy: DynamoDbProxy, behind_proxy: DynamoDbRegistry
) -> None:
    row = await store(behind_proxy, new_row())

    async def followed_by_others(request: dict[str, Any], forward: Forward) -> dict[str, Any]:
        await forward()
        other = DynamoDbRegistry(table, deadline_seconds=LIMIT_SECONDS)
        read = await other.get(KEY)
        assert read is not None
        read = await store(other, replace(read, attempts=2))
        change = desired("other")
        await other.accept_blind(KEY, change, now=9.0, stale_after_seconds=60)
        await other.close()
        return await loses_the_answer(request, forward)

    proxy.faults["PutItem"] = [followed_by_others]
    stored = await behind_proxy.put_if(replace(row, attempts=1))

    assert stored == replace(row, attempts=1, revision=2)
    newest = await behind_proxy.get(KEY)
    assert newest is not None
    assert (newest.revision, newest.desired.version) == (4, 2)


async def test_an_accept_whose_answer_was_lost_gives_its_version(
    proxy: DynamoDbProxy, behind_proxy: DynamoDbRegistry
) -> None:
    versions = []
    for text in ("one", "two"):
        proxy.faults["UpdateItem"] = [loses_the_answer]
        versions.append(
            await behind_proxy.accept_blind(KEY, desired(text), now=1000.0, stale_after_seconds=60)
        )

    assert versions == [1, 2]
    row = await behind_proxy.get(KEY)
    assert row is not None
    assert (row.revision, row.desired.version) == (2, 2)


async def test_a_delete_whose_answer_was_lost_is_done(
    proxy: DynamoDbProxy, behind_proxy: DynamoDbRegistry
) -> None:
    row = await store(behind_proxy, new_row(news=(event(1),)))
    proxy.faults["DeleteItem"] = [loses_the_answer]

    assert await behind_proxy.delete_if(row)
    assert await behind_proxy.get(KEY) is None
    assert not await behind_proxy.delete_if(row)


async def test_what_another_stored_is_not_taken_for_an_own_write(
    proxy: DynamoDbProxy, behind_proxy: DynamoDbRegistry, pair: tuple[DynamoDbRegistry, ...]
) -> None:
    row = await store(pair[0], new_row())
    await behind_proxy.get(KEY)

    async def breaks_before(_request: dict[str, Any], _forward: Forward) -> dict[str, Any]:
        await store(pair[0], replace(row, attempts=1))

        async def nothing() -> dict[str, Any]:
            return {}

        return await loses_the_answer({}, nothing)

    proxy.faults["PutItem"] = [breaks_before]
    assert await behind_proxy.put_if(replace(row, attempts=1)) is None


# --- throttling


@pytest.mark.parametrize(
    "error",
    ["ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded"],
)
async def test_throttling_is_waited_out(
    proxy: DynamoDbProxy, behind_proxy: DynamoDbRegistry, error: str
) -> None:
    proxy.faults["PutItem"] = [throttles(error)] * 4  # The SDK alone tries three times.
    stored = await store(behind_proxy, new_row())

    assert await behind_proxy.get(KEY) == stored


async def test_throttling_without_end_is_transient(table: str, proxy: DynamoDbProxy) -> None:
    registry = DynamoDbRegistry(table, deadline_seconds=1.0)
    proxy.faults["GetItem"] = [throttles("ThrottlingException")] * 1000
    with pytest.raises(TransientError, match="throttled, for 1 s"):
        await registry.get(KEY)
    await registry.close()


async def test_no_answer_is_transient(table: str, proxy: DynamoDbProxy) -> None:
    async def hangs(_request: dict[str, Any], _forward: Forward) -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    registry = DynamoDbRegistry(table, deadline_seconds=0.2)
    proxy.faults["GetItem"] = [hangs]
    with pytest.raises(TransientError, match=r"no answer, or throttled, for 0\.2 s"):
        await registry.get(KEY)
    await registry.close()


async def test_keys_that_were_left_over_are_asked_again(
    proxy: DynamoDbProxy, behind_proxy: DynamoDbRegistry, table: str
) -> None:
    rows = [await store(behind_proxy, new_row(str(n))) for n in range(5)]

    async def some(request: dict[str, Any], _forward: Forward) -> dict[str, Any]:
        return {"Responses": {table: []}, "UnprocessedKeys": request["RequestItems"]}

    proxy.faults["BatchGetItem"] = [some, some]
    found = await behind_proxy.get_many([row.key for row in rows])

    assert found == {row.key: row for row in rows}
    assert proxy.seen.count("BatchGetItem") == 3


async def test_keys_that_are_always_left_over_are_transient(
    table: str, proxy: DynamoDbProxy
) -> None:
    async def none(request: dict[str, Any], _forward: Forward) -> dict[str, Any]:
        return {"Responses": {}, "UnprocessedKeys": request["RequestItems"]}

    registry = DynamoDbRegistry(table, deadline_seconds=0.5)
    proxy.faults["BatchGetItem"] = [none] * 1000
    with pytest.raises(TransientError, match="throttled"):
        await registry.get_many([KEY])
    await registry.close()


# --- size

MANY = tuple(
    IdRange(1_000 + n * 7919 % 997, n * 104729 % 1_000_003, 2_000_000) for n in range(200_000)
)
FEW = (IdRange(1, 0, 9),)


def fragmented(**changes: Any) -> Row:
    applied = Applied(version=1, manifest=MANY, chunk_count=len(MANY))
    return new_row(applied=applied, **changes)


def names_of(items: list[dict[str, Any]]) -> set[str]:
    return {item["sk"]["S"] for item in items}


async def test_a_row_of_any_size_is_read_as_it_was_stored(
    pair: tuple[DynamoDbRegistry, ...], table: str
) -> None:
    stored = await store(pair[0], fragmented())

    assert await pair[1].get(KEY) == stored
    assert await pair[1].get_many([KEY]) == {KEY: stored}
    assert (await pair[1].scan("docs")).rows == [stored]
    items = await items_of(table)
    row = next(item for item in items if item["sk"]["S"] == "d")
    assert len(items) > 2
    assert sum(len(value.get("B", b"")) for value in row.values()) < INLINE_BYTES

    # A write that leaves the ranges as they are writes none of them again.
    again = await store(pair[1], replace(stored, attempts=1))
    assert names_of(await items_of(table)) == names_of(items)
    assert await pair[0].get(KEY) == again

    # They go when they are replaced, and with the row.
    smaller = await store(pair[0], replace(again, applied=replace(again.applied, manifest=FEW)))
    assert len(await items_of(table)) == 1
    larger = await store(pair[0], replace(smaller, applied=stored.applied))
    assert await pair[0].delete_if(larger)
    assert await items_of(table) == []


async def test_much_garbage_is_stored_too(pair: tuple[DynamoDbRegistry, ...], table: str) -> None:
    garbage = tuple(
        Garbage(ids, GarbageState.DOOMED if n % 2 else GarbageState.OPEN, 1000.25 + n)
        for n, ids in enumerate(MANY[:100_000])
    )
    stored = await store(pair[0], fragmented(garbage=garbage, sweep_at=1000.25))

    assert await pair[1].get(KEY) == stored
    assert await pair[1].due(before=2000.0, limit=10) == [stored]


async def test_a_lost_race_leaves_no_pieces(pair: tuple[DynamoDbRegistry, ...], table: str) -> None:
    row = await store(pair[0], new_row())
    winner = await store(pair[1], row)

    lost = replace(fragmented(), revision=1)
    assert await pair[0].put_if(lost) is None

    assert len(await items_of(table)) == 1
    assert await pair[0].get(KEY) == winner


@pytest.mark.parametrize("throttled", [0, TRIES - 1])
async def test_a_late_repeat_of_a_write_takes_no_piece_from_those_that_followed(
    table: str, proxy: DynamoDbProxy, behind_proxy: DynamoDbRegistry, throttled: int
) -> None:
    """`throttled`: so often, between the try that was stored and the one that meets it; TRIES - 1
    make the SDK forget that there was one."""
    row = await store(behind_proxy, new_row())
    newest: list[Row] = []

    async def followed_by_many(request: dict[str, Any], forward: Forward) -> dict[str, Any]:
        if "piece" in request["Item"]:
            proxy.faults["PutItem"].insert(0, followed_by_many)
            return await forward()
        await forward()
        other = DynamoDbRegistry(table, deadline_seconds=LIMIT_SECONDS)
        for n in range(KEPT_WRITES):
            await other.accept_blind(KEY, desired(f"{n}"), now=9.0, stale_after_seconds=60)
        read = await other.get(KEY)
        assert read is not None
        newest.append(await store(other, replace(read, attempts=1)))
        await other.close()
        proxy.faults["PutItem"] = [throttles("ThrottlingException")] * throttled
        raise LostAnswer

    proxy.faults["PutItem"] = [followed_by_many]
    assert await behind_proxy.put_if(replace(fragmented(), revision=row.revision)) is None

    third = DynamoDbRegistry(table, deadline_seconds=LIMIT_SECONDS)
    assert [await third.get(KEY)] == newest
    await third.close()


async def test_a_row_that_is_replaced_while_it_is_read_is_read_again(
    pair: tuple[DynamoDbRegistry, ...], proxy: DynamoDbProxy, behind_proxy: DynamoDbRegistry
) -> None:
    stored = await store(pair[0], fragmented())
    smaller = replace(stored, applied=replace(stored.applied, manifest=FEW))

    async def replaced(_request: dict[str, Any], forward: Forward) -> dict[str, Any]:
        await store(pair[0], smaller)
        return await forward()

    proxy.faults["Query"] = [replaced]
    assert await behind_proxy.get(KEY) == replace(smaller, revision=2)


async def test_a_large_row_is_changed_unread(registry: DynamoDbRegistry) -> None:
    await store(registry, fragmented())

    version = await registry.accept_blind(KEY, desired("two"), now=1000.0, stale_after_seconds=60)

    row = await registry.get(KEY)
    assert row is not None
    assert (version, row.desired.version, row.applied.manifest) == (2, 2, MANY)


# --- history


async def test_history_goes_through_pages_whoever_writes(
    pair: tuple[DynamoDbRegistry, ...], table: str
) -> None:
    told: list[Event] = []
    for n in range(3 * PAGE_EVENTS):
        registry = pair[n % 2]
        if n % 5 == 4:
            change = desired(f"text {n}")
            await registry.accept_blind(KEY, change, now=float(n), stale_after_seconds=60)
            told += (await registry.history(KEY, limit=1)).events
            continue
        row = await registry.get(KEY)
        await store(registry, replace(row or new_row(), news=(event(n),)))
        told.append(event(n))

    pages = [item for item in await items_of(table) if "h" in item["sk"]["S"]]
    assert len(pages) >= 2
    assert (await pair[0].history(KEY, limit=1000)).events == told[::-1]
    middle = await pair[0].history(KEY, limit=PAGE_EVENTS + 3)
    following = await pair[1].history(KEY, limit=1000, cursor=middle.cursor)
    assert middle.events + following.events == told[::-1]
    assert following.cursor is None


async def test_nothing_is_left_of_a_removed_row(registry: DynamoDbRegistry, table: str) -> None:
    row = new_row()
    for n in range(3):
        row = await store(registry, replace(row, news=tuple(event(n) for _ in range(PAGE_EVENTS))))
    assert len(await items_of(table)) > 1

    assert await registry.delete_if(row)

    assert await items_of(table) == []


async def test_another_life_is_not_taken_for_the_one_before(
    pair: tuple[DynamoDbRegistry, ...],
) -> None:
    row = await store(pair[0], new_row(news=tuple(event(n) for n in range(PAGE_EVENTS + 5))))
    await pair[1].get(KEY)
    assert await pair[0].delete_if(row)
    anew = await store(pair[0], new_row(news=(event(1000),)))

    stored = await pair[1].put_if(replace(anew, news=(event(1001),)))

    assert stored == replace(anew, revision=2)
    assert (await pair[0].history(KEY)).events == [event(1001), event(1000)]


async def test_a_document_that_began_anew_is_not_deleted_as_the_one_before(
    pair: tuple[DynamoDbRegistry, ...],
) -> None:
    """The revision says nothing of it: the new one has come to the same."""
    before = await store(pair[0], new_row())
    assert await pair[1].delete_if(before)
    anew = await store(pair[1], new_row(attempts=1))
    assert anew.revision == before.revision

    assert not await pair[0].delete_if(before)
    assert await pair[0].get(KEY) == anew
    assert not await pair[0].delete_if(before)
    assert await pair[1].get(KEY) == anew


# --- lists


async def test_what_the_index_says_is_looked_at_again(
    pair: tuple[DynamoDbRegistry, ...], proxy: DynamoDbProxy, behind_proxy: DynamoDbRegistry
) -> None:
    """The index is behind: it still names what was put off, done or removed."""
    rows = [await store(pair[0], new_row(name, sweep_at=10.0)) for name in "abcd"]
    kept: dict[str, dict[str, Any]] = {}

    async def keep(request: dict[str, Any], forward: Forward) -> dict[str, Any]:
        kept[str(request["ExpressionAttributeValues"])] = await forward()
        return kept[str(request["ExpressionAttributeValues"])]

    async def repeat(request: dict[str, Any], _forward: Forward) -> dict[str, Any]:
        return kept[str(request["ExpressionAttributeValues"])]

    proxy.faults["Query"] = [keep] * 4
    assert [row.key.document_id for row in await behind_proxy.due(before=20.0, limit=9)] == [
        *"abcd"
    ]
    await store(pair[0], replace(rows[0], sweep_at=50.0))
    await store(pair[0], replace(rows[1], sweep_at=None))
    await pair[0].delete_if(rows[2])
    newer = await store(pair[0], replace(rows[3], attempts=7))

    proxy.faults["Query"] = [repeat] * 4
    assert await behind_proxy.due(before=20.0, limit=9) == [newer]


async def test_many_are_listed_by_status_as_few_are(
    registry: DynamoDbRegistry, proxy: DynamoDbProxy, behind_proxy: DynamoDbRegistry
) -> None:
    for n in range(12):
        status = Status.FAILED if n % 3 else Status.COMPLETED
        await store(registry, new_row(f"d{n:02d}", status=status))
    expected = [f"d{n:02d}" for n in range(12) if n % 3]

    async def more_follow(_request: dict[str, Any], forward: Forward) -> dict[str, Any]:
        answer = await forward()
        return answer | {"LastEvaluatedKey": answer["Items"][-1]}

    faults: list[list[Fault]] = [[], [more_follow]]
    for fault in faults:
        found: list[str] = []
        cursor = None
        while True:
            proxy.faults["Query"] = list(fault)
            page = await behind_proxy.scan("docs", status=Status.FAILED, cursor=cursor, limit=3)
            found += [row.key.document_id for row in page.rows]
            cursor = page.cursor
            if cursor is None:
                break
        assert found == expected


async def test_counts_are_read_once_for_all_who_ask(
    proxy: DynamoDbProxy, behind_proxy: DynamoDbRegistry
) -> None:
    await store(behind_proxy, new_row())
    asked = proxy.seen.count("Query")

    first = await asyncio.gather(*[behind_proxy.counts() for _ in range(5)])
    await behind_proxy.counts()

    assert [counts[0].documents for counts in first] == [{Status.PENDING: 1}] * 5
    assert proxy.seen.count("Query") - asked == len(Status)


async def test_documents_are_named_also_where_rows_cannot_be_read(
    pair: tuple[DynamoDbRegistry, ...], table: str
) -> None:
    for name in ("b", "a", "ü", "c"):
        await store(pair[0], new_row(name, sweep_at=1.0))
    await overwrite(table, "b", format={"N": "2"})
    reader = pair[1]

    assert isinstance(reader, IdListingRegistry)
    assert await reader.document_ids("docs", after="", limit=3) == ["a", "b", "c"]
    assert await reader.document_ids("docs", after="c", limit=3) == ["ü"]
    due = await reader.due(before=5.0, limit=10)
    assert sorted(row.key.document_id for row in due) == ["a", "c", "ü"]
    unreadable = DocumentKey("docs", "b")
    with pytest.raises(DamagedDataError, match="format 2"):
        await reader.get(unreadable)
    with pytest.raises(DamagedDataError, match="format 2"):
        await reader.get_many([unreadable])
    with pytest.raises(DamagedDataError, match="format 2"):
        await reader.accept_blind(unreadable, desired("new"), now=1.0, stale_after_seconds=60)


# --- text


async def test_ids_as_long_as_a_sort_key(registry: DynamoDbRegistry) -> None:
    longest = ["é" * 512, "x" * 1023 + "\x7f", "x" * 1023 + "y", "\U0010ffff" * 256]
    for name in longest:
        row = await store(registry, new_row(name))
        assert await registry.get(row.key) == row
        assert [r.key for r in (await registry.scan("docs", prefix=name)).rows] == [row.key]

    page = await registry.scan("docs", limit=2)
    rest = await registry.scan("docs", limit=2, cursor=page.cursor)
    assert [row.key.document_id for row in [*page.rows, *rest.rows]] == sorted(longest)
    assert (await registry.scan("docs", prefix="x" * 1025)).rows == []
    assert (await registry.scan("docs", prefix="x" * 1023)).cursor is None
    assert len((await registry.scan("docs", prefix="x" * 1023)).rows) == 2


async def test_ids_that_no_key_can_hold(registry: DynamoDbRegistry) -> None:
    for name in ("", "x" * 1025):
        key = DocumentKey("docs", name)
        assert await registry.get(key) is None
        assert await registry.get_many([key]) == {}
        assert (await registry.history(key)).events == []
        assert not await registry.delete_if(replace(new_row(name), revision=1))
        with pytest.raises(ValueError, match="bytes"):
            await registry.put_if(new_row(name))
        with pytest.raises(ValueError, match="bytes"):
            await registry.accept_blind(key, desired(), now=1.0, stale_after_seconds=60)


async def test_a_namespace_without_a_name(registry: DynamoDbRegistry) -> None:
    row = replace(new_row(), key=DocumentKey("", "d"))
    stored = await store(registry, row)
    assert (await registry.scan("")).rows == [stored]
    assert [counts.namespace for counts in await registry.counts()] == [""]


async def test_source_versions_of_any_size(registry: DynamoDbRegistry) -> None:
    for n, source_version in enumerate([0, 2**53, 2**63, 10**37, -(10**60)]):
        change = desired(source_version=source_version)
        stored = await store(registry, replace(new_row(str(n)), desired=change))
        assert await registry.get(stored.key) == stored


async def test_source_versions_are_compared_exactly(registry: DynamoDbRegistry) -> None:
    async def accepted(text: str, source_version: int) -> int | Found:
        change = desired(text, source_version=source_version)
        return await registry.accept_blind(KEY, change, now=1.0, stale_after_seconds=60)

    assert await accepted("one", 2**53) == 1
    assert isinstance(await accepted("two", 2**53), Found)
    assert await accepted("three", 2**53 + 1) == 2


# --- at start


async def test_a_table_of_another_shape_is_refused(table: str, registry: DynamoDbRegistry) -> None:
    assert (await registry.check()).startswith(f"{table}: ")

    clients = shared_clients()
    client = await clients.client("dynamodb")
    wrong = definition(f"{table}-wrong")
    del wrong["GlobalSecondaryIndexes"][0]
    used = {"pk", "sk", "sweep_shard", "sweep_at"}
    wrong["AttributeDefinitions"] = [
        a for a in wrong["AttributeDefinitions"] if a["AttributeName"] in used
    ]
    await client.create_table(**wrong)
    await clients.release()
    for name, said in {f"{table}-wrong": STATUS_INDEX, f"{table}-gone": "no such table"}.items():
        other = DynamoDbRegistry(name, deadline_seconds=LIMIT_SECONDS)
        with pytest.raises(AwsSetupError, match=said):
            await other.check()
        await other.close()


async def test_the_table_is_named_by_the_url(table: str) -> None:
    opened = connect_any("registry", f"dynamodb:{table}", Settings(), "r")
    assert table in await opened.check()
    await opened.close()
    with pytest.raises(AwsSetupError, match="dynamodb:TABLE"):
        connect("dynamodb:", Settings(), "r")
