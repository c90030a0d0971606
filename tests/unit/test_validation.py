"""Every refusal names the field and the rule; what is right becomes exactly the change meant."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest

from common.settings import Settings
from webhook.accept import ChangeType
from webhook.bodies import Line, LineSplitter
from webhook.problems import Problem
from webhook.search_route import search_request_of
from webhook.validation import change_of, changes_of, metadata_of, parse_json

LIMITS = Settings(_env_file=None, max_document_bytes=100, max_metadata_bytes=200)
HELLO_HASH = hashlib.sha256(b"hello").hexdigest()


def insert(**fields: Any) -> dict[str, Any]:
    return {"change_type": "insert", "document_id": "a", "content": "hello", **fields}


def refusal(value: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        change_of(value, LIMITS)
    return caught.value


def without(value: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: item for name, item in value.items() if name not in names}


REFUSALS: list[tuple[Any, int, str | None, str]] = [
    ([], 400, None, "must be a JSON object, not a list"),
    ("text", 400, None, "not a string"),
    (insert(colour="red"), 422, "colour", "known are"),
    (insert(change_type="upsert"), 422, "change_type", "insert, update, delete"),
    (insert(change_type=["insert"]), 422, "change_type", "insert, update, delete"),
    (without(insert(), "change_type"), 422, "change_type", "insert, update, delete"),
    (without(insert(), "document_id"), 422, "document_id", "missing"),
    (insert(document_id=""), 422, "document_id", "empty"),
    (insert(document_id=None), 422, "document_id", "not null"),
    (insert(document_id=7), 422, "document_id", "not a number"),
    (insert(document_id="é" * 513), 422, "document_id", "1026 bytes"),
    (insert(document_id="a\nb"), 422, "document_id", "U+000A at position 1"),
    (insert(document_id="a\x85"), 422, "document_id", "U+0085"),
    (insert(document_id="\ud800"), 422, "document_id", "lone surrogate U+D800"),
    (insert(namespace=""), 422, "namespace", "ASCII letters"),
    (insert(namespace="-a"), 422, "namespace", "ASCII letters"),
    (insert(namespace="a/b"), 422, "namespace", "ASCII letters"),
    (insert(namespace="a\n"), 422, "namespace", "ASCII letters"),
    (insert(namespace="ä"), 422, "namespace", "ASCII letters"),
    (insert(namespace="a" * 129), 422, "namespace", "the limit is 128"),
    (insert(namespace=5), 422, "namespace", "must be a string"),
    (without(insert(), "content"), 422, "content", "an insert needs content"),
    (insert(content=None), 422, "content", "an insert needs content"),
    (insert(content=["hello"]), 422, "content", "must be a string, not a list"),
    (insert(content="x" * 101), 413, "content", "limit of 100 bytes"),
    (insert(content="é" * 51), 413, "content", "limit of 100 bytes"),
    (insert(content="ab\0c"), 422, "content", "NUL byte at byte 2"),
    (insert(content="a\udfff"), 422, "content", "lone surrogate U+DFFF at position 1"),
    (insert(content_encoding="gzip"), 422, "content_encoding", "utf-8, base64"),
    (insert(content="%%%", content_encoding="base64"), 422, "content", "not base64"),
    (insert(content="aGVsbG8", content_encoding="base64"), 422, "content", "not base64"),
    (
        insert(content=base64.b64encode(b"ok\xff").decode(), content_encoding="base64"),
        422, "content", "not UTF-8 at byte 2",
    ),
    (
        insert(content=base64.b64encode(b"o\0").decode(), content_encoding="base64"),
        422, "content", "NUL byte at byte 1",
    ),
    (
        insert(content=base64.b64encode(b"x" * 101).decode(), content_encoding="base64"),
        413, "content", "limit of 100 bytes",
    ),
    (insert(content_type="image/png"), 422, "content_type", "supported are text/plain"),
    (insert(content_type="text/"), 422, "content_type", "supported are"),
    (insert(content_type="text/plain; charset=latin-1"), 422, "content_type", "send UTF-8"),
    (insert(content_type=3), 422, "content_type", "must be a string"),
    (insert(content_type="application/pdf"), 422, "content", "base64"),
    (insert(source_version=-1), 422, "source_version", "from 0 to 9223372036854775807"),
    (insert(source_version=2**63), 422, "source_version", "from 0"),
    (insert(source_version=True), 422, "source_version", "integer"),
    (insert(source_version=1.5), 422, "source_version", "integer"),
    (insert(doc_hash="abc"), 422, "doc_hash", "64 hex digits"),
    (insert(doc_hash="0" * 64), 422, "doc_hash", HELLO_HASH),
    (insert(metadata=[]), 422, "metadata", "must be an object"),
    (insert(metadata={"a": {}}), 422, "metadata.a", "metadata is flat"),
    (insert(metadata={"a": None}), 422, "metadata.a", "not null"),
    (insert(metadata={"a": ["x", 1]}), 422, "metadata.a[1]", "lists hold strings only"),
    (insert(metadata={"a": [["x"]]}), 422, "metadata.a[0]", "lists hold strings only"),
    (insert(metadata={"a": 2**63}), 422, "metadata.a", "beyond 64 bit"),
    (insert(metadata={"a": -(2**63) - 1}), 422, "metadata.a", "beyond 64 bit"),
    (insert(metadata={"a": float("inf")}), 422, "metadata.a", "finite"),
    (insert(metadata={"a": "\ud800"}), 422, "metadata.a", "lone surrogate"),
    (insert(metadata={"$a": 1}), 422, "metadata.$a", "must not begin with $"),
    (insert(metadata={"": 1}), 422, "metadata", "1 to 128"),
    (insert(metadata={"k" * 129: 1}), 422, "metadata", "1 to 128"),
    (insert(metadata={"text": "x"}), 422, "metadata.text", "reserved"),
    (insert(metadata={"a": "x" * 200}), 422, "metadata", "the limit is 200"),
    (insert(metadata={str(n): 1 for n in range(65)}), 422, "metadata", "the limit is 64"),
    ({"change_type": "update", "document_id": "a"}, 422, "content", "content or metadata"),
    (
        {"change_type": "update", "document_id": "a", "content_type": "text/html"},
        422, "content_type", "describes the content",
    ),
    (
        {"change_type": "update", "document_id": "a", "metadata": {}, "doc_hash": HELLO_HASH},
        422, "doc_hash", "describes the content",
    ),
    (
        {"change_type": "update", "document_id": "a", "content": "aGk=",
         "content_encoding": "base64"},
        422, "content_type", "of which type",
    ),
    (insert(change_type="delete"), 422, "content", "a delete names a document"),
    (
        {"change_type": "delete", "document_id": "a", "metadata": {}},
        422, "metadata", "a delete names a document",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("value", "status", "field", "words"), REFUSALS)
def test_what_is_wrong_is_named(value: Any, status: int, field: str | None, words: str) -> None:
    problem = refusal(value)
    assert (problem.kind.status, problem.field) == (status, field)
    assert words in problem.detail
    json.dumps(problem.body())


def test_an_answer_does_not_repeat_a_megabyte() -> None:
    for value in (insert(**{"x" * 10**6: 1}), insert(content_type="y" * 10**6)):
        assert len(json.dumps(refusal(value).body())) < 2000


def test_an_insert_in_full() -> None:
    change = change_of(
        insert(
            namespace="Team-1.docs_x",
            document_id="Straße/ 中文?#",
            content_type="Text/Markdown; charset=UTF-8",
            metadata={"s": "x", "n": 1, "f": 0.5, "b": True, "l": ["a", "b"], "big": -(2**63)},
            source_version=2**63 - 1,
            doc_hash="sha256:" + HELLO_HASH.upper(),
        ),
        LIMITS,
        traceparent="t",
    )
    assert (change.key.namespace, change.key.document_id) == ("Team-1.docs_x", "Straße/ 中文?#")
    assert change.change_type is ChangeType.INSERT
    assert (change.content, change.content_hash) == (b"hello", HELLO_HASH)
    assert change.content_type == "text/markdown"
    assert change.metadata == {
        "s": "x", "n": 1, "f": 0.5, "b": True, "l": ["a", "b"], "big": -(2**63),
    }  # fmt: skip
    assert (change.source_version, change.traceparent) == (2**63 - 1, "t")


def test_defaults_and_null_mean_the_same() -> None:
    nulls = dict.fromkeys(
        ("namespace", "content_encoding", "content_type", "metadata", "source_version", "doc_hash")
    )
    change = change_of(insert(**nulls), LIMITS)
    assert change == change_of(insert(), LIMITS)
    assert (change.key.namespace, change.content_type) == ("default", "text/plain")


def test_limits_are_met_exactly() -> None:
    assert change_of(insert(content="x" * 100), LIMITS).content == b"x" * 100
    text = base64.b64encode(b"x" * 100).decode()
    assert change_of(insert(content=text, content_encoding="base64"), LIMITS).content == b"x" * 100
    assert change_of(insert(document_id="é" * 512), LIMITS).key.document_id == "é" * 512
    assert change_of(insert(content=""), LIMITS).content == b""
    metadata = {"a": "x" * 192}
    assert change_of(insert(metadata=metadata), LIMITS).metadata == metadata


def test_binary_content_is_any_bytes() -> None:
    raw = b"%PDF\0\xff"
    change = change_of(
        insert(
            content=base64.b64encode(raw).decode(),
            content_encoding="base64",
            content_type="application/pdf",
        ),
        LIMITS,
    )
    assert change.content == raw


def test_an_update_keeps_what_it_does_not_name() -> None:
    change = change_of({"change_type": "update", "document_id": "a", "metadata": {}}, LIMITS)
    assert (change.content, change.content_hash, change.content_type) == (None, None, None)
    assert change.metadata == {}
    change = change_of({"change_type": "update", "document_id": "a", "content": "x"}, LIMITS)
    assert (change.content, change.content_type, change.metadata) == (b"x", None, None)


def test_a_list_names_the_index() -> None:
    with pytest.raises(Problem) as caught:
        changes_of({"changes": [insert(), insert(document_id="")]}, LIMITS)
    assert caught.value.field == "changes[1].document_id"
    with pytest.raises(Problem) as caught:
        changes_of({"changes": [insert(), 5]}, LIMITS)
    assert caught.value.field == "changes[1]"


@pytest.mark.parametrize("changes", [None, [], {}, "x"])
def test_a_list_has_changes(changes: Any) -> None:
    with pytest.raises(Problem) as caught:
        changes_of({"changes": changes}, LIMITS)
    assert caught.value.field == "changes"


def test_a_list_has_a_limit() -> None:
    limits = Settings(_env_file=None, max_changes_per_request=2)
    with pytest.raises(Problem) as caught:
        changes_of({"changes": [insert()] * 3}, limits)
    assert (caught.value.kind.status, caught.value.limit) == (413, 2)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"a": 1,\n  b}', "line 2, column 3"),
        (b"", "line 1, column 1"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 7"),
        (b'"\xed\xa0\x80"', "not UTF-8 at byte 1"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b"NaN", "numbers are finite"),
        (b"[-Infinity]", "numbers are finite"),
        (b"9" * 10_000, "too many digits"),
    ],
)
def test_json_that_cannot_be_read(data: bytes, words: str) -> None:
    with pytest.raises(Problem) as caught:
        parse_json(data)
    assert caught.value.kind.status == 400
    assert words in caught.value.detail


def test_a_byte_order_mark_is_passed_over() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


def test_metadata_as_text_names_its_field() -> None:
    assert metadata_of('{"a": 1}', LIMITS) == {"a": 1}
    for text in ('{"a"', '{"text": 1}', "5"):
        with pytest.raises(Problem) as caught:
            metadata_of(text, LIMITS)
        assert (caught.value.field or "").startswith("metadata")


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({}, "query"),
        ({"query": " "}, "query"),
        ({"query": "x" * 70_000}, "query"),
        ({"query": "\ud800"}, "query"),
        ({"query": "x", "top_k": 0}, "top_k"),
        ({"query": "x", "top_k": 1001}, "top_k"),
        ({"query": "x", "top_k": True}, "top_k"),
        ({"query": "x", "wait": -1}, "wait"),
        ({"query": "x", "wait": 301}, "wait"),
        ({"query": "x", "min_version": []}, "min_version"),
        ({"query": "x", "min_version": {"a": "1"}}, "min_version.a"),
        ({"query": "x", "min_version": {"": 1}}, "min_version.document_id"),
        ({"query": "x", "topk": 3}, "topk"),
    ],
)
def test_a_search_that_is_not_one(value: dict[str, Any], field: str) -> None:
    with pytest.raises(Problem) as caught:
        search_request_of(value, "default", LIMITS)
    assert (caught.value.kind.status, caught.value.field) == (422, field)


def test_min_version_waits_by_default() -> None:
    assert search_request_of({"query": "x"}, "n", LIMITS).wait_seconds is None
    wanted = search_request_of({"query": "x", "min_version": {"a": 3}}, "n", LIMITS)
    assert (wanted.wait_seconds, wanted.top_k) == (10.0, 10)


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 7, 100])
def test_lines_are_the_same_however_they_arrive(chunk_size: int) -> None:
    stream = b"one\n\n  \r\n" + b"x" * 11 + b"\n" + b"y" * 10 + b"\nlast"
    splitter = LineSplitter(10)
    lines: list[Line] = []
    for start in range(0, len(stream), chunk_size):
        lines += splitter.feed(stream[start : start + chunk_size])
    lines += splitter.end()
    assert lines == [Line(1, b"one"), Line(4, None), Line(5, b"y" * 10), Line(6, b"last")]


def test_a_line_over_the_limit_is_not_kept() -> None:
    splitter = LineSplitter(1000)
    for _ in range(1000):
        assert list(splitter.feed(b"x" * 1000)) == []
        assert sum(map(len, splitter._parts)) <= 1000
    assert list(splitter.feed(b"\nnext\n")) == [Line(1, None), Line(2, b"next")]
