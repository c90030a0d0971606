"""`sqlite:`: audit.sqlite in the data folder. Any process of the machine may append to it.

Triggers refuse to change or delete an entry: against mistakes, not against who may write the file.
That is what the chain is for.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from common.audit import chained, drop_event, millis
from common.ports.audit import AuditEntry, AuditEvent, AuditPlace, AuditQuery, ChainEnd
from common.settings import Settings
from common.storage.audit_rows import NAMES, condition_of, entry_of, row_of
from common.storage.data_folder import DataFolder
from common.storage.sqlite_database import SqliteDatabase

_PAGE: Final = 1000
_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS entries ("
    " sequence INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, principal TEXT NOT NULL,"
    " action TEXT NOT NULL, namespace TEXT NOT NULL, document_id TEXT NOT NULL,"
    " subject TEXT NOT NULL, result TEXT NOT NULL, version INTEGER NOT NULL,"
    " count INTEGER NOT NULL, address TEXT NOT NULL, request_id TEXT NOT NULL,"
    " source TEXT NOT NULL, previous_hash TEXT NOT NULL, hash TEXT NOT NULL)",
    "CREATE INDEX IF NOT EXISTS entries_by_document ON entries (namespace, document_id, sequence)",
    "CREATE INDEX IF NOT EXISTS entries_by_time ON entries (at_ms)",
    "CREATE TABLE IF NOT EXISTS anchor ("
    " one INTEGER PRIMARY KEY CHECK (one = 1), sequence INTEGER NOT NULL, hash TEXT NOT NULL)",
    "INSERT OR IGNORE INTO anchor VALUES (1, 0, '')",
    "CREATE TRIGGER IF NOT EXISTS no_update BEFORE UPDATE ON entries"
    " BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only'); END",
    # The retention moves the anchor first.
    "CREATE TRIGGER IF NOT EXISTS no_delete BEFORE DELETE ON entries"
    " WHEN OLD.sequence > (SELECT sequence FROM anchor)"
    " BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only'); END",
    # REPLACE deletes without asking the trigger above.
    "CREATE TRIGGER IF NOT EXISTS no_gap BEFORE INSERT ON entries"
    " WHEN NEW.sequence != 1 + coalesce((SELECT max(sequence) FROM entries),"
    " (SELECT sequence FROM anchor))"
    " BEGIN SELECT RAISE(ABORT, 'the audit trail has no gaps'); END",
    "CREATE TRIGGER IF NOT EXISTS anchor_moves_on BEFORE UPDATE ON anchor"
    " WHEN NEW.sequence <= OLD.sequence OR NOT EXISTS"
    " (SELECT 1 FROM entries WHERE sequence = NEW.sequence AND hash = NEW.hash)"
    " BEGIN SELECT RAISE(ABORT, 'the anchor moves to a later entry only'); END",
    "CREATE TRIGGER IF NOT EXISTS anchor_stays BEFORE DELETE ON anchor"
    " BEGIN SELECT RAISE(ABORT, 'the anchor stays'); END",
)
_INSERT: Final = f"INSERT INTO entries ({NAMES}) VALUES ({', '.join('?' * 15)})"  # noqa: S608


class SqliteAuditTrail:
    """Implements AuditTrail."""

    def __init__(self, path: Path, *, key: bytes | None = None) -> None:
        self._database = SqliteDatabase(path, _SCHEMA, durable=True)
        self._key = key

    async def append(self, events: Sequence[AuditEvent]) -> None:
        await self._database.write(lambda connection: self._append(connection, events))

    async def entries(self, *, after: int = 0) -> AsyncIterator[AuditEntry]:
        while page := await self._database.read(partial(_following, after=after)):
            for entry in page:
                yield entry
            after = page[-1].sequence

    async def page(
        self, wanted: AuditQuery, *, limit: int, before: AuditPlace | None = None
    ) -> list[AuditEntry]:
        return await self._database.read(lambda c: _newest(c, wanted, limit, before))

    async def head(self) -> ChainEnd:
        return await self._database.read(_head)

    async def anchor(self) -> ChainEnd:
        return await self._database.read(_anchor)

    async def drop(self, *, before: float, now: float, limit: int = 10_000) -> int:
        return await self._database.write(lambda c: self._drop(c, before, now, limit))

    async def check(self) -> str:
        return f"{(await self.head()).sequence:,} entries were written"

    async def close(self) -> None:
        await self._database.close()

    # --- in SQLite's threads

    def _append(self, connection: sqlite3.Connection, events: Sequence[AuditEvent]) -> None:
        entries = chained(_head(connection), events, self._key)
        connection.executemany(_INSERT, map(row_of, entries))

    def _drop(self, connection: sqlite3.Connection, before: float, now: float, limit: int) -> int:
        anchor = _anchor(connection)
        kept = _first_kept(connection, anchor, before, limit)
        count = kept - anchor.sequence - 1
        if count < 1:
            return 0
        last = _row(connection, "SELECT sequence, hash FROM entries WHERE sequence = ?", kept - 1)
        connection.execute("UPDATE anchor SET sequence = ?, hash = ?", last)
        self._append(connection, [drop_event(ChainEnd(*last), count, now)])
        connection.execute("DELETE FROM entries WHERE sequence <= ?", (last[0],))
        return count


def _first_kept(connection: sqlite3.Connection, anchor: ChainEnd, before: float, limit: int) -> int:
    """The sequence of the first entry that stays."""
    most = anchor.sequence + limit + 1
    younger = _row(
        connection,
        "SELECT min(sequence) FROM (SELECT sequence FROM entries WHERE sequence < ?"
        " AND +at_ms >= ? ORDER BY sequence LIMIT 1)",  # +: not by the index, which has them all
        most,
        millis(before),
    )[0]
    return int(younger if younger is not None else min(most, _head(connection).sequence + 1))


def _head(connection: sqlite3.Connection) -> ChainEnd:
    found = connection.execute(
        "SELECT sequence, hash FROM entries ORDER BY sequence DESC LIMIT 1"
    ).fetchone()
    return ChainEnd(*found) if found else _anchor(connection)


def _anchor(connection: sqlite3.Connection) -> ChainEnd:
    return ChainEnd(*_row(connection, "SELECT sequence, hash FROM anchor"))


def _row(connection: sqlite3.Connection, statement: str, *values: Any) -> Any:
    return connection.execute(statement, values).fetchone()


def _following(connection: sqlite3.Connection, after: int) -> list[AuditEntry]:
    statement = f"SELECT {NAMES} FROM entries WHERE sequence > ? ORDER BY sequence LIMIT ?"  # noqa: S608
    return [entry_of(row) for row in connection.execute(statement, (after, _PAGE))]


def _newest(
    connection: sqlite3.Connection, wanted: AuditQuery, limit: int, before: AuditPlace | None
) -> list[AuditEntry]:
    condition, values = condition_of(wanted, lambda _: "?")
    if before is not None:
        condition += " AND sequence < ?"
        values.append(_sequence_at(connection, before))
    statement = f"SELECT {NAMES} FROM entries WHERE {condition} ORDER BY sequence DESC LIMIT ?"  # noqa: S608 - names and marks only
    return [entry_of(row) for row in connection.execute(statement, [*values, limit])]


def _sequence_at(connection: sqlite3.Connection, place: AuditPlace) -> int:
    found = _row(
        connection, "SELECT sequence FROM entries WHERE at_ms = ? AND hash = ?",
        place.at_ms, place.hash,
    )  # fmt: skip
    if found is None:
        raise ValueError("there is no entry at this place")
    return int(found[0])


def connect(url: str, settings: Settings, receiver: str) -> SqliteAuditTrail:
    """`sqlite:` is audit.sqlite in the data folder."""
    key = settings.audit_key
    return SqliteAuditTrail(
        DataFolder(settings.data_dir).audit_path,
        key=key.get_secret_value().encode() if key else None,
    )
