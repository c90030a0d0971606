"""The registry on SQLite: a row is a column of JSON, beside it what is compared and searched."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from common.adapters.registry.document_order import cursor_of, document_id_of, end_of_prefix
from common.bounded_map import BoundedMap
from common.model import DocumentKey, EmbeddingProfile, Event, EventKind, Row, Status
from common.ports.registry import KEPT_EVENTS, History, NamespaceCounts, Page
from common.settings import Settings
from common.storage.data_folder import DataFolder
from common.storage.sqlite_database import SqliteDatabase
from common.wire import (
    DamagedDataError,
    profile_from_json,
    profile_to_json,
    row_from_json,
    row_to_json,
)

log = structlog.get_logger(__name__)

__all__ = ["SqliteRegistry"]

_KEYS_PER_QUERY = 500
_ROWS_KEPT, _ROW_BYTES_KEPT = 8192, 32 * 1024 * 1024
_VALUE_PER_BODY = 4
"""Bytes that a row and its JSON take for each character of the JSON."""
_LAST_INTEGER = 2**63 - 1
_WRITES_PER_DROP = 50
_EVENT_CURSOR = re.compile(r"([0-9]{1,18})\.([0-9]{1,18})")

# Text is compared as UTF-8 bytes (SQLite's BINARY), which is the order of code points.
_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS rows (
        namespace TEXT NOT NULL,
        document_id TEXT NOT NULL,
        revision INTEGER NOT NULL,
        status TEXT NOT NULL,
        updated_at REAL NOT NULL,
        sweep_at REAL,
        chunk_count INTEGER NOT NULL,
        size_bytes INTEGER NOT NULL DEFAULT 0,
        body TEXT NOT NULL,
        PRIMARY KEY (namespace, document_id)
    )""",
    # With what is summed up in it, counts() reads nothing else.
    """CREATE INDEX IF NOT EXISTS rows_counted
        ON rows (namespace, status, document_id, chunk_count, size_bytes)""",
    """CREATE INDEX IF NOT EXISTS rows_by_sweep ON rows (sweep_at) WHERE sweep_at IS NOT NULL""",
    """CREATE TABLE IF NOT EXISTS namespaces (
        namespace TEXT PRIMARY KEY,
        profile TEXT NOT NULL
    )""",
    # In the order of the writes, and of a write's events by their number.
    """CREATE TABLE IF NOT EXISTS events (
        namespace TEXT NOT NULL,
        document_id TEXT NOT NULL,
        revision INTEGER NOT NULL,
        number INTEGER NOT NULL,
        at REAL NOT NULL,
        kind TEXT NOT NULL,
        version INTEGER NOT NULL,
        detail TEXT NOT NULL,
        PRIMARY KEY (namespace, document_id, revision, number)
    ) WITHOUT ROWID""",
)
_INSERT = """INSERT INTO rows
    (revision, status, updated_at, sweep_at, chunk_count, size_bytes, body, namespace, document_id)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""
_UPDATE = """UPDATE rows SET
    revision = ?, status = ?, updated_at = ?, sweep_at = ?, chunk_count = ?, size_bytes = ?,
    body = ? WHERE namespace = ? AND document_id = ? AND revision = ?"""
_DELETE = "DELETE FROM rows WHERE namespace = ? AND document_id = ? AND revision = ?"
_TELL = """INSERT OR REPLACE INTO events
    (namespace, document_id, revision, number, at, kind, version, detail)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
_DROP_EVENTS = "DELETE FROM events WHERE namespace = ? AND document_id = ?"
_DROP_OLD_EVENTS = """DELETE FROM events WHERE namespace = ? AND document_id = ?
    AND revision < (SELECT revision FROM events WHERE namespace = ? AND document_id = ?
    ORDER BY revision DESC, number DESC LIMIT 1 OFFSET ?)"""
_HISTORY = """SELECT revision, number, at, kind, version, detail FROM events
    WHERE namespace = ? AND document_id = ? AND (revision, number) < (?, ?)
    ORDER BY revision DESC, number DESC LIMIT ?"""
_GET = "SELECT body FROM rows WHERE namespace = ? AND document_id = ?"
_IDS = """SELECT document_id FROM rows WHERE namespace = ? AND document_id > ?
    ORDER BY document_id LIMIT ?"""
_DUE = """SELECT body FROM rows WHERE sweep_at IS NOT NULL AND sweep_at <= ?
    ORDER BY sweep_at LIMIT ?"""
_COUNTS = """SELECT namespace, status, count(*), sum(chunk_count), sum(size_bytes) FROM rows
    GROUP BY namespace, status ORDER BY namespace, status"""
_BIND = "INSERT INTO namespaces (namespace, profile) VALUES (?, ?) ON CONFLICT DO NOTHING"
_BOUND = "SELECT profile FROM namespaces WHERE namespace = ?"
# Of earlier releases, which did not sum up sizes.
_LATER_COLUMNS = (("rows", "size_bytes", "INTEGER NOT NULL DEFAULT 0"),)
_EARLIER_INDEX = "SELECT 1 FROM sqlite_master WHERE type = 'index' AND name = 'rows_by_status'"
_SIZE = "UPDATE rows SET size_bytes = size_in(body)"


class SqliteRegistry:
    """Implements Registry in one file. Every commit is synced to the disk."""

    def __init__(self, path: Path) -> None:
        self._database = SqliteDatabase(
            path, _SCHEMA, durable=True, later_columns=_LATER_COLUMNS, upgrade=_upgrade
        )
        self._read_lately: BoundedMap[str, Row] = BoundedMap(_ROWS_KEPT, _ROW_BYTES_KEPT)

    async def close(self) -> None:
        await self._database.close()

    async def free_bytes(self) -> int:
        return await self._database.free_bytes()

    async def get(self, key: DocumentKey) -> Row | None:
        found = await self._database.read(
            lambda db: db.execute(_GET, (key.namespace, key.document_id)).fetchall()
        )
        return row_from_json(found[0][0]) if found else None

    async def get_many(self, keys: Sequence[DocumentKey]) -> dict[DocumentKey, Row]:
        def get_many(db: sqlite3.Connection) -> list[str]:
            joined = [db.execute(*query).fetchone()[0] for query in _queries(keys)]
            return [b for text in joined if text is not None for b in text.split("\n")]

        rows = map(self._row, await self._database.read(get_many))
        return {row.key: row for row in rows}

    def _row(self, body: str) -> Row:
        """Every search reads rows that others read before: an equal body is the same value."""
        row = self._read_lately.get(body)
        if row is None:
            row = row_from_json(body)
            self._read_lately.put(body, row, _VALUE_PER_BODY * len(body))
        return row

    async def put_if(self, row: Row) -> Row | None:
        stored = replace(row, revision=row.revision + 1, news=())
        values = _values_of(stored)

        def put(db: sqlite3.Connection) -> bool:
            if row.revision == 0:
                done = db.execute(_INSERT, values).rowcount == 1
            else:
                done = db.execute(_UPDATE, (*values, row.revision)).rowcount == 1
            if done:
                _tell(db, stored, row.news)
            return done

        return stored if await self._database.write(put) else None

    async def delete_if(self, row: Row) -> bool:
        name = (row.key.namespace, row.key.document_id)

        def delete(db: sqlite3.Connection) -> bool:
            if db.execute(_DELETE, (*name, row.revision)).rowcount == 0:
                return False
            db.execute(_DROP_EVENTS, name)
            return True

        return await self._database.write(delete)

    async def history(
        self, key: DocumentKey, *, limit: int = 100, cursor: str | None = None
    ) -> History:
        """Raises ValueError for a cursor that no earlier page gave."""
        before = (_LAST_INTEGER, 0) if cursor is None else _place_of(cursor)
        values = (key.namespace, key.document_id, *before, limit + 1)
        found = await self._database.read(lambda db: db.execute(_HISTORY, values).fetchall())
        page = found[:limit]
        events = [_event_of(*values) for _, _, *values in page]
        return History(events, "{}.{}".format(*page[-1]) if len(found) > limit else None)

    async def scan(
        self,
        namespace: str,
        *,
        status: Status | None = None,
        prefix: str = "",
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page:
        """Raises ValueError for a cursor that no earlier page gave."""
        after = None if cursor is None else document_id_of(cursor)
        query = _scan_query(namespace, status, prefix, after, limit + 1)
        found = await self._database.read(lambda db: db.execute(*query).fetchall())
        rows = [row_from_json(body) for (body,) in found[:limit]]
        more = len(found) > limit
        return Page(rows, cursor_of(rows[-1].key.document_id) if more else None)

    async def document_ids(self, namespace: str, *, after: str, limit: int) -> list[str]:
        found = await self._database.read(
            lambda db: db.execute(_IDS, (namespace, after, limit)).fetchall()
        )
        return [document_id for (document_id,) in found]

    async def due(self, *, before: float, limit: int) -> list[Row]:
        found = await self._database.read(lambda db: db.execute(_DUE, (before, limit)).fetchall())
        return [row for (body,) in found if (row := _readable(body)) is not None]

    async def bind_namespace(self, namespace: str, profile: EmbeddingProfile) -> EmbeddingProfile:
        def bound(db: sqlite3.Connection) -> list[Any]:
            return db.execute(_BOUND, (namespace,)).fetchall()

        def bind(db: sqlite3.Connection) -> list[Any]:
            db.execute(_BIND, (namespace, profile_to_json(profile)))
            return bound(db)

        # It is bound once and read ever after: the read spares the file's only write lock.
        found = await self._database.read(bound) or await self._database.write(bind)
        return profile_from_json(found[0][0])

    async def binding(self, namespace: str) -> EmbeddingProfile | None:
        found = await self._database.read(lambda db: db.execute(_BOUND, (namespace,)).fetchall())
        return profile_from_json(found[0][0]) if found else None

    async def namespaces(self) -> dict[str, EmbeddingProfile]:
        found = await self._database.read(
            lambda db: db.execute(
                "SELECT namespace, profile FROM namespaces ORDER BY namespace"
            ).fetchall()
        )
        return {namespace: profile_from_json(profile) for namespace, profile in found}

    async def counts(self) -> list[NamespaceCounts]:
        found = await self._database.read(lambda db: db.execute(_COUNTS).fetchall())
        documents: dict[str, dict[Status, int]] = {}
        chunks: Counter[str] = Counter()
        sizes: Counter[str] = Counter()
        for namespace, status, count, chunk_count, size_bytes in found:
            documents.setdefault(namespace, {})[Status(status)] = count
            chunks[namespace] += chunk_count
            sizes[namespace] += size_bytes
        return [
            NamespaceCounts(name, documents[name], chunks[name], sizes[name]) for name in documents
        ]


def _upgrade(db: sqlite3.Connection) -> None:
    """A file that a program wrote which knew nothing of sizes: an earlier release."""
    if db.execute(_EARLIER_INDEX).fetchone() is None:
        return
    db.create_function("size_in", 1, _size_in, deterministic=True)
    db.execute(_SIZE)
    db.execute("DROP INDEX rows_by_status")


def _size_in(body: str) -> int:
    """0 for what cannot be read."""
    try:
        return row_from_json(body).desired.size_bytes
    except DamagedDataError:
        return 0


def _values_of(row: Row) -> tuple[Any, ...]:
    return (
        row.revision,
        row.status.value,
        row.updated_at,
        row.sweep_at,
        row.applied.chunk_count,
        row.desired.size_bytes,
        row_to_json(row),
        row.key.namespace,
        row.key.document_id,
    )


def _tell(db: sqlite3.Connection, row: Row, news: Sequence[Event]) -> None:
    """Old events are dropped at some writes only: to look at each would cost every write.

    At those whether or not they tell something: a life's writes come in a rhythm.
    """
    name = (row.key.namespace, row.key.document_id)
    for number, event in enumerate(news):
        what = (event.at, event.kind.value, event.version, event.detail)
        db.execute(_TELL, (*name, row.revision, number, *what))
    if row.revision % _WRITES_PER_DROP == 0:
        db.execute(_DROP_OLD_EVENTS, (*name, *name, KEPT_EVENTS - 1))


def _queries(keys: Sequence[DocumentKey]) -> Iterator[tuple[str, list[str]]]:
    """Queries of bounded size that together find all keys, each within one namespace.

    Each finds one value, the bodies a line each (JSON has no line break of its own), or NULL: at
    every row that SQLite finds, its thread would let go of the interpreter's lock and wait for it.
    """
    by_namespace: dict[str, dict[str, None]] = {}
    for key in keys:
        by_namespace.setdefault(key.namespace, {})[key.document_id] = None
    for namespace, ids in ((name, list(found)) for name, found in by_namespace.items()):
        for start in range(0, len(ids), _KEYS_PER_QUERY):
            part = ids[start : start + _KEYS_PER_QUERY]
            marks = ",".join("?" * len(part))
            query = f"SELECT group_concat(body, char(10)) FROM rows WHERE namespace = ? AND document_id IN ({marks})"  # noqa: E501, S608 - only question marks go in
            yield query, [namespace, *part]


def _scan_query(
    namespace: str, status: Status | None, prefix: str, after: str | None, limit: int
) -> tuple[str, list[str | int]]:
    conditions, values = ["namespace = ?", "document_id >= ?"], [namespace, prefix]
    if status is not None:
        conditions.append("status = ?")
        values.append(status.value)
    if (end := end_of_prefix(prefix)) is not None:
        conditions.append("document_id < ?")
        values.append(end)
    if after is not None:
        conditions.append("document_id > ?")
        values.append(after)
    where = " AND ".join(conditions)
    query = f"SELECT body FROM rows WHERE {where} ORDER BY document_id LIMIT ?"  # noqa: S608 - the conditions are those above
    return query, [*values, limit]


def _event_of(at: float, kind: str, version: int, detail: str) -> Event:
    try:
        return Event(at, EventKind(kind), version, detail)
    except ValueError as error:
        raise DamagedDataError(f"not an event that this program knows: {kind!r}") from error


def _place_of(cursor: str) -> tuple[int, int]:
    """The revision and the number of an event."""
    found = _EVENT_CURSOR.fullmatch(cursor)
    if found is None:
        raise ValueError(f"{cursor!r} is not a cursor that an earlier page gave")
    return int(found[1]), int(found[2])


def _readable(body: str) -> Row | None:
    """A row that a newer program wrote, or that is damaged, must not stop the sweep of others."""
    try:
        return row_from_json(body)
    except DamagedDataError as error:
        log.error("row.unreadable", error=str(error))
        return None


def connect(url: str, settings: Settings, receiver: str) -> SqliteRegistry:
    """`sqlite:` is registry.sqlite in the data folder."""
    return SqliteRegistry(DataFolder(settings.data_dir).registry_path)
