"""CloudWatch's filter patterns for JSON log lines, as far as the metrics of this project use them:
`{ ($.event = "a" || $.event = "b") && $.seconds >= 0 }`. Anything else raises ValueError.

Neither emulator evaluates them. Written from AWS's page "Filter pattern syntax": a field that a
line lacks, or that is of another type, matches no comparison; a line that is no JSON matches none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

Line = Mapping[str, Any]
Test = Callable[[Line], bool]

_TOKEN = re.compile(
    r"\s*(?:(?P<sign>\|\||&&|[(){}]|>=|<=|>|<|=)"
    r'|\$\.(?P<field>\w+)|"(?P<text>[^"*]*)"|(?P<number>-?\d+(?:\.\d+)?))'
)
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
    "=": lambda a, b: a == b,
}


def matches(pattern: str, line: str) -> bool:
    test = compiled(pattern)
    try:
        read = json.loads(line)
    except ValueError:
        return False
    return isinstance(read, dict) and test(read)


def value_of(value: str, line: str) -> float:
    """What the metric takes of a line that matched: a constant, or a field as `$.field`."""
    return float(json.loads(line)[value[2:]] if value.startswith("$.") else value)


def compiled(pattern: str) -> Test:
    tokens = _tokens(pattern)
    _take(tokens, "{")
    test = _any(tokens)
    _take(tokens, "}")
    if tokens:
        raise ValueError(f"more than one expression: {pattern}")
    return test


def _tokens(pattern: str) -> list[tuple[str, str]]:
    found, at, text = [], 0, pattern.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise ValueError(f"not of the part of the syntax that is used: {text[at:]!r}")
        found.append((match.lastgroup, match[match.lastgroup]))
        at = match.end()
    return found


def _any(tokens: list[tuple[str, str]]) -> Test:
    tests = [_all(tokens)]
    while tokens and tokens[0] == ("sign", "||"):
        tokens.pop(0)
        tests.append(_all(tokens))
    return lambda line: any(test(line) for test in tests)


def _all(tokens: list[tuple[str, str]]) -> Test:
    tests = [_one(tokens)]
    while tokens and tokens[0] == ("sign", "&&"):
        tokens.pop(0)
        tests.append(_one(tokens))
    return lambda line: all(test(line) for test in tests)


def _one(tokens: list[tuple[str, str]]) -> Test:
    if tokens and tokens[0] == ("sign", "("):
        tokens.pop(0)
        inner = _any(tokens)
        _take(tokens, ")")
        return inner
    field, sign = _kind(tokens, "field"), _kind(tokens, "sign")
    kind, operand = tokens.pop(0)
    if kind == "number" and sign in _COMPARE:
        return lambda line: (
            _is_number(line.get(field)) and _COMPARE[sign](line[field], float(operand))
        )
    if kind == "text" and sign == "=":
        return lambda line: line.get(field) == operand
    raise ValueError(f"cannot compare $.{field} {sign} {operand!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kind(tokens: list[tuple[str, str]], kind: str) -> str:
    if not tokens or tokens[0][0] != kind:
        raise ValueError(f"a {kind} is missing before {tokens[:1]}")
    return tokens.pop(0)[1]


def _take(tokens: list[tuple[str, str]], sign: str) -> None:
    if not tokens or tokens.pop(0) != ("sign", sign):
        raise ValueError(f"{sign!r} is missing")
