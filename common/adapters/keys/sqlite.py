"""`sqlite:`: API keys in access.sqlite in the data folder, which its owner alone may read.

The command line writes to it while the service runs: each reads what the other committed.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from pathlib import Path

from common.ports.errors import PermanentError
from common.ports.keys import StoredKey
from common.settings import Settings
from common.storage.data_folder import DataFolder
from common.storage.sqlite_database import SqliteDatabase

OWNER_ONLY = 0o600

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS keys ("
    " id TEXT PRIMARY KEY, name TEXT NOT NULL, salt BLOB NOT NULL, digest BLOB NOT NULL,"
    " scopes TEXT NOT NULL, namespaces TEXT NOT NULL,"
    " created_at REAL NOT NULL, expires_at REAL, revoked_at REAL)",
)
_COLUMNS = "id, name, salt, digest, scopes, namespaces, created_at, expires_at, revoked_at"
_Columns = tuple[str, str, bytes, bytes, str, str, float, float | None, float | None]


class SqliteKeyStore:
    """Implements KeyStore and Checkable."""

    def __init__(self, path: Path) -> None:
        _close_to_others(path)
        self._path = path
        self._database = SqliteDatabase(path, _SCHEMA, durable=True)

    async def close(self) -> None:
        await self._database.close()

    async def check(self) -> str:
        return f"{len(await self.list()):,} in {self._path.name}"

    async def add(self, key: StoredKey) -> bool:
        def insert(connection: sqlite3.Connection) -> bool:
            places = ", ".join("?" * len(_columns_of(key)))
            statement = f"INSERT OR IGNORE INTO keys ({_COLUMNS}) VALUES ({places})"  # noqa: S608
            return connection.execute(statement, _columns_of(key)).rowcount == 1

        return await self._database.write(insert)

    async def get(self, key_id: str) -> StoredKey | None:
        def select(connection: sqlite3.Connection) -> _Columns | None:
            statement = f"SELECT {_COLUMNS} FROM keys WHERE id = ?"  # noqa: S608
            found: _Columns | None = connection.execute(statement, (key_id,)).fetchone()
            return found

        found = await self._database.read(select)
        return _key_of(found) if found else None

    async def list(self) -> list[StoredKey]:
        def select(connection: sqlite3.Connection) -> list[_Columns]:
            statement = f"SELECT {_COLUMNS} FROM keys ORDER BY created_at, id"  # noqa: S608
            return connection.execute(statement).fetchall()

        return [_key_of(found) for found in await self._database.read(select)]

    async def revoke(self, key_id: str, *, at: float) -> bool:
        def update(connection: sqlite3.Connection) -> bool:
            statement = "UPDATE keys SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?"
            return connection.execute(statement, (at, key_id)).rowcount == 1

        return await self._database.write(update)


def _columns_of(key: StoredKey) -> _Columns:
    return (
        key.id,
        key.name,
        key.salt,
        key.digest,
        json.dumps(key.scopes),
        json.dumps(key.namespaces),
        key.created_at,
        key.expires_at,
        key.revoked_at,
    )


def _key_of(found: _Columns) -> StoredKey:
    key_id, name, salt, digest, scopes, namespaces, created_at, expires_at, revoked_at = found
    return StoredKey(
        id=key_id,
        name=name,
        salt=salt,
        digest=digest,
        scopes=tuple(json.loads(scopes)),
        namespaces=tuple(json.loads(namespaces)),
        created_at=created_at,
        expires_at=expires_at,
        revoked_at=revoked_at,
    )


def _close_to_others(path: Path) -> None:
    """Before SQLite opens it: its log and its index take the file's mode over. One that is there
    is not opened: to close it would take away the locks that this process holds on it."""
    try:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, OWNER_ONLY))
        path.chmod(OWNER_ONLY)
    except OSError as error:
        line = f"{path} cannot be opened for writing ({error.strerror}): check its rights"
        raise PermanentError(line) from error


def connect(url: str, settings: Settings, receiver: str) -> SqliteKeyStore:
    """`sqlite:` is access.sqlite in the data folder."""
    return SqliteKeyStore(DataFolder(settings.data_dir).access_path)
