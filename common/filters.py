"""Search filters as users write them: Pinecone's and Mongo's JSON, parsed into the index port's.

{"lang": "en", "year": {"$gte": 2020, "$lt": 2024}}
{"$or": [{"tags": {"$in": ["a", "b"]}}, {"draft": {"$exists": false}}]}
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from common.ports.index import FieldFilter, Filter, MetadataFilter

MAX_DEPTH = 8
MAX_CONDITIONS = 256
MAX_VALUES = 1000
MAX_TEXT_CHARACTERS = 4096

_COMPARISONS = ("$eq", "$ne", "$in", "$nin", "$gt", "$gte", "$lt", "$lte", "$exists")
_ORDERED = frozenset({"$gt", "$gte", "$lt", "$lte"})
_MODES = {"$and": "all", "$or": "any"}
_INTEGER_LIMIT = 2**63

Scalar = str | int | float | bool


class FilterError(ValueError):
    """The filter is not one; `path` names the place in it, such as `$or[1].year.$gte`."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path
        self.message = message


def parse_filter(value: object) -> MetadataFilter | None:
    """The filter a JSON value stands for; None for null and {} (everything matches).

    Raises FilterError naming the field and what is allowed there.
    """
    if value is None or value == {}:
        return None
    return _Parser().group(value, "", 1)


class _Parser:
    """Counts conditions, so that a filter's cost is bounded before the index sees it."""

    def __init__(self) -> None:
        self._conditions = 0

    def group(self, value: object, path: str, depth: int) -> MetadataFilter:
        if depth > MAX_DEPTH:
            raise FilterError(path, f"nested deeper than {MAX_DEPTH} levels")
        if not isinstance(value, Mapping):
            raise FilterError(path, f'must be an object such as {{"lang": "en"}}, not {_a(value)}')
        if not value:
            raise FilterError(path, "must hold at least one condition")
        parts = [
            part for key, item in value.items() for part in self._entry(key, item, path, depth)
        ]
        return parts[0] if len(parts) == 1 else Filter("all", tuple(parts))

    def _entry(self, key: object, value: object, path: str, depth: int) -> list[MetadataFilter]:
        if not isinstance(key, str):
            raise FilterError(path, "field names must be strings")
        _require_utf8(key, path)
        here = f"{path}.{key}" if path else key
        if key in _MODES:
            return [self._combination(_MODES[key], value, here, depth)]
        if key.startswith("$"):
            raise FilterError(here, f"unknown operator; allowed: a field's name, {_words(_MODES)}")
        if isinstance(value, Mapping):
            return self._comparisons(key, value, here)
        return [self._comparison(key, "$eq", value, here)]

    def _combination(self, mode: str, value: object, path: str, depth: int) -> MetadataFilter:
        if not isinstance(value, list) or not value:
            raise FilterError(path, f"must be a list of at least one filter, not {_a(value)}")
        if len(value) > MAX_CONDITIONS:
            raise FilterError(path, f"holds {len(value)} filters; at most {MAX_CONDITIONS}")
        parts = [self.group(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]
        return Filter(mode, tuple(parts))

    def _comparisons(
        self, field: str, value: Mapping[object, object], path: str
    ) -> list[MetadataFilter]:
        if not value:
            raise FilterError(path, f"must hold an operator: {_words(_COMPARISONS)}")
        return [self._comparison(field, op, item, f"{path}.{op}") for op, item in value.items()]

    def _comparison(self, field: str, op: object, value: object, path: str) -> MetadataFilter:
        if not isinstance(op, str) or op not in _COMPARISONS:
            raise FilterError(path, f"unknown operator; allowed: {_words(_COMPARISONS)}")
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise FilterError(path, f"the filter holds more than {MAX_CONDITIONS} conditions")
        return FieldFilter(field, op[1:], _operand(op, value, path))


def _operand(op: str, value: object, path: str) -> Scalar | tuple[Scalar, ...]:
    if op in {"$in", "$nin"}:
        return _values(value, path)
    if op == "$exists" and not isinstance(value, bool):
        raise FilterError(path, f"must be true or false, not {_a(value)}")
    if op in _ORDERED and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise FilterError(path, f"must be a number, not {_a(value)}")
    return _scalar(value, path)


def _values(value: object, path: str) -> tuple[Scalar, ...]:
    if not isinstance(value, list):
        raise FilterError(path, f"must be a list of strings, numbers or booleans, not {_a(value)}")
    if len(value) > MAX_VALUES:
        raise FilterError(path, f"holds {len(value)} values; at most {MAX_VALUES} are allowed")
    return tuple(_scalar(item, f"{path}[{i}]") for i, item in enumerate(value))


def _scalar(value: object, path: str) -> Scalar:
    if isinstance(value, str):
        if len(value) > MAX_TEXT_CHARACTERS:
            raise FilterError(path, f"is longer than {MAX_TEXT_CHARACTERS} characters")
        _require_utf8(value, path)
        return value
    if isinstance(value, int):
        if not -_INTEGER_LIMIT <= value < _INTEGER_LIMIT:
            raise FilterError(path, "must be an integer between -2^63 and 2^63 - 1")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise FilterError(path, "must be a finite number")
        return value
    raise FilterError(path, f"must be a string, a number or a boolean, not {_a(value)}")


def _require_utf8(text: str, path: str) -> None:
    """JSON can write half of a surrogate pair, which no index can be asked for."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise FilterError(path, "holds a lone surrogate, which is no character") from None


def _words(names: Iterable[str]) -> str:
    return ", ".join(names)


def _a(value: object) -> str:
    """What JSON calls the value, for a message."""
    names: dict[type, str] = {
        type(None): "null",
        bool: "a boolean",
        str: "a string",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)
