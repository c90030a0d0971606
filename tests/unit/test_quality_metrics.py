"""The metrics of a ranking, against values worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench.quality.metrics import (
    bootstrap_interval,
    finds,
    mean,
    ndcg,
    recall,
    reciprocal_rank,
)

gains = st.lists(st.integers(0, 1), min_size=1, max_size=10)


def test_a_target_is_found_once_and_only_within_the_depth() -> None:
    held = [["x"], ["a", "b"], [], ["a", "c"], ["d"]]
    assert finds(held, {"a", "b", "c", "d"}, 4) == [0, 2, 0, 1]


def test_what_is_not_wanted_is_no_find() -> None:
    assert finds([["x"], ["y"]], {"a"}, 2) == [0, 0]


def test_ndcg_discounts_by_rank() -> None:
    first, third = 1 / math.log2(2), 1 / math.log2(4)
    ideal = 1 / math.log2(2) + 1 / math.log2(3)
    assert ndcg([1, 0, 1], wanted=2) == pytest.approx((first + third) / ideal)
    assert ndcg([1, 1, 0], wanted=2) == 1
    assert ndcg([0, 0, 1], wanted=1) == pytest.approx(0.5)


def test_the_ideal_has_no_more_than_there_are_ranks() -> None:
    assert ndcg([1, 1], wanted=50) == 1


def test_two_finds_at_one_rank_are_no_better_than_ideal() -> None:
    assert ndcg([2, 0], wanted=2) == 1
    assert 0.75 < ndcg([0, 2], wanted=2) < 1


@given(gains)
def test_an_earlier_find_is_never_worse(found: list[int]) -> None:
    wanted = max(sum(found), 1)
    better = sorted(found, reverse=True)
    assert ndcg(found, wanted) <= ndcg(better, wanted)
    assert reciprocal_rank(found) <= reciprocal_rank(better)


def test_recall_is_the_share_that_was_found() -> None:
    assert recall([1, 0, 1], wanted=8) == 0.25
    assert recall([], wanted=0) == 0


def test_the_first_find_decides_the_reciprocal_rank() -> None:
    assert reciprocal_rank([0, 0, 1, 1]) == pytest.approx(1 / 3)
    assert reciprocal_rank([0, 0]) == 0


def test_the_mean_of_nothing_is_nothing() -> None:
    assert mean([]) == 0
    assert mean([0.1] * 10) == pytest.approx(0.1)


def test_the_interval_is_as_wide_as_the_standard_error_says() -> None:
    differences = [1.0, -1.0] * 200  # a standard error of the mean of 1 / sqrt(400)
    low, high = bootstrap_interval(differences)
    assert low == pytest.approx(-1.96 / 20, abs=0.01)
    assert high == pytest.approx(1.96 / 20, abs=0.01)


def test_equal_differences_leave_nothing_to_chance() -> None:
    assert bootstrap_interval([0.25] * 30) == (0.25, 0.25)
