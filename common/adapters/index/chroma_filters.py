"""Metadata filters in Chroma's terms, over the fields of `chroma_fields`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from common.adapters.index.chroma_fields import (
    BOOLEAN,
    DOCUMENT_KEY,
    INTEGER,
    LIST,
    NAMES,
    NUMBER,
    PLACE,
    TEXT,
)
from common.adapters.index.filter_terms import bound_of, folded, values_of
from common.adapters.index.metadata_numbers import EXACT_FLOAT
from common.identity import DOCUMENT_KEY_LENGTH
from common.ports.errors import PermanentError
from common.ports.index import FieldFilter, MetadataFilter

Where = dict[str, Any]

MAX_CLAUSES: Final = 300
"""Chroma's SQLite refuses expressions that are nested 1,000 deep, and a chain of clauses is."""

_EVERYTHING: Final[Where] = {PLACE: {"$gte": 0.0}}
_NOTHING: Final[Where] = {PLACE: {"$lt": 0.0}}


def condition(where: MetadataFilter) -> Where | None:
    """None: it is too long for Chroma."""
    found = folded(where, _field_condition, partial(_joined, "$and"), partial(_joined, "$or"))
    return found if _clauses(found) <= MAX_CLAUSES else None


def of_document(prefix: str) -> Where | None:
    """The document whose ids begin with `prefix`; None: the prefix holds no whole document key."""
    if len(prefix) < DOCUMENT_KEY_LENGTH:
        return None
    return {DOCUMENT_KEY: prefix[:DOCUMENT_KEY_LENGTH]}


def of_range(first: int, parts: int) -> Where:
    """Part `first` of `parts` of all records."""
    bounds = [{PLACE: {"$gte": first / parts}}, {PLACE: {"$lt": (first + 1) / parts}}]
    return _joined("$and", bounds)


def _joined(mode: str, parts: Sequence[Where]) -> Where:
    """Chroma takes no list of less than two."""
    if not parts:
        return _EVERYTHING if mode == "$and" else _NOTHING
    return parts[0] if len(parts) == 1 else {mode: list(parts)}


def _clauses(where: Where) -> int:
    for mode in ("$and", "$or"):
        if mode in where:
            return sum(_clauses(part) for part in where[mode])
    return 1


def _field_condition(where: FieldFilter) -> Where:
    if where.op in ("eq", "in"):
        return _joined("$or", _equalities(where.field, values_of(where)))
    if where.op in ("ne", "nin"):
        denied = [_denied(one) for one in _equalities(where.field, values_of(where))]
        return _joined("$and", denied)
    if where.op == "exists":
        return {NAMES: {"$contains" if where.value else "$not_contains": where.field}}
    return {NUMBER + where.field: {f"${where.op}": bound_of(where)}}


_DENIALS: Final = {"$in": "$nin", "$contains": "$not_contains"}


def _denied(equality: Where) -> Where:
    """Chroma's denials hold for records without the field too."""
    ((field, comparison),) = equality.items()
    ((op, value),) = comparison.items()
    return {field: {_DENIALS[op]: value}}


def _equalities(field: str, values: Sequence[object]) -> list[Where]:
    """One of them holds if the field, or an item of it, is one of `values`."""
    texts = [value for value in values if isinstance(value, str)]
    flags = [value for value in values if isinstance(value, bool)]
    numbers, integers = _numbers(values)
    found = [
        {prefix + field: {"$in": wanted}}
        for prefix, wanted in (
            (TEXT, texts), (BOOLEAN, flags), (NUMBER, numbers), (INTEGER, integers),
        )
        if wanted
    ]  # fmt: skip
    return found + [{LIST + field: {"$contains": text}} for text in texts]


def _numbers(values: Sequence[object]) -> tuple[list[float], list[int]]:
    """To compare as floats, and integers that have no exact float."""
    numbers: list[float] = []
    integers: list[int] = []
    for value in values:
        if isinstance(value, bool | str):
            continue
        if not isinstance(value, int | float):
            raise PermanentError(f"a filter cannot compare with {value!r}")
        if isinstance(value, int) and abs(value) >= EXACT_FLOAT:
            integers.append(value)
        else:
            numbers.append(float(value))
    return numbers, integers
