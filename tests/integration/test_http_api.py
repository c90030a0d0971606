"""What a client of the HTTP API notices, over a real socket and the real stores."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import tracemalloc
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from common.model import DocumentKey, EmbeddingProfile, QueueName, Row, Status, WakeUp
from common.parts import FleetStatus
from common.ports.errors import PermanentError, TransientError
from common.ports.queue import Delivery
from common.scrubbing import ScrubService
from common.settings import MEBIBYTE, Settings
from tests.pipeline import Pipeline, pipeline
from webhook.admission import Admission, limits_of
from webhook.app import build_app, make_runner
from webhook.authentication import Authenticate, anybody_here
from webhook.feed import STOPPING_SIGNAL
from webhook.openapi import document
from webhook.problems import TYPE_PREFIX
from webhook.services import Services

NDJSON = {"Content-Type": "application/x-ndjson"}
DOCUMENTS = "/v1/namespaces/docs/documents"
SEARCH = "/v1/namespaces/docs/search"


class Watched:
    """A port as it is, except that calls are noted and `before` may delay or fail them."""

    def __init__(self, port: Any, journal: list[str]) -> None:
        self._port = port
        self._journal = journal
        self.errors: list[Exception] = []
        """Raised one by one by the next sends, which then send nothing."""
        self.failing_document: str | None = None
        self.hold: asyncio.Event | None = None

        self.rows = asyncio.Semaphore(0)
        """Released for each row that was stored."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)

    async def put(self, key: str, data: bytes) -> bool:
        stored: bool = await self._port.put(key, data)
        self._journal.append("blob")
        return stored

    async def put_if(self, row: Row) -> Row | None:
        stored: Row | None = await self._port.put_if(row)
        self._journal.append("row")
        self.rows.release()
        return stored

    async def send(self, queue: QueueName, wake_ups: Sequence[WakeUp]) -> None:
        if self.hold is not None:
            await self.hold.wait()
        if self.errors and self.failing_document in (None, wake_ups[0].document_id):
            raise self.errors.pop(0)
        await self._port.send(queue, wake_ups)
        self._journal.append(f"wake {queue.value}")


@dataclass
class Api:
    """A served application, a client of it, and the pipeline behind it."""

    flow: Pipeline
    queue: Watched
    registry: Watched
    journal: list[str]
    runner: web.AppRunner
    client: aiohttp.ClientSession
    missing: list[str]

    async def post(self, path: str, value: Any, **more: Any) -> tuple[int, Any]:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        headers = {"Content-Type": "application/json", **more.pop("headers", {})}
        async with self.client.post(
            path, data=io.BytesIO(data), headers=headers, **more
        ) as response:
            return response.status, await response.json(content_type=None)

    async def change(self, value: Any, **more: Any) -> tuple[int, Any]:
        return await self.post("/v1/changes", value, **more)

    async def feed(self, data: Any, **headers: str) -> list[Any]:
        async with self.client.post(
            "/v1/changes",
            data=io.BytesIO(data) if isinstance(data, bytes) else data,
            headers={**NDJSON, **headers},
        ) as response:
            assert response.status == 200
            return [json.loads(line) async for line in response.content]

    async def get(self, path: str | URL, **more: Any) -> tuple[int, Any]:
        async with self.client.get(path, **more) as response:
            return response.status, await response.json(content_type=None)

    def url(self, path: str) -> URL:
        """The path exactly as it is written: no normalising client is in between."""
        host, port = self.runner.addresses[0][:2]
        return URL(f"http://{host}:{port}{path}", encoded=True)

    async def row(self, document_id: str, namespace: str = "docs") -> Row | None:
        return await self.flow.registry.get(DocumentKey(namespace, document_id))


@asynccontextmanager
async def serving(
    flow: Pipeline,
    *,
    searching: bool = True,
    profile: EmbeddingProfile | None = None,
    scrub: ScrubService | None = None,
    authenticate: Authenticate = anybody_here,
    services_too: Mapping[str, Any] | None = None,
    **limits: Any,
) -> AsyncIterator[Api]:
    journal: list[str] = []
    missing: list[str] = []
    settings = Settings(_env_file=None, **limits)
    queue: Any = Watched(flow.queue, journal)
    registry: Any = Watched(flow.registry, journal)
    blobs: Any = Watched(flow.blobs, journal)
    acceptor = replace(
        flow.acceptor,
        queue=queue,
        registry=registry,
        blobs=blobs,
        profile=profile or flow.embedder.profile,
        max_namespaces=settings.max_namespaces,
    )
    services = Services(
        authenticate=authenticate,
        settings=settings,
        registry=flow.registry,
        blobs=flow.blobs,
        queue=flow.queue,
        profile=acceptor.profile,
        acceptor=acceptor,
        admission=Admission(flow.queue, [], limits_of(settings)),
        searcher=flow.searcher if searching else None,
        why_no_search="the index lives elsewhere",
        fleet=lambda: FleetStatus(running=1, peak=2, maximum=3, started_total=4),
        unready=lambda: missing,
        scrub=scrub,
        **(services_too or {}),
    )
    runner = make_runner(build_app(services), shutdown_seconds=5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(f"http://{host}:{port}", timeout=timeout) as client:
        yield Api(flow, queue, registry, journal, runner, client, missing)
    await runner.cleanup()


@pytest.fixture
async def flow(tmp_path: Path) -> AsyncIterator[Pipeline]:
    async with pipeline(tmp_path) as made:
        yield made


@pytest.fixture
async def api(flow: Pipeline) -> AsyncIterator[Api]:
    async with serving(flow) as made:
        yield made


def insert(document_id: str = "a", content: str = "hello", **fields: Any) -> dict[str, Any]:
    return {
        "change_type": "insert", "namespace": "docs", "document_id": document_id,
        "content": content, **fields,
    }  # fmt: skip


def lines(*values: Any) -> bytes:
    return b"".join((v if isinstance(v, bytes) else json.dumps(v).encode()) + b"\n" for v in values)


def is_problem(status: int, body: Any, slug: str, field: str | None = None) -> bool:
    assert (body["status"], body["type"]) == (status, TYPE_PREFIX + slug), body
    assert body["title"]
    assert body["detail"]
    assert body.get("field") == field
    return True


# --- one change ----------------------------------------------------------------------------------


async def test_a_change_is_durable_before_it_is_answered(api: Api) -> None:
    assert await api.change(insert()) == (
        202,
        {"namespace": "docs", "document_id": "a", "outcome": "accepted", "version": 1},
    )
    assert api.journal == ["blob", "row", "wake change"]
    (delivery,) = await received(api, QueueName.CHANGE)
    assert (delivery.wake_up.document_id, delivery.wake_up.version) == ("a", 1)


async def received(api: Api, queue: QueueName) -> list[Delivery]:
    return await api.flow.queue.receive(queue, limit=100, visibility_seconds=30, wait_seconds=0)


async def test_outcomes(api: Api) -> None:
    async def outcome(**fields: Any) -> tuple[str, int]:
        status, body = await api.change(insert(**fields))
        assert status == 202
        return body["outcome"], body["version"]

    assert await outcome(source_version=5) == ("accepted", 1)
    assert await outcome(source_version=5) == ("unchanged", 1)
    assert await outcome(source_version=4, content="late") == ("superseded", 1)
    assert await outcome(source_version=6, content="new") == ("accepted", 2)
    assert await outcome(content="new", metadata={"a": 1}) == ("accepted", 3)
    row = await api.row("a")
    assert row is not None
    assert row.desired.metadata == {"a": 1}


async def test_an_update_keeps_what_it_does_not_name(api: Api) -> None:
    await api.change(insert(content_type="text/markdown", metadata={"a": 1}))
    update = {"change_type": "update", "namespace": "docs", "document_id": "a"}
    assert (await api.change({**update, "content": "new"}))[0] == 202
    row = await api.row("a")
    assert row is not None
    assert (row.desired.metadata, row.desired.content_type) == ({"a": 1}, "text/markdown")
    assert (await api.change({**update, "metadata": {"b": 2}}))[1]["version"] == 3
    row = await api.row("a")
    assert row is not None
    assert row.desired.content_hash == hashlib.sha256(b"new").hexdigest()
    assert row.desired.metadata == {"b": 2}


async def test_update_and_delete_of_what_does_not_exist(api: Api) -> None:
    base = {"namespace": "docs", "document_id": "ghost"}
    status, body = await api.change({"change_type": "update", "metadata": {"a": 1}, **base})
    assert status == 404
    assert is_problem(404, body, "not-found", "document_id")
    status, body = await api.change({"change_type": "delete", **base})
    assert (status, body["outcome"], body["version"]) == (202, "unchanged", 0)
    assert api.journal == []
    status, body = await api.change({"change_type": "update", "content": "now", **base})
    assert (status, body["version"]) == (202, 1)


async def test_a_delete_goes_to_its_own_queue(api: Api) -> None:
    await api.change(insert())
    api.journal.clear()
    delete = {"change_type": "delete", "namespace": "docs", "document_id": "a"}
    assert (await api.change(delete))[1]["version"] == 2
    assert api.journal == ["row", "wake delete"]


async def test_a_send_that_fails_is_healed_by_a_retry(api: Api) -> None:
    api.queue.errors.append(TransientError("secret path /var/queue"))
    async with api.client.post("/v1/changes", json=insert()) as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "1")
        body = await response.json(content_type="application/problem+json")
    assert is_problem(503, body, "unavailable")
    assert "secret" not in json.dumps(body)
    assert await received(api, QueueName.CHANGE) == []
    status, body = await api.change(insert())
    assert (status, body["outcome"], body["version"]) == (202, "unchanged", 1)
    assert len(await received(api, QueueName.CHANGE)) == 1


async def test_a_call_that_hangs_meets_the_deadline(flow: Pipeline) -> None:
    async with serving(flow, request_timeout_seconds=0.05) as api:
        api.queue.hold = asyncio.Event()
        status, body = await api.change(insert())
        assert is_problem(status, body, "unavailable")


async def test_what_nobody_expected_leaks_nothing(api: Api) -> None:
    api.queue.errors += [RuntimeError("secret"), PermanentError("secret")]
    status, body = await api.change(insert())
    assert is_problem(500, body, "internal")
    assert "secret" not in json.dumps(body)
    status, body = await api.change(insert())
    assert is_problem(503, body, "unavailable")
    assert (status, "secret" in json.dumps(body)) == (503, False)


@pytest.mark.parametrize(
    ("body", "status", "slug", "field"),
    [
        (b"{", 400, "malformed-json", None),
        (b"\xff", 400, "malformed-json", None),
        (b"[" * 100_000, 400, "malformed-json", None),
        (b"[]", 400, "malformed-json", None),
        (b"9" * 5000, 400, "malformed-json", None),
        (insert(colour=1), 422, "unknown-field", "colour"),
        (insert(document_id="x" * 1025), 422, "invalid-field", "document_id"),
        (insert(document_id="\ud800"), 422, "invalid-field", "document_id"),
        (insert(content="a\0"), 422, "invalid-field", "content"),
        (insert(doc_hash="0" * 64), 422, "hash-mismatch", "doc_hash"),
        (insert(metadata={"text": "x"}), 422, "invalid-field", "metadata.text"),
        (insert(content="x" * (32 * MEBIBYTE + 1)), 413, "too-large", "content"),
    ],
)
async def test_a_refused_change_leaves_nothing(
    api: Api, body: Any, status: int, slug: str, field: str | None
) -> None:
    answer = await api.change(body)
    assert answer[0] == status
    assert is_problem(status, answer[1], slug, field)
    assert api.journal == []


async def test_bodies_have_a_limit_however_they_are_sent(flow: Pipeline) -> None:
    async with serving(flow, max_body_bytes=100_000) as api:
        large = json.dumps(insert(content="x" * 200_000)).encode()
        status, body = await api.change(large)
        assert is_problem(status, body, "too-large")
        assert body["limit"] == 100_000

        async def chunked() -> AsyncIterator[bytes]:
            for start in range(0, len(large), 50_000):
                yield large[start : start + 50_000]

        async with api.client.post(
            "/v1/changes", data=chunked(), headers={"Content-Type": "application/json"}
        ) as response:
            assert is_problem(response.status, await response.json(content_type=None), "too-large")
        bomb = gzip.compress(b" " * 50_000_000)
        status, body = await api.change(bomb, headers={"Content-Encoding": "gzip"})
        assert is_problem(status, body, "too-large")


async def test_compressed_bodies(api: Api) -> None:
    body = gzip.compress(json.dumps(insert()).encode())
    assert (await api.change(body, headers={"Content-Encoding": "gzip"}))[0] == 202
    status, body = await api.change(b"not gzip", headers={"Content-Encoding": "gzip"})
    assert is_problem(status, body, "malformed-request")
    status, body = await api.change(b"x", headers={"Content-Encoding": "rot13"})
    assert is_problem(status, body, "unsupported-media-type")


async def test_other_media_types_are_refused(api: Api) -> None:
    status, body = await api.change(b"<a/>", headers={"Content-Type": "text/xml"})
    assert is_problem(status, body, "unsupported-media-type")
    assert "application/x-ndjson" in body["limit"]


# --- lists ---------------------------------------------------------------------------------------


async def test_one_bad_change_in_a_list_accepts_nothing(api: Api) -> None:
    changes = [insert(f"d{n}") for n in range(20)]
    changes[17]["document_id"] = ""
    status, body = await api.change({"changes": changes})
    assert status == 422
    assert is_problem(422, body, "invalid-field", "changes[17].document_id")
    assert api.journal == []


async def test_a_list_keeps_the_order_of_one_document(api: Api) -> None:
    changes = [insert(f"d{n % 3}", f"text {n}") for n in range(60)]
    status, body = await api.change({"changes": changes})
    assert status == 202
    assert [r["version"] for r in body["results"]] == [n // 3 + 1 for n in range(60)]
    row = await api.row("d2")
    assert row is not None
    assert row.desired.content_hash == hashlib.sha256(b"text 59").hexdigest()


async def test_an_update_of_nothing_costs_only_itself(api: Api) -> None:
    ghost = {"change_type": "update", "namespace": "docs", "document_id": "ghost", "metadata": {}}
    status, body = await api.change({"changes": [insert("a"), ghost, insert("b")]})
    assert status == 202
    assert [r.get("outcome") for r in body["results"]] == ["accepted", None, "accepted"]
    assert is_problem(404, body["results"][1]["error"], "not-found", "document_id")


async def test_a_list_that_fails_halfway_is_healed_by_a_retry(api: Api) -> None:
    changes = {"changes": [insert(f"d{n}") for n in range(10)]}
    api.queue.errors.append(TransientError("busy"))
    status, body = await api.change(changes)
    assert is_problem(status, body, "unavailable")
    assert (await api.change(changes))[0] == 202
    woken = {d.wake_up.document_id for d in await received(api, QueueName.CHANGE)}
    assert woken == {f"d{n}" for n in range(10)}


async def test_ten_thousand_tiny_documents_in_one_list(api: Api) -> None:
    status, body = await api.change({"changes": [insert(f"d{n}", "x") for n in range(10_000)]})
    assert status == 202
    assert [r["document_id"] for r in body["results"]] == [f"d{n}" for n in range(10_000)]
    assert (await api.flow.queue.depth(QueueName.CHANGE)).waiting == 10_000


# --- feeds ---------------------------------------------------------------------------------------


async def test_a_bad_line_costs_only_itself(api: Api) -> None:
    results = await api.feed(
        lines(
            insert("a"), b"{", b"\xff\xfe", b"", b"[1]", insert("b", colour=1),
            b"[" * 100_000, insert("c"),
        )
        + json.dumps(insert("last")).encode()
    )  # fmt: skip
    assert [r["line"] for r in results] == [1, 2, 3, 5, 6, 7, 8, 9]
    good = {r["line"]: r["document_id"] for r in results if "error" not in r}
    assert good == {1: "a", 8: "c", 9: "last"}
    assert [r["error"]["status"] for r in results if "error" in r] == [400, 400, 400, 422, 400]
    assert results[4]["error"]["field"] == "colour"


async def test_a_feed_keeps_the_order_of_one_document(api: Api) -> None:
    results = await api.feed(lines(*(insert(f"d{n % 2}", f"text {n}") for n in range(300))))
    assert [(r["line"], r["version"]) for r in results] == [(n + 1, n // 2 + 1) for n in range(300)]
    row = await api.row("d1")
    assert row is not None
    assert row.desired.content_hash == hashlib.sha256(b"text 299").hexdigest()


async def test_a_line_over_the_limit_is_skipped_without_being_kept(flow: Pipeline) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield lines(insert("before"))
        yield b'{"change_type":"insert","namespace":"docs","document_id":"big","content":"'
        for _ in range(40):
            yield b"x" * MEBIBYTE
        yield b'"}\n' + lines(insert("after"))

    async with serving(flow, max_body_bytes=4 * MEBIBYTE) as api:
        tracemalloc.start()
        try:
            results = await api.feed(body())
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert [r.get("document_id") for r in results] == ["before", None, "after"]
    assert is_problem(413, results[1]["error"], "too-large")
    assert results[1]["error"]["limit"] == 4 * MEBIBYTE
    assert peak_bytes < 20 * MEBIBYTE


async def test_forty_mebibytes_in_a_world_of_thirty_two(api: Api) -> None:
    big = insert("big", "x" * (40 * MEBIBYTE))
    results = await api.feed(lines(insert("before"), big, insert("after")))
    assert is_problem(413, results[1]["error"], "too-large", "content")
    assert results[1]["error"]["limit"] == 32 * MEBIBYTE
    assert [r.get("document_id") for r in results] == ["before", None, "after"]


async def test_a_feed_may_be_larger_than_any_body(flow: Pipeline) -> None:
    async with serving(flow, max_body_bytes=10_000) as api:
        results = await api.feed(lines(*(insert(f"d{n}", "x" * 5000) for n in range(50))))
        assert [r["outcome"] for r in results] == ["accepted"] * 50


async def test_results_come_while_the_feed_goes_on(api: Api) -> None:
    seen = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield lines(insert("first"))
        await asyncio.wait_for(seen.wait(), 10)
        yield lines(insert("second"))

    async with api.client.post("/v1/changes", data=body(), headers=NDJSON) as response:
        assert json.loads(await response.content.readline())["document_id"] == "first"
        seen.set()
        assert json.loads(await response.content.readline())["document_id"] == "second"


async def test_a_failed_line_is_not_overtaken_by_its_document(api: Api) -> None:
    api.queue.errors.append(TransientError("busy"))
    api.queue.failing_document = "a"
    feed = lines(insert("a", "one"), insert("b"), insert("a", "two"))
    first, other, second = await api.feed(feed)
    assert is_problem(503, first["error"], "unavailable")
    assert other["outcome"] == "accepted"
    assert is_problem(503, second["error"], "earlier-change-failed")
    assert [r["version"] for r in await api.feed(feed)] == [1, 1, 2]


async def test_an_outage_ends_the_feed(api: Api) -> None:
    api.queue.errors += [TransientError("down")] * 3000
    results = await api.feed(lines(*(insert(f"d{n}", "x") for n in range(3000))))
    assert results[-1]["feed_ended"] is True
    assert 1000 < len(results) < 1200
    assert [r["line"] for r in results] == list(range(1, len(results) + 1))


async def test_compressed_feeds(api: Api) -> None:
    feed = gzip.compress(lines(insert("a"), insert("b")))
    results = await api.feed(feed, **{"Content-Encoding": "gzip"})
    assert [r["document_id"] for r in results] == ["a", "b"]
    noise = os.urandom(200_000).hex()
    broken = gzip.compress(lines(insert("c"), insert("d", noise)))[:-50_000]
    results = await api.feed(broken, **{"Content-Encoding": "gzip"})
    assert results[0]["document_id"] == "c"
    assert results[-1]["error"]["status"] == 400


async def test_a_feed_that_is_not_what_its_encoding_says(api: Api) -> None:
    (result,) = await api.feed(b"not gzip", **{"Content-Encoding": "gzip"})
    assert is_problem(400, result["error"], "malformed-request")
    assert result["feed_ended"] is True


async def test_a_client_that_goes_away_stops_its_feed(api: Api) -> None:
    api.queue.hold = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        n = 0
        while True:
            yield lines(insert(f"d{n}"))
            n += 1
            await asyncio.sleep(0)

    with pytest.raises(TimeoutError):
        async with (
            asyncio.timeout(1),
            api.client.post("/v1/changes", data=endless(), headers=NDJSON) as response,
        ):
            await response.read()
    api.queue.hold.set()
    assert (await api.change(insert("next")))[0] == 202
    await api.runner.cleanup()
    others = {t for t in asyncio.all_tasks() if "Feed" in repr(t.get_coro())}
    assert others == set()


async def test_stopping_answers_what_is_in_hand_in_whole_lines(api: Api) -> None:
    api.queue.hold = asyncio.Event()
    begun = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield lines(*(insert(f"d{n}") for n in range(10)))
        begun.set()
        await asyncio.Event().wait()

    async with api.client.post("/v1/changes", data=body(), headers=NDJSON) as response:
        await begun.wait()
        for _ in range(10):
            await api.registry.rows.acquire()
        stop = asyncio.create_task(api.runner.cleanup())
        await api.runner.app[STOPPING_SIGNAL].wait()
        api.queue.hold.set()
        received = await response.content.read()
        await stop
    assert received.endswith(b"\n")
    results = [json.loads(line) for line in received.splitlines()]
    assert [r.get("document_id") for r in results[:10]] == [f"d{n}" for n in range(10)]
    assert is_problem(503, results[10]["error"], "stopping")
    assert results[10]["line"] == 11


# --- documents by address ------------------------------------------------------------------------


async def put(api: Api, path: str, data: bytes = b"hello", **more: Any) -> tuple[int, Any]:
    url = api.url(f"{DOCUMENTS}/{path}")
    headers = more.pop("headers", {})
    skip = () if "Content-Type" in headers else ("Content-Type",)
    async with api.client.put(
        url, data=data, headers=headers, skip_auto_headers=skip, **more
    ) as response:
        return response.status, await response.json(content_type=None)


@pytest.mark.parametrize(
    ("path", "document_id"),
    [
        ("plain", "plain"),
        ("guide/start.md", "guide/start.md"),
        ("guide%2Fstart.md", "guide/start.md"),
        ("a%20b+c", "a b+c"),
        ("%E4%B8%AD%E6%96%87", "中文"),
        ("a%23b%3Fc", "a#b?c"),
        ("%2E%2E", ".."),
        ("a/../b", "a/../b"),
        ("a%252Fb", "a%2Fb"),
        ("x%2Fchunks", "x/chunks"),
        ("x%2Fcontent", "x/content"),
        ("/lead//double/", "/lead//double/"),
        ("chunks", "chunks"),
    ],
)
async def test_any_id_has_an_address(api: Api, path: str, document_id: str) -> None:
    status, body = await put(api, path)
    assert (status, body["document_id"]) == (202, document_id)
    status, body = await api.get(api.url(f"{DOCUMENTS}/{path}"))
    assert (status, body["document_id"]) == (200, document_id)
    async with api.client.get(api.url(f"{DOCUMENTS}/{path}/content")) as response:
        assert await response.read() == b"hello"
    async with api.client.delete(api.url(f"{DOCUMENTS}/{path}")) as response:
        assert (await response.json())["version"] == 2


async def test_chunks_and_content_are_not_written(api: Api) -> None:
    for name in ("chunks", "content"):
        status, body = await put(api, f"x/{name}")
        assert is_problem(status, body, "method-not-allowed")
        assert f"%2F{name}" in body["detail"]
    assert api.journal == []


@pytest.mark.parametrize(
    ("path", "field"),
    [("%FF", "document_id"), ("a%0Ab", "document_id"), ("%00", "document_id")],
)
async def test_ids_that_are_none(api: Api, path: str, field: str) -> None:
    status, body = await put(api, path)
    assert is_problem(status, body, "invalid-field", field)


@pytest.mark.parametrize(
    ("path", "content_type", "expected"),
    [
        ("a", None, "text/plain"),
        ("a.md", None, "text/markdown"),
        ("a.pdf", "application/octet-stream", "application/pdf"),
        ("a.pdf", "text/html; charset=utf-8", "text/html"),
        ("a", "application/octet-stream", None),
        ("a", "image/png", None),
    ],
)
async def test_the_type_of_an_upload(
    api: Api, path: str, content_type: str | None, expected: str | None
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    status, body = await put(api, path, headers=headers)
    if expected is None:
        assert is_problem(415, body, "unsupported-media-type", "content_type")
        assert "text/markdown" in body["limit"]
    else:
        row = await api.row(path)
        assert row is not None
        assert (status, row.desired.content_type) == (202, expected)


async def test_an_upload_with_everything(api: Api) -> None:
    metadata = {"k": "ä" * 2000}
    digest = hashlib.sha256(b"hello").hexdigest()
    params = {"metadata": json.dumps(metadata), "source_version": "7", "doc_hash": digest}
    assert (await put(api, "a.md", params=params))[1]["version"] == 1
    row = await api.row("a.md")
    assert row is not None
    assert (row.desired.metadata, row.desired.source_version) == (metadata, 7)


@pytest.mark.parametrize(
    ("params", "slug", "field"),
    [
        ({"metadata": '{"text": 1}'}, "invalid-field", "metadata.text"),
        ({"metadata": "{"}, "malformed-json", "metadata"),
        ({"source_version": "-1"}, "invalid-field", "source_version"),
        ({"source_version": str(2**63)}, "invalid-field", "source_version"),
        ({"doc_hash": "0" * 64}, "hash-mismatch", "doc_hash"),
        ({"source_versoin": "1"}, "malformed-request", "source_versoin"),
    ],
)
async def test_parameters_of_an_upload(
    api: Api, params: dict[str, str], slug: str, field: str
) -> None:
    status, body = await put(api, "a", params=params)
    assert is_problem(status, body, slug, field)
    assert api.journal == []


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [(b"ok\xff", 422, "byte 2"), (b"a\0", 422, "NUL byte at byte 1"), (b"x" * 101, 413, "100")],
)
async def test_contents_of_an_upload(flow: Pipeline, data: bytes, status: int, words: str) -> None:
    async with serving(flow, max_document_bytes=100) as api:
        answer, body = await put(api, "a")
        assert (answer, body["outcome"]) == (202, "accepted")
        answer, body = await put(api, "a", data)
        assert answer == status
        assert words in body["detail"]
        assert (await put(api, "a.pdf", data[:100]))[0] == 202


async def test_the_status_tells_where_a_document_stands(api: Api) -> None:
    await put(api, "a.md", b"# Title\n\nsome words")
    status, body = await api.get(f"{DOCUMENTS}/a.md")
    assert (status, body["status"], body["applied"]["version"]) == (200, "PENDING", 0)
    assert body["desired"]["content_hash"] == hashlib.sha256(b"# Title\n\nsome words").hexdigest()
    assert body["desired"]["accepted_at"] == "1970-01-01T00:16:40+00:00"
    assert body["applied"]["applied_at"] is None
    await api.flow.run()
    status, body = await api.get(f"{DOCUMENTS}/a.md")
    assert (body["status"], body["applied"]["version"]) == ("COMPLETED", 1)
    assert body["applied"]["chunk_count"] == 1
    status, body = await api.get(f"{DOCUMENTS}/ghost")
    assert is_problem(status, body, "not-found", "document_id")


async def test_a_status_read_waits_for_its_version(api: Api) -> None:
    await put(api, "a", b"hello")
    status, body = await api.get(f"{DOCUMENTS}/a", params={"min_version": "1", "wait": "0.01"})
    assert is_problem(status, body, "not-applied-in-time")
    waiting = asyncio.create_task(api.get(f"{DOCUMENTS}/a", params={"wait": "60"}))
    await api.flow.run()
    status, body = await waiting
    assert (status, body["status"], body["applied"]["version"]) == (200, "COMPLETED", 1)


async def test_a_wait_for_a_failed_document_ends_with_its_reason(api: Api) -> None:
    await put(api, "a", b"hello")
    row = await api.row("a")
    assert row is not None
    await api.flow.registry.put_if(replace(row, status=Status.FAILED, error="broken"))
    status, body = await api.get(f"{DOCUMENTS}/a", params={"wait": "60"})
    assert (status, body["status"], body["error"]) == (200, "FAILED", "broken")


async def test_the_list_comes_in_pages(api: Api) -> None:
    await api.change({"changes": [insert(f"{p}/{n}") for p in ("a", "b") for n in range(3)]})
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        params = {"limit": "2", "prefix": "b/"} | ({"cursor": cursor} if cursor else {})
        status, page = await api.get(DOCUMENTS, params=params)
        assert status == 200
        found += [item["document_id"] for item in page["documents"]]
        cursor = page["cursor"]
    assert found == ["b/0", "b/1", "b/2"]
    status, page = await api.get(DOCUMENTS, params={"status": "completed"})
    assert (status, page["documents"]) == (200, [])
    for name, value in {"limit": "0", "status": "LOST", "cursor": "%%"}.items():
        status, body = await api.get(DOCUMENTS, params={name: value})
        assert is_problem(status, body, "invalid-field", name)


async def test_chunks_in_pages(api: Api) -> None:
    text = "\n\n".join(f"# Part {n}\n\nwords of {n}" for n in range(5))
    await put(api, "a/b.md", text.encode())
    assert (await api.get(f"{DOCUMENTS}/a/b.md/chunks"))[1]["chunks"] == []
    await api.flow.run()
    status, page = await api.get(f"{DOCUMENTS}/a/b.md/chunks", params={"limit": "3"})
    assert (status, page["version"]) == (200, 1)
    assert [chunk["number"] for chunk in page["chunks"]] == [0, 1, 2]
    assert page["chunks"][1]["heading_path"] == ["Part 1"]
    rest = {"cursor": page["cursor"]}
    status, page = await api.get(f"{DOCUMENTS}/a/b.md/chunks", params=rest)
    assert [chunk["number"] for chunk in page["chunks"]] == [3, 4]
    assert page["cursor"] is None
    await put(api, "a/b.md", b"new")
    await api.flow.run()
    status, body = await api.get(f"{DOCUMENTS}/a/b.md/chunks", params=rest)
    assert is_problem(status, body, "stale-cursor", "cursor")
    status, body = await api.get(f"{DOCUMENTS}/a/b.md/chunks", params={"cursor": "x"})
    assert is_problem(status, body, "invalid-field", "cursor")


async def test_content_is_never_a_page_of_this_service(api: Api) -> None:
    await put(api, "a.html", b"<script>alert(1)</script>")
    async with api.client.get(f"{DOCUMENTS}/a.html/content") as response:
        assert await response.read() == b"<script>alert(1)</script>"
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        assert response.headers["Content-Disposition"] == "attachment"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Content-Security-Policy"] == "sandbox"
    async with api.client.delete(f"{DOCUMENTS}/a.html") as response:
        assert response.status == 202
    status, body = await api.get(f"{DOCUMENTS}/a.html/content")
    assert is_problem(status, body, "not-found", "document_id")


# --- search --------------------------------------------------------------------------------------


async def test_a_search_finds_what_is_applied(api: Api) -> None:
    await api.change(insert("a", "red green blue", metadata={"lang": "en"}))
    await api.change(insert("b", "one two three", metadata={"lang": "de"}))
    await api.flow.run()
    status, body = await api.post(SEARCH, {"query": "green", "top_k": 1})
    assert status == 200
    (hit,) = body["hits"]
    assert (hit["document_id"], hit["version"], hit["chunk"]) == ("a", 1, 0)
    assert (hit["text"], hit["heading_path"]) == ("red green blue", [])
    assert hit["metadata"] == {"lang": "en"}
    assert body["took_ms"] > 0
    status, body = await api.post(SEARCH, {"query": "green", "filter": {"lang": "de"}})
    assert [hit["document_id"] for hit in body["hits"]] == ["b"]
    status, body = await api.post(SEARCH, {"query": "green", "filter": {"lang": {"$like": "d"}}})
    assert status == 422
    assert body["field"].startswith("filter")


async def test_a_search_of_an_unknown_namespace_finds_nothing(api: Api) -> None:
    status, body = await api.post("/v1/namespaces/nowhere/search", {"query": "x"})
    assert (status, body["hits"]) == (200, [])


@pytest.mark.parametrize("wish", [{"min_version": {"a": 1}}, {"wait": 60}])
async def test_a_search_reads_its_writes(api: Api, wish: dict[str, Any]) -> None:
    await api.change(insert("a", "red green blue"))
    late = {key: 0.01 if key == "wait" else value for key, value in wish.items()}
    status, body = await api.post(SEARCH, {"query": "green", **late, "wait": 0.01})
    assert is_problem(status, body, "not-applied-in-time")
    search = asyncio.create_task(api.post(SEARCH, {"query": "green", **wish}))
    await api.flow.run()
    status, body = await search
    assert [hit["document_id"] for hit in body["hits"]] == ["a"]


async def test_a_process_without_an_index_says_so(flow: Pipeline) -> None:
    async with serving(flow, searching=False) as api:
        status, body = await api.post(SEARCH, {"query": "x"})
        assert is_problem(status, body, "search-unavailable")
        assert body["detail"] == "the index lives elsewhere"


async def test_another_embedding_profile_is_refused_everywhere(flow: Pipeline) -> None:
    async with serving(flow) as api:
        await api.change(insert())
    other = replace(flow.embedder.profile, model="other")
    async with serving(flow, profile=other) as api:
        status, body = await api.change(insert("b"))
        assert is_problem(status, body, "profile-mismatch", "namespace")
        changes = [insert("x", namespace="free"), insert("b")]
        status, body = await api.change({"changes": changes})
        assert is_problem(status, body, "profile-mismatch", "changes[1].namespace")
        assert await api.row("x", "free") is None
        (result,) = await api.feed(lines(insert("b")))
        assert is_problem(409, result["error"], "profile-mismatch", "namespace")
        status, body = await api.post(SEARCH, {"query": "x"})
        assert is_problem(status, body, "profile-mismatch", "namespace")


# --- status --------------------------------------------------------------------------------------


async def test_stats(api: Api) -> None:
    await api.change({"changes": [insert("a"), insert("b")]})
    status, body = await api.get("/v1/stats")
    assert status == 200
    assert body["namespaces"] == [
        {"namespace": "docs", "documents": {"PENDING": 2}, "chunks": 0, "bytes": 10}
    ]
    assert body["queues"]["change"]["waiting"] == 2
    assert body["workers"] == {"running": 1, "peak": 2, "maximum": 3, "started_total": 4}
    assert body["dead_letters"] == 0
    assert {"chunks_embedded", "chunks_reused"} <= set(body["totals"])
    assert body["totals"]["changes_insert_accepted"] >= 2
    assert body["embedding_profile"] == api.flow.embedder.profile.id


async def test_health_and_readiness(api: Api) -> None:
    assert (await api.get("/healthz"))[0] == 200
    assert (await api.get("/readyz"))[0] == 200
    api.missing.append("the model is being loaded")
    status, body = await api.get("/readyz")
    assert is_problem(status, body, "not-ready")
    assert body["missing"] == ["the model is being loaded"]
    assert (await api.get("/healthz"))[0] == 200


async def test_metrics(api: Api) -> None:
    await api.change(insert())
    async with api.client.get("/metrics") as response:
        text = await response.text()
    assert 'bloomweaver_queue_messages{queue="change",state="waiting"} 1.0' in text
    assert 'bloomweaver_queue_oldest_age_seconds{queue="change"}' in text
    assert "bloomweaver_dead_letters 0.0" in text
    assert 'bloomweaver_workers{kind="running"} 1.0' in text
    assert "bloomweaver_accept_seconds_count" in text


async def test_dead_letters(api: Api) -> None:
    await api.change({"changes": [insert(f"d{n}") for n in range(5)]})
    for delivery in await received(api, QueueName.CHANGE):
        await api.flow.queue.dead_letter(delivery, "broken PDF")
    status, page = await api.get("/v1/dead-letters", params={"limit": "3"})
    assert (status, len(page["dead_letters"])) == (200, 3)
    status, rest = await api.get("/v1/dead-letters", params={"cursor": page["cursor"]})
    assert (len(rest["dead_letters"]), rest["cursor"]) == (2, None)
    letter = page["dead_letters"][0]
    assert (letter["reason"], letter["source"]) == ("broken PDF", "change")
    path = f"/v1/dead-letters/{letter['message_id']}"
    assert (await api.get(path))[1] == letter
    redrive = "/v1/dead-letters/redrive"
    status, body = await api.post(redrive, {"message_ids": [letter["message_id"], "gone"]})
    assert (status, body) == (200, {"redriven": 1})
    assert is_problem(*(await api.get(path)), "not-found", "message_id")
    assert (await api.post(redrive, {"all": True}))[1] == {"redriven": 4}
    assert len(await received(api, QueueName.CHANGE)) == 5
    for wrong in ({}, {"message_ids": "x"}, {"message_ids": [1]}):
        assert is_problem(*(await api.post(redrive, wrong)), "invalid-field", "message_ids")


async def test_wrong_addresses_are_problems(api: Api) -> None:
    status, body = await api.get("/v1/nothing")
    assert is_problem(status, body, "not-found")
    async with api.client.get("/v1/changes") as response:
        assert response.headers["Allow"] == "POST"
        assert response.content_type == "application/problem+json"
        assert is_problem(response.status, await response.json(content_type=None),
                          "method-not-allowed")  # fmt: skip
    status, body = await api.get("/v1/namespaces/-x/documents")
    assert is_problem(status, body, "invalid-field", "namespace")


async def test_every_answer_has_a_request_id(api: Api) -> None:
    async with api.client.get("/nothing", headers={"X-Request-Id": "mine-1"}) as response:
        assert response.headers["X-Request-Id"] == "mine-1"
    async with api.client.get("/healthz", headers={"X-Request-Id": "not one"}) as response:
        assert len(response.headers["X-Request-Id"]) == 16


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize("given", [TRACE, "00-" + "0" * 32 + TRACE[35:], "nonsense", ""])
async def test_a_valid_trace_context_goes_along(api: Api, given: str) -> None:
    await api.change(insert(), headers={"traceparent": given})
    (delivery,) = await received(api, QueueName.CHANGE)
    assert (delivery.wake_up.traceparent == given) is (given == TRACE)
    assert len(delivery.wake_up.traceparent) == len(TRACE)


async def test_the_description_covers_exactly_the_routes(api: Api) -> None:
    served = set()
    for route in api.runner.app.router.routes():
        assert route.resource is not None
        path = route.resource.canonical
        if route.method != "HEAD":
            served.add((route.method, path))
    status, body = await api.get("/openapi.json")
    described = {(method.upper(), path) for path, item in body["paths"].items() for method in item}
    assert (status, described) == (200, served)


def test_the_description_refers_only_to_what_is_there() -> None:
    described = document(Settings(_env_file=None))
    text = json.dumps(described)
    for reference in set(text.split('"$ref": "')[1:]):
        value: Any = described
        for part in reference.partition('"')[0].removeprefix("#/").split("/"):
            value = value[part]
    for path, item in described["paths"].items():
        for operation in item.values():
            named = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert named == {part[1:-1] for part in path.split("/") if part.startswith("{")}
