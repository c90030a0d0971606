"""Whether a store holds what it should. Standard library only: both sides import it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

Held = tuple[str, str]
"""A document's id and the text of one of its chunks."""


def stale_and_missing(held: Iterable[Held], expected: Iterable[Held]) -> tuple[int, int, int]:
    """Records held, how many of them nothing calls for, and chunks that no record stands for.

    A chunk that a document says twice needs one record and may have two.
    """
    there, wanted = Counter(held), Counter(expected)
    return there.total(), (there - wanted).total(), len(wanted.keys() - there.keys())
