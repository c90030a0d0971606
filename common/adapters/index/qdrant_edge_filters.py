"""Metadata filters in Qdrant's terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import qdrant_edge as qdrant

from common.adapters.index.qdrant_payload import metadata_path
from common.identity import DOCUMENT_KEY_LENGTH
from common.ports.errors import PermanentError
from common.ports.index import FieldFilter, Filter, MetadataFilter

Condition = Any

_EXACT_FLOAT: Final = 2**53
"""Above it integers have no exact float, and ranges compare floats."""


def prefix_filter(prefix: str) -> qdrant.Filter | None:
    """By the indexed document key where the prefix holds one; else every record is looked at."""
    if len(prefix) < DOCUMENT_KEY_LENGTH:
        return None
    key = qdrant.MatchValue(prefix[:DOCUMENT_KEY_LENGTH])
    return qdrant.Filter(must=[qdrant.FieldCondition(key="dk", match=key)])


def condition(where: MetadataFilter) -> Condition:
    if isinstance(where, FieldFilter):
        return _field_condition(where)
    return _combined(where)


def _combined(where: Filter) -> Condition:
    parts = [condition(part) for part in where.parts]
    if where.mode == "all":
        return qdrant.Filter(must=parts)
    if where.mode == "any":
        return _any_of(parts)
    raise PermanentError(f"unknown filter mode {where.mode!r}: all and any are known")


def _any_of(conditions: list[Condition]) -> qdrant.Filter:
    """An empty `should` would match everything; none of nothing must match nothing."""
    return qdrant.Filter(min_should=qdrant.MinShould(conditions, 1))


def _field_condition(where: FieldFilter) -> Condition:
    key = metadata_path(where.field)
    value = where.value
    if where.op in {"eq", "ne"}:
        equal = _equals(key, value)
        return equal if where.op == "eq" else _not(equal)
    if where.op in {"in", "nin"}:
        values = value if isinstance(value, tuple) else (value,)
        among = _any_of(_memberships(key, values))
        return among if where.op == "in" else _not(among)
    if where.op == "exists":
        empty = qdrant.IsEmptyCondition(key)
        return _not(empty) if value else empty
    return _range(key, where.op, value)


def _memberships(key: str, values: Sequence[object]) -> list[Condition]:
    """One condition for all strings together: a thousand of them cost one look-up a record."""
    texts = [item for item in values if isinstance(item, str)]
    others = [_equals(key, item) for item in values if not isinstance(item, str)]
    if texts:
        others.append(qdrant.FieldCondition(key=key, match=qdrant.MatchAny(texts)))
    return others


def _not(condition: Condition) -> qdrant.Filter:
    return qdrant.Filter(must_not=[condition])


def _equals(key: str, value: object) -> Condition:
    return qdrant.FieldCondition(key=key, **_equality(value))


def _equality(value: object) -> dict[str, Any]:
    if isinstance(value, bool):
        # The binding takes Python's bool for the integer it also is; numpy's is none.
        return {"match": qdrant.MatchValue(np.bool_(value))}  # type: ignore[arg-type]
    if isinstance(value, str):
        return {"match": qdrant.MatchValue(value)}
    if isinstance(value, int) and abs(value) >= _EXACT_FLOAT:
        return {"match": qdrant.MatchValue(value)}
    if isinstance(value, int | float):
        # An integer match would miss 1.0 for 1, and there is no match for floats.
        return {"range": qdrant.RangeFloat(gte=float(value), lte=float(value))}
    raise PermanentError(f"a filter cannot compare with {value!r}")


def _range(key: str, op: str, value: object) -> Condition:
    if op not in {"gt", "gte", "lt", "lte"}:
        raise PermanentError(f"unknown filter operator {op!r}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PermanentError(f"{op} compares numbers, not {value!r}")
    return qdrant.FieldCondition(key=key, range=qdrant.RangeFloat(**{op: float(value)}))
