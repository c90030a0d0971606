"""Metadata filters in the JSON of Qdrant's REST API; the embedded index has them as objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from common.adapters.index.qdrant_payload import DOCUMENT_KEY_FIELD, metadata_path
from common.identity import DOCUMENT_KEY_LENGTH
from common.ports.errors import PermanentError
from common.ports.index import FieldFilter, MetadataFilter

Condition = dict[str, Any]

_EXACT_FLOAT: Final = 2**53
"""Above it integers have no exact float, and ranges compare floats."""


def of_document(prefix: str) -> Condition | None:
    """By the indexed document key where the prefix holds one; None: every point is looked at."""
    if len(prefix) < DOCUMENT_KEY_LENGTH:
        return None
    match = {"value": prefix[:DOCUMENT_KEY_LENGTH]}
    return {"must": [{"key": DOCUMENT_KEY_FIELD, "match": match}]}


def whole_filter(where: MetadataFilter) -> Condition:
    """A filter may stand within a filter, a single condition may not stand alone."""
    return {"must": [_condition(where)]}


def _condition(where: MetadataFilter) -> Condition:
    if isinstance(where, FieldFilter):
        return _field_condition(where)
    parts = [_condition(part) for part in where.parts]
    if where.mode == "all":
        return {"must": parts}
    if where.mode == "any":
        return _any_of(parts)
    raise PermanentError(f"unknown filter mode {where.mode!r}: all and any are known")


def _any_of(conditions: list[Condition]) -> Condition:
    """An empty `should` would match everything; none of nothing must match nothing."""
    return {"min_should": {"conditions": conditions, "min_count": 1}}


def _field_condition(where: FieldFilter) -> Condition:
    key = metadata_path(where.field)
    value = where.value
    values = value if isinstance(value, tuple) else (value,)
    if where.op in {"eq", "in"}:
        return _any_of(_memberships(key, values))
    if where.op in {"ne", "nin"}:
        return _not(_any_of(_memberships(key, values)))
    if where.op == "exists":
        empty = {"is_empty": {"key": key}}
        return _not(empty) if value else empty
    return _range(key, where.op, value)


def _memberships(key: str, values: Sequence[object]) -> list[Condition]:
    """One condition for all strings together: a thousand of them cost one look-up a point."""
    texts = [value for value in values if isinstance(value, str)]
    found = [_equals(key, value) for value in values if not isinstance(value, str)]
    if texts:
        found.append({"key": key, "match": {"any": texts}})
    return found


def _not(condition: Condition) -> Condition:
    return {"must_not": [condition]}


def _equals(key: str, value: object) -> Condition:
    if isinstance(value, bool):
        return {"key": key, "match": {"value": value}}
    if isinstance(value, int) and abs(value) >= _EXACT_FLOAT:
        return {"key": key, "match": {"value": value}}
    if isinstance(value, int | float):
        # An integer match would miss 1.0 for 1, and there is no match for floats.
        return {"key": key, "range": {"gte": float(value), "lte": float(value)}}
    raise PermanentError(f"a filter cannot compare with {value!r}")


def _range(key: str, op: str, value: object) -> Condition:
    if op not in {"gt", "gte", "lt", "lte"}:
        raise PermanentError(f"unknown filter operator {op!r}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PermanentError(f"{op} compares numbers, not {value!r}")
    return {"key": key, "range": {op: float(value)}}
