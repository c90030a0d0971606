"""What a stranger may send over a bare socket: each has a bound and an answer, and the service goes
on. The deadlines are settings, small here; nothing is measured in time."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from common.identity import raw_blob_key
from common.settings import MEBIBYTE
from tests.integration.test_http_api import Api, insert, serving
from tests.pipeline import Pipeline, pipeline
from tests.raw_http import PATIENCE_SECONDS, Answer, connected, request
from webhook.connections import MAX_HEADERS, MAX_REQUEST_LINE_BYTES

JSON = "Content-Type: application/json"
NDJSON = "Content-Type: application/x-ndjson"
GZIP = "Content-Encoding: gzip"
CHUNKED = b"POST /v1/changes HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
DOCUMENTS = "/v1/namespaces/docs/documents"


@pytest.fixture
async def flow(tmp_path: Path) -> AsyncIterator[Pipeline]:
    async with pipeline(tmp_path) as made:
        yield made


@pytest.fixture
async def api(flow: Pipeline) -> AsyncIterator[Api]:
    async with serving(flow) as made:
        yield made


async def ask(api: Api, data: bytes) -> Answer:
    async with connected(api.runner) as client:
        return await client.ask(data)


def get(target: str, *headers: str) -> bytes:
    return request(target, *headers, method="GET", length=False)


async def is_well(api: Api) -> bool:
    return (await ask(api, get("/healthz"))).status == 200


# --- slow and many -------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [b"", b"GET /healthz HTTP/1.1\r\nX-A"])
async def test_a_head_that_never_ends_is_given_up(flow: Pipeline, said: bytes) -> None:
    async with serving(flow, connection_idle_seconds=0.05) as api:
        async with connected(api.runner) as client:
            await client.send(said)
            assert await client.is_closed()
        assert await is_well(api)


async def test_a_head_that_trickles_in_is_given_up(flow: Pipeline) -> None:
    """Each byte is a sign of life, and does not buy more time."""
    async with serving(flow, connection_idle_seconds=0.3) as api, connected(api.runner) as client:
        closed = asyncio.create_task(client.is_closed())
        await client.send(b"GET /healthz HTTP/1.1\r\nX-A: ")
        while not closed.done():
            client.writer.write(b"a")
            await asyncio.wait([closed], timeout=0.02)
        assert closed.result()


async def test_an_idle_connection_is_closed_after_its_answers_too(flow: Pipeline) -> None:
    async with serving(flow, connection_idle_seconds=0.05) as api, connected(api.runner) as client:
        assert (await client.ask(get("/healthz"))).status == 200
        await client.send(b"GET /healthz HT")
        assert await client.is_closed()


async def test_a_body_that_stops_is_given_up(flow: Pipeline) -> None:
    async with serving(flow, request_timeout_seconds=0.05) as api, connected(api.runner) as client:
        answer = await client.ask(request("/v1/changes", JSON, "Content-Length: 9", length=False))
        assert answer.problem == (408, "body-timeout")
        assert answer.headers["connection"] == "close"


async def test_a_body_that_trickles_in_is_given_up(flow: Pipeline) -> None:
    async with serving(flow, request_timeout_seconds=0.3) as api, connected(api.runner) as client:
        await client.send(request("/v1/changes", JSON, "Content-Length: 9999", length=False))
        answer = asyncio.create_task(client.answer())
        while not answer.done():
            client.writer.write(b" ")
            await asyncio.wait([answer], timeout=0.02)
        assert answer.result().problem == (408, "body-timeout")


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110 - nothing tells of a connection's end
        await asyncio.sleep(0.005)


def connections(api: Api) -> int:
    assert api.runner.server is not None
    return len(api.runner.server.connections)


async def test_one_connection_too_many_is_told_so(flow: Pipeline) -> None:
    async with (
        serving(flow, max_connections=2) as api,
        connected(api.runner) as first,
        connected(api.runner) as second,
    ):
        for client in (first, second):
            assert (await client.ask(get("/healthz"))).status == 200
        async with connected(api.runner) as third:
            answer = await third.answer()
            assert answer.problem == (503, "over-capacity")
            assert answer.headers["retry-after"] == "1"
            assert await third.is_closed()
        assert (await first.ask(get("/healthz"))).status == 200
        second.writer.close()
        await until(lambda: connections(api) == 1)
        assert await is_well(api)


async def test_a_client_that_reads_nothing_is_taken_for_gone(flow: Pipeline) -> None:
    async with serving(flow, request_timeout_seconds=0.2) as api:
        await flow.insert("large", "x" * 16 * MEBIBYTE)
        async with connected(api.runner) as client:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await client.send(get(f"{DOCUMENTS}/large/content"))
            await until(lambda: connections(api) == 1)
            await until(lambda: connections(api) == 0)


async def test_a_feed_of_which_nothing_comes_is_ended(flow: Pipeline) -> None:
    """It says why in its last line; what was accepted stays."""
    line = json.dumps(insert("a")).encode() + b"\n"
    chunk = f"{len(line):x}\r\n".encode() + line + b"\r\n"
    head = request("/v1/changes", NDJSON, "Transfer-Encoding: chunked", length=False)
    async with serving(flow, feed_idle_seconds=0.2) as api, connected(api.runner) as client:
        await client.send(head + chunk)
        async with asyncio.timeout(PATIENCE_SECONDS):
            said = await client.reader.read()
    first, last = (json.loads(found) for found in said.splitlines() if found.startswith(b"{"))
    assert first["outcome"] == "accepted"
    assert (last["line"], last["feed_ended"], last["error"]["status"]) == (2, True, 408)
    assert last["error"]["type"].endswith(":body-timeout")
    assert "nothing came for 0.2 s" in last["error"]["detail"]


# --- heads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/v1/changes", "/healthz", "/nowhere"])
async def test_an_expectation_that_is_not_known_is_refused(api: Api, target: str) -> None:
    answer = await ask(api, request(target, "Expect: 200-ok", "X-Request-Id: mine", body=b"{}"))
    assert answer.problem == (417, "expectation-failed")
    assert answer.headers["x-request-id"] == "mine"
    assert answer.headers["connection"] == "close"
    assert answer.value["limit"] == ["100-continue"]


@pytest.mark.parametrize("expected", ["100-continue", "100-Continue"])
async def test_who_waits_to_be_told_to_go_on_is_told(api: Api, expected: str) -> None:
    async with connected(api.runner) as client:
        body = json.dumps(insert("a")).encode()
        head = request("/v1/changes", JSON, f"Expect: {expected}", body=body)
        assert (await client.ask(head.removesuffix(body))).status == 100
        assert (await client.ask(body)).status == 202


async def test_an_older_client_expects_nothing(api: Api) -> None:
    head = request("/healthz", "Expect: x", method="GET", length=False, version="HTTP/1.0")
    assert (await ask(api, head)).status == 200


@pytest.mark.parametrize(
    "head",
    [
        get("/" + "a" * MAX_REQUEST_LINE_BYTES),
        get("/healthz", "X-A: " + "a" * 9000),
        get("/healthz", "X" * 9000 + ": a"),
        get("/healthz", *(f"X-{n}: a" for n in range(MAX_HEADERS + 1))),
        CHUNKED + b"0\r\n" + b"A: b\r\n" * 300 + b"\r\n",
    ],
    ids=["line", "value", "name", "headers", "trailers"],
)
async def test_a_head_that_is_too_large(api: Api, head: bytes) -> None:
    async with connected(api.runner) as client:
        answer = await client.ask(head)
        assert answer.problem == (431, "head-too-large")
        assert b"aaaa" not in answer.body
        assert await client.is_closed()
    assert await is_well(api)


CONTENT_LENGTH = "POST /v1/changes HTTP/1.1\r\nHost: localhost\r\nContent-Length: "


@pytest.mark.parametrize(
    "data",
    [
        get("/healthz", "X-A: a\0b"),
        get("/healthz", "X-A: a\r\n b"),
        get("/healthz", "X-A: a\rX-B: b"),
        get("/healthz", "X-A : b"),
        b"GET /healthz HTTP/1.1\nHost: localhost\n\n",
        f"{CONTENT_LENGTH}5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode(),
        f"{CONTENT_LENGTH}4\r\nContent-Length: 5\r\n\r\nabcde".encode(),
        f"{CONTENT_LENGTH}-1\r\n\r\n".encode(),
        f"{CONTENT_LENGTH}{'9' * 30}\r\n\r\n".encode(),
        f"{CONTENT_LENGTH}5\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n".encode(),
        CHUNKED.replace(b"chunked", b"rot13"),
        CHUNKED + b"zz\r\nabc\r\n",
        CHUNKED + b"f" * 20 + b"\r\nabc\r\n",
        CHUNKED + b"1\r\nab\r\n0\r\n\r\n",
        get("/healthz", "Host: evil.example"),
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/3.0\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",
        b"FROB /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        get("healthz"),
        get("http://[::1/healthz"),
        get("http://localhost:99999999/healthz"),
        get(f"{DOCUMENTS}/\xff\xfe"),
    ],
)  # fmt: skip
async def test_what_is_no_request(api: Api, data: bytes) -> None:
    """Also whatever two servers in a row could read as two different requests."""
    async with connected(api.runner) as client:
        assert (await client.ask(data)).problem == (400, "malformed-request")
        assert await client.is_closed()
    assert api.journal == []
    assert await is_well(api)


async def test_older_clients_and_proxies_are_answered(api: Api) -> None:
    """HTTP/1.0, and targets with the address in front, as proxies are sent them."""
    assert (await ask(api, b"GET /healthz HTTP/1.0\r\n\r\n")).status == 200
    assert (await ask(api, get("http://localhost/healthz"))).status == 200
    absolute = f"http://localhost{DOCUMENTS}/a"
    put = await ask(api, request(absolute, "Content-Type: text/plain", method="PUT", body=b"x"))
    assert (put.status, put.value["document_id"]) == (202, "a")


async def test_the_host_of_an_absolute_target_opens_nothing(api: Api) -> None:
    """A page that resolves its own name to this machine is not somebody on this machine."""
    target = "http://localhost/v1/stats"
    data = b"GET " + target.encode() + b" HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    assert (await ask(api, data)).problem == (403, "forbidden")


@pytest.mark.parametrize("host", ["[::1", "\xff\xfe", "evil.example", "localhost@evil.example"])
async def test_hosts_that_are_not_here(api: Api, host: str) -> None:
    data = f"GET /v1/stats HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1")
    assert (await ask(api, data)).problem == (403, "forbidden")


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [("OPTIONS", "*", 404), ("CONNECT", "evil.example:443", 404), ("GET", "//evil.example/", 404),
     ("TRACE", "/healthz", 405)],
)  # fmt: skip
async def test_targets_that_lead_nowhere(api: Api, method: str, target: str, status: int) -> None:
    answer = await ask(api, request(target, method=method, length=False))
    assert answer.problem[0] == status


async def test_an_upgrade_is_declined(api: Api) -> None:
    answer = await ask(api, get("/healthz", "Connection: Upgrade", "Upgrade: websocket"))
    assert answer.status == 200


@pytest.mark.parametrize(
    "given", ["a%0d%0aX-Evil: 1", "a\x0bb", "a" * 129, "a b", "\xe9", '"', "a;b"]
)
async def test_a_request_id_is_repeated_only_if_it_is_harmless(api: Api, given: str) -> None:
    answer = await ask(api, get("/v1/nothing", f"X-Request-Id: {given}"))
    assert given not in answer.headers.get("x-request-id", "")
    assert "x-evil" not in answer.headers


# --- names ---------------------------------------------------------------------------------------

ODD_IDS = [
    ("..", ".."),
    ("../../etc/passwd", "../../etc/passwd"),
    ("%2e%2e%2f%2e%2e%2fetc", "../../etc"),
    ("..%5C..%5Cx", "..\\..\\x"),
    ("..\\x", "..\\x"),
    ("a//b", "a//b"),
    ("/a", "/a"),
    ("./a/.", "./a/."),
    ("a%2Fb", "a/b"),
    ("a%252Fb", "a%2Fb"),
    ("C:%5Ca", "C:\\a"),
    ("file:%2F%2F%2Fetc", "file:///etc"),
    ("a%3Fx=1%23y", "a?x=1#y"),
    ("a;b=c", "a;b=c"),
    ("%E2%80%AE", "\u202e"),
]


@pytest.mark.parametrize(("target", "document_id"), ODD_IDS)
async def test_an_id_is_a_name_and_never_a_path(
    api: Api, tmp_path: Path, target: str, document_id: str
) -> None:
    address = f"{DOCUMENTS}/{target}"
    put = await ask(api, request(address, "Content-Type: text/plain", method="PUT", body=b"words"))
    assert (put.status, put.value["document_id"]) == (202, document_id)
    row = await api.row(document_id)
    assert row is not None
    assert row.desired.blob_key == raw_blob_key("docs", row.desired.content_hash)
    assert (await ask(api, get(f"{address}/content"))).body == b"words"
    inside = {path.resolve() for path in tmp_path.rglob("*") if path.is_file()}
    assert all(path.is_relative_to(tmp_path.resolve()) for path in inside)
    assert not [path for path in inside if "etc" in path.name or "passwd" in path.name]


@pytest.mark.parametrize(
    "target",
    [f"{DOCUMENTS}/a%00b", f"{DOCUMENTS}/a%0d%0aX-Evil:1", f"{DOCUMENTS}/%ff",
     f"{DOCUMENTS}/%C0%AF", f"{DOCUMENTS}/%ED%A0%80", f"{DOCUMENTS}/{'a' * 1025}",
     "/v1/namespaces/%2e%2e/documents/a",
     "/v1/namespaces/../documents/a", "/v1/namespaces/a%2Fb/documents/a",
     "/v1/namespaces/%24keys/documents/a", "/v1/namespaces/%C3%A9/documents/a"],
)  # fmt: skip
async def test_names_that_are_none(api: Api, target: str) -> None:
    answer = await ask(api, request(target, "Content-Type: text/plain", method="PUT", body=b"x"))
    assert answer.problem == (422, "invalid-field")
    assert "x-evil" not in answer.headers
    assert api.journal == []


async def test_one_namespace_is_not_reached_through_another(api: Api) -> None:
    await api.change(insert("a"))
    for target in ("/v1/namespaces/docs2/../docs/documents/a", "/v1/namespaces/./docs/documents/a"):
        assert (await ask(api, get(target))).status == 404


# --- bodies --------------------------------------------------------------------------------------


def bomb(size: int) -> bytes:
    """About a thousandth of `size`, which is many times what the test may take."""
    return gzip.compress(b"\0" * size)


@pytest.mark.parametrize("target", ["/v1/changes", f"{DOCUMENTS}/a", "/v1/namespaces/docs/search"])
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_decompression_bomb_takes_no_memory(
    flow: Pipeline, target: str, encoding: str
) -> None:
    method = "PUT" if target.startswith(DOCUMENTS) else "POST"
    headers = (
        "Content-Type: text/plain" if method == "PUT" else JSON,
        f"Content-Encoding: {encoding}",
    )
    data = bomb(100 * MEBIBYTE) if encoding == "gzip" else zlib.compress(b"\0" * 100 * MEBIBYTE)
    assert len(data) * 900 < 100 * MEBIBYTE
    limits: dict[str, Any] = {"max_body_bytes": MEBIBYTE, "max_document_bytes": MEBIBYTE}
    async with serving(flow, **limits) as api, connected(api.runner) as client:
        tracemalloc.start()
        try:
            answer = await client.ask(request(target, *headers, method=method, body=data))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert answer.problem == (413, "too-large")
        assert peak < 8 * MEBIBYTE


async def test_a_bomb_in_a_feed_costs_its_line(flow: Pipeline) -> None:
    data = gzip.compress(b"\0" * 50 * MEBIBYTE + b"\n" + json.dumps(insert("b")).encode())
    async with serving(flow, max_body_bytes=MEBIBYTE) as api:
        tracemalloc.start()
        try:
            results = await api.feed(data, **{"Content-Encoding": "gzip"})
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert [result.get("outcome") for result in results] == [None, "accepted"]
        assert peak < 8 * MEBIBYTE


async def test_a_bomb_in_a_bomb_is_opened_once(api: Api) -> None:
    """The inner one is content like any other; two layers asked for by header are refused."""
    nested = gzip.compress(bomb(64 * MEBIBYTE))
    once = await ask(api, request("/v1/changes", JSON, GZIP, body=nested))
    assert once.problem == (400, "malformed-json")
    twice = await ask(api, request("/v1/changes", JSON, GZIP + ", gzip", body=nested))
    assert twice.problem == (415, "unsupported-media-type")
    again = await ask(api, request("/v1/changes", JSON, GZIP, GZIP, body=nested))
    assert again.problem == (400, "malformed-json")


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip2", "gzip;q=1"])
async def test_other_encodings_are_refused(api: Api, encoding: str) -> None:
    data = request("/v1/changes", JSON, f"Content-Encoding: {encoding}", body=b"{}")
    answer = await ask(api, data)
    assert answer.problem == (415, "unsupported-media-type")
    assert answer.value["limit"] == ["gzip", "deflate", "identity"]


async def test_a_length_that_is_too_large_is_refused_before_anything_comes(api: Api) -> None:
    data = request("/v1/changes", JSON, "Content-Length: 9999999999", length=False)
    assert (await ask(api, data)).problem == (413, "too-large")


DEEP = b"[" * 70 + b"]" * 70
TWICE = b'{"change_type":"insert","document_id":"a","document_id":"b","content":"x"}'


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (DEEP, 400, "nested too deep"),
        (b'{"metadata":' + DEEP + b"}", 400, "nested too deep"),
        (b'{"a":' * 50_000, 400, "nested too deep"),
        (b"[" * 3_000_000, 400, "nested too deep"),
        (TWICE, 400, "'document_id' twice"),
        (b'{"metadata":{"a":1,"\\u0061":2}}', 400, "'a' twice"),
        (b'{"source_version":' + b"9" * 5000 + b"}", 400, "too many digits"),
        (b'{"source_version":1e999}', 400, "1e999 is too large"),
        (b'{"source_version":-1e999}', 400, "-1e999 is too large"),
        (b'{"source_version":NaN}', 400, "NaN is not JSON"),
        (b"\xff\xfe{}", 400, "not UTF-8 at byte 0"),
        (b'{"content":"\xed\xa0\x80"}', 400, "not UTF-8"),
        (b"{" + b" " * 100_000, 400, "not JSON"),
    ],
)
async def test_json_that_is_hard_to_read(api: Api, body: bytes, status: int, words: str) -> None:
    for target in ("/v1/changes", "/v1/namespaces/docs/search"):
        answer = await ask(api, request(target, JSON, body=body))
        assert answer.problem == (status, "malformed-json")
        assert words in answer.value["detail"]
    (line,) = await api.feed(body)
    assert words in line["error"]["detail"]
    assert api.journal == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("source_version", 2**63),
        ("source_version", 1.5),
        ("source_version", True),
        ("document_id", "\ud800"),
        ("namespace", "\ud800"),
        ("content", "\udfff"),
        ("content", "a\0b"),
        ("metadata", {"a": 2**63}),
        ("metadata", {"\ud800": 1}),
        ("metadata", {"a": "\ud800"}),
        ("metadata", {"a": ["\ud800"]}),
        ("metadata", {"a": {"b": 1}}),
        ("content_type", "text/\ud800"),
        ("content_type", "text/plain\r\nX-Evil: 1"),
        ("change_type", ["insert"]),
        ("change_type", {}),
        ("doc_hash", "\ud800"),
        ("content_encoding", []),
    ],
)
async def test_values_that_nothing_can_hold(api: Api, field: str, value: Any) -> None:
    status, body = await api.change(insert(**{field: value}) if field != "document_id" else
                                    {**insert(), field: value})  # fmt: skip
    assert (status, body["status"]) == (422, 422), body
    assert body["field"].startswith(field)
    assert api.journal == []


@pytest.mark.parametrize(
    "asked",
    [
        {"query": "\ud800"},
        {"query": "a", "filter": {"a": {"$eq": "\ud800"}}},
        {"query": "a", "filter": {"\ud800": {"$eq": 1}}},
        {"query": "a", "filter": {"a": {"$gt": 10**400}}},
        {"query": "a", "filter": {"a": {"$in": [10**400]}}},
        {"query": "a", "filter": {"$and": [{"a": 1}] * 100_000}},
        {"query": "a", "top_k": 10**30},
        {"query": "a", "min_version": {"\ud800": 1}},
    ],
)
async def test_searches_that_nothing_can_answer(api: Api, asked: Any) -> None:
    status, body = await api.post("/v1/namespaces/docs/search", asked)
    assert 400 <= status < 500, body
    assert body["status"] == status
