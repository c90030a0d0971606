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
        if len(record.vector) != dimension:
            raise mismatch(namespace, dimension, len(record.vector))
        if not math.isfinite(sum(record.vector)):
            raise PermanentError(f"the vector of record {record.id} is not finite")
    return dimension


def mismatch(namespace: str, held: int, given: int) -> DimensionMismatchError:
    return DimensionMismatchError(
        f"namespace {namespace!r} holds vectors of {held} dimensions, this one has {given}"
    )
