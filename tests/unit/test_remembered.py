"""What several attempts at one delivery leave for the next one."""

from __future__ import annotations

import json

import pytest

from common.ports.receipts import MAX_BODY_BYTES
from tests.fakes.receipts import MemoryReceipts
from tests.source_files import VARIABLE, source
from webhook.sources import remembered
from webhook.sources.identity import Part
from webhook.sources.mapping import JSON
from webhook.sources.remembered import Kept, Known, Remembered

PART = Part(context={}, names=("by-id", "by-signature"))
WHOLE: JSON = {"changes": 2, "accepted": 2}


def remembered_in(receipts: MemoryReceipts) -> Remembered:
    return Remembered(receipts, source(verify={"kind": "github", "secret": f"${{{VARIABLE}}}"}), 9)


async def known_of(store: Remembered, part: Part = PART) -> Known:
    (found,) = await store.known_of([part])
    return found


async def test_attempts_add_up_until_the_whole_is_told() -> None:
    store = remembered_in(MemoryReceipts())
    for key in ("a", "b", "c"):
        await store.keep([Kept(PART, await known_of(store), accepted=[key])])
    known = await known_of(store)
    assert (known.told, known.accepted) == (None, {"a", "b", "c"})
    await store.keep([Kept(PART, known, told=WHOLE)])
    assert (await known_of(store)).told == WHOLE


async def test_what_was_kept_under_one_name_is_known_under_any() -> None:
    store = remembered_in(MemoryReceipts())
    first = Part(context={}, names=PART.names[:1])
    await store.keep([Kept(first, await known_of(store, first), accepted=["a"])])
    await store.keep([Kept(PART, await known_of(store), accepted=["b"])])
    assert (await known_of(store)).accepted == {"a", "b"}
    await store.keep([Kept(PART, await known_of(store), told=WHOLE)])
    for name in PART.names:
        assert (await known_of(store, Part(context={}, names=(name,)))).told == WHOLE


async def test_attempts_at_the_same_time_lose_nothing_of_each_other() -> None:
    """None of them knew of the others when it began."""
    receipts = MemoryReceipts()
    store = remembered_in(receipts)
    one, two, three = [await known_of(store) for _ in range(3)]
    await store.keep([Kept(PART, one, accepted=["a"])])
    await store.keep([Kept(PART, two, accepted=["b"])])
    assert (await known_of(store)).accepted == {"a", "b"}
    await store.keep([Kept(PART, three, told=WHOLE)])
    assert (await known_of(store)).told == WHOLE
    await store.keep([Kept(PART, one, accepted=["c"])])
    assert (await known_of(store)).told == WHOLE
    assert len(receipts.kept) == 3 * len(PART.names), "nothing is behind the whole"


async def test_there_is_always_a_place_for_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "MAX_PLACES", 3)
    receipts = MemoryReceipts()
    store = remembered_in(receipts)
    for key in ("a", "b", "c", "d"):
        await store.keep([Kept(PART, await known_of(store), accepted=[key])])
    known = await known_of(store)
    assert known.accepted == {"a", "b"}
    await store.keep([Kept(PART, known, told=WHOLE)])
    assert (await known_of(store)).told == WHOLE
    assert len(receipts.kept) == 3 * len(PART.names)


async def test_as_many_changes_as_a_delivery_may_make_are_known() -> None:
    receipts = MemoryReceipts()
    store = remembered_in(receipts)
    keys = [f"{number:012d}" for number in range(100_000)]
    await store.keep([Kept(PART, await known_of(store), accepted=keys)])
    assert (await known_of(store)).accepted == set(keys)
    assert all(len(one.body) <= MAX_BODY_BYTES for one in receipts.kept.values())


async def test_a_new_delivery_costs_one_look_a_name() -> None:
    class Counting(MemoryReceipts):
        looks = 0

        async def find(self, scope, delivery_id, *, now):  # type: ignore[no-untyped-def]
            self.looks += 1
            return await super().find(scope, delivery_id, now=now)

    receipts = Counting()
    await known_of(remembered_in(receipts))
    assert receipts.looks == len(PART.names)


async def test_an_answer_that_is_too_long_is_kept_without_its_warnings() -> None:
    receipts = MemoryReceipts()
    store = remembered_in(receipts)
    long = {**WHOLE, "warnings": ["x" * MAX_BODY_BYTES]}
    await store.keep([Kept(PART, await known_of(store), told=long)])
    assert (await known_of(store)).told == WHOLE
    assert all(json.loads(one.body) == WHOLE for one in receipts.kept.values())
