"""Metadata filters in Pinecone's terms.

Pinecone's $ne and $nin match no record without the field; the port's do. $in takes strings or
numbers, not both and no booleans. A list field counts as its items in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from common.adapters.index.pinecone_records import DOCUMENT, EMPTY, stored_name
from common.ports.errors import PermanentError
from common.ports.index import FieldFilter, Filter, MetadataFilter

Condition = dict[str, Any]

_EVERYTHING: Final[Condition] = {DOCUMENT: {"$exists": True}}
_NOTHING: Final[Condition] = {DOCUMENT: {"$exists": False}}


def condition(where: MetadataFilter) -> Condition:
    if isinstance(where, FieldFilter):
        return _field_condition(where)
    return _combined(where)


def _combined(where: Filter) -> Condition:
    parts = [condition(part) for part in where.parts]
    if where.mode == "all":
        return _all(parts)
    if where.mode == "any":
        return _any(parts)
    raise PermanentError(f"unknown filter mode {where.mode!r}: all and any are known")


def _all(parts: list[Condition]) -> Condition:
    if not parts:
        return _EVERYTHING
    return parts[0] if len(parts) == 1 else {"$and": parts}


def _any(parts: list[Condition]) -> Condition:
    if not parts:
        return _NOTHING
    return parts[0] if len(parts) == 1 else {"$or": parts}


def _field_condition(where: FieldFilter) -> Condition:
    name, op, value = stored_name(where.field), where.op, where.value
    if op == "exists":
        return _exists(name, bool(value))
    if op in ("eq", "in"):
        return _any(_equal(name, _values(value), "$eq", "$in"))
    if op in ("ne", "nin"):
        others = _all(_equal(name, _values(value), "$ne", "$nin"))
        # A field with an empty list is not stored as such: it is no different from a missing one.
        return _any([others, {name: {"$exists": False}}])
    if op in ("gt", "gte", "lt", "lte") and _is_number(value):
        return {name: {f"${op}": value}}
    raise PermanentError(f"a filter cannot apply {op!r} to {value!r}")


def _exists(name: str, wanted: bool) -> Condition:
    if wanted:
        return _any([{name: {"$exists": True}}, {EMPTY: {"$in": [name]}}])
    # Every record without empty lists has no such field at all, which $nin does not match.
    no_empty = _any([{EMPTY: {"$nin": [name]}}, {EMPTY: {"$exists": False}}])
    return _all([{name: {"$exists": False}}, no_empty])


def _values(value: object) -> Sequence[object]:
    return value if isinstance(value, tuple) else (value,)


def _equal(name: str, values: Sequence[object], one: str, among: str) -> list[Condition]:
    """A condition for each kind of value."""
    booleans = {value for value in values if isinstance(value, bool)}
    texts = [value for value in values if isinstance(value, str)]
    numbers = [value for value in values if _is_number(value)]
    found: list[Condition] = [{name: {one: value}} for value in sorted(booleans)]
    groups = [group for group in (texts, numbers) if group]
    return found + [
        {name: {one: group[0]} if len(group) == 1 else {among: group}} for group in groups
    ]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
