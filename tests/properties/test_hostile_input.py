"""Whatever bytes or values come in, they are read, or refused with a problem that can be sent."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import given
from hypothesis import strategies as st

from common.filters import FilterError, parse_filter
from common.ports.index import FieldFilter, MetadataFilter
from common.settings import Settings
from webhook.accept import Change
from webhook.bodies import LineSplitter
from webhook.problems import Problem, problem_of
from webhook.search_route import search_request_of
from webhook.validation import FIELDS, MAX_JSON_DEPTH, change_of, changes_of, parse_json

T = TypeVar("T")
LIMITS = Settings(_env_file=None, max_document_bytes=200, max_metadata_bytes=200)

TEXT = st.text(st.characters(codec=None), max_size=20)
"""Lone surrogates too: JSON can write them."""
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | TEXT
    | st.sampled_from(["insert", "update", "delete", "base64", "text/plain", "docs", "$eq", "\0"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
CHANGES = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(FIELDS, VALUES) | {"changes": VALUES}
) | st.builds(
    lambda change, field, value: {**change, field: value},
    st.sampled_from(
        [
            {"change_type": "insert", "document_id": "a", "content": "x"},
            {"change_type": "update", "document_id": "a", "metadata": {"a": 1}},
            {"change_type": "delete", "document_id": "a"},
        ]
    ),
    st.sampled_from(FIELDS) | TEXT,
    VALUES,
)
OPERATORS = st.sampled_from(["$and", "$or", "$not", "$eq", "$in", "$gt", "$exists", "lang", ""])
FILTERS = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(OPERATORS, inner, max_size=3),
    max_leaves=12,
)


def can_be_sent(error: Exception) -> bool:
    """As a problem of the sender's, with nothing in it that JSON or UTF-8 cannot hold."""
    problem = problem_of(error)
    assert 400 <= problem.kind.status < 500, problem.body()
    assert all("\n" not in value and "\r" not in value for value in problem.headers.values())
    response = problem.response()
    assert isinstance(response.body, bytes)
    return bool(json.loads(response.body)["detail"])


def attempted(read: Callable[[], T]) -> T | Exception:
    """What was read, or how it was refused; any other error fails the test."""
    try:
        return read()
    except (Problem, FilterError) as error:
        return error


@given(st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_bytes_are_json_or_refused(data: bytes) -> None:
    value = attempted(lambda: parse_json(data))
    if isinstance(value, Exception):
        assert can_be_sent(value)
    else:
        assert value == json.loads(data)
        assert all(math.isfinite(number) for number in floats_in(value))


def floats_in(value: Any) -> list[float]:
    if isinstance(value, float):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [number for item in items for number in floats_in(item)]


@given(st.lists(st.tuples(TEXT, st.integers()), max_size=6))
def test_a_key_comes_once(pairs: list[tuple[str, int]]) -> None:
    text = ",".join(f"{json.dumps(name)}:{number}" for name, number in pairs)
    names = [name for name, _ in pairs]
    value = attempted(lambda: parse_json(f"{{{text}}}".encode()))
    if isinstance(value, Exception):
        assert len(set(names)) < len(names)
        assert can_be_sent(value)
    else:
        assert list(value.items()) == pairs


@given(st.lists(st.booleans(), min_size=1, max_size=2 * MAX_JSON_DEPTH), st.lists(TEXT))
def test_depth_is_what_is_counted(objects: list[bool], siblings: list[str]) -> None:
    """However much stands beside it."""
    inner: Any = 0
    for is_object in objects:
        inner = {"a": inner, "b": siblings[:2]} if is_object else [inner, *siblings]
    value = attempted(lambda: parse_json(json.dumps(inner).encode()))
    is_deeper = len(objects) > MAX_JSON_DEPTH or (len(objects) == MAX_JSON_DEPTH and objects[0])
    if isinstance(value, Exception):
        assert is_deeper
        assert can_be_sent(value)
    else:
        assert not is_deeper


@given(CHANGES | VALUES)
def test_any_value_is_a_change_or_refused(value: Any) -> None:
    change = attempted(lambda: change_of(value, LIMITS))
    assert can_be_sent(change) if isinstance(change, Exception) else can_be_stored(change)


def can_be_stored(change: Change) -> bool:
    assert change.key.document_id.encode()
    assert change.key.namespace.isascii()
    assert "$" not in change.key.namespace
    assert len(change.content or b"") <= LIMITS.max_document_bytes
    text = json.dumps(change.metadata, allow_nan=False, ensure_ascii=False)
    return text.encode() != b""


@given(st.lists(CHANGES, max_size=3) | VALUES)
def test_any_list_is_changes_or_refused(values: Any) -> None:
    changes = attempted(lambda: changes_of({"changes": values}, LIMITS))
    if isinstance(changes, Exception):
        assert can_be_sent(changes)
    else:
        assert len(changes) == len(values)


@given(FILTERS)
def test_any_value_is_a_filter_or_refused(value: Any) -> None:
    parsed = attempted(lambda: parse_filter(value))
    assert can_be_sent(parsed) if isinstance(parsed, Exception) else names_of(parsed)


def names_of(where: MetadataFilter | None) -> bool:
    """Every name and text of it is one that an index can be asked for."""
    if isinstance(where, FieldFilter):
        values = where.value if isinstance(where.value, tuple) else (where.value,)
        texts = [where.field, *(value for value in values if isinstance(value, str))]
        return all(text.encode() or True for text in texts)
    return where is None or all(names_of(part) for part in where.parts)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "query": st.just("words") | VALUES,
            "filter": FILTERS,
            "top_k": VALUES,
            "wait": VALUES,
            "min_version": VALUES,
        },
    )
    | VALUES
)
def test_any_value_is_a_search_or_refused(value: Any) -> None:
    asked = attempted(lambda: search_request_of(value, "docs", LIMITS))
    assert can_be_sent(asked) if isinstance(asked, Exception) else asked.query.strip()


@given(st.lists(st.binary(max_size=6) | st.just(b"\n") | st.just(b"ab\n\ncd"), max_size=12))
def test_lines_do_not_depend_on_how_they_arrive(pieces: list[bytes]) -> None:
    splitter, limit = LineSplitter(5), 5
    found = [line for piece in pieces for line in splitter.feed(piece)] + list(splitter.end())
    whole = enumerate(b"".join(pieces).split(b"\n"), start=1)
    expected = [
        (number, None if len(line) > limit else line)
        for number, line in whole
        if len(line) > limit or (line and not line.isspace())
    ]
    assert [(line.number, line.data) for line in found] == expected


def test_an_object_without_changes_is_no_list_of_them() -> None:
    found = attempted(lambda: changes_of({}, LIMITS))
    assert isinstance(found, Problem)
    assert can_be_sent(found)
