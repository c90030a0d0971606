"""Metadata filters in Pinecone's terms.

Pinecone's $ne and $nin match no record without the field; the port's do. $in takes strings or
numbers, not both and no booleans. A list field counts as its items in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from common.adapters.index.filter_terms import bound_of, folded, values_of
from common.adapters.index.metadata_numbers import is_number
from common.adapters.index.pinecone_records import DOCUMENT, EMPTY, stored_name
from common.ports.index import FieldFilter, MetadataFilter

Condition = dict[str, Any]

_EVERYTHING: Final[Condition] = {DOCUMENT: {"$exists": True}}
_NOTHING: Final[Condition] = {DOCUMENT: {"$exists": False}}


def condition(where: MetadataFilter) -> Condition:
    return folded(where, _field_condition, _all, _any)


def _all(parts: list[Condition]) -> Condition:
    if not parts:
        return _EVERYTHING
    return parts[0] if len(parts) == 1 else {"$and": parts}


def _any(parts: list[Condition]) -> Condition:
    if not parts:
        return _NOTHING
    return parts[0] if len(parts) == 1 else {"$or": parts}


def _field_condition(where: FieldFilter) -> Condition:
    name, op = stored_name(where.field), where.op
    if op == "exists":
        return _exists(name, bool(where.value))
    if op in ("eq", "in"):
        return _any(_equal(name, values_of(where), "$eq", "$in"))
    if op in ("ne", "nin"):
        others = _all(_equal(name, values_of(where), "$ne", "$nin"))
        # A field with an empty list is not stored as such: it is no different from a missing one.
        return _any([others, {name: {"$exists": False}}])
    return {name: {f"${op}": bound_of(where)}}


def _exists(name: str, wanted: bool) -> Condition:
    if wanted:
        return _any([{name: {"$exists": True}}, {EMPTY: {"$in": [name]}}])
    # Every record without empty lists has no such field at all, which $nin does not match.
    no_empty = _any([{EMPTY: {"$nin": [name]}}, {EMPTY: {"$exists": False}}])
    return _all([{name: {"$exists": False}}, no_empty])


def _equal(name: str, values: Sequence[object], one: str, among: str) -> list[Condition]:
    """A condition for each kind of value."""
    booleans = {value for value in values if isinstance(value, bool)}
    texts = [value for value in values if isinstance(value, str)]
    numbers = [value for value in values if is_number(value)]
    found: list[Condition] = [{name: {one: value}} for value in sorted(booleans)]
    groups = [group for group in (texts, numbers) if group]
    return found + [
        {name: {one: group[0]} if len(group) == 1 else {among: group}} for group in groups
    ]
