"""The queue on SQLite: every process of one machine, durable against the death of any of them.

Namespaces take turns (sqlite_turns.py), so that a long line of one delays no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from common.adapters.queue import sqlite_turns
from common.clock import Clock, system_clock
from common.model import QueueName, WakeUp
from common.ports.queue import CRASHES_REFUNDED, DeadLetter, Delivery, Depth, LeaseLostError
from common.settings import Settings
from common.storage.data_folder import DataFolder
from common.storage.doorbell import Doorbell, Doorbells
from common.storage.sqlite_database import SqliteDatabase
from common.wire import DamagedDataError, wake_up_from_json, wake_up_to_json

__all__ = ["SqliteQueue"]

_SAFETY_POLL_SECONDS = 2.0  # what a ring that was lost with its sender costs at most
_SHORTEST_LEASE_SECONDS = 0.001  # or one receive would take a message again and again

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS messages (
        id TEXT PRIMARY KEY,
        queue TEXT NOT NULL,
        body TEXT NOT NULL,
        sent_at REAL NOT NULL,
        visible_at REAL NOT NULL,
        receive_count INTEGER NOT NULL,
        leased INTEGER NOT NULL,
        receipt TEXT,
        receiver TEXT,
        crashes INTEGER NOT NULL DEFAULT 0,
        namespace TEXT NOT NULL DEFAULT ''
    ) WITHOUT ROWID""",
    "DROP INDEX IF EXISTS messages_by_time",  # of releases that knew no turns
    # Its first four columns order what is received; with all of them depth() reads nothing else.
    """CREATE INDEX IF NOT EXISTS messages_in_line
        ON messages (queue, namespace, visible_at, id, leased, sent_at)""",
    """CREATE TABLE IF NOT EXISTS dead_letters (
        id TEXT PRIMARY KEY,
        queue TEXT NOT NULL,
        body TEXT NOT NULL,
        reason TEXT NOT NULL,
        receive_count INTEGER NOT NULL,
        died_at REAL NOT NULL,
        sent_at REAL NOT NULL DEFAULT 0
    ) WITHOUT ROWID""",
    *sqlite_turns.SCHEMA,
)
# Of earlier releases, that did not record them.
_LATER_COLUMNS = (
    ("dead_letters", "sent_at", "REAL NOT NULL DEFAULT 0"),
    ("messages", "crashes", "INTEGER NOT NULL DEFAULT 0"),
    ("messages", "namespace", "TEXT NOT NULL DEFAULT ''"),
)
# Every queue is named, since the index begins with it.
_NAME = """UPDATE messages SET namespace = namespace_in(body)
    WHERE queue IN ('change', 'create', 'update', 'delete') AND namespace = ''"""
_LINES = "SELECT DISTINCT queue, namespace FROM messages"
_INSERT = """INSERT INTO messages
    (id, queue, namespace, body, sent_at, visible_at, receive_count, leased)
    VALUES (?, ?, ?, ?, ?, ?, 0, 0)"""
_LEASE = """UPDATE messages SET visible_at = ?, receipt = ?, receiver = ?, leased = 1,
    receive_count = receive_count + 1 WHERE id = ?"""
_EXTEND = "UPDATE messages SET visible_at = ? WHERE id = ? AND receipt = ?"
_ACK = "DELETE FROM messages WHERE id = ? AND receipt = ?"
_FREE = """UPDATE messages SET visible_at = ?, receipt = NULL, receiver = NULL, leased = 0,
    crashes = 0 WHERE id = ? AND receipt = ?"""
_RELEASE = """UPDATE messages SET visible_at = ?, receipt = NULL, receiver = NULL,
    leased = 0, receive_count = max(receive_count - 1, 0) WHERE id = ? AND receipt = ?"""
_BURY = """INSERT INTO dead_letters (id, queue, body, reason, receive_count, sent_at, died_at)
    SELECT id, queue, body, ?, receive_count, sent_at, ? FROM messages
    WHERE id = ? AND receipt = ?"""
# A freed message goes back to its place in line; its old receipt is worth nothing any more.
_RECLAIM = """UPDATE messages SET visible_at = min(sent_at, :now), receipt = NULL,
    receiver = NULL, leased = 0, crashes = crashes + :refund,
    receive_count = receive_count - (:refund AND crashes < :refunded)
    WHERE leased = 1 AND (:receiver IS NULL OR receiver = :receiver)
    RETURNING queue, namespace"""
_DEPTH = """SELECT
    count(*) FILTER (WHERE visible_at <= :now),
    count(*) FILTER (WHERE visible_at > :now AND leased),
    count(*) FILTER (WHERE visible_at > :now AND NOT leased),
    min(sent_at) FILTER (WHERE visible_at <= :now OR NOT leased)
    FROM messages WHERE queue = :queue"""
_BACKLOG_OF = """SELECT count(*) FROM (SELECT 1 FROM messages
    WHERE queue IN ('change', 'create', 'update', 'delete') AND namespace = ? LIMIT ?)"""
_DEAD = """SELECT id, queue, body, reason, receive_count, sent_at, died_at FROM dead_letters
    WHERE id > ? ORDER BY id LIMIT ?"""
_LETTER = "SELECT queue, body FROM dead_letters WHERE id = ?"
_DISCARD = "DELETE FROM dead_letters WHERE id = ?"


class SqliteQueue:
    """Implements Queue, FairQueue, WatchableQueue, ReclaimingQueue and CapacityAware in a data
    folder.

    A namespace's messages are received in the order in which they became deliverable. A message
    that cannot be read (a newer program's) goes to the dead letters and can be redriven after an
    upgrade.

    `receiver` names this process in the leases it takes, for reclaim(). `clock` gives seconds
    since the epoch; it is also called from the writer's thread.
    Sends survive the death of any process; a loss of power may take the last of them, which the
    sweeper sends again from the registry.
    """

    fair_between_namespaces = True

    def __init__(self, folder: DataFolder, *, receiver: str, clock: Clock = system_clock) -> None:
        self._database = SqliteDatabase(
            folder.queue_path,
            _SCHEMA,
            durable=False,
            later_columns=_LATER_COLUMNS,
            upgrade=lambda db: _name_the_nameless(db, clock),
        )
        self._doorbells = Doorbells(folder.run_path / "doorbells")
        self._receiver = receiver
        self._clock = clock
        self._last_id_microseconds = 0
        self._id_suffix = secrets.token_hex(5)  # tells this process's ids from others'
        self._unrung: set[QueueName] = set()

    async def close(self) -> None:
        """Wakes who waits in receive(); that raises TransientError from then on."""
        self._ring_now()
        self._doorbells.close()
        await self._database.close()

    async def free_bytes(self) -> int:
        return await self._database.free_bytes()

    async def send(
        self, queue: QueueName, wake_ups: Sequence[WakeUp], *, delay_seconds: float = 0.0
    ) -> None:
        now = self._clock()
        at = now + delay_seconds
        rows = [
            (self._new_id(now), queue.value, w.namespace, wake_up_to_json(w), now, at)
            for w in wake_ups
        ]
        if rows:
            await self._database.write(lambda db: _store(db, rows, now))
            self._ring_soon(queue)

    async def receive(
        self, queue: QueueName, *, limit: int, visibility_seconds: float, wait_seconds: float
    ) -> list[Delivery]:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_seconds
        bell = self._doorbells.listen(queue) if wait_seconds > 0 else None
        while True:
            rings = bell.rings if bell else 0
            deliveries = await self._take(queue, limit, visibility_seconds)
            remaining_seconds = deadline - loop.time()
            if deliveries or bell is None or remaining_seconds <= 0:
                return deliveries
            await self._wait_for_more(queue, bell, rings, remaining_seconds)

    async def receive_of_others(
        self,
        queue: QueueName,
        *,
        besides: Collection[str],
        limit: int,
        visibility_seconds: float,
    ) -> list[Delivery]:
        return await self._take(queue, limit, visibility_seconds, besides)

    async def wait_for_message(self, queue: QueueName, *, timeout_seconds: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        bell = self._doorbells.listen(queue)
        while loop.time() < deadline:
            rings = bell.rings
            if (await self.depth(queue)).waiting:
                return
            await self._wait_for_more(queue, bell, rings, deadline - loop.time())

    async def extend(self, delivery: Delivery, visibility_seconds: float) -> None:
        await self._move(_EXTEND, delivery, visibility_seconds)

    async def ack(self, delivery: Delivery) -> None:
        def ack(db: sqlite3.Connection) -> None:
            _must_hold(delivery.message_id, db.execute(_ACK, _lease(delivery)))
            sqlite_turns.follow(db, [_line(delivery)], self._clock())

        await self._database.write(ack)

    async def retry_later(self, delivery: Delivery, delay_seconds: float) -> None:
        await self._move(_FREE, delivery, delay_seconds)
        self._ring_soon(delivery.queue)

    async def release(self, delivery: Delivery, delay_seconds: float = 0.0) -> None:
        await self._move(_RELEASE, delivery, delay_seconds or None)
        self._ring_soon(delivery.queue)

    async def _move(self, how: str, delivery: Delivery, seconds: float | None) -> None:
        """Deliverable in so many seconds; None: at its old place in line, and the line next."""

        def move(db: sqlite3.Connection) -> None:
            now = self._clock()
            at = delivery.sent_at if seconds is None else now + seconds
            _must_hold(delivery.message_id, db.execute(how, (at, *_lease(delivery))))
            sqlite_turns.follow(db, [_line(delivery)], now)
            if seconds is None:
                sqlite_turns.give_back_turn(db, _line(delivery))

        await self._database.write(move)

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        await self._bury(_line(delivery), _lease(delivery), reason)

    async def depth(self, queue: QueueName) -> Depth:
        now = self._clock()
        waiting, in_flight, delayed, oldest_sent_at = await self._database.read(
            lambda db: _only_row(db.execute(_DEPTH, {"now": now, "queue": queue.value}))
        )
        age_seconds = 0.0 if oldest_sent_at is None else max(0.0, now - oldest_sent_at)
        return Depth(
            waiting=waiting, in_flight=in_flight, delayed=delayed, oldest_age_seconds=age_seconds
        )

    async def backlog_of(self, namespace: str, *, at_most: int) -> int:
        (count,) = await self._database.read(
            lambda db: _only_row(db.execute(_BACKLOG_OF, (namespace, at_most)))
        )
        return int(count)

    async def dead_letters(self, *, limit: int, after: str | None = None) -> list[DeadLetter]:
        rows = await self._database.read(
            lambda db: db.execute(_DEAD, (after or "", limit)).fetchall()
        )
        return [_dead_letter_of(row) for row in rows]

    async def dead_letter_count(self) -> int:
        row = await self._database.read(
            lambda db: _only_row(db.execute("SELECT count(*) FROM dead_letters"))
        )
        return int(row[0])

    async def redrive(self, message_ids: Sequence[str]) -> int:
        def redrive(db: sqlite3.Connection) -> list[str]:
            return [queue for message_id in message_ids for queue in self._revive(db, message_id)]

        queues = await self._database.write(redrive)
        self._ring_all(queues)
        return len(queues)

    async def discard(self, message_ids: Sequence[str]) -> int:
        ids = [(message_id,) for message_id in message_ids]
        return await self._database.write(lambda db: db.executemany(_DISCARD, ids).rowcount)

    async def reclaim(self, *, receiver: str | None = None, refund: bool = False) -> int:
        def reclaim(db: sqlite3.Connection) -> int:
            now = self._clock()
            values = {
                "now": now,
                "refund": int(refund),
                "refunded": CRASHES_REFUNDED,
                "receiver": receiver,
            }
            freed = db.execute(_RECLAIM, values).fetchall()
            sqlite_turns.follow_all(db, freed, now)
            return len(freed)

        freed = await self._database.write(reclaim)
        if freed:
            self._ring_all(queue.value for queue in QueueName)
        return freed

    async def _take(
        self,
        queue: QueueName,
        limit: int,
        visibility_seconds: float,
        besides: Collection[str] = (),
    ) -> list[Delivery]:
        receipt = secrets.token_hex(8)  # a message and its receipt are compared together
        seconds = max(visibility_seconds, _SHORTEST_LEASE_SECONDS)

        def take(db: sqlite3.Connection) -> list[Any]:
            now = self._clock()
            lease = (now + seconds, receipt, self._receiver)
            return _taken(db, queue.value, limit, lease, now, besides=besides)

        deliveries = []
        for row in await self._database.write(take):
            message_id, namespace, body, receive_count, sent_at = row
            try:
                wake_up = wake_up_from_json(body)
            except DamagedDataError as error:
                with contextlib.suppress(LeaseLostError):
                    line = (queue.value, namespace)
                    await self._bury(line, (message_id, receipt), f"unreadable: {error}")
                continue
            deliveries.append(
                Delivery(
                    queue=queue,
                    message_id=message_id,
                    receipt=receipt,
                    wake_up=wake_up,
                    receive_count=receive_count + 1,
                    sent_at=sent_at,
                )
            )
        return deliveries

    async def _wait_for_more(
        self, queue: QueueName, bell: Doorbell, rings: int, remaining_seconds: float
    ) -> None:
        """Until it rings, or a hidden message becomes visible, or it is time to look anyway."""
        at = await self._database.read(lambda db: sqlite_turns.next_at(db, queue.value))
        hidden_seconds = _SAFETY_POLL_SECONDS if at is None else at - self._clock()
        await bell.wait(
            rings=rings,
            timeout_seconds=max(0.0, min(remaining_seconds, hidden_seconds, _SAFETY_POLL_SECONDS)),
        )

    async def _bury(self, line: sqlite_turns.Line, lease: tuple[str, str], reason: str) -> None:
        def bury(db: sqlite3.Connection) -> None:
            now = self._clock()
            _must_hold(lease[0], db.execute(_BURY, (reason, now, *lease)))
            db.execute(_ACK, lease)
            sqlite_turns.follow(db, [line], now)

        await self._database.write(bury)

    def _revive(self, db: sqlite3.Connection, message_id: str) -> list[str]:
        """The queue it went back to; none if there is no such dead letter."""
        row = db.execute(_LETTER, (message_id,)).fetchone()
        if row is None:
            return []
        queue, body = row
        now = self._clock()
        _store(db, [(message_id, queue, _namespace_in(body), body, now, now)], now)
        db.execute(_DISCARD, (message_id,))
        return [queue]

    def _ring_all(self, queues: Iterable[str]) -> None:
        for queue in set(queues):
            self._doorbells.ring(queue)

    def _ring_soon(self, queue: QueueName) -> None:
        """Once for all sends that were committed together: they end in one turn of the loop."""
        if not self._unrung:
            asyncio.get_running_loop().call_soon(self._ring_now)
        self._unrung.add(queue)

    def _ring_now(self) -> None:
        unrung, self._unrung = self._unrung, set()
        for queue in unrung:
            self._doorbells.ring(queue)

    def _new_id(self, now: float) -> str:
        """Sorts by age, also within one microsecond and when the clock steps back."""
        self._last_id_microseconds = max(self._last_id_microseconds + 1, int(now * 1_000_000))
        return f"{self._last_id_microseconds:014x}{self._id_suffix}"


def _lease(delivery: Delivery) -> tuple[str, str]:
    return delivery.message_id, delivery.receipt


def _line(delivery: Delivery) -> sqlite_turns.Line:
    return delivery.queue.value, delivery.wake_up.namespace


def _must_hold(message_id: str, changed: sqlite3.Cursor) -> None:
    if changed.rowcount == 0:
        raise LeaseLostError(
            f"the receipt of message {message_id} is stale: it was freed or taken again"
        )


def _store(db: sqlite3.Connection, rows: Sequence[tuple[Any, ...]], now: float) -> None:
    """`rows`: the values of _INSERT."""
    db.executemany(_INSERT, rows)
    sqlite_turns.follow(db, dict.fromkeys((row[1], row[2]) for row in rows), now)


def _taken(
    db: sqlite3.Connection,
    queue: str,
    limit: int,
    lease: tuple[float, str, str],
    now: float,
    *,
    besides: Collection[str],
) -> list[Any]:
    """Up to `limit` messages in turn, as `next_of` says. `lease`: until when, receipt, receiver."""
    rows = list[Any]()
    sqlite_turns.begin_due(db, queue, now)
    while len(rows) < limit:
        most = limit - len(rows)
        namespaces = sqlite_turns.in_turn(db, queue, most, besides)
        if not namespaces:
            break
        found = sqlite_turns.next_of(db, queue, namespaces, most, now)
        db.executemany(_LEASE, [(*lease, row[0]) for row in found])
        sqlite_turns.served(db, queue, namespaces, now)
        rows += found
    return rows


def _name_the_nameless(db: sqlite3.Connection, clock: Clock) -> None:
    """Messages that a program stored which knew nothing of lines: an earlier release, whose file
    this was until now."""
    db.create_function("namespace_in", 1, _namespace_in, deterministic=True)
    if db.execute(_NAME).rowcount:
        sqlite_turns.follow(db, db.execute(_LINES).fetchall(), clock())


def _namespace_in(body: str) -> str:
    """Empty for what cannot be read; such messages share a line."""
    try:
        return wake_up_from_json(body).namespace
    except DamagedDataError:
        return ""


def _only_row(cursor: sqlite3.Cursor) -> tuple[Any, ...]:
    rows = cursor.fetchall()  # to the end, so that the statement holds no snapshot open
    return tuple(rows[0])


def _dead_letter_of(row: tuple[Any, ...]) -> DeadLetter:
    message_id, queue, body, reason, receive_count, sent_at, died_at = row
    try:
        wake_up = wake_up_from_json(body)
    except DamagedDataError:
        wake_up = WakeUp(namespace="", document_id=body, version=0)  # for a person to look at
    return DeadLetter(
        message_id=message_id,
        source=QueueName(queue),
        wake_up=wake_up,
        reason=reason,
        receive_count=receive_count,
        sent_at=sent_at,
        died_at=died_at,
    )


def connect(url: str, settings: Settings, receiver: str) -> SqliteQueue:
    """`sqlite:` is queue.sqlite in the data folder."""
    return SqliteQueue(DataFolder(settings.data_dir), receiver=receiver)
