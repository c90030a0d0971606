from __future__ import annotations

from common.bounded_map import BoundedMap


def test_what_was_not_asked_for_longest_goes_first() -> None:
    kept: BoundedMap[str, int] = BoundedMap(2, 100)
    kept.put("a", 1, 1)
    kept.put("b", 2, 1)
    assert kept.get("a") == 1
    assert kept.put("c", 3, 1) == [2]
    assert (kept.get("a"), kept.get("b"), kept.get("c")) == (1, None, 3)


def test_bytes_are_bounded_too() -> None:
    kept: BoundedMap[str, int] = BoundedMap(100, 10)
    kept.put("a", 1, 6)
    kept.put("b", 2, 3)
    assert kept.put("c", 3, 4) == [1]
    assert kept.bytes == 7
    assert kept.put("huge", 4, 11) == [2, 3, 4]
    assert (len(kept), kept.bytes) == (0, 0)


def test_a_key_that_comes_again_replaces_what_was_there() -> None:
    kept: BoundedMap[str, int] = BoundedMap(2, 10)
    kept.put("a", 1, 4)
    assert kept.put("a", 2, 3) == [1]
    assert (kept.get("a"), len(kept), kept.bytes) == (2, 1, 3)
    assert kept.pop("a") == 2
    assert (kept.pop("a"), kept.bytes) == (None, 0)
