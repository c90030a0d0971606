"""Vectors of a namespace have one dimension, and are finite."""

from __future__ import annotations

import math
from collections.abc import Sequence

from common.model import Record
from common.ports.errors import PermanentError
from common.ports.index import DimensionMismatchError


def common_dimension(namespace: str, records: Sequence[Record]) -> int:
    """Of all `records`. Raises DimensionMismatchError, and PermanentError for NaN and infinity."""
    dimension = len(records[0].vector)
    for record in records:
        require_dimension(namespace, dimension, len(record.vector))
        require_finite(record)
    return dimension


def require_dimension(namespace: str, held: int | None, given: int) -> None:
    """`held`: None where nothing was written yet. Raises DimensionMismatchError."""
    if held is not None and held != given:
        raise DimensionMismatchError(
            f"namespace {namespace!r} holds vectors of {held} dimensions, this one has {given}"
        )


def require_finite(record: Record) -> None:
    """Raises PermanentError: what is not finite would travel as null."""
    if not math.isfinite(sum(record.vector)):
        raise PermanentError(f"the vector of record {record.id} is not finite")
