"""Pinecone's limits, and requests packed to stay below them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

T = TypeVar("T")

UPSERT_RECORDS: Final = 1000
UPSERT_BYTES: Final = 1_900_000
"""Of 2 MB, counted as encoded."""
METADATA_BYTES: Final = 40_000
"""Of a record; 40 KB in their smaller reading."""
USER_METADATA_BYTES: Final = 32 * 1024
"""Of a document, so that all that is kept with it fits beside it."""
DELETE_IDS: Final = 500
"""Of 1,000: a request must fit the bucket of deleted records a second (pinecone_rates)."""
FETCH_IDS: Final = 1000
FETCH_URL_BYTES: Final = 6000
"""Ids travel in the address, and servers read no longer one than 8 KB."""
LIST_IDS: Final = 100
TOP_K: Final = 10_000
NAMESPACE_CHARACTERS: Final = 512


def packed(
    items: Sequence[T], size_of: Callable[[T], int], *, max_count: int, max_bytes: int
) -> list[list[T]]:
    """In order, as few parts as go: each at most `max_count` items of `max_bytes` together.

    An item that is larger by itself gets a part of its own.
    """
    parts: list[list[T]] = []
    held = 0
    for item in items:
        size = size_of(item)
        if not parts or len(parts[-1]) == max_count or held + size > max_bytes:
            parts.append([])
            held = 0
        parts[-1].append(item)
        held += size
    return parts
