# ruff: noqa: S608 - the names are this file's own
"""Real audit trails on disk and in a server: what triggers refuse, what is noticed of changes that
get around them, and several processes that write one chain."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from common.adapters.audit.postgresql import PostgresqlAuditTrail
from common.adapters.audit.sqlite import SqliteAuditTrail
from common.audit import Fault
from common.audit_verification import verify
from common.ports.audit import AuditEvent, AuditTrail, ChainEnd
from common.ports.errors import PermanentError, TransientError
from tests.servers.postgresql import PASSWORD, PostgresqlServer, postgresql

ENTRIES = 12


@dataclass
class Store:
    """A trail, and what somebody with the right to write it can do to it."""

    trail: AuditTrail
    table: str
    anchor: str
    run: Callable[[str], str]
    """Executes SQL; the text of the error, or nothing."""
    triggers_off: str
    url: str

    def tamper(self, statements: str) -> None:
        error = self.run(self.triggers_off.format(table=self.table) + statements)
        assert not error, error


def event(number: int) -> AuditEvent:
    return AuditEvent(
        at=1.7e9 + number, principal="key:a", action="insert", namespace="docs",
        document_id=f"d{number}", result="accepted", version=number, address="192.0.2.7",
        request_id=f"r{number}",
    )  # fmt: skip


def sqlite_runner(path: Path) -> Callable[[str], str]:
    def run(statements: str) -> str:
        with closing(sqlite3.connect(path)) as connection:
            try:
                connection.executescript(statements)
            except sqlite3.Error as error:
                return str(error)
        return ""

    return run


def postgresql_runner(server: PostgresqlServer, database: str) -> Callable[[str], str]:
    def run(statements: str) -> str:
        try:
            server.sql(statements, database=database)
        except RuntimeError as error:
            return str(error)
        return ""

    return run


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    trail: AuditTrail
    if request.param == "sqlite":
        path = tmp_path / "audit.sqlite"
        trail = SqliteAuditTrail(path)
        off = "DROP TRIGGER no_update; DROP TRIGGER no_delete; DROP TRIGGER no_gap;"
        made = Store(trail, "entries", "anchor", sqlite_runner(path), off, str(path))
    else:
        server = await asyncio.to_thread(postgresql)
        url = await asyncio.to_thread(server.new_database)
        trail = PostgresqlAuditTrail(url, timeout_seconds=30)
        run = postgresql_runner(server, url.rpartition("/")[2])
        off = "ALTER TABLE {table} DISABLE TRIGGER ALL;"
        made = Store(trail, "bloomweaver_audit", "bloomweaver_audit_anchor", run, off, url)
    await trail.append([event(n) for n in range(1, ENTRIES + 1)])
    yield made
    await trail.close()


async def found(store: Store, kept: ChainEnd | None = None) -> tuple[int, Fault] | None:
    wrong = (await verify(store.trail, kept=kept))[1]
    return None if wrong is None else (wrong.sequence, wrong.fault)


# --- what the store itself refuses ---------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE {table} SET principal = 'key:b' WHERE sequence = 5",
        "DELETE FROM {table} WHERE sequence = 5",
        "DELETE FROM {table} WHERE sequence = 12",
        "DELETE FROM {anchor}",
        "UPDATE {anchor} SET sequence = 6, hash = 'x'",
        "UPDATE {anchor} SET sequence = 99",
    ],
)
async def test_an_entry_stays_as_it_is(store: Store, statement: str) -> None:
    error = store.run(statement.format(table=store.table, anchor=store.anchor))
    assert "append-only" in error or "anchor" in error
    assert await found(store) is None


async def test_sqlite_takes_neither_gaps_nor_replacements(tmp_path: Path) -> None:
    trail = SqliteAuditTrail(tmp_path / "audit.sqlite")
    await trail.append([event(1), event(2)])
    run = sqlite_runner(tmp_path / "audit.sqlite")
    copied = "SELECT {}, at_ms, principal, action, namespace, document_id, subject, result, version, count, address, request_id, source, previous_hash, hash FROM entries WHERE sequence = 1"  # noqa: E501
    for number in (1, 2, 4):
        assert "no gaps" in run(f"INSERT OR REPLACE INTO entries {copied.format(number)}")
    assert [entry.sequence async for entry in trail.entries()] == [1, 2]
    await trail.close()


@pytest.mark.slow
async def test_postgresql_is_not_emptied() -> None:
    server = await asyncio.to_thread(postgresql)
    url = await asyncio.to_thread(server.new_database)
    trail = PostgresqlAuditTrail(url, timeout_seconds=30)
    await trail.append([event(1)])
    run = postgresql_runner(server, url.rpartition("/")[2])
    assert "append-only" in run("TRUNCATE bloomweaver_audit")
    assert "append-only" in run("TRUNCATE bloomweaver_audit_anchor")
    await trail.close()


# --- what gets around it -------------------------------------------------------------------------


async def test_an_edited_entry_is_named(store: Store) -> None:
    store.tamper(f"UPDATE {store.table} SET principal = 'key:b' WHERE sequence = 5")
    assert await found(store) == (5, Fault.EDITED)


async def test_a_hash_that_was_edited_is_named(store: Store) -> None:
    store.tamper(f"UPDATE {store.table} SET hash = 'é' WHERE sequence = 5")
    assert await found(store) == (5, Fault.EDITED)


async def test_a_removed_entry_is_named(store: Store) -> None:
    store.tamper(f"DELETE FROM {store.table} WHERE sequence IN (5, 6)")
    assert await found(store) == (5, Fault.MISSING)


async def test_entries_that_changed_places_are_named(store: Store) -> None:
    swap = "UPDATE {t} SET sequence = {new} WHERE sequence = {old};"
    steps = [(4, 0), (7, 4), (0, 7)]
    store.tamper("".join(swap.format(t=store.table, old=a, new=b) for a, b in steps))
    assert await found(store) == (4, Fault.EDITED)


async def test_an_entry_that_was_put_in_is_named(store: Store) -> None:
    columns = (
        "at_ms, principal, action, namespace, document_id, subject, result, version, count,"
        " address, request_id, source, previous_hash, hash"
    )
    move = "".join(
        f"UPDATE {store.table} SET sequence = {n + 1} WHERE sequence = {n};"
        for n in range(ENTRIES, 5, -1)
    )
    copied = f"SELECT 6, {columns} FROM {store.table} WHERE sequence = 5"
    store.tamper(f"{move} INSERT INTO {store.table} (sequence, {columns}) {copied}")
    assert await found(store) == (6, Fault.EDITED)


async def test_a_trail_that_was_cut_off_is_named_by_a_head_that_was_kept(store: Store) -> None:
    head = await store.trail.head()
    store.tamper(f"DELETE FROM {store.table} WHERE sequence > 8")
    assert await found(store) is None, "without a head nobody can tell"
    assert await found(store, head) == (9, Fault.CUT_OFF)


async def test_a_trail_that_was_emptied_is_named_by_a_head_that_was_kept(store: Store) -> None:
    head = await store.trail.head()
    store.tamper(f"DELETE FROM {store.table}")
    assert await found(store, head) == (1, Fault.CUT_OFF)


async def test_a_beginning_that_was_removed_is_no_retention(store: Store) -> None:
    """Moving the anchor, as the retention does, lets entries go: no entry says that it was done."""
    moved = f"UPDATE {store.anchor} SET sequence = s.sequence, hash = s.hash FROM (SELECT sequence, hash FROM {store.table} WHERE sequence = 6) s"  # noqa: E501
    assert not store.run(f"{moved}; DELETE FROM {store.table} WHERE sequence <= 6")
    assert await found(store) == (6, Fault.MISSING)


async def test_the_chain_goes_on_behind_a_removed_entry(store: Store) -> None:
    store.tamper(f"DELETE FROM {store.table} WHERE sequence = 5")
    await store.trail.append([event(99)])
    assert await found(store) == (5, Fault.MISSING)


# --- several processes ---------------------------------------------------------------------------

_WRITER = """
import asyncio, sys
from pathlib import Path
from common.adapters.audit.postgresql import PostgresqlAuditTrail
from common.adapters.audit.sqlite import SqliteAuditTrail
from common.ports.audit import AuditEvent

async def main(url, name, count):
    postgresql = url.startswith("postgresql:")
    trail = PostgresqlAuditTrail(url, timeout_seconds=60) if postgresql else SqliteAuditTrail(Path(url))
    await trail.head()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    async def one(n):
        at = 1.7e9 + n
        await trail.append([AuditEvent(at=at, principal=name, action="insert", version=n)])
    for first in range(0, count, 10):
        await asyncio.gather(*(one(n) for n in range(first, first + 10)))
    await trail.close()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""  # noqa: E501


@pytest.mark.slow
async def test_several_processes_write_one_chain(store: Store) -> None:
    names, count = ["a", "b", "c", "d"], 150
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _WRITER,
            store.url,
            name,
            str(count),
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for name in names
    ]
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    for process in processes:  # together, so that they write at the same time
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.close()
    assert [await process.wait() for process in processes] == [0] * len(names)
    assert await found(store) is None
    written = [entry.event async for entry in store.trail.entries(after=ENTRIES)]
    assert {(e.principal, e.version) for e in written} == {
        (x, n) for x in names for n in range(count)
    }
    assert len(written) == len(names) * count


# --- PostgreSQL ----------------------------------------------------------------------------------


@pytest.fixture
async def server() -> PostgresqlServer:
    return await asyncio.to_thread(postgresql)


@pytest.mark.slow
async def test_a_server_that_went_away_and_came_back() -> None:
    own = await asyncio.to_thread(PostgresqlServer)
    try:
        trail = PostgresqlAuditTrail(own.url(), timeout_seconds=30)
        await trail.append([event(1)])
        await asyncio.to_thread(own.stop)
        with pytest.raises(TransientError):
            await trail.append([event(2)])
        with pytest.raises(TransientError):
            await trail.head()
        await asyncio.to_thread(own.start_again)
        await _until_it_answers(lambda: trail.append([event(3)]))
        assert (await verify(trail))[1] is None
        assert [entry.event.version async for entry in trail.entries()] == [1, 3]
        await trail.close()
    finally:
        await asyncio.to_thread(own.remove)


async def _until_it_answers(call: Callable[[], Awaitable[Any]]) -> None:
    """Connections that the pool kept are found broken one by one."""
    for _ in range(5):
        try:
            await call()
        except TransientError:
            continue
        return
    pytest.fail("it does not come back")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("database", "password"), [("postgres", "wrong-hush"), ("no_such_database", PASSWORD)]
)
async def test_what_a_person_must_mend_has_no_password_in_it(
    server: PostgresqlServer, database: str, password: str
) -> None:
    trail = PostgresqlAuditTrail(server.url(database, password=password), timeout_seconds=30)
    with pytest.raises(PermanentError) as raised:
        await trail.append([event(1)])
    chained = [raised.value, raised.value.__cause__, raised.value.__context__]
    assert not any(password in str(error) for error in chained)
    await trail.close()


async def test_a_url_that_cannot_be_read_is_not_repeated() -> None:
    trail = PostgresqlAuditTrail("postgresql://bloom:sl/ash-hush@host:1/x", timeout_seconds=5)
    with pytest.raises((PermanentError, TransientError)) as raised:
        await trail.head()
    chained = [raised.value, raised.value.__cause__]
    assert not any("hush" in str(error) or "sl" in str(error) for error in chained)
    await trail.close()


@pytest.mark.slow
async def test_a_lock_that_is_held_meets_the_deadline(server: PostgresqlServer) -> None:
    import asyncpg

    url = await asyncio.to_thread(server.new_database)
    trail = PostgresqlAuditTrail(url, timeout_seconds=1)
    await trail.append([event(1)])
    other = await asyncpg.connect(url)
    async with other.transaction():
        await other.execute("SELECT 1 FROM bloomweaver_audit_anchor FOR UPDATE")
        with pytest.raises(TransientError, match="in time"):
            await trail.append([event(2)])
    await other.close()
    await trail.append([event(3)])
    assert (await verify(trail))[1] is None
    await trail.close()


@pytest.mark.slow
async def test_who_goes_away_in_a_transaction_does_not_keep_the_others(
    server: PostgresqlServer,
) -> None:
    import asyncpg

    url = await asyncio.to_thread(server.new_database)
    trail = PostgresqlAuditTrail(url, timeout_seconds=60)
    await trail.append([event(1)])
    other, observer = await asyncpg.connect(url), await asyncpg.connect(url)
    async with other.transaction():
        await other.execute("SELECT 1 FROM bloomweaver_audit_anchor FOR UPDATE")
        gone, stays = (asyncio.create_task(trail.append([event(n)])) for n in (2, 3))
        waiting = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        async with asyncio.timeout(60):
            while not await observer.fetchval(waiting):  # noqa: ASYNC110 - the server tells nobody
                await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
    async with asyncio.timeout(60):
        await stays
    await other.close()
    await observer.close()
    assert {entry.event.version async for entry in trail.entries()} == {1, 2, 3}
    assert (await verify(trail))[1] is None
    await trail.close()


@pytest.mark.slow
async def test_a_role_that_may_not_make_tables_uses_those_that_are_there(
    server: PostgresqlServer,
) -> None:
    url = await asyncio.to_thread(server.new_database)
    name = url.rpartition("/")[2]
    owner = PostgresqlAuditTrail(url, timeout_seconds=30)
    await owner.append([event(1)])
    await owner.close()
    grants = (
        f"CREATE ROLE {name}_app LOGIN PASSWORD 'app'; REVOKE ALL ON SCHEMA public FROM PUBLIC;"
        f"GRANT USAGE ON SCHEMA public TO {name}_app;"
        f"GRANT SELECT, INSERT, DELETE ON bloomweaver_audit TO {name}_app;"
        f"GRANT SELECT, UPDATE ON bloomweaver_audit_anchor TO {name}_app"
    )
    await asyncio.to_thread(lambda: server.sql(grants, database=name))
    app = url.replace(f"bloom:{PASSWORD}", f"{name}_app:app")
    trail = PostgresqlAuditTrail(app, timeout_seconds=30)
    await trail.append([event(2)])
    assert await trail.drop(before=event(2).at, now=2e9) == 1
    assert (await verify(trail))[1] is None
    await trail.close()
