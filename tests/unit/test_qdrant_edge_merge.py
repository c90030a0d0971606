"""Which shards are merged."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.adapters.index.qdrant_edge_merge import GROWTH, Size, to_merge

LIMIT = 5000


def merged(sealed: list[Size], limit: int = LIMIT) -> list[Size]:
    places = to_merge(sealed, limit)
    if not places:
        return sealed
    live = sum(sealed[place].live for place in places)
    kept = [size for place, size in enumerate(sealed) if place not in places]
    return [*kept[: places[0]], Size(live, max(1, live)), *kept[places[0] :]]


def test_a_shard_without_a_graph_gets_one() -> None:
    assert to_merge([Size(LIMIT, 0)], LIMIT) == [0]
    assert to_merge([Size(LIMIT, LIMIT)], LIMIT) == []


def test_what_is_much_larger_is_left_alone() -> None:
    big = GROWTH * LIMIT + 1
    assert to_merge([Size(big, big), Size(LIMIT, 0)], LIMIT) == [1]
    assert to_merge([Size(big - 1, big - 1), Size(LIMIT, 0)], LIMIT) == [0, 1]


def test_a_merge_that_has_grown_takes_the_larger_one_too() -> None:
    big = 2 * GROWTH * LIMIT
    sizes = [Size(big, big), Size(LIMIT, LIMIT), Size(LIMIT, 0)]
    assert to_merge(sizes, LIMIT) == [0, 1, 2]


def test_space_of_deleted_records_is_reclaimed_where_it_is_worth_it() -> None:
    assert to_merge([Size(7501, 10_000)], LIMIT) == []
    assert to_merge([Size(7500, 10_000)], LIMIT) == [0]
    assert to_merge([Size(1, LIMIT - 1)], LIMIT) == []


@given(st.lists(st.integers(LIMIT, 4 * LIMIT), min_size=1, max_size=300))
def test_shards_stay_few_and_records_are_rewritten_seldom(sealed: list[int]) -> None:
    sizes: list[Size] = []
    rewritten = 0
    for live in sealed:
        sizes = merged([*sizes, Size(live, 0)])
        assert to_merge(sizes, LIMIT) == []
        rewritten += sizes[-1].live
    assert sum(size.live for size in sizes) == sum(sealed)
    assert len(sizes) <= 2
