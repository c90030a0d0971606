"""`sqlite:`: receipts in receipts.sqlite in the data folder."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from common.clock import Clock, system_clock
from common.ports.receipts import Receipt
from common.settings import Settings
from common.storage.data_folder import DataFolder
from common.storage.sqlite_database import SqliteDatabase

DROPPED_AT_ONCE = 100
"""Expired ones go as new ones come: more at a time, so that they never pile up."""

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS receipts ("
    " scope TEXT NOT NULL, delivery_id TEXT NOT NULL, fingerprint TEXT NOT NULL,"
    " status INTEGER NOT NULL, body BLOB NOT NULL, expires_at REAL NOT NULL,"
    " PRIMARY KEY (scope, delivery_id))",
    "CREATE INDEX IF NOT EXISTS receipts_by_end ON receipts (expires_at)",
)
_DROP = (
    "DELETE FROM receipts WHERE rowid IN"
    " (SELECT rowid FROM receipts WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)"
)
_KEEP = (
    "INSERT INTO receipts (scope, delivery_id, fingerprint, status, body, expires_at)"
    " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET fingerprint = excluded.fingerprint,"
    " status = excluded.status, body = excluded.body, expires_at = excluded.expires_at"
    " WHERE receipts.expires_at <= ?"
)
_FIND = (
    "SELECT fingerprint, status, body, expires_at FROM receipts"
    " WHERE scope = ? AND delivery_id = ? AND expires_at > ?"
)


class SqliteReceipts:
    """Implements Receipts and Checkable."""

    def __init__(self, path: Path, *, clock: Clock = system_clock) -> None:
        self._path = path
        self._clock = clock
        # Not synced: that would cost a delivery as much again as the change it makes.
        self._database = SqliteDatabase(path, _SCHEMA, durable=False)

    async def close(self) -> None:
        await self._database.close()

    async def check(self) -> str:
        return f"{await self.count()} receipts in {self._path.name}"

    async def count(self) -> int:
        """Those that have expired but were not dropped yet included."""

        def select(connection: sqlite3.Connection) -> int:
            return int(connection.execute("SELECT count(*) FROM receipts").fetchone()[0])

        return await self._database.read(select)

    async def find(self, scope: str, delivery_id: str, *, now: float) -> Receipt | None:
        def select(connection: sqlite3.Connection) -> tuple[str, int, bytes, float] | None:
            found: tuple[str, int, bytes, float] | None
            found = connection.execute(_FIND, (scope, delivery_id, now)).fetchone()
            return found

        found = await self._database.read(select)
        if found is None:
            return None
        fingerprint, status, body, expires_at = found
        return Receipt(fingerprint=fingerprint, status=status, body=body, expires_at=expires_at)

    async def keep(self, scope: str, delivery_id: str, receipt: Receipt) -> bool:
        now = self._clock()
        told = (receipt.fingerprint, receipt.status, receipt.body, receipt.expires_at)

        def write(connection: sqlite3.Connection) -> bool:
            connection.execute(_DROP, (now, DROPPED_AT_ONCE))
            return connection.execute(_KEEP, (scope, delivery_id, *told, now)).rowcount == 1

        return await self._database.write(write)


def connect(url: str, settings: Settings, receiver: str) -> SqliteReceipts:
    """`sqlite:` is receipts.sqlite in the data folder."""
    return SqliteReceipts(DataFolder(settings.data_dir).receipts_path)
