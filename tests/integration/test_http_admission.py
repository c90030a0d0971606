"""What clients and operators notice when queues grow too long or the disk too full."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from common.model import Status
from common.ports.errors import TransientError
from common.settings import Settings
from tests.pipeline import Pipeline, pipeline
from webhook.admission import Admission, limits_of
from webhook.app import build_app, make_runner
from webhook.authentication import anybody_here
from webhook.problems import TYPE_PREFIX
from webhook.services import Services

DOCUMENTS = "/v1/namespaces/docs/documents"
NDJSON = {"Content-Type": "application/x-ndjson"}
PLAIN_TEXT = {"Content-Type": "text/plain"}
PLENTY = 10**9


class Disk:
    """How full it is, is up to the test."""

    def __init__(self) -> None:
        self.free = PLENTY
        self.error: Exception | None = None

    async def free_bytes(self) -> int:
        if self.error:
            raise self.error
        return self.free


@dataclass
class Api:
    flow: Pipeline
    disk: Disk
    client: aiohttp.ClientSession
    admission: Admission

    async def ask(self, method: str, path: str, **more: Any) -> aiohttp.ClientResponse:
        """The answer, its body read, as of a new look at queue and disk."""
        self.admission._next_look_at = 0.0
        async with self.client.request(method, path, **more) as response:
            await response.read()
        return response

    async def put(self, document_id: str) -> aiohttp.ClientResponse:
        return await self.ask(
            "PUT", f"{DOCUMENTS}/{document_id}", data=b"words", headers=PLAIN_TEXT
        )

    async def change(self, value: Any) -> aiohttp.ClientResponse:
        return await self.ask("POST", "/v1/changes", json=value)

    async def feed(self, changes: Sequence[Any]) -> list[Any]:
        data = b"".join(json.dumps(change).encode() + b"\n" for change in changes)
        response = await self.ask("POST", "/v1/changes", data=io.BytesIO(data), headers=NDJSON)
        assert response.status == 200
        return [json.loads(line) for line in (await response.text()).splitlines()]

    async def known(self) -> set[str]:
        answer = await self.ask("GET", DOCUMENTS)
        return {document["document_id"] for document in (await answer.json())["documents"]}


@asynccontextmanager
async def serving(flow: Pipeline, **limits: Any) -> AsyncIterator[Api]:
    settings = Settings(_env_file=None, **limits)
    disk = Disk()
    stores = [flow.queue, flow.registry, flow.blobs, disk]
    admission = Admission(flow.queue, stores, limits_of(settings), patience_seconds=60)
    services = Services(
        authenticate=anybody_here,
        settings=settings,
        registry=flow.registry,
        blobs=flow.blobs,
        queue=flow.queue,
        profile=flow.embedder.profile,
        acceptor=flow.acceptor,
        admission=admission,
        searcher=flow.searcher,
        why_no_search="",
        fleet=None,
        unready=list,
    )
    runner = make_runner(build_app(services), shutdown_seconds=5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        async with aiohttp.ClientSession(f"http://{host}:{port}") as client:
            yield Api(flow, disk, client, admission)
    finally:
        await runner.cleanup()
        await admission.close()


@pytest.fixture
async def flow(tmp_path: Path) -> AsyncIterator[Pipeline]:
    async with pipeline(tmp_path) as made:
        yield made


def insert(document_id: str) -> dict[str, Any]:
    return {
        "change_type": "insert", "namespace": "docs", "document_id": document_id,
        "content": f"words of {document_id}",
    }  # fmt: skip


def delete(document_id: str) -> dict[str, Any]:
    return {"change_type": "delete", "namespace": "docs", "document_id": document_id}


async def is_refused(response: aiohttp.ClientResponse, reason: str) -> bool:
    if response.status != 503:
        return False
    body = await response.json(content_type="application/problem+json")
    assert body["type"] == TYPE_PREFIX + "over-capacity"
    assert int(response.headers["Retry-After"]) == body["retry_after_seconds"] >= 1
    return bool(body["reason"] == reason)


async def test_accept_goes_on_until_the_backlog_is_full_and_again_when_it_shrinks(
    flow: Pipeline,
) -> None:
    """Nothing consumes: the embedder, or the index, is down."""
    async with serving(flow, max_backlog_messages=3) as api:
        assert [(await api.put(name)).status for name in "abc"] == [202] * 3
        assert await is_refused(await api.put("d"), "backlog")
        assert await is_refused(await api.change(insert("d")), "backlog")
        assert await is_refused(await api.change({"changes": [insert("d")]}), "backlog")
        assert await api.known() == {"a", "b", "c"}

        await flow.run()

        assert (await api.put("d")).status == 202
        await flow.run()
        for name in "abcd":
            assert (await flow.row(name)).status is Status.COMPLETED


async def test_what_only_reads_or_mends_goes_on(flow: Pipeline) -> None:
    async with serving(flow, max_backlog_messages=1, min_free_disk_bytes=1000) as api:
        await api.put("a")
        await flow.run()
        api.disk.free = 0
        assert await is_refused(await api.put("b"), "disk")
        search = await api.ask("POST", "/v1/namespaces/docs/search", json={"query": "words"})
        assert [hit["document_id"] for hit in (await search.json())["hits"]] == ["a"]
        for path in ("/readyz", "/v1/stats", "/metrics", "/v1/dead-letters", f"{DOCUMENTS}/a"):
            assert (await api.ask("GET", path)).status == 200, path
        redriven = await api.ask("POST", "/v1/dead-letters/redrive", json={"all": True})
        assert redriven.status == 200


async def test_a_full_disk_refuses_until_there_is_room_and_needs_no_restart(
    flow: Pipeline,
) -> None:
    async with serving(flow, min_free_disk_bytes=1000) as api:
        assert (await api.put("a")).status == 202
        api.disk.free = 999
        assert await is_refused(await api.put("b"), "disk")
        api.disk.free = 1000
        assert (await api.put("b")).status == 202


async def test_deletes_are_let_in_for_longer(flow: Pipeline) -> None:
    async with serving(flow, max_backlog_messages=2, min_free_disk_bytes=1000) as api:
        await api.put("a")
        await api.put("b")
        assert (await api.ask("DELETE", f"{DOCUMENTS}/a")).status == 202
        assert (await api.change(delete("b"))).status == 202
        assert await is_refused(await api.ask("DELETE", f"{DOCUMENTS}/a"), "backlog")
        await flow.run()
        api.disk.free = 500
        assert (await api.change(delete("a"))).status == 202
        api.disk.free = 499
        assert await is_refused(await api.change(delete("a")), "disk")


async def test_a_feed_tells_each_line_that_is_refused(flow: Pipeline) -> None:
    async with serving(flow, max_backlog_messages=2) as api:
        await api.put("a")
        await api.put("b")
        results = await api.feed([insert("c"), insert("d"), delete("b"), insert("c")])
        assert [result.get("outcome") for result in results] == [None, None, "accepted", None]
        errors = [result["error"]["type"].removeprefix(TYPE_PREFIX)
                  for result in results if "error" in result]  # fmt: skip
        assert errors == ["over-capacity", "over-capacity", "earlier-change-failed"]
        assert results[0]["error"]["retry_after_seconds"] >= 1
        assert await api.known() == {"a", "b"}

        await flow.run()
        again = await api.feed([insert("c"), insert("d")])
        assert [result["outcome"] for result in again] == ["accepted", "accepted"]


async def test_a_delete_does_not_overtake_a_refused_insert_of_its_feed(flow: Pipeline) -> None:
    async with serving(flow, max_backlog_messages=1) as api:
        await api.put("a")
        results = await api.feed([insert("a"), delete("a")])
        slugs = [result["error"]["type"].removeprefix(TYPE_PREFIX) for result in results]
        assert slugs == ["over-capacity", "earlier-change-failed"]


async def test_what_cannot_be_told_refuses_nothing(flow: Pipeline) -> None:
    async with serving(flow, min_free_disk_bytes=1000) as api:
        api.disk.free, api.disk.error = 0, TransientError("no answer")
        assert (await api.put("a")).status == 202


async def test_operators_see_it(flow: Pipeline) -> None:
    async with serving(flow, max_backlog_messages=1, min_free_disk_bytes=1000) as api:
        open_stats = (await (await api.ask("GET", "/v1/stats")).json())["admission"]
        assert open_stats["refusing"] is None
        await api.put("a")
        stats = (await (await api.ask("GET", "/v1/stats")).json())["admission"]
        assert (stats["refusing"], stats["backlog_messages"]) == ("backlog", 1)
        assert stats["max_backlog_messages"] == 1
        assert 1000 <= stats["free_disk_bytes"] <= PLENTY
        metrics = await (await api.ask("GET", "/metrics")).text()
        assert 'bloomweaver_admission_refusing{reason="backlog"} 1.0' in metrics
        assert 'bloomweaver_admission_refusing{reason="disk"} 0.0' in metrics
        assert "bloomweaver_free_disk_bytes " in metrics


async def test_the_embedded_stores_tell_how_much_room_there_is(
    flow: Pipeline, tmp_path: Path
) -> None:
    async with serving(flow, min_free_disk_bytes=10**18) as api:
        api.disk.free = 10**18
        assert await is_refused(await api.put("a"), "disk")
