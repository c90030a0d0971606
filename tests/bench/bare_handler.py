"""The yardstick of accepts: an aiohttp handler that reads the JSON, writes the registry's row and
answers. No checks, no queue, no blob, no history: what is left is what nobody gets around.

Arguments: port, folder.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aiohttp import web

from common import identity
from common.model import Desired, DocumentKey, Row
from common.wire import row_to_json

_SCHEMA = """CREATE TABLE rows (namespace TEXT, document_id TEXT, revision INTEGER, body TEXT,
    PRIMARY KEY (namespace, document_id)) WITHOUT ROWID"""
_INSERT = "INSERT OR REPLACE INTO rows VALUES (?, ?, 1, ?)"


class BareHandler:
    def __init__(self, folder: Path) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._database = sqlite3.connect(
            folder / "rows.sqlite", isolation_level=None, check_same_thread=False
        )
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")  # as the registry's: synced
        self._database.execute(_SCHEMA)

    async def accept(self, request: web.Request) -> web.Response:
        change = json.loads(await request.read())
        row = _row_of(change)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._write, row)
        return web.json_response({"outcome": "accepted", "version": 1}, status=202)

    def _write(self, row: Row) -> None:
        key = row.key
        self._database.execute(_INSERT, (key.namespace, key.document_id, row_to_json(row)))


def _row_of(change: dict[str, str]) -> Row:
    content = change["content"].encode()
    content_hash = identity.sha256_hex(content)
    desired = Desired(
        version=1,
        content_hash=content_hash,
        metadata_hash=identity.metadata_hash({}),
        blob_key=identity.raw_blob_key(change["namespace"], content_hash),
        content_type="text/plain",
        metadata={},
        source_version=None,
        tombstone=False,
        accepted_at=time.time(),
        size_bytes=len(content),
        traceparent="",
    )
    key = DocumentKey(change["namespace"], change["document_id"])
    return Row(key=key, revision=1, desired=desired)


async def _ready(_: web.Request) -> web.Response:
    return web.Response()


def main() -> None:
    port, folder = sys.argv[1:]
    app = web.Application()
    app.router.add_post("/v1/changes", BareHandler(Path(folder)).accept)
    app.router.add_get("/readyz", _ready)
    web.run_app(app, host="127.0.0.1", port=int(port), access_log=None, print=None)


if __name__ == "__main__":
    main()
