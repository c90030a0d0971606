"""SQLite for asyncio: one writer thread with group commit, a few reading threads, WAL.

Writes that are submitted while a transaction is under way share the next one, so that a hundred
concurrent callers pay for one fsync. Several processes may write to one file.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from common.ports.errors import PermanentError, PortError, TransientError
from common.storage.free_space import free_bytes_beside

__all__ = ["DamagedFileError", "SqliteDatabase"]

T = TypeVar("T")


class DamagedFileError(PermanentError):
    """The file is no SQLite database, or not a whole one."""


OWNER_ONLY = 0o600
_OLDEST_SQLITE = (3, 35, 0)
_BUSY_TIMEOUT_SECONDS = 5.0
_OPERATIONS_PER_TRANSACTION = 256  # bounds how long other processes wait for the write lock
_JOURNAL_SIZE_LIMIT_BYTES = 64 * 1024 * 1024

_LOCKED = (
    f"{{path}} was locked by another process for more than {_BUSY_TIMEOUT_SECONDS:.0f} s: "
    "look for a process that is stopped, or for another program that has the file open"
)
_UNUSABLE = "{path} cannot be opened for writing ({error}): check its rights"
_DAMAGED = "{path} is damaged ({error}): restore it from a backup"
_PORT_ERRORS: dict[int, tuple[type[PortError], str]] = {
    sqlite3.SQLITE_BUSY: (TransientError, _LOCKED),
    sqlite3.SQLITE_LOCKED: (TransientError, _LOCKED),
    sqlite3.SQLITE_FULL: (
        TransientError,
        "the disk that holds {path} is full: free some space on it",
    ),
    sqlite3.SQLITE_IOERR: (
        TransientError,
        "{path} cannot be read or written ({error}): look at its disk",
    ),
    sqlite3.SQLITE_CANTOPEN: (TransientError, _UNUSABLE),
    sqlite3.SQLITE_READONLY: (TransientError, _UNUSABLE),
    sqlite3.SQLITE_PERM: (TransientError, _UNUSABLE),
    sqlite3.SQLITE_CORRUPT: (DamagedFileError, _DAMAGED),
    sqlite3.SQLITE_NOTADB: (DamagedFileError, _DAMAGED),
}
"""By SQLite's primary result code, once the file was opened: then what a person has to mend is no
fault of the document in hand."""
_AT_START: dict[int, tuple[type[PortError], str]] = dict.fromkeys(
    (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM),
    (PermanentError, _UNUSABLE),
)
"""Where it differs while the file is opened: waiting would not mend it."""


@dataclass(slots=True, eq=False)
class _Pending(Generic[T]):
    """An operation on its way to the writer, its outcome on the way back."""

    operation: Callable[[sqlite3.Connection], T]
    future: asyncio.Future[T]
    result: T | None = None
    error: BaseException | None = None


class SqliteDatabase:
    """Opens the file, creates it with `schema` (`CREATE … IF NOT EXISTS` statements).

    `later_columns`: (table, column, definition) that the schema has and files of an earlier
    release may lack; they are added when the file is opened, before the schema's indexes are made.
    `upgrade` runs after that, each time, in the same transaction: it fills what was added.
    `durable`: a write that returned survives a loss of power; otherwise only the death of any
    process, and a loss of power may take the last writes (never the file's consistency).
    Raises PermanentError when the file is no database or this SQLite is too old.
    """

    def __init__(
        self,
        path: Path,
        schema: Iterable[str],
        *,
        durable: bool,
        readers: int = 2,
        later_columns: Iterable[tuple[str, str, str]] = (),
        upgrade: Callable[[sqlite3.Connection], None] | None = None,
    ) -> None:
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise PermanentError(
                f"SQLite {sqlite3.sqlite_version} is too old, 3.35 is needed: "
                "use a Python that is linked with a newer one"
            )
        self._path = path
        self._durable = durable
        self._submitted: queue.SimpleQueue[_Pending[Any] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._idle_readers: collections.deque[sqlite3.Connection] = collections.deque()
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix=f"read-{path.name}")
        self._writer = self._open_writer(schema, later_columns, upgrade)
        self._thread = threading.Thread(
            target=self._run_writer, name=f"write-{path.name}", daemon=True
        )
        self._thread.start()

    async def write(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Run `operation` in a transaction that others may share; returns after its commit.

        What it raises is raised here and undoes this operation only. It runs in the writer
        thread, must be short, must not commit, and may see other operations of its group.
        Cancelling the caller does not undo it: it may still take effect.
        Raises TransientError when the file is locked for too long or the disk is full.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        with self._lock:  # nothing may be queued behind the end that close() submits
            self._refuse_if_closed()
            self._submitted.put(_Pending(operation, future))
        return await future

    async def read(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Run `operation` on a connection that sees all commits. Raises TransientError."""
        self._refuse_if_closed()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, self._read, operation)

    async def close(self) -> None:
        """Finish what was submitted, then close all connections. Closing twice is no error."""
        await asyncio.to_thread(self._close)

    async def free_bytes(self) -> int:
        """Of the disk that holds the file. Raises TransientError."""
        return await free_bytes_beside(self._path)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise TransientError(f"{self._path.name} is closed: this process is shutting down")

    def _close(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                self._submitted.put(None)
        self._thread.join()
        self._readers.shutdown(wait=True)
        while self._idle_readers:
            self._idle_readers.pop().close()
        self._writer.close()

    def _open_writer(
        self,
        schema: Iterable[str],
        later_columns: Iterable[tuple[str, str, str]],
        upgrade: Callable[[sqlite3.Connection], None] | None,
    ) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = None
        _make_private(self._path)
        try:
            connection = self._connect()
            self._prepare(connection)
            connection.execute("BEGIN IMMEDIATE")
            _make(connection, schema, later_columns)
            if upgrade is not None:
                upgrade(connection)
            connection.execute("COMMIT")
        except BaseException as error:
            if connection is not None:
                connection.close()
            raise _translated(error, self._path, _PORT_ERRORS | _AT_START) from error
        return connection

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self._path,
            timeout=_BUSY_TIMEOUT_SECONDS,
            isolation_level=None,  # transactions are begun and ended here, by name
            check_same_thread=False,  # one thread at a time, but not always the same one
        )

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode = WAL").fetchone()
        # FULL syncs the log at every commit. NORMAL leaves that to the checkpoint: a commit is
        # in the kernel's hands, so it outlives this process but not a loss of power.
        connection.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}")
        connection.execute(f"PRAGMA fullfsync = {int(self._durable)}")  # macOS; no-op elsewhere
        connection.execute(f"PRAGMA journal_size_limit = {_JOURNAL_SIZE_LIMIT_BYTES}").fetchone()

    def _read(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        connection: sqlite3.Connection | None = None
        try:
            connection = self._take_reader()
            return operation(connection)
        except sqlite3.Error as error:
            raise _translated(error, self._path) from error
        finally:
            if connection is not None:
                self._idle_readers.append(connection)

    def _take_reader(self) -> sqlite3.Connection:
        # At most one connection per thread is ever in use, so the pool's size bounds them.
        try:
            return self._idle_readers.pop()
        except IndexError:
            connection = self._connect()
            connection.execute("PRAGMA query_only = ON")
            return connection

    def _run_writer(self) -> None:
        more = True
        while more:
            group, more = self._next_group()
            if group:
                self._run_group(group)
                _hand_back(group)

    def _next_group(self) -> tuple[list[_Pending[Any]], bool]:
        """What waits now, at least one operation; False: nothing comes after it."""
        group: list[_Pending[Any]] = []
        pending = self._submitted.get()
        while pending is not None:
            group.append(pending)
            if len(group) >= _OPERATIONS_PER_TRANSACTION:
                return group, True
            try:
                pending = self._submitted.get_nowait()
            except queue.Empty:
                return group, True
        return group, False

    def _run_group(self, group: list[_Pending[Any]]) -> None:
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for pending in group:
                self._run_one(pending)
            self._writer.execute("COMMIT")
        except BaseException as error:  # whatever it is, the callers must hear it
            self._abandon(group, _translated(error, self._path))

    def _run_one(self, pending: _Pending[Any]) -> None:
        if pending.future.cancelled():
            return
        self._writer.execute("SAVEPOINT operation")
        try:
            pending.result = pending.operation(self._writer)
        except Exception as error:  # it belongs to this operation's caller
            pending.error = _translated(error, self._path)
            if not self._writer.in_transaction:
                raise  # SQLite rolled all of it back, as it does when the disk is full
            self._writer.execute("ROLLBACK TO operation")
        self._writer.execute("RELEASE operation")

    def _abandon(self, group: list[_Pending[Any]], error: BaseException) -> None:
        if self._writer.in_transaction:
            try:
                self._writer.execute("ROLLBACK")
            except sqlite3.Error as second:
                error.add_note(f"and then: {second}")
        for pending in group:
            pending.error = pending.error or error


def _make_private(path: Path) -> None:
    """A new file is its owner's alone, and SQLite gives what it makes beside it the same rights.

    A file that is there is left as it is: to open and close it here would take away the locks that
    this process holds on it. What goes wrong SQLite says in its own words.
    """
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, OWNER_ONLY))


def _make(
    connection: sqlite3.Connection,
    schema: Iterable[str],
    later_columns: Iterable[tuple[str, str, str]],
) -> None:
    for table, column, definition in later_columns:
        known = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        if known and column not in known:  # a table that is not there yet is made with it
            connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} {definition}")
    for statement in schema:
        connection.execute(statement)


def _hand_back(group: list[_Pending[Any]]) -> None:
    """Wake each event loop once for the whole group."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Pending[Any]]] = {}
    for pending in group:
        by_loop.setdefault(pending.future.get_loop(), []).append(pending)
    for loop, settled in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, settled)
        except RuntimeError:
            continue  # the loop is closed: nobody waits any more


def _settle(group: list[_Pending[Any]]) -> None:
    for pending in group:
        if pending.future.done():
            continue  # its caller was cancelled
        if pending.error is not None:
            pending.future.set_exception(pending.error)
        else:
            pending.future.set_result(pending.result)


def _translated(
    error: BaseException,
    path: Path,
    known: Mapping[int, tuple[type[PortError], str]] = _PORT_ERRORS,
) -> BaseException:
    """The port's error for SQLite's; anything else as it is."""
    if not isinstance(error, sqlite3.Error):
        return error
    kind, message = known.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, (None, ""))
    return kind(message.format(path=path, error=error)) if kind else error
