"""`postgresql://USER:PASSWORD@HOST/DATABASE`: one chain that a whole fleet appends to.

Each process has one transaction under way at a time, with all that waits there. It locks the
anchor's row first, so that the processes take turns and nobody chains behind an entry that is not
the last. Triggers refuse to change or delete an entry, as in SQLite.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from common.adapters.audit.postgresql_schema import ALONE, EXISTS, SCHEMA
from common.audit import chained, drop_event, millis
from common.ports.audit import AuditEntry, AuditEvent, AuditPlace, AuditQuery, ChainEnd
from common.ports.errors import PermanentError, PortError, TransientError
from common.settings import Settings
from common.storage.audit_rows import COLUMNS, INTEGERS, NAMES, condition_of, entry_of, row_of

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]

_PAGE: Final = 1000
_EVENTS_PER_TRANSACTION: Final = 1000
"""Bounds how long the other processes wait."""
_CONNECTIONS: Final = 4
_LOCK: Final = (
    "SET LOCAL synchronous_commit = on; SELECT 1 FROM bloomweaver_audit_anchor FOR UPDATE"
)
_LAST: Final = "SELECT sequence, hash FROM bloomweaver_audit ORDER BY sequence DESC LIMIT 1"
_ANCHOR: Final = "SELECT sequence, hash FROM bloomweaver_audit_anchor"
_ARRAYS: Final = ", ".join(
    f"${n}::{'bigint' if name in INTEGERS else 'text'}[]" for n, name in enumerate(COLUMNS, 1)
)
_INSERT: Final = f"INSERT INTO bloomweaver_audit ({NAMES}) SELECT * FROM unnest({_ARRAYS})"  # noqa: S608
_PASSING: Final = ("08", "40", "53", "55", "57")
"""Classes of SQLSTATE: connection, rollback, resources, state, intervention."""


@dataclass(slots=True, eq=False)
class _Waiting:
    events: Sequence[AuditEvent]
    done: asyncio.Future[None]


class PostgresqlAuditTrail:
    """Implements AuditTrail. Connects at the first use, and makes its tables if they are not there.

    Raises PermanentError where a person must mend something, as a password or a right.
    """

    def __init__(self, url: str, *, timeout_seconds: float, key: bytes | None = None) -> None:
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._key = key
        self._pool: Pool | None = None
        self._opening = asyncio.Lock()
        self._waiting: list[_Waiting] = []
        self._writing: asyncio.Task[None] | None = None

    async def append(self, events: Sequence[AuditEvent]) -> None:
        if not events:
            return
        waiting = _Waiting(events, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="audit-append")
        await waiting.done

    async def entries(self, *, after: int = 0) -> AsyncIterator[AuditEntry]:
        statement = (
            f"SELECT {NAMES} FROM bloomweaver_audit WHERE sequence > $1 ORDER BY sequence LIMIT $2"  # noqa: S608
        )
        while rows := await self._fetch(statement, after, _PAGE):
            for row in rows:
                yield entry_of(tuple(row))
            after = rows[-1]["sequence"]

    async def page(
        self, wanted: AuditQuery, *, limit: int, before: AuditPlace | None = None
    ) -> list[AuditEntry]:
        condition, values = condition_of(wanted, lambda n: f"${n}")
        if before is not None:
            values.append(await self._sequence_at(before))
            condition += f" AND sequence < ${len(values)}"
        values.append(limit)
        rows = await self._fetch(
            f"SELECT {NAMES} FROM bloomweaver_audit WHERE {condition}"  # noqa: S608
            f" ORDER BY sequence DESC LIMIT ${len(values)}",
            *values,
        )
        return [entry_of(tuple(row)) for row in rows]

    async def head(self) -> ChainEnd:
        rows = await self._fetch(_LAST)
        return ChainEnd(*rows[0]) if rows else await self.anchor()

    async def anchor(self) -> ChainEnd:
        return ChainEnd(*(await self._fetch(_ANCHOR))[0])

    async def drop(self, *, before: float, now: float, limit: int = 10_000) -> int:
        async with self._locked() as connection:
            return await self._drop(connection, before, now, limit)

    async def check(self) -> str:
        return f"{(await self.head()).sequence:,} entries were written"

    async def close(self) -> None:
        """Write what was appended, for the length of a deadline, and disconnect."""
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    await pool.close()
            except (TimeoutError, OSError):
                pool.terminate()

    # --- appending

    async def _write(self) -> None:
        """Everything that waits, a transaction at a time. Never raises: the callers are told."""
        while self._waiting:
            if not (taken := self._take()):
                continue
            try:
                async with self._locked() as connection:
                    await self._append(connection, [e for one in taken for e in one.events])
            except Exception as error:
                _settle(taken, error)
            except BaseException:
                _settle(taken, TransientError("the audit trail is closed"))
                raise
            else:
                _settle(taken, None)

    def _take(self) -> list[_Waiting]:
        taken: list[_Waiting] = []
        size = 0
        while self._waiting and size < _EVENTS_PER_TRANSACTION:
            one = self._waiting.pop(0)
            if not one.done.done():  # its caller may be gone
                taken.append(one)
                size += len(one.events)
        return taken

    async def _append(self, connection: Connection, events: Sequence[AuditEvent]) -> None:
        # A statement of its own, behind the lock: it sees what the last holder committed.
        found = await connection.fetchrow(_LAST) or await connection.fetchrow(_ANCHOR)
        entries = chained(ChainEnd(*found or ()), events, self._key)
        await connection.execute(_INSERT, *zip(*map(row_of, entries), strict=True))

    async def _drop(self, connection: Connection, before: float, now: float, limit: int) -> int:
        anchor = ChainEnd(*await connection.fetchrow(_ANCHOR) or ())
        last = await connection.fetchrow(
            "WITH oldest AS (SELECT sequence, hash, at_ms FROM bloomweaver_audit"
            " ORDER BY sequence LIMIT $1)"
            " SELECT sequence, hash FROM oldest WHERE sequence <"
            " coalesce((SELECT min(sequence) FROM oldest WHERE at_ms >= $2), $3)"
            " ORDER BY sequence DESC LIMIT 1",
            limit,
            millis(before),
            2**63 - 1,
        )
        if last is None:
            return 0
        end = ChainEnd(*last)
        count = end.sequence - anchor.sequence
        await connection.execute(
            "UPDATE bloomweaver_audit_anchor SET sequence = $1, hash = $2", end.sequence, end.hash
        )
        await self._append(connection, [drop_event(end, count, now)])
        await connection.execute("DELETE FROM bloomweaver_audit WHERE sequence <= $1", end.sequence)
        return count

    # --- connections

    async def _sequence_at(self, place: AuditPlace) -> int:
        statement = "SELECT sequence FROM bloomweaver_audit WHERE at_ms = $1 AND hash = $2"
        rows = await self._fetch(statement, place.at_ms, place.hash)
        if not rows:
            raise ValueError("there is no entry at this place")
        return int(rows[0][0])

    async def _fetch(self, statement: str, *values: Any) -> list[Any]:
        async with self._connected() as connection:
            return list(await connection.fetch(statement, *values))

    @contextlib.asynccontextmanager
    async def _locked(self) -> AsyncIterator[Connection]:
        """A transaction in which nobody else appends. READ COMMITTED, whatever the server's
        default is: a snapshot that is older than the lock would not have the last entry."""
        async with (
            self._connected() as connection,
            connection.transaction(isolation="read_committed"),
        ):
            await connection.execute(_LOCK)
            yield connection

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        """Within one deadline, with the port's errors for what fails."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                pool = await self._opened()
                async with pool.acquire() as connection:
                    yield connection
        except PortError:
            raise
        except Exception as error:
            raise _translated(error) from error

    async def _opened(self) -> Pool:
        async with self._opening:
            if self._pool is None:
                pool = await self._new_pool()
                try:
                    await _make_tables(pool)
                except ValueError:  # it may tell of the password: nothing of it is kept
                    pool.terminate()
                    raise _unreadable() from None
                except BaseException:
                    pool.terminate()
                    raise
                self._pool = pool
            return self._pool

    async def _new_pool(self) -> Pool:
        """Not connected yet."""
        driver = await asyncio.to_thread(_driver)
        pool: Pool = driver.create_pool(
            self._url,
            min_size=0,
            max_size=_CONNECTIONS,
            timeout=self._timeout_seconds,
            command_timeout=self._timeout_seconds,
        )
        await pool
        return pool


async def _make_tables(pool: Pool) -> None:
    async with pool.acquire() as connection:
        if await connection.fetchval(EXISTS):
            return
        async with connection.transaction(isolation="read_committed"):
            await connection.execute(ALONE)
            if not await connection.fetchval(EXISTS):
                await connection.execute(SCHEMA)


def _settle(taken: Sequence[_Waiting], error: Exception | None) -> None:
    for one in taken:
        if one.done.done():
            continue
        if error is None:
            one.done.set_result(None)
        else:
            one.done.set_exception(error)


def _driver() -> Any:
    try:
        import asyncpg
    except ModuleNotFoundError:
        raise PermanentError(
            "BLOOMWEAVER_AUDIT_URL is a PostgreSQL database, and asyncpg is not installed: "
            "pip install 'bloomweaver[postgres]'"
        ) from None
    return asyncpg


def _unreadable() -> PermanentError:
    return PermanentError(
        "BLOOMWEAVER_AUDIT_URL cannot be read as postgresql://USER:PASSWORD@HOST:PORT/DATABASE: "
        "write what is special in a password as %40, %2F and so on"
    )


def _translated(error: Exception) -> Exception:
    """The port's error. The driver's texts name the host and the user, never the password."""
    if isinstance(error, TimeoutError):
        return TransientError("the audit trail's PostgreSQL did not answer in time")
    if isinstance(error, OSError):
        return TransientError(f"the audit trail's PostgreSQL cannot be reached: {error}")
    state = getattr(error, "sqlstate", None)
    line = f"the audit trail's PostgreSQL: {error}"
    driver = type(error).__module__.startswith("asyncpg")
    if not driver:
        return error
    passing = state is None or state.startswith(_PASSING)  # none: the driver's own, of connections
    return TransientError(line) if passing else PermanentError(f"{line}: mend it there")


def connect(url: str, settings: Settings, receiver: str) -> PostgresqlAuditTrail:
    key = settings.audit_key
    return PostgresqlAuditTrail(
        url,
        timeout_seconds=settings.request_timeout_seconds,
        key=key.get_secret_value().encode() if key else None,
    )
