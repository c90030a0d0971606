"""What requests say, and what a refused one tells a person to do."""

from __future__ import annotations

import pytest

from common.client.answers import refusal
from common.client.changes import Delete, Insert, Update, change_json, encoded, line_of
from common.client.errors import ApiError, Problem, seconds_of
from common.client.requests import document_path, letters


@pytest.mark.parametrize(
    ("kind", "status", "asks_for_a_key"),
    [("unauthenticated", 401, True), ("forbidden", 403, True), ("quota-exceeded", 403, False)],
)
def test_another_key_is_asked_for_where_it_would_help(
    kind: str, status: int, asks_for_a_key: bool
) -> None:
    body = {"type": f"urn:bloomweaver:problem:{kind}", "title": "No", "detail": "it is full"}
    said = str(ApiError(Problem.from_json(body, status)))
    assert ("BLOOMWEAVER_API_KEY" in said) is asks_for_a_key
    assert said.startswith("it is full")


@pytest.mark.parametrize(
    ("name", "sent"),
    [("a/b ü.md", "a%2Fb%20%C3%BC.md"), (".", "%2E"), ("..", "%2E%2E"), ("a..b", "a..b")],
)
def test_names_are_no_steps_in_a_path(name: str, sent: str) -> None:
    assert document_path("docs", name) == f"/v1/namespaces/docs/documents/{sent}"


def test_what_is_not_given_is_not_sent() -> None:
    assert change_json(Update("a", metadata={})) == {
        "change_type": "update", "namespace": "default", "document_id": "a", "metadata": {},
    }  # fmt: skip
    assert change_json(Insert("a", "", if_version=0))["if_version"] == 0
    assert change_json(Insert("a", b"\xff"))["content_encoding"] == "base64"
    assert "content" not in change_json(Delete("a"))


def test_half_a_character_is_said_clearly_and_ends_no_feed() -> None:
    change = Insert("a", "half \ud83d")
    with pytest.raises(ValueError, match=r"U\+D83D, a lone surrogate"):
        encoded(change_json(change))
    assert b'"half \\ud83d"' in line_of(change)


@pytest.mark.parametrize(
    ("body", "says"),
    [(b'{"message": "Forbidden"}', "Forbidden"), (b'{"error": "no upstream"}', "no upstream"),
     (b'{"error": {"code": 7}}', "403 No"), (b"<html>", "403 No"),
     (b'{"title": "t", "detail": "d", "message": "m"}', "d")],
)  # fmt: skip
def test_what_gateways_say_is_told(body: bytes, says: str) -> None:
    refused = refusal(body, 403, "No", {})
    assert (str(refused), refused.status) == (says, 403)


def test_dead_letters_are_named_in_one_way() -> None:
    none = {"namespace": None, "document_id": None}
    assert letters([], everything=False, **none) == {"message_ids": []}
    assert letters(None, everything=True, **none) == {"all": True}
    assert letters(None, everything=False, namespace="a", document_id="b") == {
        "all": True, "namespace": "a", "document_id": "b",
    }  # fmt: skip
    for ids, everything in ((None, False), (["a"], True)):
        with pytest.raises(ValueError, match="message_ids"):
            letters(ids, everything=everything, **none)


@pytest.mark.parametrize(
    ("told", "seconds"),
    [("3", 3.0), ("Thu, 01 Jan 1970 00:00:10 GMT", 6.0), ("Thu, 01 Jan 1970 00:00:01 GMT", 0.0),
     ("soon", 0.0), ("-9", 0.0), (None, 0.0)],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(told: str | None, seconds: float) -> None:
    assert seconds_of(told, now=4.0) == seconds
