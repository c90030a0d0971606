"""Of several mistakes the first is told, in the order of the checks; and a body that is wrong
altogether is not gone through by a model."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import model_validator

from common.api.base import Body
from common.settings import Settings
from webhook.models.kept import PerSettings
from webhook.models.reading import Model
from webhook.problems import Problem
from webhook.search_route import search_request_of
from webhook.validation import change_of

LIMITS = Settings(_env_file=None)
SEEN: list[Any] = []


class Sizes(Body):
    width: int
    height: int | None = None

    @model_validator(mode="before")
    @classmethod
    def note(cls, value: Any) -> Any:
        SEEN.append(value)
        return value


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    SEEN.clear()


def refused(value: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        change_of(value, LIMITS)
    return caught.value


INSERT = {"change_type": "insert", "document_id": "a", "content": "x"}
CONTROL = "a\n"
MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    ({"colour": 1, "change_type": "upsert"}, "colour", "there is no field"),
    ({"if_version": -1, "change_type": "upsert"}, "change_type", "one of"),
    ({"namespace": 5, "document_id": CONTROL}, "namespace", "not a number"),
    ({"document_id": CONTROL, "content": 5}, "document_id", "U+000A"),
    ({"content": None, "source_version": "1"}, "content", "an insert needs content"),
    ({"content_type": "image/png", "content": 5}, "content_type", "supported are"),
    ({"content_type": 5, "content": "a\0"}, "content_type", "not a number"),
    ({"content_encoding": "gzip", "content": 5}, "content_encoding", "one of"),
    ({"content": "a\0", "doc_hash": "x"}, "content", "NUL"),
    ({"doc_hash": "x", "metadata": []}, "doc_hash", "64 hex digits"),
    ({"metadata": {"a": None}, "source_version": -1}, "metadata.a", "not null"),
    ({"metadata": {"a": 1}, "source_version": -1, "if_version": -1}, "source_version", "from 0"),
    ({"if_version": True}, "if_version", "from 0"),
]


@pytest.mark.parametrize(("fields", "field", "words"), MISTAKES)
def test_the_first_of_several_mistakes_is_told(
    fields: dict[str, Any], field: str, words: str
) -> None:
    problem = refused({**INSERT, **fields})
    assert problem.field == field
    assert words in problem.detail


def test_a_delete_carries_nothing_whatever_it_is() -> None:
    problem = refused({"change_type": "delete", "document_id": "a", "content": 5})
    assert "a delete names a document" in problem.detail


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"min_version": {"a": "x"}, "wait": -1}, "min_version.a"),
        ({"wait": -1, "query": ""}, "wait"),
        ({"query": " ", "top_k": 0}, "query"),
        ({"query": "x", "top_k": 0, "filter": []}, "top_k"),
    ],
)
def test_the_first_mistake_of_a_search_is_told(value: dict[str, Any], field: str) -> None:
    with pytest.raises(Problem) as caught:
        search_request_of(value, "docs", LIMITS)
    assert caught.value.field == field


def test_fields_that_are_right_can_be_read() -> None:
    body = Model(Sizes).read({"width": 3, "height": "tall"}, LIMITS, {})
    assert body.width == 3
    with pytest.raises(Problem) as caught:
        _ = body.height
    assert (caught.value.field, caught.value.kind.status) == ("height", 422)


def test_unknown_fields_without_number_are_not_gone_through() -> None:
    """A model would make an error of each of them."""
    with pytest.raises(Problem) as caught:
        Model(Sizes).read({str(number): 1 for number in range(1000)}, LIMITS, {})
    assert (caught.value.field, SEEN) == ("0", [])
    with pytest.raises(Problem):
        Model(Sizes).read({"depth": 1}, LIMITS, {})
    assert SEEN == [{"depth": 1}]


@pytest.mark.parametrize("value", [None, [], "text", 5, True])
def test_what_is_no_object_is_no_body(value: Any) -> None:
    with pytest.raises(Problem) as caught:
        Model(Sizes).read(value, LIMITS, {})
    assert caught.value.kind.status == 400


def test_things_are_made_once_for_each_settings() -> None:
    made: list[int] = []

    def make(settings: Settings) -> int:
        made.append(settings.max_top_k)
        return settings.max_top_k

    top_k = PerSettings(make)
    many = [Settings(_env_file=None, max_top_k=number) for number in range(1, 31)]
    assert [top_k(settings) for settings in many for _ in range(2)] == [
        number for number in range(1, 31) for _ in range(2)
    ]
    assert made == list(range(1, 31))


def test_settings_that_are_gone_are_not_taken_for_new_ones() -> None:
    """New ones may have their address."""
    top_k = PerSettings(lambda settings: settings.max_top_k)
    for number in range(1, 100):
        assert top_k(Settings(_env_file=None, max_top_k=number)) == number
