"""The meaning of a filter, for metadata at hand: where a server cannot express all of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

from common.adapters.index.filter_terms import folded
from common.adapters.index.metadata_numbers import is_number
from common.model import MetadataValue
from common.ports.errors import PermanentError
from common.ports.index import FieldFilter, MetadataFilter

_POSITIVE: Final = {"ne": "eq", "nin": "in"}


def matches(metadata: Mapping[str, MetadataValue], where: MetadataFilter) -> bool:
    """Raises PermanentError for an operator or a mode that nobody knows."""
    return folded(where, partial(_field_matches, metadata), all, any)


def _field_matches(metadata: Mapping[str, MetadataValue], where: FieldFilter) -> bool:
    if where.op == "exists":
        return (where.field in metadata) == where.value
    if where.op in _POSITIVE:
        return not _any_item(metadata, where.field, _POSITIVE[where.op], where.value)
    return _any_item(metadata, where.field, where.op, where.value)


def _any_item(metadata: Mapping[str, MetadataValue], field: str, op: str, operand: object) -> bool:
    value = metadata.get(field, [])
    items = value if isinstance(value, list) else [value]
    return any(_item_matches(item, op, operand) for item in items)


def _item_matches(item: object, op: str, operand: object) -> bool:
    if op == "eq":
        return _same(item, operand)
    if op == "in":
        wanted = operand if isinstance(operand, tuple) else (operand,)
        return any(_same(item, one) for one in wanted)
    return _in_range(item, op, operand)


def _same(item: object, operand: object) -> bool:
    return isinstance(item, bool) == isinstance(operand, bool) and item == operand


def _in_range(item: object, op: str, operand: object) -> bool:
    if not (is_number(item) and is_number(operand)):
        return False
    left, right = float(item), float(operand)
    results = {"gt": left > right, "gte": left >= right, "lt": left < right, "lte": left <= right}
    if op not in results:
        raise PermanentError(f"unknown filter operator {op!r}")
    return results[op]
