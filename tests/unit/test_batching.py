"""Batches: every text once, padding within the budget."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.batching import plan_batches

lengths_of_texts = st.lists(st.integers(0, 600), max_size=60)


@given(lengths_of_texts, st.integers(1, 1200), st.integers(1, 20))
def test_every_text_is_in_one_batch(lengths: list[int], budget: int, most: int) -> None:
    batches = plan_batches(lengths, budget, most)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(batches)


@given(lengths_of_texts, st.integers(1, 1200), st.integers(1, 20))
def test_a_batch_keeps_its_bounds_unless_it_is_one_text(
    lengths: list[int], budget: int, most: int
) -> None:
    for batch in plan_batches(lengths, budget, most):
        assert len(batch) <= most
        padded = max(lengths[i] for i in batch) * len(batch)
        assert padded <= budget or len(batch) == 1


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([], []),
        ([10, 10, 10, 10], [[0, 1, 2], [3]]),
        ([5, 30, 10], [[1], [2, 0]]),
        ([900, 1], [[0], [1]]),
    ],
)
def test_similar_lengths_share_a_batch(lengths: list[int], expected: list[list[int]]) -> None:
    assert plan_batches(lengths, 30, 8) == expected
