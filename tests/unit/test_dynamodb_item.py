"""A row as an item and back, without a server."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.adapters.registry.dynamodb_accept import accept_request
from common.adapters.registry.dynamodb_events import (
    KEPT_PAGES,
    PAGE_EVENTS,
    Told,
    event_of,
    full_pages,
    oldest_kept,
    rest_of,
)
from common.adapters.registry.dynamodb_item import (
    ACCEPTED_BYTES,
    INLINE_BYTES,
    PARTS,
    Part,
    check_fits,
    fits,
    item_of,
    number,
    pack,
    parts_of_row,
    stored_of,
    too_large,
    unpack,
    writes_of,
)
from common.adapters.registry.dynamodb_ranges import (
    pack_garbage,
    pack_ranges,
    unpack_garbage,
    unpack_ranges,
)
from common.adapters.registry.dynamodb_table import STATUS_INDEX, definition, faults_of
from common.aws.table_calls import Item
from common.model import DocumentKey, Event, EventKind, Garbage, GarbageState, IdRange, Row
from common.ports.registry import KEPT_EVENTS
from common.wire import DamagedDataError
from tests.builders import KEY, desired, row, tombstone

numbers = st.integers(min_value=0, max_value=2**40)
ranges = st.builds(IdRange, numbers, numbers, numbers)
garbage = st.builds(
    Garbage,
    ranges,
    st.sampled_from(GarbageState),
    st.floats(allow_nan=False, allow_infinity=False),
)


def item_with(value: Row, **changes: Any) -> Item:
    parts: dict[str, Part] = dict(parts_of_row(value))
    item = item_of(value, life="life", parts=parts, told=0, events=b"", writes=["w1", "w2"])
    return item | changes


def read(item: Item) -> Row:
    parts: dict[str, bytes] = {name: item[name]["B"] for name in PARTS if name in item}
    return stored_of(item, parts).row


@given(st.lists(ranges, max_size=40))
def test_ranges_come_back_as_they_were(given_ranges: list[IdRange]) -> None:
    assert unpack_ranges(pack_ranges(given_ranges)) == tuple(given_ranges)


@given(st.lists(garbage, max_size=40))
def test_garbage_comes_back_as_it_was(entries: list[Garbage]) -> None:
    assert unpack_garbage(pack_garbage(entries)) == tuple(entries)


def test_many_ranges_take_few_bytes() -> None:
    fragmented = [IdRange(1700000000 + n % 50, 3 * n, 3 * n + n % 2) for n in range(200_000)]

    assert len(pack_ranges(fragmented)) < 1_000_000
    neighbours = [IdRange(7, 2 * n, 2 * n) for n in range(10_000)]
    assert len(pack_ranges(neighbours)) < 1000


@pytest.mark.parametrize("time", [float("nan"), float("inf")])
def test_garbage_without_a_time_is_refused(time: float) -> None:
    with pytest.raises(ValueError, match="NaN"):
        pack_garbage([Garbage(IdRange(1, 0, 0), GarbageState.OPEN, time)])


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**63), 2**63))
def test_numbers_are_exact_however_large_or_small(real: float, whole: int) -> None:
    value = row(
        desired=desired(metadata={"real": real, "whole": whole}, source_version=2**53),
        sweep_at=real,
        updated_at=real,
        garbage=(Garbage(IdRange(1, 0, 0), GarbageState.OPEN, real),),
    )

    assert read(item_with(value)) == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_indexed_numbers_are_within_what_dynamodb_takes(value: float) -> None:
    stored = float(number(value)["N"])

    assert stored == value or abs(value) > 1e125 or abs(value) < 1e-120
    assert abs(stored) <= 1e125
    assert stored == 0 or abs(stored) >= 1e-120


@pytest.mark.parametrize(
    "damage",
    [
        {"format": {"N": "2"}},
        {"format": {}},
        {"body": {"B": b"\x00"}},
        {"body": {"B": pack(b"{}")}},
        {"body": {"B": pack(b"{}")[:-1]}},
        {"manifest": {"B": b"no ranges"}},
        {"life": {}},
        {"changes": {"L": [{"S": "[]"}]}},
    ],
    ids=str,
)
def test_what_cannot_be_read_is_damaged(damage: Item) -> None:
    item = item_with(row(applied=replace(row().applied, manifest=(IdRange(1, 0, 1),))))
    assert read(item).key == KEY

    with pytest.raises(DamagedDataError):
        read(item | damage)


def test_what_ends_in_the_middle_is_damaged() -> None:
    whole = pack_ranges([IdRange(1, 0, 1), IdRange(200, 5, 9)])
    with pytest.raises(Exception, match=r"incomplete|truncated"):
        unpack_ranges(whole[:-1])
    with pytest.raises(Exception, match="middle"):
        unpack(pack(b"a" * 1000)[:-1])


def test_only_as_much_is_spilled_as_must_be() -> None:
    small, large = b"x" * 1000, b"x" * INLINE_BYTES
    assert too_large({"body": small, "manifest": small, "garbage": b""}) == []
    assert too_large({"body": small, "manifest": small, "garbage": large}) == ["garbage"]
    both = too_large({"body": small, "manifest": large + b"x", "garbage": large})
    assert both == ["manifest", "garbage"]


def test_keys_within_dynamodbs_limits() -> None:
    assert fits(DocumentKey("n" * 2047, "é" * 512))
    assert fits(DocumentKey("", "d"))
    for key in (DocumentKey("n" * 2048, "d"), DocumentKey("n", "é" * 513), DocumentKey("n", "")):
        assert not fits(key)
        with pytest.raises(ValueError, match="bytes"):
            check_fits(key)


def test_the_last_writes_are_named_whichever_way_they_were_made() -> None:
    item = item_with(row())
    assert writes_of(item) == ("w1", "w2")
    changed = item | {"changes": {"L": [{"S": '["w3",1.0,false,1,"t",null]'}]}}
    assert writes_of(changed) == ("w1", "w2", "w3")


def test_a_large_change_is_not_accepted_unread() -> None:
    def request(**changes: Any) -> dict[str, Any] | None:
        change = desired(**changes)
        return accept_request(KEY, change, write="w", now=1.0, stale_at=2.0)

    incompressible = "".join(chr(0x4E00 + (n * 7919) % 20000) for n in range(ACCEPTED_BYTES))
    assert request(metadata={"text": "small"}) is not None
    assert request(metadata={"text": incompressible}) is None
    assert request(source_version=10**37 - 1) is not None
    assert request(source_version=10**37) is None


def test_a_delete_that_remembers_nothing_makes_no_item() -> None:
    def condition(change: Any) -> str:
        request = accept_request(KEY, change, write="w", now=1.0, stale_at=2.0)
        assert request is not None
        return str(request["ConditionExpression"])

    assert not condition(tombstone()).startswith("attribute_not_exists(pk)")
    assert condition(tombstone(source_version=1)).startswith("attribute_not_exists(pk)")


# --- history


def line(number: int) -> list[Any]:
    return [float(number), "error", number, ""]


@given(st.lists(st.integers(0, 100), max_size=60))
def test_pages_and_the_item_hold_every_event_once(writes: list[int]) -> None:
    told, count = Told(0, []), 0
    pages: dict[int, list[Any]] = {}
    for news in writes:
        events = [Event(float(n), EventKind.ERROR, n, "") for n in range(count, count + news)]
        count += news
        pages |= full_pages(told)
        told = rest_of(told, events)

    paged = [line for n in sorted(pages) for line in pages[n]]
    assert paged + told.lines == [line(n) for n in range(count)]
    assert {len(lines) for lines in pages.values()} <= {PAGE_EVENTS}
    assert told.first == len(paged)


def test_enough_of_history_is_kept_and_not_too_much() -> None:
    first = 500 * PAGE_EVENTS
    assert KEPT_EVENTS <= first - oldest_kept(first) <= 2 * KEPT_EVENTS - 2 * PAGE_EVENTS
    # The page that is removed when page 499 is written holds only what is not told any more.
    assert oldest_kept(first) == (499 - KEPT_PAGES + 1) * PAGE_EVENTS


def test_an_event_of_a_newer_program_is_damaged() -> None:
    assert event_of(line(3)) == Event(3.0, EventKind.ERROR, 3, "")
    for broken in ([3.0, "archived", 3, ""], [3.0, "error"], None):
        with pytest.raises(DamagedDataError):
            event_of(broken)  # type: ignore[arg-type]


# --- the table


def described(**changes: Any) -> dict[str, Any]:
    return {**definition("t"), "TableStatus": "ACTIVE", **changes}


def test_the_table_as_it_is_defined_has_no_fault() -> None:
    assert faults_of(described()) == []


def test_each_fault_of_a_table_is_told() -> None:
    indexes = described()["GlobalSecondaryIndexes"]
    wrong_keys = [{"AttributeName": "id", "KeyType": "HASH"}]
    numeric = [{**a, "AttributeType": "N"} for a in described()["AttributeDefinitions"]]
    bare = [{**index, "Projection": {"ProjectionType": "KEYS_ONLY"}} for index in indexes]
    making = [{**index, "IndexStatus": "CREATING"} for index in indexes]

    assert faults_of(described(TableStatus="DELETING")) == ["the table is DELETING"]
    assert faults_of(described(KeySchema=wrong_keys)) == ["it is not keyed by pk (S) and sk (S)"]
    assert "it is not keyed by pk (S) and sk (S)" in faults_of(
        described(AttributeDefinitions=numeric)
    )
    assert faults_of(described(GlobalSecondaryIndexes=indexes[1:])) == [
        f"it has no index {STATUS_INDEX}"
    ]
    assert faults_of(described(GlobalSecondaryIndexes=bare)) == [
        f"its index {STATUS_INDEX} does not include chunk_count, size_bytes"
    ]
    assert len(faults_of(described(GlobalSecondaryIndexes=making))) == 2
