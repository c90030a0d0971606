"""`sqlite:`: vectors.sqlite in the data folder, shared by the embedding workers of one machine.

It is a cache and may be deleted while no worker runs. A damaged file is replaced by an empty one;
each entry has a checksum of its own, since SQLite has none. The file's own size is the bound:
pages of entries that were dropped are used again. On top of it comes the log, usually some
megabytes."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import sqlite3
import struct
import sys
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from common.clock import Clock, system_clock
from common.model import Vector
from common.ports.errors import PortError, TransientError
from common.settings import Settings
from common.storage.data_folder import DataFolder
from common.storage.free_space import free_bytes
from common.storage.sqlite_database import DamagedFileError, SqliteDatabase

log = structlog.get_logger(__name__)

T = TypeVar("T")

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS vectors ("
    " key BLOB PRIMARY KEY, used_at INTEGER NOT NULL, value BLOB NOT NULL)",
    "CREATE INDEX IF NOT EXISTS vectors_by_use ON vectors (used_at)",
)
_KEYS_PER_QUERY = 500
_DROPPED_AT_ONCE = 1000
_REFRESHED_AFTER_SECONDS = 60
"""A hit is written down no more often, so that reading stays cheap: 'least recently' is that
coarse."""
_TIDIED_EVERY_SECONDS = 3600.0
_CHECKSUM = struct.Struct("<I")
_Hits = list[tuple[bytes, int, object]]


class SqliteVectorCache:
    """Implements VectorCache. The file is opened at the first use, and again after it was damaged.

    Beyond `limit_bytes` the least recently used entries go; those unused for `unused_seconds` are
    never returned, and leave the file within an hour in which a worker asks for something. Below
    `spare_bytes` of free disk nothing is put.
    """

    def __init__(
        self,
        path: Path,
        *,
        limit_bytes: int,
        unused_seconds: float,
        spare_bytes: int = 0,
        clock: Clock = system_clock,
    ) -> None:
        self._path = path
        self._limit_bytes, self._unused_seconds = limit_bytes, unused_seconds
        self._spare_bytes = spare_bytes
        self._clock = clock
        self._file: _File | None = None
        self._opening: asyncio.Task[None] | None = None
        self._tidying: asyncio.Task[None] | None = None
        self._tidied_at = float("-inf")
        self._closed = False

    async def get_many(
        self, namespace: str, profile_id: str, hashes: Sequence[str]
    ) -> dict[str, Vector[float]]:
        names = {_key(namespace, profile_id, chunk_hash): chunk_hash for chunk_hash in hashes}
        now = int(self._clock())
        oldest = now - self._unused_seconds
        hits = [hit for hit in await self._read(_selecting(list(names))) if hit[1] > oldest]
        self._tidy([key for key, used_at, _ in hits if used_at < now - _REFRESHED_AFTER_SECONDS])
        found: dict[str, Vector[float]] = {}
        for key, _, value in hits:
            vector = _decoded(key, value)
            if vector is not None:
                found[names[key]] = vector
        return found

    async def put_many(
        self, namespace: str, profile_id: str, vectors: Mapping[str, Vector[float]]
    ) -> None:
        now = int(self._clock())
        entries = []
        for chunk_hash, vector in vectors.items():
            key = _key(namespace, profile_id, chunk_hash)
            entries.append((key, now, _encoded(key, vector)))
        if self._tidying is not None:
            await asyncio.wait([self._tidying])  # what is dropped for these must know of all uses
        await self._write(lambda connection: self._put(connection, entries))

    async def close(self) -> None:
        if self._tidying is not None:
            await asyncio.gather(self._tidying, return_exceptions=True)
        self._closed = True
        if self._opening is not None:
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._file is not None:
            await self._file.database.close()

    # --- in SQLite's threads

    def _put(self, connection: sqlite3.Connection, entries: list[tuple[bytes, int, bytes]]) -> None:
        if self._spare_bytes and free_bytes(self._path.parent) < self._spare_bytes:
            return
        connection.executemany(
            "INSERT INTO vectors (key, used_at, value) VALUES (?, ?, ?) ON CONFLICT (key)"
            " DO UPDATE SET used_at = excluded.used_at, value = excluded.value",
            entries,
        )
        if _used_bytes(connection) > self._limit_bytes:
            # More than came, so that a bound that was lowered is reached, too.
            _drop(connection, "ORDER BY used_at, rowid", 2 * len(entries) + 16)

    def _refresh(self, connection: sqlite3.Connection, keys: list[bytes], now: int) -> int:
        """How many were dropped because nobody asked for them in a long while."""
        marked = [(now, key) for key in keys]
        connection.executemany("UPDATE vectors SET used_at = ? WHERE key = ?", marked)
        oldest = int(now - self._unused_seconds)
        return _drop(connection, f"WHERE used_at <= {oldest}", _DROPPED_AT_ONCE)

    # --- beside the work

    def _tidy(self, used: list[bytes]) -> None:
        """Note uses and drop the unused, without letting anybody wait for it."""
        now = self._clock()
        busy = self._tidying is not None and not self._tidying.done()
        if busy or self._closed or not (used or now >= self._tidied_at + _TIDIED_EVERY_SECONDS):
            return
        self._tidied_at = now
        self._tidying = asyncio.create_task(self._tidied(used, int(now)))

    async def _tidied(self, used: list[bytes], now: int) -> None:
        try:
            dropped = await self._write(partial(self._refresh, keys=used, now=now))
            while dropped == _DROPPED_AT_ONCE:
                dropped = await self._write(partial(self._refresh, keys=[], now=now))
        except (PortError, sqlite3.Error) as error:
            log.warning("vectors.not_tidied", error=str(error))

    # --- the file

    async def _read(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        file = await self._opened()
        with self._watched(file):
            return await file.database.read(operation)

    async def _write(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        file = await self._opened()
        with self._watched(file):
            return await file.database.write(operation)

    async def _opened(self) -> _File:
        """Its caller may be cancelled while the file is being opened: the next one goes on."""
        if self._closed:
            raise TransientError("the vector cache is closed: this process is shutting down")
        while self._file is None:
            await asyncio.shield(self._opening or self._begin_opening(None))
        return self._file

    def _begin_opening(self, damaged: _File | None) -> asyncio.Task[None]:
        self._opening = asyncio.create_task(self._open(damaged))
        self._opening.add_done_callback(_retrieved)
        return self._opening

    async def _open(self, damaged: _File | None) -> None:
        try:
            if damaged is not None:
                await damaged.database.close()
            inode = damaged.inode if damaged else None
            self._file = await asyncio.to_thread(_open, self._path, inode)
        finally:
            self._opening = None

    @contextlib.contextmanager
    def _watched(self, file: _File) -> Iterator[None]:
        """What SQLite has no port error for is a file that is not ours: as good as damaged."""
        try:
            yield
        except (DamagedFileError, sqlite3.Error) as error:
            if self._file is file:
                self._file = None
                self._begin_opening(file)
            raise TransientError(f"{self._path} is replaced: {error}") from error


class _File:
    """An open database; `inode` tells whether the path still leads to it."""

    def __init__(self, database: SqliteDatabase, inode: int) -> None:
        self.database, self.inode = database, inode


def _retrieved(opening: asyncio.Task[None]) -> None:
    """Nobody may have waited for it to the end."""
    if not opening.cancelled():
        opening.exception()


def _open(path: Path, damaged_inode: int | None) -> _File:
    """Blocking. Several workers open at once, and only one may replace a damaged file."""
    with _locked(path.with_suffix(".lock")):
        if damaged_inode is not None and path.exists() and path.stat().st_ino == damaged_inode:
            _remove(path)
        try:
            return _connected(path)
        except (DamagedFileError, sqlite3.Error) as error:
            log.warning("vectors.damaged", path=str(path), error=str(error))
            _remove(path)
            return _connected(path)


def _connected(path: Path) -> _File:
    # Not durable: a loss of power may take the last entries, never the file's consistency.
    database = SqliteDatabase(path, _SCHEMA, durable=False)
    return _File(database, path.stat().st_ino)


def _remove(path: Path) -> None:
    for suffix in ("-wal", "-shm", ""):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _selecting(keys: list[bytes]) -> Callable[[sqlite3.Connection], _Hits]:
    def select(connection: sqlite3.Connection) -> _Hits:
        hits: _Hits = []
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            part = keys[start : start + _KEYS_PER_QUERY]
            marks = ",".join("?" * len(part))
            query = f"SELECT key, used_at, value FROM vectors WHERE key IN ({marks})"  # noqa: S608
            hits += connection.execute(query, part)
        return hits

    return select


def _drop(connection: sqlite3.Connection, which: str, at_most: int) -> int:
    chosen = f"SELECT rowid FROM vectors {which} LIMIT {at_most}"  # noqa: S608 - our own words
    statement = f"DELETE FROM vectors WHERE rowid IN ({chosen})"  # noqa: S608
    return connection.execute(statement).rowcount


def _used_bytes(connection: sqlite3.Connection) -> int:
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _key(namespace: str, profile_id: str, chunk_hash: str) -> bytes:
    return hashlib.sha256(json.dumps([namespace, profile_id, chunk_hash]).encode()).digest()


def _encoded(key: bytes, vector: Vector[float]) -> bytes:
    data = _little_endian(vector).tobytes()
    return data + _CHECKSUM.pack(zlib.crc32(key + data))


def _decoded(key: bytes, value: object) -> Vector[float] | None:
    """None for what was not put like this, or has changed since."""
    if not isinstance(value, bytes) or len(value) % 4 or len(value) < _CHECKSUM.size:
        return None
    data = value[: -_CHECKSUM.size]
    if _CHECKSUM.unpack(value[-_CHECKSUM.size :])[0] != zlib.crc32(key + data):
        return None
    return _little_endian(array("f", data))


def _little_endian(vector: Vector[float]) -> Vector[float]:
    if sys.byteorder == "little":
        return vector
    swapped = array("f", vector)
    swapped.byteswap()
    return swapped


def connect(url: str, settings: Settings, receiver: str) -> SqliteVectorCache:
    """`sqlite:` is vectors.sqlite in the data folder."""
    return SqliteVectorCache(
        DataFolder(settings.data_dir).vectors_path,
        limit_bytes=settings.vector_cache_bytes,
        unused_seconds=settings.vector_cache_days * 86400.0,
        spare_bytes=settings.min_free_disk_bytes,
    )
