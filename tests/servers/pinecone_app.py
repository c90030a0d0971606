"""The Pinecone test server's routes: headers, faults, rates and checks first, then the effect."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.servers import pinecone_checks as checks
from tests.servers.pinecone_errors import RefusedError
from tests.servers.pinecone_faults import BEFORE, Fault, FaultKind, Faults, Rates
from tests.servers.pinecone_filters import check_filter, passes
from tests.servers.pinecone_store import Change, Store, Stored

API_VERSION = "2026-07"
ANSWER_BYTES = 4 * 1024 * 1024
"""Of a query; more is refused."""
OPERATIONS = ("upsert", "query", "fetch", "list", "delete", "update", "stats", "describe")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Served:
    """One index with all that surrounds it. `requests` counts by operation, refused ones too."""

    store: Store
    api_key: str
    faults: Faults = field(default_factory=Faults)
    rates: Rates = field(default_factory=Rates)
    requests: Counter[str] = field(default_factory=Counter)
    largest_bytes: Counter[str] = field(default_factory=Counter)
    """Of a request's body, by operation."""
    arrived: dict[str, threading.Event] = field(
        default_factory=lambda: {name: threading.Event() for name in OPERATIONS}
    )
    """By operation: set at its first request."""
    at_once: int = 0
    most_at_once: int = 0
    """Requests under way at one moment."""
    ready: bool = True
    url: str = ""


def build_app(served: Served) -> web.Application:
    """Paths under /_test/ are for the test: no key needed, nothing counted."""
    app = web.Application(client_max_size=2**27)
    operations: list[tuple[str, str, str, Callable[[Served, _Call], Answer]]] = [
        ("POST", "/vectors/upsert", "upsert", _upsert),
        ("POST", "/query", "query", _query),
        ("GET", "/vectors/fetch", "fetch", _fetch),
        ("GET", "/vectors/list", "list", _list),
        ("POST", "/vectors/delete", "delete", _delete),
        ("POST", "/vectors/update", "update", _update),
        ("POST", "/describe_index_stats", "stats", _stats),
        ("GET", "/indexes/{name}", "describe", _describe),
    ]
    for method, path, name, effect in operations:
        app.router.add_route(method, path, _operation(served, name, effect))
    app.router.add_get("/_test/", _overview(served))
    app.router.add_get("/_test/records", _truth(served))
    app.router.add_post("/_test/faults", _set_faults(served))
    app.router.add_post("/_test/index-lag", _set_lag(served))
    app.router.add_post("/_test/index", _index(served))
    return app


@dataclass(frozen=True, slots=True)
class Answer:
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Call:
    request: web.Request
    data: bytes

    @property
    def body(self) -> dict[str, Any]:
        return checks.parsed(self.data)

    @property
    def query(self) -> dict[str, list[str]]:
        names = set(self.request.query)
        return {name: self.request.query.getall(name) for name in names}


def _operation(served: Served, name: str, effect: Callable[[Served, _Call], Answer]) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        served.at_once += 1
        served.most_at_once = max(served.most_at_once, served.at_once)
        try:
            return await answered(request)
        finally:
            served.at_once -= 1

    async def answered(request: web.Request) -> web.StreamResponse:
        served.requests[name] += 1
        served.arrived[name].set()
        data = await request.read()
        served.largest_bytes[name] = max(served.largest_bytes[name], len(data))
        try:
            _check_headers(served, request)
            fault = served.faults.next(name)
            await _before(request, fault)
            answer = effect(served, _Call(request, data))
        except RefusedError as error:
            return _refusal(error)
        return await _after(request, fault, answer)

    return handle


def _check_headers(served: Served, request: web.Request) -> None:
    if request.headers.get("Api-Key") != served.api_key:
        raise RefusedError(401, "Invalid API Key")
    version = request.headers.get("X-Pinecone-Api-Version")
    if version != API_VERSION:
        raise RefusedError(400, f"unknown X-Pinecone-Api-Version {version!r}")
    if request.method == "POST" and request.content_type != "application/json":
        raise RefusedError(415, f"unknown content type {request.content_type}")


async def _before(request: web.Request, fault: Fault | None) -> None:
    if fault is None:
        return
    if fault.kind is FaultKind.DROPPED_BEFORE:
        _drop(request)
    elif fault.kind is FaultKind.STATUS:
        raise RefusedError(fault.status, "as the test wished")
    elif fault.kind in BEFORE:
        raise RefusedError(BEFORE[fault.kind], "try again later", retry_after=fault.retry_after)


async def _after(request: web.Request, fault: Fault | None, answer: Answer) -> web.StreamResponse:
    if fault is not None and fault.kind is FaultKind.BROKEN_AFTER:
        return _refusal(RefusedError(500, "it broke after the write"))
    if fault is not None and fault.kind is FaultKind.DROPPED_AFTER:
        _drop(request)
    if fault is not None and fault.kind is FaultKind.GARBLED:
        return web.Response(text="{", content_type="application/json", headers=answer.headers)
    if fault is not None and fault.kind is FaultKind.SLOW:
        await asyncio.sleep(fault.seconds)
    return web.json_response(answer.body, headers=answer.headers)


def _drop(request: web.Request) -> None:
    """End the connection without an answer."""
    if request.transport is not None:
        request.transport.abort()
    raise asyncio.CancelledError


def _refusal(error: RefusedError) -> web.Response:
    headers = {} if error.retry_after is None else {"Retry-After": f"{error.retry_after:.3f}"}
    body = {"code": error.status, "message": error.message, "details": []}
    return web.json_response(body, status=error.status, headers=headers)


# --- writes ---------------------------------------------------------------------------------------


def _upsert(served: Served, call: _Call) -> Answer:
    body = call.body
    namespace = checks.namespace_of(body)
    records = checks.upserted(body, served.store.dimension)
    served.rates.take(namespace, {"upsert": 1, "upserted_bytes": len(call.data)})
    lsn = served.store.write(namespace, list(records))
    return Answer({"upsertedCount": len(records)}, {"x-pinecone-request-lsn": str(lsn)})


def _delete(served: Served, call: _Call) -> Answer:
    body = call.body
    checks.members(body, ["namespace"], ["ids", "deleteAll", "filter"])
    if len({"ids", "deleteAll", "filter"} & body.keys()) != 1:
        raise RefusedError(400, "exactly one of ids, deleteAll and filter is required")
    namespace = checks.namespace_of(body)
    changes = _deleted(served, namespace, body)
    if namespace not in served.store.namespaces:
        raise RefusedError(404, "Namespace not found")
    lsn = served.store.write(namespace, changes)
    return Answer({}, {"x-pinecone-request-lsn": str(lsn)})


def _deleted(served: Served, namespace: str, body: dict[str, Any]) -> list[Change]:
    if "ids" in body:
        ids = checks.record_ids(body["ids"])
        served.rates.take(namespace, {"delete": 1, "deleted_records": len(ids)})
        return [(record_id, None) for record_id in ids]
    served.rates.take(namespace, {"delete": 1, "by_metadata": 1})
    return [(record_id, None) for record_id in _selected(served, namespace, body.get("filter"))]


def _selected(served: Served, namespace: str, where: Any) -> list[str]:
    held = served.store.read(namespace).truth
    if where is None:
        return list(held)
    check_filter(where)
    return [name for name, stored in held.items() if passes(stored.metadata or {}, where)]


def _update(served: Served, call: _Call) -> Answer:
    body = call.body
    checks.members(body, [], ["namespace", "id", "filter", "values", "setMetadata"])
    if len({"id", "filter"} & body.keys()) != 1:
        raise RefusedError(400, "exactly one of id and filter is required")
    namespace = checks.namespace_of(body)
    held = served.store.read(namespace).truth
    ids = [body["id"]] if "id" in body else _selected(served, namespace, body["filter"])
    ids = [record_id for record_id in ids if record_id in held]
    served.rates.take(namespace, {"update": 1, "updated_records": len(ids)})
    changes: list[Change] = [(name, _changed(served, held[name], body)) for name in ids]
    lsn = served.store.write(namespace, changes)
    return Answer({"matchedRecords": len(ids)}, {"x-pinecone-request-lsn": str(lsn)})


def _changed(served: Served, stored: Stored, body: dict[str, Any]) -> Stored:
    values = stored.values
    if "values" in body:
        values = checks.vector(body["values"], served.store.dimension)
    added = checks.metadata(body.get("setMetadata", {}))
    return Stored(values, {**(stored.metadata or {}), **added})


# --- reads ----------------------------------------------------------------------------------------


def _query(served: Served, call: _Call) -> Answer:
    body = call.body
    vector, top_k = checks.queried(body, served.store.dimension)
    namespace = checks.namespace_of(body)
    served.rates.take(namespace, {"query": 1})
    shown = served.store.read(namespace).shown
    scored = [
        (name, score)
        for name, score in served.store.scored(namespace, vector)
        if "filter" not in body or passes(shown[name].metadata or {}, body["filter"])
    ]
    nearest_first = served.store.metric != "euclidean"
    best = sorted(scored, key=lambda one: one[1], reverse=nearest_first)[:top_k]
    served.faults.random.shuffle(best)  # Nobody promised an order.
    matches = [{**_shown(name, shown[name], body), "score": score} for name, score in best]
    answer = {"matches": matches, "namespace": namespace, "usage": {"readUnits": 1}}
    if (size := len(json.dumps(answer).encode())) > ANSWER_BYTES:
        raise RefusedError(400, f"Query result of {size} bytes exceeds the limit of 4MB")
    indexed = served.store.read(namespace).indexed
    return Answer(answer, {"x-pinecone-max-indexed-lsn": str(indexed)})


def _shown(name: str, stored: Stored, wanted: dict[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {"id": name}
    if wanted.get("includeValues"):
        shown["values"] = list(stored.values)
    if wanted.get("includeMetadata") and stored.metadata is not None:
        shown["metadata"] = stored.metadata
    return shown


def _fetch(served: Served, call: _Call) -> Answer:
    query = call.query
    checks.members(query, ["ids"], ["namespace"])
    namespace = checks.namespace_of({"namespace": query.get("namespace", [""])[0]})
    shown = served.store.read(namespace).shown
    everything = {"includeValues": True, "includeMetadata": True}
    ids = checks.record_ids(query["ids"])
    found = {name: _shown(name, shown[name], everything) for name in ids if name in shown}
    return Answer({"vectors": found, "namespace": namespace, "usage": {"readUnits": 1}})


def _list(served: Served, call: _Call) -> Answer:
    query = {name: values[0] for name, values in call.query.items()}
    checks.members(query, [], ["namespace", "prefix", "limit", "paginationToken"])
    namespace, prefix = checks.namespace_of(query), query.get("prefix", "")
    limit = checks.page_size(query.get("limit"))
    after = query.get("paginationToken", "")
    shown = served.store.read(namespace).shown
    ids = sorted(name for name in shown if name.startswith(prefix) and name > after)
    page = ids[:limit]
    answer: dict[str, Any] = {"vectors": [{"id": name} for name in page], "namespace": namespace}
    if len(ids) > limit:
        answer["pagination"] = {"next": page[-1]}
    return Answer(answer)


def _stats(served: Served, call: _Call) -> Answer:
    checks.members(call.body, [], [])
    counts = {name: len(served.store.read(name).shown) for name in list(served.store.namespaces)}
    return Answer(
        {
            "namespaces": {n or "__default__": {"vectorCount": c} for n, c in counts.items()},
            "dimension": served.store.dimension,
            "totalVectorCount": sum(counts.values()),
            "metric": served.store.metric,
            "vectorType": "dense",
        }
    )


def _describe(served: Served, call: _Call) -> Answer:
    name = call.request.match_info["name"]
    if name != served.store.name:
        raise RefusedError(404, f"Resource {name} not found")
    field_of_vectors = {
        "type": "dense_vector",
        "dimension": served.store.dimension,
        "metric": served.store.metric,
    }
    return Answer(
        {
            "name": name,
            "host": served.url,
            "status": {"ready": served.ready, "state": "Ready" if served.ready else "Initializing"},
            "schema": {"fields": {"_values": field_of_vectors}},
            "deployment": {"deployment_type": "managed", "cloud": "aws", "region": "eu-central-1"},
            "deletion_protection": "disabled",
            "tags": None,
        }
    )


# --- for the test ---------------------------------------------------------------------------------


def _overview(served: Served) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        spaces = served.store.namespaces
        return web.json_response(
            {
                "requests": dict(served.requests),
                "largest_bytes": dict(served.largest_bytes),
                "throttled": served.rates.refused,
                "records": {name: len(held.truth) for name, held in spaces.items()},
                "index_lag_seconds": served.store.index_lag_seconds,
            }
        )

    return handle


def _truth(served: Served) -> Handler:
    """What was written, whether reads show it or not: {namespace: {id: {values, metadata}}}."""

    async def handle(request: web.Request) -> web.StreamResponse:
        everything = {"includeValues": True, "includeMetadata": True}
        spaces = {
            namespace: {
                name: _shown(name, stored, everything) for name, stored in held.truth.items()
            }
            for namespace, held in served.store.namespaces.items()
        }
        return web.json_response(spaces)

    return handle


def _set_faults(served: Served) -> Handler:
    """{"script": [{"kind": "500-after", "operation": "upsert"}], "by_chance": [[0.1, {…}]]}."""

    async def handle(request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        served.faults.script = [Fault.from_json(one) for one in body.get("script", [])]
        by_chance = body.get("by_chance", [])
        served.faults.by_chance = [(chance, Fault.from_json(one)) for chance, one in by_chance]
        return web.json_response({})

    return handle


def _set_lag(served: Served) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        served.store.index_lag_seconds = float(json.loads(await request.read())["seconds"])
        return web.json_response({})

    return handle


def _index(served: Served) -> Handler:
    """Whatever the lag, show what waits to be; with {"writes": 1} so many of each namespace."""

    async def handle(request: web.Request) -> web.StreamResponse:
        served.store.index_next(json.loads(await request.read() or "{}").get("writes"))
        return web.json_response({})

    return handle
