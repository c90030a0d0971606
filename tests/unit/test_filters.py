"""A user's JSON filter: what it parses to, and what its errors say."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.filters import MAX_CONDITIONS, MAX_DEPTH, MAX_VALUES, FilterError, parse_filter
from common.ports.index import FieldFilter, Filter


@pytest.mark.parametrize("nothing", [None, {}])
def test_no_filter_matches_everything(nothing: object) -> None:
    assert parse_filter(nothing) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"lang": "en"}, FieldFilter("lang", "eq", "en")),
        ({"draft": False}, FieldFilter("draft", "eq", False)),
        ({"lang": {"$ne": "en"}}, FieldFilter("lang", "ne", "en")),
        ({"tags": {"$in": ["a", 1]}}, FieldFilter("tags", "in", ("a", 1))),
        ({"tags": {"$nin": []}}, FieldFilter("tags", "nin", ())),
        ({"a.b": {"$exists": True}}, FieldFilter("a.b", "exists", True)),
        (
            {"year": {"$gte": 2020, "$lt": 2024.5}},
            Filter("all", (FieldFilter("year", "gte", 2020), FieldFilter("year", "lt", 2024.5))),
        ),
        (
            {"a": 1, "b": 2},
            Filter("all", (FieldFilter("a", "eq", 1), FieldFilter("b", "eq", 2))),
        ),
        (
            {"$or": [{"a": 1}, {"$and": [{"b": 2}, {"c": 3}]}]},
            Filter(
                "any",
                (
                    FieldFilter("a", "eq", 1),
                    Filter("all", (FieldFilter("b", "eq", 2), FieldFilter("c", "eq", 3))),
                ),
            ),
        ),
    ],
)
def test_a_filter_parses(value: object, expected: object) -> None:
    assert parse_filter(value) == expected


def nested(levels: int) -> object:
    value: object = {"a": 1}
    for _ in range(levels):
        value = {"$and": [value]}
    return value


@pytest.mark.parametrize(
    ("value", "path", "words"),
    [
        ([], "", "object"),
        ("lang", "", "object"),
        ({"lang": None}, "lang", "null"),
        ({"lang": ["en"]}, "lang", "list"),
        ({"lang": {}}, "lang", r"\$eq"),
        ({"year": {"$around": 3}}, "year.$around", r"\$gte"),
        ({"year": {"$gt": "2020"}}, "year.$gt", "number"),
        ({"year": {"$gt": True}}, "year.$gt", "number"),
        ({"year": {"$in": 2020}}, "year.$in", "list"),
        ({"year": {"$in": [2020, None]}}, "year.$in[1]", "null"),
        ({"year": {"$exists": 1}}, "year.$exists", "true or false"),
        ({"year": math.inf}, "year", "finite"),
        ({"year": 2**63}, "year", "2\\^63"),
        ({"$not": {"a": 1}}, "$not", r"\$and"),
        ({"$or": []}, "$or", "list of at least one"),
        ({"$or": [{"a": 1}, {"year": {"$lt": []}}]}, "$or[1].year.$lt", "number"),
        ({"$and": [{}]}, "$and[0]", "at least one"),
        ({"a": {"$in": [0] * (MAX_VALUES + 1)}}, "a.$in", str(MAX_VALUES)),
        ({str(n): n for n in range(MAX_CONDITIONS + 1)}, str(MAX_CONDITIONS), "more than"),
        (nested(MAX_DEPTH), "$and[0]." * (MAX_DEPTH - 1) + "$and[0]", "deeper"),
    ],
)
def test_an_error_names_the_place_and_what_is_allowed(value: object, path: str, words: str) -> None:
    with pytest.raises(FilterError, match=words) as caught:
        parse_filter(value)
    assert caught.value.path == path


def test_the_deepest_allowed_nesting_parses() -> None:
    assert parse_filter(nested(MAX_DEPTH - 1)) is not None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["a", "$and", "$or", "$in", "$eq", "$exists", "$gt"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_any_json_parses_or_is_refused_as_a_filter_error(value: object) -> None:
    try:
        parsed = parse_filter(value)
    except FilterError:
        return
    assert parsed is None or isinstance(parsed, FieldFilter | Filter)
