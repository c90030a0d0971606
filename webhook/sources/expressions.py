"""JMESPath expressions and the templates made of them: compiled once, bounded in what they make.

They are the operator's, and what they are asked of is a stranger's: whatever a payload is, an
expression gives a value or an ExpressionError. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any
from urllib.parse import quote, unquote_plus

import jmespath
from jmespath import functions
from jmespath.exceptions import JMESPathError

_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_HEX = re.compile(r"[0-9A-Fa-f]{1,64}")
_SEQUENCE_DIGITS = 16
"""64 bit, of which a source version holds 63."""
_RUNTIME_ERRORS = (
    JMESPathError,
    ArithmeticError,
    RecursionError,
    TypeError,
    ValueError,
)


MAX_INTEGER = 2**63 - 1


class ExpressionError(Exception):
    """The expression cannot be read, or cannot be answered for this payload."""


_PARTS = frozenset({"subexpression", "index_expression", "projection", "value_projection"})


class Expression:
    """A compiled JMESPath expression."""

    def __init__(self, text: str) -> None:
        """Raises ExpressionError that says where it stops being one."""
        self.text = text
        try:
            self._compiled = jmespath.compile(text)
            _check(self._compiled.parsed)
        except (JMESPathError, RecursionError) as error:
            raise ExpressionError(f"not a JMESPath expression: {_first_line(error)}") from None

    def of(self, value: Any) -> Any:
        """Raises ExpressionError. What is not there is None."""
        try:
            return self._compiled.search(value, _options())
        except _RUNTIME_ERRORS as error:
            raise ExpressionError(f"{self.text}: {_first_line(error)}") from None

    def holds(self, value: Any) -> bool:
        """As JMESPath counts truth: false, null and what is empty are not."""
        found = self.of(value)
        return True if _is_number(found) else bool(found)

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class Template:
    """Text with expressions in braces: `blog/{item.slug}.md`. `{{` and `}}` are braces."""

    def __init__(self, text: str) -> None:
        """Raises ExpressionError."""
        self.text = text
        self._parts: list[str | Expression] = []
        end = 0
        for found in _BRACES.finditer(text):
            self._parts.append(text[end : found.start()])
            self._parts.append(self._part(found))
            end = found.end()
        self._parts.append(text[end:])

    def _part(self, found: re.Match[str]) -> str | Expression:
        if found[0] in ("{{", "}}"):
            return found[0][0]
        if found[1] is None:
            raise ExpressionError(
                f"{found[0]!r} at position {found.start()} has no other half; "
                "write it twice where it is text"
            )
        return Expression(found[1])

    @property
    def constant(self) -> str | None:
        """The text, where nothing in it is asked of a payload."""
        if any(isinstance(part, Expression) for part in self._parts):
            return None
        return "".join(part for part in self._parts if isinstance(part, str))

    def of(self, value: Any) -> str:
        """Raises ExpressionError where an expression gives neither text nor a number."""
        return "".join(
            part if isinstance(part, str) else _text_of(part, part.of(value))
            for part in self._parts
        )

    def beginning(self, value: Any) -> str:
        """As far as it can be told of the value: up to the first expression that finds nothing."""
        found = ""
        for part in self._parts:
            try:
                found += part if isinstance(part, str) else _text_of(part, part.of(value))
            except ExpressionError:
                break
        return found

    def __repr__(self) -> str:
        return f"Template({self.text!r})"


def _text_of(expression: Expression, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return _digits(expression, value)
    what = "is not in the payload" if value is None else "is neither text nor a whole number"
    raise ExpressionError(f"{expression.text} {what}")


def _digits(expression: Expression, value: int) -> str:
    """Python writes none with more than 4,300 of them."""
    try:
        return str(value)
    except ValueError:
        raise ExpressionError(f"{expression.text} is too large a number") from None


# --- functions -----------------------------------------------------------------------------------


class Functions(functions.Functions):
    """What JMESPath has, and a little more. What cannot be made is null."""

    @functions.signature({"types": ["object", "null"]}, {"types": ["string"]})
    def _func_get(self, value: Mapping[str, Any] | None, name: str) -> Any:
        """A member by a name that is itself a value."""
        return value.get(name) if value else None

    @functions.signature({"types": []}, {"types": ["string"]})
    def _func_has(self, value: Any, name: str) -> bool:
        """Whether it has a member of that name, be it null: what is not there was not told."""
        return isinstance(value, dict) and name in value

    @functions.signature({"types": ["string", "null"]})
    def _func_epoch_ms(self, text: str | None) -> int | None:
        """Milliseconds since 1970 of an ISO 8601 time; without an offset it is UTC."""
        try:
            at = datetime.fromisoformat(text or "")
            at = at if at.tzinfo else at.replace(tzinfo=UTC)
            return (at - _EPOCH) // _MILLISECOND
        except (ValueError, OverflowError):
            return None

    @functions.signature({"types": ["string", "number", "null"]})
    def _func_epoch_us(self, value: Any) -> int | None:
        """Microseconds since 1970 of an ISO 8601 time, or of whole seconds."""
        if isinstance(value, int):
            return value * 1_000_000
        milliseconds = self._func_epoch_ms(value) if isinstance(value, str) else None
        return None if milliseconds is None else milliseconds * 1000

    @functions.signature({"types": ["string", "null"]})
    def _func_hex_order(self, text: str | None) -> int | None:
        """The place of hexadecimal digits among others of whatever length, as a source version:
        each is padded with zeros on the right, as S3 says of its sequencers, and of that the first
        63 bit are taken. What differs behind them only is the same."""
        if not text or not _HEX.fullmatch(text):
            return None
        digits = text.ljust(_SEQUENCE_DIGITS, "0")[:_SEQUENCE_DIGITS]
        return int(digits, 16) >> 1

    @functions.signature({"types": ["string", "null"]})
    def _func_from_hex(self, text: str | None) -> int | None:
        """The number that hexadecimal digits stand for, if a source version can be as large."""
        number = int(text, 16) if text and _HEX.fullmatch(text) else None
        return number if number is not None and number <= MAX_INTEGER else None

    @functions.signature({"types": ["string", "null"]})
    def _func_unquote(self, text: str | None) -> str | None:
        """Without percent-encoding, a plus being a blank: as keys are in S3's events."""
        return None if text is None else unquote_plus(text)

    @functions.signature({"types": ["string", "null"]})
    def _func_quote(self, text: str | None) -> str | None:
        """Percent-encoded, but for slashes: as a path of a URL."""
        return None if text is None else quote(text, errors="replace")

    @functions.signature({"types": ["array", "null"]})
    def _func_changed_paths(self, commits: list[Any] | None) -> list[dict[str, Any]]:
        """What the commits of a push come to in the end: `{path, removed}` for each path."""
        return [{"path": p, "removed": gone} for p, gone in _changed(commits or []).items()]

    @functions.signature({"types": ["string", "null"]})
    def _func_lower(self, text: str | None) -> str | None:
        return None if text is None else text.lower()

    @functions.signature({"types": ["string", "null"]})
    def _func_from_json(self, text: str | None) -> Any:
        """What a message in a message says."""
        try:
            return json.loads(text or "null")
        except (ValueError, RecursionError):
            return None

    @functions.signature({"types": []}, {"types": ["string"]})
    def _func_texts(self, value: Any, name: str) -> str | None:
        """The text of a rich text: all that its nodes hold under `name`, a line a block. What is
        text already stays as it is."""
        return _texts(value, name) or None

    @functions.signature({"types": ["string", "null"]}, {"types": ["string"]})
    def _func_split(self, text: str | None, separator: str) -> list[str] | None:
        return text.split(separator) if text is not None and separator else None


def _changed(commits: list[Any]) -> dict[str, bool]:
    """Whether each path was removed by the last commit that touched it."""
    found: dict[str, bool] = {}
    for commit in commits:
        for kind in ("added", "modified", "removed") if isinstance(commit, dict) else ():
            paths = commit.get(kind)
            for path in paths if isinstance(paths, list) else ():
                if isinstance(path, str):
                    found[path] = kind == "removed"
    return found


def _texts(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        if isinstance(value.get(name), str):
            return str(value[name])
        return "\n".join(filter(None, (_texts(v, name) for v in value.values() if _is_nested(v))))
    if isinstance(value, list):
        spans = all(isinstance(v, dict) and isinstance(v.get(name), str) for v in value)
        return ("" if spans else "\n").join(filter(None, (_texts(v, name) for v in value)))
    return ""


def _is_nested(value: Any) -> bool:
    return isinstance(value, dict | list)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = datetime.resolution * 1000


@cache
def _options() -> jmespath.Options:
    return jmespath.Options(custom_functions=Functions())


def _check(node: Any) -> None:
    """Mistakes that JMESPath tells when a delivery comes, or never, are told when the file is
    read: unknown functions, and `!a.b`, which it takes for `(!a).b`. Raises ExpressionError."""
    known = Functions.FUNCTION_TABLE
    if node["type"] == "function_expression" and node["value"] not in known:
        name = node["value"]
        raise ExpressionError(
            f"not a JMESPath expression: there is no function {name}; known are "
            + ", ".join(sorted(known))
        )
    children = [child for child in node.get("children", ()) if isinstance(child, dict)]
    if node["type"] in _PARTS and children and children[0]["type"] == "not_expression":
        raise ExpressionError("not is of the first name only, as in (!a).b: write !(a.b)")
    for child in children:
        _check(child)


def _first_line(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "nested too deep"
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
