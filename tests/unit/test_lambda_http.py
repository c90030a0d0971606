"""API Gateway's events as HTTP requests and back: nothing a client sent may get lost on the way."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.lambda_events import REQUEST_ID, body_of, http_event
from webhook.lambda_http import (
    LARGEST_ANSWER_BYTES,
    AnswerTooLargeError,
    NotAnHttpEventError,
    answer_of,
    request_of,
)

DOCUMENTS = "/v1/namespaces/docs/documents"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("a.md", "a.md"),
        ("guide/start.md", "guide/start.md"),
        ("a%20b.md", "a%20b.md"),
        ("%C3%BC/%E6%96%87.md", "%C3%BC/%E6%96%87.md"),
        ("a%23b", "a%23b"),
        ("a%3Fb", "a%3Fb"),
        ("100%25", "100%25"),
        ("a%2520b", "a%2520b"),
        ("a%22%3C%5B%5D%7B%7C%7D%5C%5E%60", "a%22%3C%5B%5D%7B%7C%7D%5C%5E%60"),
        ("a+b", "a+b"),
        ("a%2Bb", "a+b"),
        ("a%2Fb", "a/b"),
    ],
)
def test_paths_mean_the_same_behind_an_http_api(written: str, read: str) -> None:
    """Which decodes them; only a slash and a plus, which may stand for themselves, stay decoded."""
    assert request_of(http_event("GET", f"{DOCUMENTS}/{written}")).target == f"{DOCUMENTS}/{read}"


@pytest.mark.parametrize("path", ["/a%2Fb", "/a%20b", "/a%2520b", "/%C3%BC", "/a+b", "/"])
def test_paths_are_taken_as_they_are_behind_a_function_url(path: str) -> None:
    assert request_of(http_event("GET", path, decoded=False)).target == path


def test_a_bare_percent_sign_is_one() -> None:
    assert request_of(http_event("GET", "/50% off", decoded=False)).target == "/50%25%20off"


def test_a_query_string_stays_as_it_was_sent() -> None:
    query = "metadata=%7B%22a%22%3A%5B%221%22%5D%7D&wait=1.5&x=a+b&y=%2F%3F&wait=2"
    assert request_of(http_event("PUT", f"/a?{query}")).target == f"/a?{query}"


@pytest.mark.parametrize(
    ("stage", "path", "target"),
    [
        ("$default", "/v1/stats", "/v1/stats"),
        ("prod", "/v1/stats", "/v1/stats"),
        ("prod", "/prod/x", "/prod/x"),
        ("prod", "/", "/"),
        ("v1", "/v1/stats", "/v1/stats"),
    ],
)
def test_a_named_stage_is_no_part_of_the_path(stage: str, path: str, target: str) -> None:
    assert request_of(http_event("GET", path, stage=stage)).target == target


def test_a_custom_domain_leaves_the_stage_out_already() -> None:
    event = http_event("GET", "/v1/stats", stage="prod") | {"rawPath": "/v1/stats"}
    assert request_of(event).target == "/v1/stats"
    event["rawPath"] = "/prod"
    assert request_of(event).target == "/"
    event["rawPath"] = "/production"
    assert request_of(event).target == "/production"


def test_headers_and_cookies_arrive_and_the_connection_s_own_do_not() -> None:
    event = http_event("POST", "/a", headers={"Accept": "text/html,text/*", "Connection": "close"})
    event["cookies"] = ["a=1", "b=2; c"]
    headers = request_of(event).headers
    assert headers["accept"] == "text/html,text/*"
    assert headers["cookie"] == "a=1; b=2; c"
    assert not {"connection", "content-length"} & headers.keys()


def test_the_request_id_is_api_gateway_s_unless_the_client_named_one() -> None:
    assert request_of(http_event("GET", "/")).headers["x-request-id"] == REQUEST_ID
    event = http_event("GET", "/", headers={"X-Request-Id": "mine"})
    assert request_of(event).headers["x-request-id"] == "mine"


@pytest.mark.parametrize("body", [None, b"", b"text \xc3\xbc", b"\x1f\x8b\xff\x00"])
def test_bodies_arrive_byte_for_byte(body: bytes | None) -> None:
    assert request_of(http_event("PUT", "/a", body=body)).body == (body or None)


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"Records": []},
        {"version": "1.0", "path": "/a", "httpMethod": "GET", "requestContext": {"stage": "a"}},
        {**http_event("GET", "/"), "body": "no base64!", "isBase64Encoded": True},
    ],
)
def test_what_is_no_http_event_is_refused_in_words(event: dict[str, Any]) -> None:
    with pytest.raises(NotAnHttpEventError, match=r"payload_format_version"):
        request_of(event)


JSON_ANSWER = [("Content-Type", "application/json; charset=utf-8")]


def test_text_goes_back_as_text_and_bytes_as_base64() -> None:
    answer = answer_of(200, JSON_ANSWER, '{"a": "ü"}'.encode())
    assert (answer["body"], answer["isBase64Encoded"]) == ('{"a": "ü"}', False)
    for headers, body in (
        ([("Content-Type", "application/pdf")], b"%PDF"),
        ([("Content-Type", "text/plain")], b"\xff"),
        ([*JSON_ANSWER, ("Content-Encoding", "gzip")], b"{}"),
    ):
        answer = answer_of(200, headers, body)
        assert (answer["isBase64Encoded"], body_of(answer)) == (True, body)


def test_headers_of_one_name_are_joined_and_cookies_kept_apart() -> None:
    answer = answer_of(
        204,
        [("Vary", "a"), ("vary", "b"), ("Set-Cookie", "x=1"), ("Set-Cookie", "y=2"),
         ("Content-Length", "0"), ("Transfer-Encoding", "chunked")],
        b"",
    )  # fmt: skip
    assert answer["statusCode"] == 204
    assert answer["headers"] == {"vary": "a, b"}
    assert answer["cookies"] == ["x=1", "y=2"]


def test_an_answer_fits_into_what_lambda_returns_or_is_refused() -> None:
    """Text that JSON makes larger than base64 does goes as base64."""
    escaped = "\u0001".encode() * (LARGEST_ANSWER_BYTES // 2)
    answer = answer_of(200, [("Content-Type", "text/plain")], escaped)
    assert len(json.dumps(answer)) <= LARGEST_ANSWER_BYTES
    assert body_of(answer) == escaped
    with pytest.raises(AnswerTooLargeError):
        answer_of(200, [("Content-Type", "text/plain")], b"x" * LARGEST_ANSWER_BYTES)
    binary = base64.b64decode("AAAA") * (LARGEST_ANSWER_BYTES // 4)
    with pytest.raises(AnswerTooLargeError):
        answer_of(200, [("Content-Type", "application/pdf")], binary)
