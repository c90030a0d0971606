"""What one call cannot hold is sent by several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def batches(items: Sequence[T], size: int) -> list[list[T]]:
    """In order, all but the last of `size` items."""
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def id_batches(ids: Sequence[str], size: int) -> list[list[str]]:
    """Each id once."""
    return batches(list(dict.fromkeys(ids)), size)
