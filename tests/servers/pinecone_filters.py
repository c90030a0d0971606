"""Metadata filters as Pinecone defines them.

A list matches $eq and $in if one of its items does. No comparison matches a record without the
field, $ne and $nin included; only {"$exists": false} does. Types are told apart: true is not 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.servers.pinecone_errors import RefusedError

_SCALARS = (str, int, float, bool)


def check_filter(where: Any) -> None:
    """Raises RefusedError (400) for what Pinecone does not take."""
    if not isinstance(where, dict) or not where:
        raise RefusedError(400, "filter must be a non-empty object")
    for key, value in where.items():
        if key in ("$and", "$or"):
            if not isinstance(value, list) or not value:
                raise RefusedError(400, f"{key} takes a non-empty list")
            for part in value:
                check_filter(part)
        elif key.startswith("$"):
            raise RefusedError(400, f"{key} is not a valid operator")
        else:
            _check_conditions(key, value)


def _check_conditions(field: str, value: Any) -> None:
    if isinstance(value, _SCALARS):
        return
    if not isinstance(value, dict) or not value:
        raise RefusedError(400, f"{field}: a condition must be a value or an operator")
    for operator, operand in value.items():
        if not _takes(operator, operand):
            raise RefusedError(400, f"{field}: {operator} does not take {operand!r}")


def _takes(operator: str, operand: Any) -> bool:
    if operator in ("$eq", "$ne"):
        return isinstance(operand, _SCALARS)
    if operator in ("$in", "$nin"):
        return isinstance(operand, list) and bool(operand) and _all_of_one_kind(operand)
    if operator in ("$gt", "$gte", "$lt", "$lte"):
        return _is_number(operand)
    return operator == "$exists" and isinstance(operand, bool)


def _all_of_one_kind(items: list[Any]) -> bool:
    """Strings or numbers, not both, no booleans."""
    return all(isinstance(item, str) for item in items) or all(map(_is_number, items))


def passes(metadata: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    """All entries of an object must match."""
    return all(_entry(metadata, key, value) for key, value in where.items())


def _entry(metadata: Mapping[str, Any], key: str, value: Any) -> bool:
    if key == "$and":
        return all(passes(metadata, part) for part in value)
    if key == "$or":
        return any(passes(metadata, part) for part in value)
    if not isinstance(value, dict):
        value = {"$eq": value}
    return all(_condition(metadata, key, op, operand) for op, operand in value.items())


def _condition(metadata: Mapping[str, Any], field: str, operator: str, operand: Any) -> bool:
    if operator == "$exists":
        return (field in metadata) is operand
    if field not in metadata:
        return False
    held = metadata[field]
    items = held if isinstance(held, list) else [held]
    if operator in ("$ne", "$nin"):
        positive = {"$ne": "$eq", "$nin": "$in"}[operator]
        return not any(_compare(item, positive, operand) for item in items)
    return any(_compare(item, operator, operand) for item in items)


def _compare(item: Any, operator: str, operand: Any) -> bool:
    if operator == "$eq":
        return isinstance(item, bool) is isinstance(operand, bool) and item == operand
    if operator == "$in":
        return any(_compare(item, "$eq", one) for one in operand)
    if not _is_number(item):
        return False
    return bool(
        {
            "$gt": item > operand,
            "$gte": item >= operand,
            "$lt": item < operand,
            "$lte": item <= operand,
        }[operator]
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
