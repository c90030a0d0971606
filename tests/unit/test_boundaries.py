"""Where sections are cut, by the rule itself."""

import random
from itertools import accumulate

import pytest

from common.chunking.boundaries import Spacing, cuts, spacing_for, sure_cut

SPACING = Spacing(nearest=10, farthest=32, smallest=5, usual=20, whole=20)


def drawn(count: int, seed: int = 1) -> tuple[list[int], list[int]]:
    generator = random.Random(seed)
    sizes = [generator.randrange(1, 5) for _ in range(count)]
    return sizes, [generator.randrange(1 << 64) for _ in range(count)]


def test_nothing_is_cut_into_nothing() -> None:
    assert cuts([], [], SPACING) == []


def test_what_fits_is_not_cut() -> None:
    assert cuts([10, 10], [0, 9], SPACING) == [0]
    assert cuts([11, 10], [0, 9], SPACING) == [0, 1]


def test_the_best_place_around_is_a_cut_and_the_places_near_it_are_not() -> None:
    scores = [9, 1, 2, 8, 3, 7, 1, 1]
    assert cuts([4] * 8, scores, SPACING) == [0, 3]


def test_of_equal_places_the_first_is_the_cut() -> None:
    assert cuts([4] * 8, [9, 1, 2, 8, 8, 1, 1, 1], SPACING) == [0, 3]


def test_no_cut_is_nearer_to_a_better_one_or_to_the_ends() -> None:
    sizes, scores = drawn(3000)
    starts = [0, *accumulate(sizes)]
    spacing = Spacing(nearest=10, farthest=10**9, smallest=5, usual=20, whole=20)
    found = cuts(sizes, scores, spacing)
    gaps = [starts[b] - starts[a] for a, b in zip(found, [*found[1:], len(sizes)], strict=True)]
    assert min(gaps) >= spacing.nearest
    for cut in found[1:]:
        near = [i for i in range(len(sizes)) if 0 < abs(starts[i] - starts[cut]) < spacing.nearest]
        assert all(scores[i] < scores[cut] for i in near)


def test_what_is_too_large_is_cut_again_into_parts_of_a_fair_size() -> None:
    sizes, scores = drawn(3000, seed=2)
    starts = [0, *accumulate(sizes)]
    found = cuts(sizes, scores, SPACING)
    gaps = [starts[b] - starts[a] for a, b in zip(found, [*found[1:], len(sizes)], strict=True)]
    assert max(gaps) <= SPACING.farthest
    assert min(gaps) >= SPACING.smallest
    assert 16 <= sum(gaps) / len(gaps) <= 22


def test_where_all_places_are_alike_parts_are_of_the_usual_size() -> None:
    found = cuts([1] * 100, [7] * 100, SPACING)
    assert found == [0, 20, 40, 60, 80]


def test_atoms_larger_than_a_chunk_stand_alone() -> None:
    assert cuts([50, 50, 50], [1, 1, 1], SPACING) == [0, 1, 2]


@pytest.mark.parametrize("seed", range(5))
def test_a_sure_cut_holds_whatever_follows(seed: int) -> None:
    sizes, scores = drawn(500, seed)
    for length in (50, 200, 400):
        sure = sure_cut(sizes[:length], scores[:length], SPACING)
        assert sure is not None
        before = cuts(sizes[:sure], scores[:sure], SPACING)
        behind = [sure + cut for cut in cuts(sizes[sure:], scores[sure:], SPACING)]
        assert before + behind == cuts(sizes, scores, SPACING)


def test_the_spacing_keeps_to_the_window() -> None:
    assert spacing_for(256, 446) == Spacing(128, 409, 64, 256, 256)
    assert spacing_for(512, 446).farthest == 446
    assert spacing_for(1, 446).nearest == 1
