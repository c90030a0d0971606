"""The pure parts of the read path."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.model import IdRange, expand
from common.transitions import compress
from webhook.search import _Places, pause_seconds


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 15)), unique=True))
def test_every_record_is_found_at_its_place_and_no_other(ids: list[tuple[int, int]]) -> None:
    places = _Places(compress(ids))
    for generation in range(7):
        for number in range(18):
            expected = ids.index((generation, number)) if (generation, number) in ids else None
            assert places.find(generation, number) == expected


def test_places_follow_the_manifest_not_the_ids() -> None:
    manifest = (IdRange(7, 0, 1), IdRange(2, 5, 5), IdRange(7, 2, 2))
    found = [_Places(manifest).find(*pair) for pair in expand(manifest)]
    assert found == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("waited", "look_took", "pause"),
    [(0.0, 0.0, 0.005), (0.1, 0.0, 0.01), (60.0, 0.0, 0.1), (60.0, 0.5, 1.5)],
)
def test_pauses(waited: float, look_took: float, pause: float) -> None:
    assert pause_seconds(waited, look_took) == pytest.approx(pause)
