"""Requests for embeddings as OpenAI's clients write them, and what is refused."""

from __future__ import annotations

import base64
import json
import struct
from array import array
from typing import Any

import pytest

from workers.serve_requests import EmbeddingRequest, RefusedError, answer, parse


def parsed(**given: Any) -> EmbeddingRequest:
    body = json.dumps({"model": "words"} | given).encode()
    return parse(body, model="words", dimension=2, max_inputs=3)


@pytest.mark.parametrize(("given", "texts"), [("a", ["a"]), (["a", "b"], ["a", "b"])])
def test_one_text_or_several(given: object, texts: list[str]) -> None:
    assert list(parsed(input=given).texts) == texts


def test_documents_and_floats_unless_it_says_otherwise() -> None:
    assert parsed(input="a") == EmbeddingRequest(["a"], is_query=False, in_base64=False)
    whole = parsed(
        input="a", encoding_format="base64", input_type="query", dimensions=2, user="u-1"
    )
    assert whole == EmbeddingRequest(["a"], is_query=True, in_base64=True)
    assert not parsed(input="a", input_type="passage", encoding_format=None).is_query


@pytest.mark.parametrize(
    ("given", "param", "said"),
    [
        ({}, "input", "a string or a list of strings"),
        ({"input": []}, "input", "a string or a list of strings"),
        ({"input": {}}, "input", "a string or a list of strings"),
        ({"input": ""}, "input", "input[0] is empty"),
        ({"input": ["a", ""]}, "input", "input[1] is empty"),
        ({"input": ["a", None]}, "input", "input[1] is not a string"),
        ({"input": "\ud800"}, "input", "no character"),
        ({"input": [1, 2]}, "input", "ids of tokens are not taken"),
        ({"input": [[1, 2]]}, "input", "ids of tokens are not taken"),
        ({"input": ["a"] * 4}, "input", "3 at most"),
        ({"input": "a", "model": None}, "model", "must be a string"),
        ({"input": "a", "dimensions": 1}, "dimensions", "have 2 dimensions"),
        ({"input": "a", "dimensions": True}, "dimensions", "have 2 dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", "float, base64"),
        ({"input": "a", "encoding_format": []}, "encoding_format", "float, base64"),
        ({"input": "a", "input_type": "image"}, "input_type", "document, passage, query"),
        ({"input": "a", "dimension": 2}, "dimension", "there is no field 'dimension'"),
    ],
)
def test_what_cannot_be_answered_names_its_field(given: Any, param: str, said: str) -> None:
    with pytest.raises(RefusedError) as refused:
        parsed(**given)
    error = json.loads(refused.value.body())["error"]
    assert (refused.value.status, error["type"], error["param"]) == (
        400, "invalid_request_error", param,
    )  # fmt: skip
    assert said in error["message"]


def test_another_model_is_not_found() -> None:
    with pytest.raises(RefusedError) as refused:
        parsed(input="a", model="text-embedding-3-small")
    error = json.loads(refused.value.body())["error"]
    assert (refused.value.status, error["code"]) == (404, "model_not_found")
    assert "'words' is" in error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"[" * 100_000, b"\xff"])
def test_a_body_that_is_no_object(body: bytes) -> None:
    with pytest.raises(RefusedError, match="JSON"):
        parse(body, model="words", dimension=2, max_inputs=3)


@pytest.mark.parametrize("in_base64", [False, True])
def test_vectors_come_in_the_order_of_the_inputs(in_base64: bool) -> None:
    request = EmbeddingRequest(["a", "b"], is_query=False, in_base64=in_base64)
    vectors = [array("f", [0.5, -1.0]), array("f", [0.25, 2.0])]
    said = json.loads(answer(request, vectors, model="words", tokens=7))
    assert [each["index"] for each in said["data"]] == [0, 1]
    found = [each["embedding"] for each in said["data"]]
    if in_base64:
        found = [list(struct.unpack("<2f", base64.b64decode(each))) for each in found]
    assert found == [[0.5, -1.0], [0.25, 2.0]]
    assert said["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert (said["object"], said["model"]) == ("list", "words")
    assert {each["object"] for each in said["data"]} == {"embedding"}
