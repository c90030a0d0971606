"""The index on a Qdrant server: what is asked of it over HTTP, and what becomes of its answers.

No real server was to be had for these tests: see tests/servers/qdrant_rest.py for what stands in.
"""

from __future__ import annotations

import json
import uuid
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web
from pydantic import SecretStr

from common.adapters.index.qdrant import QdrantIndex, connect
from common.ports.errors import PermanentError, TransientError
from common.ports.index import FieldFilter
from common.settings import Settings
from tests.conformance.test_index import NAMESPACE, ids, record
from tests.servers.http_log import HttpLog, answering, recording
from tests.servers.qdrant_rest import Server

KEY = "secret-1"
ONE = array("f", [1.0, 0.0, 0.0])
COLLECTION = "/collections/bloomweaver.docs"


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[QdrantIndex]:
    settings = Settings(qdrant_api_key=SecretStr(KEY))
    index = cast("QdrantIndex", connect(f"qdrant:{url}", settings, "test"))
    try:
        yield index
    finally:
        await index.close()


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[HttpLog]:
    async with recording(Server(tmp_path / "server", KEY).app()) as log:
        yield log


@pytest.fixture
async def index(log: HttpLog) -> AsyncIterator[QdrantIndex]:
    async with opened(log.url) as made:
        yield made


async def test_the_first_write_makes_the_collection_and_its_index_and_waits(
    index: QdrantIndex, log: HttpLog
) -> None:
    await index.upsert(NAMESPACE, [record(0, metadata={"lang": "en"})])
    asked = [(a.method, a.path, a.query) for a in log.asked if a.method != "GET"]
    assert [(method, path) for method, path, _ in asked] == [
        ("PUT", COLLECTION),
        ("PUT", f"{COLLECTION}/index"),
        ("PUT", f"{COLLECTION}/points"),
    ]
    assert [query.get("wait") for _, _, query in asked[1:]] == ["true", "true"]
    bodies = [json.loads(a.body) for a in log.asked if a.method != "GET"]
    assert bodies[0]["vectors"] == {"size": 3, "distance": "Cosine"}
    assert bodies[1] == {"field_name": "dk", "field_schema": "keyword"}
    (point,) = bodies[2]["points"]
    assert str(uuid.UUID(point["id"])) == point["id"]
    assert point["vector"] == [1.0, 0.0, 0.0]
    assert point["payload"]["id"] == record(0).id
    assert point["payload"]["metadata"] == {"lang": "en"}
    assert {a.headers.get("api-key") for a in log.asked} == {KEY}


async def test_the_next_write_is_one_request(index: QdrantIndex, log: HttpLog) -> None:
    await index.upsert(NAMESPACE, [record(0)])
    log.asked.clear()
    await index.upsert(NAMESPACE, [record(1)])
    await index.delete(NAMESPACE, [record(0).id])
    assert [(a.method, a.path, a.query.get("wait")) for a in log.asked] == [
        ("PUT", f"{COLLECTION}/points", "true"),
        ("POST", f"{COLLECTION}/points/delete", "true"),
    ]


async def test_a_query_with_a_filter_is_exact(index: QdrantIndex, log: HttpLog) -> None:
    await index.upsert(NAMESPACE, [record(0)])
    log.asked.clear()
    await index.query(NAMESPACE, ONE, top_k=5)
    await index.query(NAMESPACE, ONE, top_k=5, where=FieldFilter("lang", "eq", "en"))
    bodies = [json.loads(a.body) for a in log.asked]
    assert [a.path for a in log.asked] == [f"{COLLECTION}/points/query"] * 2
    assert [body["params"]["exact"] for body in bodies] == [False, True]
    assert [body["limit"] for body in bodies] == [5, 5]
    assert bodies[0].get("filter") is None


async def test_a_document_is_listed_by_its_key(index: QdrantIndex, log: HttpLog) -> None:
    await index.upsert(NAMESPACE, [record(0), record(0, document="b.md")])
    log.asked.clear()
    key = record(0).id.partition("#")[0]
    assert await ids(index, f"{key}#") == {record(0).id}
    (body,) = (json.loads(a.body) for a in log.asked)
    assert body["filter"]["must"] == [{"key": "dk", "match": {"value": key}}]
    assert body["with_payload"] == ["id"]


async def test_a_rival_that_created_the_collection_first_is_no_error(index: QdrantIndex) -> None:
    connection = await index._connection.opened()
    await connection.create("bloomweaver.docs", 3)
    await connection.create("bloomweaver.docs", 4)
    assert await connection.dimension("bloomweaver.docs") == 3


async def test_who_finds_a_collection_without_its_index_makes_it(log: HttpLog) -> None:
    """Its creator died in between."""
    async with opened(log.url) as creator:
        await (await creator._connection.opened()).create("bloomweaver.docs", 3)
    async with opened(log.url) as next_writer:
        await next_writer.upsert(NAMESPACE, [record(0)])
    assert f"{COLLECTION}/index" in [a.path for a in log.asked]


async def test_a_collection_that_someone_deleted_is_made_again(tmp_path: Path) -> None:
    server = Server(tmp_path / "another", KEY)
    async with recording(server.app()) as log, opened(log.url) as index:
        await index.upsert(NAMESPACE, [record(0)])
        server._collections.clear()
        assert await index.query(NAMESPACE, ONE, top_k=1) == []
        await index.upsert(NAMESPACE, [record(1)])
        server._collections.clear()
        await index.upsert(NAMESPACE, [record(2)])
        assert await ids(index) == {record(2).id}


# What the server and the network may do.


async def test_a_server_that_is_too_old_is_refused() -> None:
    async def old(request: web.Request) -> web.Response:
        if request.path == "/":
            return web.json_response({"title": "qdrant", "version": "1.9.7"})
        return web.json_response({"result": {"collections": []}, "status": "ok", "time": 0.0})

    async with answering(old) as log, opened(log.url) as index:
        with pytest.raises(PermanentError, match=r"Qdrant 1\.9\.7 is too old: 1\.10 or newer"):
            await index.check()


async def test_another_service_at_the_address_is_found_at_the_start() -> None:
    async def nothing(request: web.Request) -> web.Response:
        return web.Response(status=404, text="nothing here")

    async with answering(nothing) as log, opened(log.url) as index:
        with pytest.raises(PermanentError, match="check the address"):
            await index.check()
        with pytest.raises(TransientError):  # not: an empty namespace
            await index.query(NAMESPACE, ONE, top_k=1)


async def test_what_the_request_got_wrong_is_permanent() -> None:
    async def refuse(request: web.Request) -> web.Response:
        error: dict[str, Any] = {"status": {"error": "Bad request: Index required but not found"}}
        return web.json_response(error, status=400)

    async with answering(refuse) as log, opened(log.url) as index:
        with pytest.raises(PermanentError, match="Index required"):
            await index.query(NAMESPACE, ONE, top_k=1)
