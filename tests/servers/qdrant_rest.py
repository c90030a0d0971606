"""Qdrant's REST API, as much of it as the adapter uses, in front of Qdrant's own engine.

The server itself can be had neither from PyPI nor from npm nor from Debian. What stands in for it:
requests and answers as the server's OpenAPI description has them, and behind them the engine that
the server is built on (`qdrant-edge-py`), which stores, filters and searches. What is not shown by
it: anything that a cluster, the server's optimizer or its log do.

A write without `wait=true` is only acknowledged, as by the server: it is applied with the next one.

    python -m tests.servers.qdrant_rest PORT FOLDER API_KEY
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import qdrant_edge as engine
from aiohttp import web

Json = dict[str, Any]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class RefusedError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Collection:
    def __init__(self, folder: Path, dimension: int) -> None:
        self.dimension = dimension
        self.indexed: dict[str, str] = {}
        self._waiting: list[engine.UpdateOperation] = []
        folder.mkdir(parents=True)
        vectors = engine.EdgeVectorParams(size=dimension, distance=engine.Distance.Cosine)
        self.shard = engine.EdgeShard.create(str(folder), engine.EdgeConfig(vectors=vectors))

    def update(self, operation: engine.UpdateOperation, *, wait: bool) -> str:
        self._waiting.append(operation)
        if not wait:
            return "acknowledged"
        for one in self._waiting:
            self.shard.update(one)
        self._waiting.clear()
        return "completed"

    def upsert(self, points: list[Json], *, wait: bool) -> str:
        for point in points:
            if len(point["vector"]) != self.dimension:
                said = f"expected dim: {self.dimension}, got {len(point['vector'])}"
                raise RefusedError(400, f"Wrong input: Vector dimension error: {said}")
        made = [engine.Point(UUID(p["id"]), p["vector"], p["payload"]) for p in points]
        return self.update(engine.UpdateOperation.upsert_points(made), wait=wait)

    def delete(self, ids: list[str], *, wait: bool) -> str:
        held = self.shard.retrieve([UUID(i) for i in ids], with_payload=False, with_vector=False)
        gone: list[engine.PointId] = [point.id for point in held]
        return self.update(engine.UpdateOperation.delete_points(gone), wait=wait)

    def query(self, body: Json) -> list[Json]:
        params = body.get("params") or {}
        found = self.shard.search(
            engine.SearchRequest(
                query=engine.Query.Nearest(_vector(body["query"])),
                limit=body["limit"],
                filter=_filter(body.get("filter")),
                params=engine.SearchParams(exact=params.get("exact", False)),
                with_payload=body["with_payload"],
            )
        )
        return [
            {"id": str(p.id), "version": 0, "score": p.score, "payload": p.payload} for p in found
        ]

    def scroll(self, body: Json) -> Json:
        offset = body.get("offset")
        points, following = self.shard.scroll(
            engine.ScrollRequest(
                offset=UUID(offset) if offset else None,
                limit=body["limit"],
                filter=_filter(body.get("filter")),
                with_payload=body["with_payload"],
                with_vector=body["with_vector"],
            )
        )
        page = [{"id": str(p.id), "payload": p.payload} for p in points]
        return {"points": page, "next_page_offset": str(following) if following else None}

    def retrieve(self, body: Json) -> list[Json]:
        ids: list[engine.PointId] = [UUID(i) for i in body["ids"]]
        found = self.shard.retrieve(ids, with_payload=True, with_vector=True)
        return [
            {
                "id": str(p.id),
                "payload": p.payload,
                "vector": np.asarray(p.vector, np.float32).tolist(),
            }
            for p in found
        ]

    def count(self) -> int:
        return self.shard.count(engine.CountRequest(exact=True))

    def info(self) -> Json:
        schema = {name: {"data_type": kind, "points": 0} for name, kind in self.indexed.items()}
        return {
            "status": "green",
            "optimizer_status": "ok",
            "segments_count": 1,
            "config": {
                "params": {"vectors": {"size": self.dimension, "distance": "Cosine"}},
                "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000},
                "optimizer_config": {"default_segment_number": 0, "flush_interval_sec": 5},
            },
            "payload_schema": schema,
        }


def _vector(query: Any) -> list[float]:
    """`[…]` and `{"nearest": […]}` say the same."""
    nearest: list[float] = query["nearest"] if isinstance(query, dict) else query
    return nearest


def _filter(where: Json | None) -> engine.Filter | None:
    if where is None:
        return None
    known = {"must", "should", "must_not", "min_should"}
    if unknown := where.keys() - known:
        raise RefusedError(400, f"Format error in JSON body: unknown field {sorted(unknown)[0]}")
    least = where.get("min_should")
    return engine.Filter(
        must=_conditions(where.get("must")),
        should=_conditions(where.get("should")),
        must_not=_conditions(where.get("must_not")),
        min_should=least
        and engine.MinShould(_conditions(least["conditions"]) or [], least["min_count"]),
    )


def _conditions(given: list[Json] | None) -> list[Any] | None:
    return None if given is None else [_condition(one) for one in given]


def _condition(given: Json) -> Any:
    if "is_empty" in given:
        return engine.IsEmptyCondition(given["is_empty"]["key"])
    if "key" not in given:
        return _filter(given)
    if "range" in given:
        bounds = {name: bound for name, bound in given["range"].items() if bound is not None}
        return engine.FieldCondition(key=given["key"], range=engine.RangeFloat(**bounds))
    match = given["match"]
    if "any" in match:
        return engine.FieldCondition(key=given["key"], match=engine.MatchAny(match["any"]))
    given_value = match["value"]
    # The binding takes Python's bool for the integer it also is; numpy's is none.
    value: Any = np.bool_(given_value) if isinstance(given_value, bool) else given_value
    return engine.FieldCondition(key=given["key"], match=engine.MatchValue(value))


class Server:
    def __init__(self, folder: Path, api_key: str) -> None:
        self._folder = folder
        self._api_key = api_key
        self._collections: dict[str, Collection] = {}
        self._made = 0

    def app(self) -> web.Application:
        made = web.Application(client_max_size=32 * 1024 * 1024, middlewares=[self._answered])
        one = "/collections/{name}"
        made.add_routes(
            [
                web.get("/", self._root),
                web.get("/collections", self._list),
                web.get(one, self._info),
                web.put(one, self._create),
                web.put(one + "/index", self._index),
                web.put(one + "/points", self._upsert),
                web.post(one + "/points", self._retrieve),
                web.post(one + "/points/delete", self._delete),
                web.post(one + "/points/query", self._query),
                web.post(one + "/points/scroll", self._scroll),
                web.post(one + "/points/count", self._count),
            ]
        )
        return made

    @web.middleware
    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._api_key and request.headers.get("api-key") != self._api_key:
            return web.Response(status=401, text="Must provide an API key or an Authorization")
        try:
            return await handler(request)
        except RefusedError as error:
            status = {"status": {"error": str(error)}, "time": 0.0}
            return web.json_response(status, status=error.status)

    def _of(self, request: web.Request) -> Collection:
        name = request.match_info["name"]
        if name not in self._collections:
            raise RefusedError(404, f"Not found: Collection `{name}` doesn't exist!")
        return self._collections[name]

    async def _root(self, request: web.Request) -> web.Response:
        title = "qdrant - vector search engine"
        return web.json_response({"title": title, "version": "1.16.3", "commit": "0" * 40})

    async def _list(self, request: web.Request) -> web.Response:
        return _result({"collections": [{"name": name} for name in self._collections]})

    async def _info(self, request: web.Request) -> web.Response:
        return _result(self._of(request).info())

    async def _create(self, request: web.Request) -> web.Response:
        name, body = request.match_info["name"], await request.json()
        if name in self._collections:
            raise RefusedError(409, f"Wrong input: Collection `{name}` already exists!")
        if body["vectors"]["distance"] != "Cosine":
            raise RefusedError(400, "this stand-in knows the cosine only")
        self._made += 1
        folder = self._folder / str(self._made)
        self._collections[name] = Collection(folder, body["vectors"]["size"])
        return _result(True)

    async def _index(self, request: web.Request) -> web.Response:
        held, body = self._of(request), await request.json()
        if body["field_schema"] != "keyword":
            raise RefusedError(400, "this stand-in knows keyword indexes only")
        held.indexed[body["field_name"]] = "keyword"
        kind = engine.PayloadSchemaType.Keyword
        operation = engine.UpdateOperation.create_field_index(body["field_name"], kind)
        return _result({"operation_id": 1, "status": held.update(operation, wait=_waits(request))})

    async def _upsert(self, request: web.Request) -> web.Response:
        status = self._of(request).upsert((await request.json())["points"], wait=_waits(request))
        return _result({"operation_id": 1, "status": status})

    async def _delete(self, request: web.Request) -> web.Response:
        status = self._of(request).delete((await request.json())["points"], wait=_waits(request))
        return _result({"operation_id": 1, "status": status})

    async def _query(self, request: web.Request) -> web.Response:
        return _result({"points": self._of(request).query(await request.json())})

    async def _scroll(self, request: web.Request) -> web.Response:
        return _result(self._of(request).scroll(await request.json()))

    async def _retrieve(self, request: web.Request) -> web.Response:
        return _result(self._of(request).retrieve(await request.json()))

    async def _count(self, request: web.Request) -> web.Response:
        return _result({"count": self._of(request).count()})


def _waits(request: web.Request) -> bool:
    return request.query.get("wait") == "true"


def _result(result: object) -> web.Response:
    return web.json_response({"result": result, "status": "ok", "time": time.perf_counter()})


if __name__ == "__main__":
    port, folder, api_key = sys.argv[1:]
    web.run_app(Server(Path(folder), api_key).app(), host="127.0.0.1", port=int(port), print=None)
