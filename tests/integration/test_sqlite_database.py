"""Group commit, its isolation of failures, and the errors that SQLite's become."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from common.ports.errors import PermanentError, TransientError
from common.storage.sqlite_database import SqliteDatabase

SCHEMA = ["CREATE TABLE IF NOT EXISTS t (x INTEGER PRIMARY KEY)"]


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    opened = SqliteDatabase(tmp_path / "t.sqlite", SCHEMA, durable=True)
    yield opened
    await opened.close()


def insert(x: int) -> Callable[[sqlite3.Connection], int]:
    return lambda db: db.execute("INSERT INTO t VALUES (?)", (x,)).rowcount


async def stored(database: SqliteDatabase) -> list[int]:
    rows = await database.read(lambda db: db.execute("SELECT x FROM t ORDER BY x").fetchall())
    return [x for (x,) in rows]


class Gate:
    """An operation that keeps the writer busy until it is opened, so that others form a group."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self._open = threading.Event()

    def __call__(self, db: sqlite3.Connection) -> None:
        self.entered.set()
        assert self._open.wait(20)

    def open(self) -> None:
        self._open.set()


async def start_gate(database: SqliteDatabase) -> tuple[Gate, asyncio.Task[None]]:
    gate = Gate()
    task = asyncio.create_task(database.write(gate))
    await asyncio.to_thread(gate.entered.wait, 20)
    return gate, task


async def submit(
    database: SqliteDatabase, *operations: Callable[[sqlite3.Connection], int]
) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(database.write(operation)) for operation in operations]
    await asyncio.sleep(0)  # each has run as far as its wait for the writer
    return tasks


async def test_concurrent_writes_share_a_transaction(
    database: SqliteDatabase, tmp_path: Path
) -> None:
    statements: list[str] = []
    await database.write(lambda db: db.set_trace_callback(statements.append))
    gate, gated = await start_gate(database)
    tasks = await submit(database, *[insert(x) for x in range(100)])
    gate.open()

    assert await asyncio.gather(*tasks) == [1] * 100
    await gated
    await database.write(lambda db: db.set_trace_callback(None))

    assert len([text for text in statements if text.startswith("INSERT")]) == 100
    assert statements.count("COMMIT") == 3  # the callback's own, the gate's, the hundred's


async def test_a_failing_operation_fails_alone_and_leaves_nothing(
    database: SqliteDatabase,
) -> None:
    def fail(db: sqlite3.Connection) -> int:
        insert(50)(db)
        raise KeyError("mine")

    gate, gated = await start_gate(database)
    tasks = await submit(database, insert(1), fail, insert(1), insert(2))
    gate.open()

    first, failed, duplicate, last = await asyncio.gather(*tasks, return_exceptions=True)
    await gated
    assert first == last == 1
    assert isinstance(failed, KeyError)
    assert isinstance(duplicate, sqlite3.IntegrityError)
    assert await stored(database) == [1, 2]


async def test_a_cancelled_caller_does_not_disturb_its_group(database: SqliteDatabase) -> None:
    gate, gated = await start_gate(database)
    before, cancelled, after = await submit(database, insert(1), insert(2), insert(3))
    cancelled.cancel()
    await asyncio.sleep(0)
    gate.open()

    assert [await before, await after] == [1, 1]
    await gated
    assert cancelled.cancelled()
    assert await stored(database) == [1, 3]  # it had not begun


async def test_a_caller_cancelled_while_its_operation_runs(database: SqliteDatabase) -> None:
    gate, gated = await start_gate(database)
    gated.cancel()
    gate.open()

    with pytest.raises(asyncio.CancelledError):
        await gated
    assert await database.write(insert(1)) == 1


async def test_a_read_sees_every_commit(database: SqliteDatabase) -> None:
    for x in range(50):
        await database.write(insert(x))
        assert len(await stored(database)) == x + 1


async def test_reads_go_on_while_a_write_is_under_way(database: SqliteDatabase) -> None:
    gate, gated = await start_gate(database)

    assert await stored(database) == []
    gate.open()
    await gated


async def test_a_reader_cannot_write(database: SqliteDatabase) -> None:
    with pytest.raises(TransientError, match="readonly"):
        await database.read(insert(1))


@pytest.mark.parametrize(("durable", "level"), [(True, 2), (False, 1)])
async def test_durability_is_what_was_asked_for(tmp_path: Path, durable: bool, level: int) -> None:
    database = SqliteDatabase(tmp_path / "t.sqlite", SCHEMA, durable=durable)
    found = await database.write(lambda db: db.execute("PRAGMA synchronous").fetchall())
    mode = await database.read(lambda db: db.execute("PRAGMA journal_mode").fetchall())
    await database.close()

    assert found[0][0] == level
    assert mode[0][0] == "wal"


async def test_close_finishes_what_was_submitted(tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite"
    database = SqliteDatabase(path, SCHEMA, durable=False)
    tasks = await submit(database, *[insert(x) for x in range(1000)])
    await database.close()
    assert await asyncio.gather(*tasks) == [1] * 1000
    await database.close()

    for refused in (database.write(insert(5000)), stored(database)):
        with pytest.raises(TransientError, match="closed"):
            await refused
    again = SqliteDatabase(path, SCHEMA, durable=False)
    assert len(await stored(again)) == 1000
    await again.close()


async def test_a_lock_held_for_too_long_is_transient(
    database: SqliteDatabase, tmp_path: Path
) -> None:
    await database.write(lambda db: db.execute("PRAGMA busy_timeout = 50").fetchall())
    other = sqlite3.connect(tmp_path / "t.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    tasks = await submit(database, insert(1), insert(2))

    for task in tasks:
        with pytest.raises(TransientError, match="locked by another process"):
            await task
    other.execute("ROLLBACK")
    other.close()

    assert await database.write(insert(1)) == 1


async def test_a_full_disk_is_transient_and_fails_what_it_undid(database: SqliteDatabase) -> None:
    def fill(db: sqlite3.Connection) -> int:
        return db.execute(
            "WITH RECURSIVE n(i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM n LIMIT 100000) "
            "INSERT INTO t SELECT i FROM n"
        ).rowcount

    await database.write(lambda db: db.execute("PRAGMA max_page_count = 20").fetchall())
    gate, gated = await start_gate(database)
    tasks = await submit(database, insert(1), fill, insert(2))
    gate.open()
    await gated

    first, failed, last = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(failed, TransientError)
    assert "free some space" in str(failed)
    # Whoever was told of success is stored, whoever was not is not.
    assert await stored(database) == [x for x, told in ((1, first), (2, last)) if told == 1]
    await database.write(lambda db: db.execute("PRAGMA max_page_count = 100000").fetchall())
    assert await database.write(insert(3)) == 1


async def test_a_file_that_cannot_be_opened_any_more_is_no_message_s_fault(tmp_path: Path) -> None:
    """The volume went away, or its rights were changed: what is in hand is to be tried again."""
    folder = tmp_path / "volume"
    folder.mkdir()
    database = SqliteDatabase(folder / "t.sqlite", SCHEMA, durable=True)
    folder.rename(tmp_path / "elsewhere")

    with pytest.raises(TransientError, match="cannot be opened"):
        await stored(database)
    await database.close()


async def test_an_operation_that_ends_the_transaction_fails_its_group(
    database: SqliteDatabase,
) -> None:
    def rolled_back_by_sqlite(db: sqlite3.Connection) -> int:
        db.execute("ROLLBACK")  # as SQLite does by itself on some errors
        raise sqlite3.OperationalError("disk I/O error")

    gate, gated = await start_gate(database)
    tasks = await submit(database, insert(1), rolled_back_by_sqlite, insert(2))
    gate.open()
    await gated

    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, sqlite3.OperationalError) for result in results)
    assert await stored(database) == []


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "t.sqlite").write_text("hello " * 1000)

    with pytest.raises(PermanentError, match="damaged"):
        SqliteDatabase(tmp_path / "t.sqlite", SCHEMA, durable=True)


def test_a_folder_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="cannot be opened"):
        SqliteDatabase(tmp_path / "no" / "t.sqlite", SCHEMA, durable=True)


def test_an_old_sqlite_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))

    with pytest.raises(PermanentError, match="too old"):
        SqliteDatabase(tmp_path / "t.sqlite", SCHEMA, durable=True)


async def test_a_new_file_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        database = SqliteDatabase(tmp_path / "t.sqlite", SCHEMA, durable=True)
        await database.write(insert(1))
        await stored(database)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == {"t.sqlite": 0o600, "t.sqlite-wal": 0o600, "t.sqlite-shm": 0o600}
    await database.close()


async def test_a_file_that_is_there_keeps_its_rights(tmp_path: Path) -> None:
    """Somebody's group may read it, for a backup."""
    path = tmp_path / "t.sqlite"
    await SqliteDatabase(path, SCHEMA, durable=True).close()
    path.chmod(0o640)
    await SqliteDatabase(path, SCHEMA, durable=True).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
