"""The registry on SQLite: writers in other processes, damage, and plans that use the indexes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import sqlite3
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from common.adapters.registry import sqlite as sqlite_registry
from common.adapters.registry.sqlite import SqliteRegistry
from common.model import Desired, DocumentKey, Event, EventKind, Row, Status
from common.ports.registry import History, IdListingRegistry
from common.wire import DamagedDataError

SPAWN = multiprocessing.get_context("spawn")
KEY = DocumentKey("docs", "counter")


def new_row(key: DocumentKey = KEY) -> Row:
    desired = Desired(
        version=1,
        content_hash="",
        metadata_hash="",
        blob_key="",
        content_type="text/plain",
        metadata={},
        source_version=None,
        tombstone=False,
        accepted_at=0.0,
        size_bytes=0,
        traceparent="",
    )
    return Row(key=key, revision=0, desired=desired)


async def increment(registry: SqliteRegistry) -> None:
    while True:
        row = await registry.get(KEY)
        assert row is not None
        if await registry.put_if(replace(row, attempts=row.attempts + 1)):
            return


def increment_many(path: str, times: int) -> None:
    async def run() -> None:
        registry = SqliteRegistry(Path(path))
        for _ in range(times):
            await asyncio.gather(*[increment(registry) for _ in range(4)])
        await registry.close()

    asyncio.run(run())


@pytest.mark.slow
async def test_no_increment_is_lost_between_processes(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    registry = SqliteRegistry(path)
    await registry.put_if(new_row())
    workers = [SPAWN.Process(target=increment_many, args=(str(path), 25)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        await asyncio.to_thread(worker.join)

    row = await registry.get(KEY)
    await registry.close()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert row is not None
    assert (row.attempts, row.revision) == (300, 301)


def put_until_killed(path: str, pipe: Connection) -> None:
    async def writer(registry: SqliteRegistry, name: int) -> None:
        number = 0
        while True:
            key = DocumentKey("docs", f"{name}-{number}")
            assert await registry.put_if(new_row(key)) is not None
            pipe.send(key.document_id)
            number += 1

    async def run() -> None:
        registry = SqliteRegistry(Path(path))
        await asyncio.gather(*[writer(registry, name) for name in range(8)])

    asyncio.run(run())


@pytest.mark.slow
async def test_rows_that_were_stored_survive_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    ours, theirs = SPAWN.Pipe(duplex=False)
    writer = SPAWN.Process(target=put_until_killed, args=(str(path), theirs))
    writer.start()
    theirs.close()
    stored = [ours.recv() for _ in range(200)]
    writer.kill()
    try:
        while True:
            stored.append(ours.recv())
    except EOFError:
        writer.join()

    registry = SqliteRegistry(path)
    found = await registry.get_many([DocumentKey("docs", name) for name in stored])
    await registry.close()

    assert {key.document_id for key in found} == set(stored)


async def test_a_damaged_row_is_told_and_spares_the_others(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path / "r.sqlite")
    other = DocumentKey("docs", "other")
    await registry.put_if(new_row())
    await registry.put_if(new_row(other))
    with sqlite3.connect(tmp_path / "r.sqlite") as db:
        db.execute("UPDATE rows SET body = '{\"key\": 1}' WHERE document_id = 'counter'")
    db.close()

    with pytest.raises(DamagedDataError, match="not a registry row: key"):
        await registry.get(KEY)
    assert await registry.get(other) == replace(new_row(other), revision=1)
    await registry.close()


async def test_what_is_asked_often_is_answered_from_an_index(tmp_path: Path) -> None:
    def plan(statement: str, values: object) -> str:
        rows = db.execute(f"EXPLAIN QUERY PLAN {statement}", values)  # type: ignore[arg-type]
        return "; ".join(str(row[3]) for row in rows)

    await SqliteRegistry(tmp_path / "r.sqlite").close()
    db = sqlite3.connect(tmp_path / "r.sqlite")
    queries = list(sqlite_registry._queries([DocumentKey("docs", str(n)) for n in range(501)]))
    get_many = [plan(*query) for query in queries]
    scan = plan(*sqlite_registry._scan_query("docs", None, "a", "ab", 10))
    by_status = plan(*sqlite_registry._scan_query("docs", Status.FAILED, "", None, 10))
    due = plan(sqlite_registry._DUE, (1.0, 10))
    counts = plan(sqlite_registry._COUNTS, ())
    history = plan(sqlite_registry._HISTORY, ("docs", "a", 9, 0, 10))
    too_old = plan(sqlite_registry._DROP_OLD_EVENTS, ("docs", "a", "docs", "a", 9))
    db.close()

    assert (
        get_many
        == ["SEARCH rows USING INDEX sqlite_autoindex_rows_1 (namespace=? AND document_id=?)"] * 2
    )
    assert "sqlite_autoindex_rows_1 (namespace=? AND document_id>? AND document_id<?)" in scan
    assert "rows_counted (namespace=? AND status=? AND document_id>?" in by_status
    assert due == "SEARCH rows USING INDEX rows_by_sweep (sweep_at>? AND sweep_at<?)"
    assert counts == "SCAN rows USING COVERING INDEX rows_counted"
    by_key = "SEARCH events USING PRIMARY KEY (namespace=? AND document_id=?"
    assert history.startswith(f"{by_key} AND (revision,number)<(?,?)")
    assert "TEMP B-TREE" not in history + too_old
    assert too_old.count(by_key) == 2


async def test_a_file_of_the_first_release_opens_and_begins_its_history(tmp_path: Path) -> None:
    """It had no table of events, and no row of it has any."""
    path = tmp_path / "r.sqlite"
    registry = SqliteRegistry(path)
    row = await registry.put_if(new_row())
    assert row
    await registry.close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("DROP TABLE events")

    registry = SqliteRegistry(path)
    assert await registry.history(KEY) == History([], None)
    told = (Event(1.0, EventKind.EMBEDDING, 1, "attempt 1"),)
    assert await registry.put_if(replace(row, news=told))
    assert await registry.history(KEY) == History(list(told), None)
    await registry.close()


async def test_a_file_of_before_sizes_were_counted_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    registry = SqliteRegistry(path)
    for name, size in (("a", 7), ("b", 5)):
        row = new_row(DocumentKey("docs", name))
        assert await registry.put_if(replace(row, desired=replace(row.desired, size_bytes=size)))
    await registry.close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("DROP INDEX rows_counted")
        db.execute("ALTER TABLE rows DROP COLUMN size_bytes")
        earlier = "rows (namespace, status, document_id, chunk_count)"
        db.execute(f"CREATE INDEX rows_by_status ON {earlier}")
    registry = SqliteRegistry(path)
    (counts,) = await registry.counts()
    assert counts.size_bytes == 12
    stored = await registry.get(DocumentKey("docs", "a"))
    assert stored
    await registry.put_if(replace(stored, desired=replace(stored.desired, size_bytes=1)))
    await registry.close()
    registry = SqliteRegistry(path)
    assert (await registry.counts())[0].size_bytes == 6
    await registry.close()


async def test_the_stored_row_holds_no_news(tmp_path: Path) -> None:
    """What a program of the first release reads must be what it knows."""
    registry = SqliteRegistry(tmp_path / "r.sqlite")
    told = (Event(1.0, EventKind.EMBEDDING, 1, "attempt 1"),)
    await registry.put_if(replace(new_row(), news=told))
    await registry.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "r.sqlite")) as db:
        ((body,),) = db.execute("SELECT body FROM rows").fetchall()
    assert "news" not in json.loads(body)


async def test_row_and_news_are_written_together_or_not_at_all(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path / "r.sqlite")
    told = Event(1.0, EventKind.EMBEDDING, 1, "attempt 1")
    row = await registry.put_if(replace(new_row(), news=(told,)))
    assert row
    unstorable = Event(2.0, EventKind.ERROR, 1, "\udc00")

    with pytest.raises(ValueError, match="surrogates"):
        await registry.put_if(replace(row, attempts=9, news=(told, unstorable)))

    assert await registry.get(KEY) == row
    assert await registry.history(KEY) == History([told], None)
    await registry.close()


async def test_an_event_of_a_newer_program_is_not_taken_for_a_broken_cursor(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path / "r.sqlite")
    told = (Event(1.0, EventKind.EMBEDDING, 1, "attempt 1"),)
    await registry.put_if(replace(new_row(), news=told))
    with contextlib.closing(sqlite3.connect(tmp_path / "r.sqlite", isolation_level=None)) as db:
        db.execute("UPDATE events SET kind = 'archived'")
    with pytest.raises(DamagedDataError, match="archived"):
        await registry.history(KEY)
    await registry.close()


async def test_documents_are_named_also_where_rows_cannot_be_read(tmp_path: Path) -> None:
    registry = SqliteRegistry(tmp_path / "r.sqlite")
    for name in ("b", "a", "ü", "c"):
        await registry.put_if(replace(new_row(), key=DocumentKey("docs", name)))
    await registry.put_if(replace(new_row(), key=DocumentKey("other", "d")))
    with contextlib.closing(sqlite3.connect(tmp_path / "r.sqlite", isolation_level=None)) as db:
        db.execute("UPDATE rows SET body = '{}' WHERE document_id = 'b'")
    assert isinstance(registry, IdListingRegistry)
    assert await registry.document_ids("docs", after="", limit=3) == ["a", "b", "c"]
    assert await registry.document_ids("docs", after="c", limit=3) == ["ü"]
    assert await registry.document_ids("docs", after="ü", limit=3) == []
    await registry.close()
