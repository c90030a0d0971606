"""The HTTP API as a small real server that remembers what it was asked: for tests of clients."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

JSON = dict[str, Any]


class FakeService:
    """Applies what it accepts when it is next asked about it. Knobs make it misbehave."""

    def __init__(self) -> None:
        self.url = ""
        self.rows: dict[tuple[str, str], JSON] = {}
        self.changes: list[JSON] = []
        """Every change line that arrived, in order."""
        self.requests: list[str] = []
        self.searches: list[JSON] = []
        self.dead_letters: list[JSON] = []
        self.redriven: list[JSON] = []
        self.fails: set[str] = set()
        """Documents that end FAILED."""
        self.refuses: set[str] = set()
        self.drops_after: list[int] = []
        """One entry per connection: it is cut after so many results."""
        self.unavailable_once: set[str] = set()
        """Documents whose line is answered with 503 the first time."""
        self.hangs_on: set[str] = set()
        """Documents whose line is never answered."""
        self.hanging = asyncio.Event()
        self.stopping = asyncio.Event()
        self.page_size = 2

    def put(self, document_id: str, content: bytes, **members: Any) -> None:
        self.rows["default", document_id] = {
            "document_id": document_id, "status": "COMPLETED", "version": 1,
            "applied_version": 1, "content_hash": hashlib.sha256(content).hexdigest(),
            "metadata": {}, "error": None, **members,
        }  # fmt: skip

    @property
    def sent(self) -> list[tuple[str, str]]:
        return [(c["change_type"], c["document_id"]) for c in self.changes]

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._remember])
        app.add_routes(
            [
                web.get("/readyz", self._ready),
                web.get("/v1/stats", self._stats),
                web.post("/v1/changes", self._changes),
                web.get("/v1/namespaces/{ns}/documents", self._list),
                web.get("/v1/namespaces/{ns}/documents/{id}", self._get),
                web.post("/v1/namespaces/{ns}/search", self._search),
                web.get("/v1/dead-letters", self._dead_letters),
                web.get("/v1/dead-letters/{id}", self._dead_letter),
                web.post("/v1/dead-letters/redrive", self._redrive),
            ]
        )
        return app

    @web.middleware
    async def _remember(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path}")
        response: web.StreamResponse = await handler(request)
        return response

    async def _ready(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ready"})

    async def _stats(self, _request: web.Request) -> web.Response:
        counts: dict[str, int] = {}
        for row in self.rows.values():
            counts[row["status"]] = counts.get(row["status"], 0) + 1
        return web.json_response(
            {
                "namespaces": [{"namespace": "default", "documents": counts, "chunks": 7}],
                "queues": {"change": {"waiting": 3, "in_flight": 1, "oldest_seconds": 1.25}},
                "dead_letters": len(self.dead_letters),
                "workers": {"running": 1, "peak": 2, "maximum": 4, "started_total": 5},
                "totals": {"chunks_embedded": 9, "chunks_reused": 3},
                "embedding_profile": "model@1/384",
            }
        )

    async def _changes(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        drop_after = self.drops_after.pop(0) if self.drops_after else None
        number = 0
        async for line in request.content:
            if number == drop_after:
                assert request.transport is not None
                request.transport.abort()
                return response
            number += 1
            change = json.loads(line)
            self.changes.append(change)
            if change.get("document_id") in self.hangs_on:
                self.hanging.set()
                await self.stopping.wait()
            result = {"line": number, **self._accept(change)}
            await response.write(json.dumps(result).encode() + b"\n")
        return response

    def _accept(self, change: JSON) -> JSON:
        name = change.get("document_id", "")
        if name in self.unavailable_once:
            self.unavailable_once.remove(name)
            return {"error": {"title": "away", "status": 503}}
        if name in self.refuses or not name:
            return {
                "error": {
                    "title": "no",
                    "status": 422,
                    "detail": "is not good",
                    "field": "document_id",
                }
            }
        row = self.rows.setdefault(
            (change["namespace"], name),
            {
                "document_id": name,
                "version": 0,
                "applied_version": 0,
                "error": None,
            },
        )
        content = change.get("content") or ""
        binary = change.get("content_encoding") == "base64"
        raw = base64.b64decode(content) if binary else content.encode()
        deleted = change["change_type"] == "delete"
        row.update(
            version=row["version"] + 1, status="PENDING",
            content_hash="" if deleted else hashlib.sha256(raw).hexdigest(),
        )  # fmt: skip
        return {
            "namespace": change["namespace"], "document_id": name, "outcome": "accepted",
            "version": row["version"],
        }  # fmt: skip

    def _work(self, row: JSON) -> None:
        """What the consumers do, just after the row was read."""
        if row["status"] != "PENDING":
            return
        if row["document_id"] in self.fails:
            row.update(status="FAILED", error="broken PDF")
        else:
            status = "COMPLETED" if row["content_hash"] else "DELETED"
            row.update(status=status, applied_version=row["version"])

    async def _list(self, request: web.Request) -> web.Response:
        ns, prefix = request.match_info["ns"], request.query.get("prefix", "")
        names = sorted(i for n, i in self.rows if n == ns and i.startswith(prefix))
        start = int(request.query.get("cursor", "0"))
        page = [dict(self.rows[ns, i]) for i in names[start : start + self.page_size]]
        for row in page:
            self._work(self.rows[ns, row["document_id"]])
        end = start + self.page_size
        return web.json_response(
            {"documents": page, "cursor": str(end) if end < len(names) else None}
        )

    async def _get(self, request: web.Request) -> web.Response:
        row = self.rows.get((request.match_info["ns"], request.match_info["id"]))
        if row is None:
            return web.json_response({"title": "no such document", "status": 404}, status=404)
        applied = {"version": row["applied_version"]}
        flat = {name: value for name, value in row.items() if name != "applied_version"}
        answer = web.json_response({**flat, "applied": applied})
        self._work(row)
        return answer

    async def _search(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.searches.append({"namespace": request.match_info["ns"], **body})
        if not body["query"]:
            problem = {"title": "bad", "detail": "must not be empty", "field": "query"}
            return web.json_response(problem, status=422)
        hit = {
            "document_id": "guides/a.md", "version": 2, "chunk": 0, "score": 0.8125,
            "text": "Deletes stay\ndeleted.", "heading_path": ["Guide", "Deletes"], "metadata": {},
        }  # fmt: skip
        return web.json_response({"hits": [hit], "took_ms": 3.2})

    async def _dead_letters(self, request: web.Request) -> web.Response:
        start = int(request.query.get("cursor", "0"))
        end = start + self.page_size
        cursor = str(end) if end < len(self.dead_letters) else None
        page = self.dead_letters[start:end]
        return web.json_response({"dead_letters": page, "cursor": cursor})

    async def _dead_letter(self, request: web.Request) -> web.Response:
        for letter in self.dead_letters:
            if letter["message_id"] == request.match_info["id"]:
                return web.json_response(letter)
        return web.json_response({"title": "no such dead letter", "status": 404}, status=404)

    async def _redrive(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.redriven.append(body)
        known = {letter["message_id"] for letter in self.dead_letters}
        count = len(known if body.get("all") else known & set(body["message_ids"]))
        return web.json_response({"redriven": count})


@asynccontextmanager
async def serving(service: FakeService) -> AsyncIterator[FakeService]:
    """Listens on a free port of this machine while the context is open."""
    runner = web.AppRunner(service.app(), access_log=None, shutdown_timeout=0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        service.url = f"http://{host}:{port}"
        yield service
    finally:
        service.stopping.set()
        await runner.cleanup()
