"""Qdrant's filters as the objects of Qdrant Edge."""

from __future__ import annotations

from typing import Any

import numpy as np
import qdrant_edge as qdrant

from common.adapters.index import qdrant_filters
from common.ports.index import MetadataFilter

Condition = Any


def prefix_filter(prefix: str) -> qdrant.Filter | None:
    """By the indexed document key where the prefix holds one; else every record is looked at."""
    where = qdrant_filters.of_document(prefix)
    return None if where is None else _object(where)


def condition(where: MetadataFilter) -> Condition:
    return _object(qdrant_filters.condition(where))


def _object(where: qdrant_filters.Condition) -> Condition:
    if "key" in where:
        return _field_condition(where)
    if "is_empty" in where:
        return qdrant.IsEmptyCondition(where["is_empty"]["key"])
    if "min_should" in where:
        some = where["min_should"]
        parts = _objects(some["conditions"])
        return qdrant.Filter(min_should=qdrant.MinShould(parts, some["min_count"]))
    if "must_not" in where:
        return qdrant.Filter(must_not=_objects(where["must_not"]))
    return qdrant.Filter(must=_objects(where["must"]))


def _objects(conditions: list[qdrant_filters.Condition]) -> list[Condition]:
    return [_object(condition) for condition in conditions]


def _field_condition(where: qdrant_filters.Condition) -> qdrant.FieldCondition:
    if "range" in where:
        return qdrant.FieldCondition(where["key"], range=qdrant.RangeFloat(**where["range"]))
    if "any" in where["match"]:
        return qdrant.FieldCondition(where["key"], match=qdrant.MatchAny(where["match"]["any"]))
    value = where["match"]["value"]
    if isinstance(value, bool):
        value = np.bool_(value)  # the binding takes Python's bool for the integer it also is
    return qdrant.FieldCondition(where["key"], match=qdrant.MatchValue(value))
