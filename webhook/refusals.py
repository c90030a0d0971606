"""The words in which fields are refused."""

from __future__ import annotations

import re
from typing import Any, NoReturn

from webhook.problems import (
    INVALID_FIELD,
    MALFORMED_JSON,
    UNKNOWN_FIELD,
    Kind,
    Problem,
)

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Characters that no name has."""


def refuse(
    field: str,
    detail: str,
    *,
    kind: Kind = INVALID_FIELD,
    limit: int | float | list[str] | None = None,
) -> NoReturn:
    raise Problem(kind, f"{field} {detail}", field=field, limit=limit)


def refuse_unknown(value: Any, known: frozenset[str]) -> None:
    """Raises Problem unless the value is an object with known fields only."""
    if not isinstance(value, dict):
        raise Problem(MALFORMED_JSON, f"must be a JSON object, not {name_of(value)}")
    if value.keys() <= known:
        return
    field = short(next(name for name in value if name not in known))
    raise Problem(
        UNKNOWN_FIELD,
        f"there is no field {field!r}; known are {', '.join(sorted(known))}",
        field=field,
        limit=sorted(known),
    )


def require_string(field: str, value: Any) -> str:
    """Raises Problem."""
    if not isinstance(value, str):
        refuse(field, f"must be a string, not {name_of(value)}")
    return value


def encoded(text: str, field: str) -> bytes:
    """As UTF-8. Raises Problem."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        surrogate = f"U+{ord(text[error.start]):04X}"
        refuse(field, f"has the lone surrogate {surrogate} at position {error.start}")


def short(text: str) -> str:
    """Enough to recognise it by: an answer does not repeat a megabyte."""
    return text if len(text) <= 80 else text[:79] + "…"


def name_of(value: Any) -> str:
    """What a JSON value is."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string"}
    return names.get(type(value), "a list" if isinstance(value, list) else "an object")
