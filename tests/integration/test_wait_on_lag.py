"""`wait` over HTTP on an index that shows its writes late: who waits reads what was written.

The webhook and the workers run as on AWS, each with a connection to Pinecone of its own and the
SDK as it is. The index shows a write when the test says so, and not before.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from common.composition import connect
from common.parts import Ports
from common.settings import Settings
from tests.fakes.embedder import DIMENSION, HashEmbedder
from tests.integration.test_http_api import is_problem
from tests.pipeline import memory_vectors
from tests.servers.pinecone import PineconeServer
from webhook.role import WebhookPart
from workers import apply
from workers.consumers import ConsumersPart
from workers.embed_role import embed_consumer

DOCUMENT = "/v1/namespaces/docs/documents/a.md"
SEARCH = "/v1/namespaces/docs/search"
SECTIONS = ("Lamps", "Ferries", "Tides")
PATIENCE_SECONDS = 60.0
SOON = 0.05
"""A wait that is over while the index shows nothing."""

Answer = tuple[int, Any]


def text(said: str) -> str:
    return "\n\n".join(f"# {name}\n\n{name} {said}" for name in SECTIONS)


def chunks_of(said: str) -> list[str]:
    return [f"# {name}\n\n{name} {said}" for name in SECTIONS]


@dataclass
class World:
    server: PineconeServer
    client: aiohttp.ClientSession

    async def lag(self) -> None:
        """From now on a write shows when `show` is called."""
        await self._hook("index-lag", {"seconds": math.inf})
        for operation in ("upsert", "query"):
            self.server.served.arrived[operation].clear()

    async def show(self, writes: int | None = None) -> None:
        """All that waits to be shown, or only so many writes."""
        await self._hook("index", {"writes": writes})

    async def _hook(self, name: str, body: Any) -> None:
        async with self.client.post(f"{self.server.url}/_test/{name}", json=body) as answer:
            answer.raise_for_status()

    async def asked_in_vain(self) -> None:
        """Until the index was asked how far it is, and after an answer that was not enough once
        more: who writes waits for it. Nobody may search meanwhile."""
        for _ in range(2):
            asked = self.server.served.arrived["query"]
            asked.clear()
            assert await asyncio.to_thread(asked.wait, PATIENCE_SECONDS), "nobody asks the index"

    async def put(self, said: str) -> int:
        """The version that was accepted."""
        headers = {"Content-Type": "text/markdown"}
        async with self.client.put(DOCUMENT, data=text(said).encode(), headers=headers) as answer:
            assert answer.status == 202
            return int((await answer.json())["version"])

    async def search(self, **wish: Any) -> Answer:
        body = {"query": "Lamps Ferries Tides", "top_k": 50, **wish}
        async with self.client.post(SEARCH, json=body) as answer:
            return answer.status, await answer.json(content_type=None)

    async def status(self, **wish: str) -> Answer:
        async with self.client.get(DOCUMENT, params=wish) as answer:
            return answer.status, await answer.json(content_type=None)

    async def sees(self, version: int, said: str, **wish: Any) -> None:
        shows(await self.search(**wish), version, said)


def shows(answer: Answer, version: int, said: str) -> None:
    """Each chunk of this version once, and nothing else."""
    status, body = answer
    assert status == 200, body
    hits = sorted(body["hits"], key=lambda hit: hit["chunk"])
    assert [hit["text"] for hit in hits] == chunks_of(said)
    assert {hit["version"] for hit in hits} == {version}


async def still_waiting(world: World, *waiting: asyncio.Task[Answer]) -> None:
    """None of them is answered before the writer has looked at the index in vain."""
    asked = asyncio.create_task(world.asked_in_vain())
    done, _ = await asyncio.wait([asked, *waiting], return_when=asyncio.FIRST_COMPLETED)
    early = [task.result() for task in waiting if task in done]
    assert early == [], "answered while the index did not show the version"
    await asked


@asynccontextmanager
async def ports_on(server: PineconeServer, folder: Path, name: str) -> AsyncIterator[Ports]:
    settings = Settings(
        auth="off",  # it listens in a way of its own
        _env_file=None, data_dir=folder / "data", index_url=f"pinecone:{server.url}",
        pinecone_api_key=server.api_key, chunk_target_tokens=16, chunk_max_tokens=64,
        drain_timeout_seconds=5, burst_quiet_seconds=0,
    )  # fmt: skip
    embedder = HashEmbedder()
    async with AsyncExitStack() as stack:

        def opened(port: str, url: str) -> Any:
            adapter = connect(port, url, settings, name)
            stack.push_async_callback(adapter.close)
            return adapter

        yield Ports(
            settings=settings,
            queue=opened("queue", settings.queue_url),
            registry=opened("registry", settings.registry_url),
            blobs=opened("blobs", settings.blobs_url),
            vectors=memory_vectors(),
            embedder=embedder,
            index=opened("index", settings.index_url),
            variants={"": embedder},
        )


@asynccontextmanager
async def working(ports: Ports) -> AsyncIterator[None]:
    """One embedding worker and all consumers."""
    stop = asyncio.Event()
    embedding = asyncio.create_task(embed_consumer(ports, stop).run(stop))
    part = ConsumersPart(ports)
    await part.start()
    try:
        yield
    finally:
        stop.set()
        await part.stop()
        await embedding


@asynccontextmanager
async def answering(ports: Ports) -> AsyncIterator[aiohttp.ClientSession]:
    urls: list[str] = []

    async def listen(runner: web.AppRunner) -> None:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        urls.append("http://{}:{}".format(*runner.addresses[0][:2]))

    part = WebhookPart(ports, listen=listen)
    await part.start()
    try:
        timeout = aiohttp.ClientTimeout(total=PATIENCE_SECONDS)
        async with aiohttp.ClientSession(urls[0], timeout=timeout) as client:
            yield client
    finally:
        await part.stop()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        server = stack.enter_context(PineconeServer(dimension=DIMENSION))
        workers = await stack.enter_async_context(ports_on(server, tmp_path, "workers"))
        edge = await stack.enter_async_context(ports_on(server, tmp_path, "webhook"))
        await stack.enter_async_context(working(workers))
        client = await stack.enter_async_context(answering(edge))
        made = World(server, client)
        yield made
        await made.show()


@pytest.fixture
async def applied(world: World) -> World:
    """Version 1 is there to be seen; what comes after it is late."""
    assert await world.put("before") == 1
    await world.sees(1, "before", wait=60)
    await world.lag()
    return world


@pytest.mark.parametrize("wish", [{"wait": 60}, {"wait": 60, "min_version": {"a.md": 2}}])
async def test_a_search_that_waits_returns_the_new_version(
    applied: World, wish: dict[str, Any]
) -> None:
    world = applied
    assert await world.put("after") == 2
    search = asyncio.create_task(world.search(**wish))
    await still_waiting(world, search)
    await world.sees(1, "before")
    await still_waiting(world, search)
    await world.show()
    shows(await search, 2, "after")
    await world.sees(2, "after")


@pytest.mark.parametrize("wish", [{"wait": "60"}, {"wait": "60", "min_version": "2"}])
async def test_a_status_that_waits_tells_of_a_version_that_is_seen(
    applied: World, wish: dict[str, str]
) -> None:
    world = applied
    await world.put("after")
    status = asyncio.create_task(world.status(**wish))
    await still_waiting(world, status)
    _, now = await world.status()
    assert (now["desired"]["version"], now["applied"]["version"]) == (2, 1)
    await world.show()
    code, then = await status
    assert (code, then["status"], then["applied"]["version"]) == (200, "COMPLETED", 2)
    await world.sees(2, "after")


async def test_part_of_what_was_written_is_not_enough(
    applied: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version of three writes, of which the index shows one and then two."""
    monkeypatch.setattr(apply, "UPSERT_RECORDS", 1)
    world = applied
    await world.put("after")
    search = asyncio.create_task(world.search(wait=60))
    for _ in range(2):
        await still_waiting(world, search)
        await world.show(writes=1)
        await still_waiting(world, search)
        await world.sees(1, "before")
    await world.show()
    shows(await search, 2, "after")
    assert world.server.served.requests["upsert"] == 4


async def test_a_wait_that_is_over_too_early_is_told_of(applied: World) -> None:
    world = applied
    await world.put("after")
    await still_waiting(world)
    for status, body in [
        await world.search(wait=SOON),
        await world.search(wait=SOON, min_version={"a.md": 2}),
        await world.status(wait=str(SOON)),
        await world.status(wait=str(SOON), min_version="2"),
    ]:
        assert status == 504
        assert is_problem(status, body, "not-applied-in-time")
        assert "'a.md' at 2" in body["detail"]
        assert f"within {SOON:g} s" in body["detail"]
    await world.sees(1, "before", wait=60, min_version={"a.md": 1})
    await world.show()
    await world.sees(2, "after", wait=60)


async def test_a_first_version_is_waited_for_too(world: World) -> None:
    await world.lag()
    await world.put("first")
    search = asyncio.create_task(world.search(wait=60))
    await still_waiting(world, search)
    status, body = await world.search()
    assert (status, body["hits"]) == (200, [])
    await world.show()
    shows(await search, 1, "first")


async def test_a_delete_is_seen_though_the_index_shows_its_records(applied: World) -> None:
    world = applied
    async with world.client.delete(DOCUMENT) as answer:
        assert answer.status == 202
    status, body = await world.search(wait=60)
    assert (status, body["hits"]) == (200, [])
    assert len(world.server.served.store.read("docs").shown) == len(SECTIONS)
