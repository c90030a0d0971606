"""Metadata filters in the JSON of Qdrant's REST API; `qdrant_edge_filters` makes objects of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.adapters.index.filter_terms import bound_of, folded, values_of
from common.adapters.index.metadata_numbers import EXACT_FLOAT
from common.adapters.index.qdrant_payload import DOCUMENT_KEY_FIELD, metadata_path
from common.identity import DOCUMENT_KEY_LENGTH
from common.ports.errors import PermanentError
from common.ports.index import FieldFilter, MetadataFilter

Condition = dict[str, Any]


def of_document(prefix: str) -> Condition | None:
    """By the indexed document key where the prefix holds one; None: every point is looked at."""
    if len(prefix) < DOCUMENT_KEY_LENGTH:
        return None
    match = {"value": prefix[:DOCUMENT_KEY_LENGTH]}
    return {"must": [{"key": DOCUMENT_KEY_FIELD, "match": match}]}


def whole_filter(where: MetadataFilter) -> Condition:
    """A filter may stand within a filter, a single condition may not stand alone."""
    return _all_of([condition(where)])


def condition(where: MetadataFilter) -> Condition:
    return folded(where, _field_condition, _all_of, _any_of)


def _all_of(conditions: list[Condition]) -> Condition:
    return {"must": conditions}


def _any_of(conditions: list[Condition]) -> Condition:
    """An empty `should` would match everything; none of nothing must match nothing."""
    return {"min_should": {"conditions": conditions, "min_count": 1}}


def _field_condition(where: FieldFilter) -> Condition:
    key = metadata_path(where.field)
    if where.op in {"eq", "in"}:
        return _any_of(_memberships(key, values_of(where)))
    if where.op in {"ne", "nin"}:
        return _not(_any_of(_memberships(key, values_of(where))))
    if where.op == "exists":
        empty = {"is_empty": {"key": key}}
        return _not(empty) if where.value else empty
    return {"key": key, "range": {where.op: bound_of(where)}}


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
    if isinstance(value, int) and abs(value) >= EXACT_FLOAT:
        return {"key": key, "match": {"value": value}}
    if isinstance(value, int | float):
        # An integer match would miss 1.0 for 1, and there is no match for floats.
        return {"key": key, "range": {"gte": float(value), "lte": float(value)}}
    raise PermanentError(f"a filter cannot compare with {value!r}")
