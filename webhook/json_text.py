"""JSON text becomes a value, by stricter rules than the format's own. Pure."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any, NoReturn

from webhook.problems import MALFORMED_JSON, Problem
from webhook.refusals import short

MAX_JSON_DEPTH = 64
"""Of lists and objects in each other, far above what any document or payload needs."""


def parse_json(data: bytes) -> Any:
    """The value. Raises Problem (400) that says where it stops being UTF-8 or JSON.

    A key that comes twice is refused: two readers of the same bytes could take them for different
    changes, and one of them may have been what somebody looked at. Numbers are finite.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise Problem(MALFORMED_JSON, f"not UTF-8 at byte {error.start} (counted from 0)") from None
    try:
        value = _DECODER.decode(text.removeprefix("\ufeff"))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise Problem(MALFORMED_JSON, f"not JSON at {where}: {error.msg}") from None
    except RecursionError:
        raise _nested_too_deep() from None
    except ValueError:
        raise Problem(MALFORMED_JSON, "a number has too many digits to be read") from None
    if _is_deeper(value, MAX_JSON_DEPTH):
        raise _nested_too_deep()
    return value


def _is_deeper(value: Any, limit: int) -> bool:
    """Whether lists and objects are nested in each other more than so often. Level by level."""
    level = [value] if type(value) in _CONTAINERS else []
    for _ in range(limit):
        if not level:
            return False
        level = [
            item
            for container in level
            for item in (container.values() if type(container) is dict else container)
            if type(item) in _CONTAINERS
        ]
    return bool(level)


def _nested_too_deep() -> Problem:
    detail = f"nested too deep to be read: more than {MAX_JSON_DEPTH} levels"
    return Problem(MALFORMED_JSON, detail, limit=MAX_JSON_DEPTH)


def _refuse_constant(name: str) -> NoReturn:
    raise Problem(MALFORMED_JSON, f"{name} is not JSON; numbers are finite")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise Problem(MALFORMED_JSON, f"the number {short(digits)} is too large to be read")
    return number


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
    raise Problem(MALFORMED_JSON, f"an object has the key {short(name)!r} twice")


_CONTAINERS = frozenset({dict, list})
_DECODER = json.JSONDecoder(
    parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_each_once
)
