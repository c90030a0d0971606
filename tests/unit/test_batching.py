"""Batches and turns: padding within the budget, documents take turns, nobody starves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.batching import Turns, choose_batch

waiting = st.lists(st.integers(0, 600), min_size=1, max_size=60)


@given(waiting, st.integers(1, 1200), st.integers(1, 20))
def test_a_batch_holds_the_first_and_keeps_its_bounds(
    lengths: list[int], budget: int, most: int
) -> None:
    batch = choose_batch(lengths, budget, most)
    assert batch[0] == 0
    assert len(batch) == len(set(batch)) <= most
    padded = max(lengths[place] for place in batch) * len(batch)
    assert padded <= budget or batch == [0]


@given(waiting, st.integers(1, 1200))
def test_little_of_a_batch_is_padding(lengths: list[int], budget: int) -> None:
    batch = choose_batch(lengths, budget, 64)
    taken = [lengths[place] for place in batch]
    assert all(abs(length - taken[0]) <= max(8, max(length, taken[0]) // 4) for length in taken)


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 1200))
def test_equal_lengths_fill_the_budget(length: int, count: int, budget: int) -> None:
    batch = choose_batch([length] * count, budget, 16)
    assert len(batch) == max(1, min(count, budget // length, 16))


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([10, 10, 10, 10], [0, 1, 2]),
        ([10, 90, 12, 11], [0, 3]),  # the nearest length first: 2 x 12 would fit as well as 2 x 11
        ([90, 10], [0]),
        ([10, 9, 14], [0, 1]),
        ([0, 0], [0, 1]),
    ],
)
def test_similar_lengths_share_a_batch(lengths: list[int], expected: list[int]) -> None:
    assert choose_batch(lengths, 30, 8)[: len(expected)] == expected
    assert len(choose_batch(lengths, 30, 8)) == len(expected)


def drained(turns: Turns[str]) -> list[str]:
    order = []
    while turns:
        (item,) = turns.first(1)
        turns.take([item])
        order.append(item)
    return order


def test_calls_take_turns() -> None:
    turns: Turns[str] = Turns()
    turns.add(["a1", "a2", "a3"])
    turns.add(["b1", "b2"])
    assert turns.first(9) == ["a1", "b1", "a2", "b2", "a3"]
    assert drained(turns) == ["a1", "b1", "a2", "b2", "a3"]


def test_one_chunk_passes_a_long_document() -> None:
    turns: Turns[str] = Turns()
    turns.add([f"long{n}" for n in range(30_000)])
    for n in range(100):
        turns.take([f"long{n}"])
    turns.add(["short"])
    assert turns.first(2) == ["long100", "short"]


def test_what_comes_later_stays_out_of_a_round_that_has_begun() -> None:
    """Or a stream of short documents would hold up the second chunk of a long one for ever."""
    turns: Turns[str] = Turns()
    turns.add(["a1", "a2"])
    turns.add(["b1"])
    turns.take(turns.first(1))
    turns.add(["c1"])
    assert turns.first(9) == ["b1", "a2", "c1"]


def test_an_item_that_waits_keeps_the_earlier_turn() -> None:
    turns: Turns[str] = Turns()
    turns.add(["a1", "a2", "shared"])
    turns.add(["shared"])
    assert turns.first(9) == ["a1", "shared", "a2"]
    turns.add(["b1", "b2", "a1"])
    assert drained(turns) == ["a1", "shared", "b1", "a2", "b2"]


def test_the_middle_can_be_taken_and_removed() -> None:
    turns: Turns[str] = Turns()
    turns.add(["a1", "a2", "a3", "a4"])
    turns.take(["a1", "a3"])
    turns.remove("a2")
    turns.remove("a2")
    assert len(turns) == 1
    assert drained(turns) == ["a4"]
    turns.add(["b1"])
    assert drained(turns) == ["b1"]


@given(
    st.lists(
        st.one_of(
            st.lists(st.integers(0, 30), min_size=1, max_size=8),  # a call
            st.integers(1, 3),  # so many of the next are taken
            st.tuples(st.integers(0, 30)),  # one is withdrawn
        ),
        max_size=40,
    )
)
def test_every_item_leaves_once_and_waits_for_no_more_than_stood_before_it(
    story: list[list[int] | int | tuple[int]],
) -> None:
    turns: Turns[int] = Turns()
    expected: set[int] = set()
    for step in story:
        if isinstance(step, list):
            turns.add(step)
            expected |= set(step)
        elif isinstance(step, tuple):
            turns.remove(step[0])
            expected -= set(step)
        elif turns:
            taken = turns.first(step)
            turns.take(taken)
            expected -= set(taken)
        shown = turns.first(100)
        assert len(shown) == len(set(shown)) == len(turns)
        assert set(shown) == expected
        assert turns.first(3) == shown[:3]
    assert sorted(drained_numbers(turns)) == sorted(expected)


def drained_numbers(turns: Turns[int]) -> list[int]:
    order = []
    while turns:
        item = turns.first(1)
        turns.take(item)
        order += item
    return order
