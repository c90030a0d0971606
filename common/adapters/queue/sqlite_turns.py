"""Whose message is next: the namespaces of a queue take turns.

The messages of one namespace on one queue are a *line*, oldest first. A line whose first message is
deliverable has a turn, a number; the lowest is served next and then gets the highest, so that lines
go round. The others wait for the time of their first message. Every function runs within the
transaction of the write that changes the messages, and costs a few look-ups in an index, however
many messages and namespaces there are.

A line with a turn but nothing deliverable (the clock was set back) does no harm: it is passed over,
and loses its turn.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from itertools import chain, zip_longest
from typing import Any

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS lines (
        queue TEXT NOT NULL,
        namespace TEXT NOT NULL,
        turn INTEGER,
        next_at REAL NOT NULL,
        PRIMARY KEY (queue, namespace)
    ) WITHOUT ROWID""",
    """CREATE INDEX IF NOT EXISTS lines_by_turn ON lines (queue, turn, next_at)
        WHERE turn IS NOT NULL""",
    "CREATE INDEX IF NOT EXISTS lines_by_time ON lines (queue, next_at) WHERE turn IS NULL",
)

LINES_BEGUN_AT_ONCE = 1000
"""Lines whose time has come get their turns at a receive, so many of them at most."""

_LAST_TURN = """SELECT turn FROM lines WHERE queue = ? AND turn IS NOT NULL
    ORDER BY turn DESC LIMIT 1"""
_FIRST_TURN = """SELECT turn FROM lines WHERE queue = ? AND turn IS NOT NULL
    ORDER BY turn LIMIT 1"""
_DUE = """SELECT namespace FROM lines WHERE queue = ? AND turn IS NULL AND next_at <= ?
    ORDER BY next_at LIMIT ?"""
_IN_TURN = """SELECT namespace FROM lines WHERE queue = ? AND turn IS NOT NULL
    ORDER BY turn LIMIT ?"""
_NEXT = """SELECT id, namespace, body, receive_count, sent_at FROM messages
    WHERE queue = ? AND namespace = ? AND visible_at <= ? ORDER BY visible_at, id LIMIT ?"""
_FIRST = "SELECT min(visible_at) FROM messages WHERE queue = ? AND namespace = ?"
_LINE = "SELECT turn, next_at FROM lines WHERE queue = ? AND namespace = ?"
_SET = """INSERT INTO lines (queue, namespace, turn, next_at) VALUES (?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET turn = excluded.turn, next_at = excluded.next_at"""
_END = "DELETE FROM lines WHERE queue = ? AND namespace = ?"
_NEXT_AT = """SELECT min(next_at) FROM (
    SELECT next_at FROM (SELECT next_at FROM lines WHERE queue = :queue AND turn IS NOT NULL
        ORDER BY turn LIMIT 1)
    UNION ALL SELECT min(next_at) FROM lines WHERE queue = :queue AND turn IS NULL)"""
_ALL = "SELECT queue, namespace FROM lines"

Line = tuple[str, str]
"""Queue and namespace."""


def follow(db: sqlite3.Connection, lines: Iterable[Line], now: float) -> None:
    """After any change to messages of these lines. Who has a turn keeps it; who gets one comes
    last in the round."""
    for queue, namespace in lines:
        first_at = _first_at(db, queue, namespace)
        known = db.execute(_LINE, (queue, namespace)).fetchone()
        turn = known[0] if known else None
        if first_at is None:
            db.execute(_END, (queue, namespace))
        elif first_at > now:
            _set(db, queue, namespace, known, (None, first_at))
        else:
            turn = _last_turn(db, queue) + 1 if turn is None else turn
            _set(db, queue, namespace, known, (turn, first_at))


def follow_all(db: sqlite3.Connection, lines: Iterable[Line], now: float) -> None:
    """These and all that are known: what a program wrote that knew nothing of lines is mended."""
    known = db.execute(_ALL).fetchall()
    follow(db, dict.fromkeys(chain(known, lines)), now)


def give_back_turn(db: sqlite3.Connection, line: Line) -> None:
    """After a message was handed back untried: its line is next, if it has a turn. Or a message
    that waits to be worked by itself would meet others, be handed back, and wait a round each time.
    """
    queue, namespace = line
    known = db.execute(_LINE, line).fetchone()
    if known is not None and known[0] is not None:
        (first,) = db.execute(_FIRST_TURN, (queue,)).fetchone()
        db.execute(_SET, (queue, namespace, first - 1, known[1]))


def begin_due(db: sqlite3.Connection, queue: str, now: float) -> None:
    """A turn for each line whose time has come, in the order of their times."""
    due = db.execute(_DUE, (queue, now, LINES_BEGUN_AT_ONCE)).fetchall()
    follow(db, [(queue, namespace) for (namespace,) in due], now)


def in_turn(
    db: sqlite3.Connection, queue: str, most: int, besides: Collection[str] = ()
) -> list[str]:
    """The namespaces that are next, without those `besides`."""
    found = (row[0] for row in db.execute(_IN_TURN, (queue, most + len(besides))))
    return [namespace for namespace in found if namespace not in besides][:most]


def next_of(
    db: sqlite3.Connection, queue: str, namespaces: Sequence[str], most: int, now: float
) -> list[tuple[Any, ...]]:
    """Up to `most` messages, as many of each line as of the others, one of each at a time: id,
    namespace, body, receive count, time of the send."""
    each = max(1, most // len(namespaces))
    found = [
        db.execute(_NEXT, (queue, namespace, now, each)).fetchall() for namespace in namespaces
    ]
    return [row for turn in zip_longest(*found) for row in turn if row is not None]


def served(db: sqlite3.Connection, queue: str, namespaces: Iterable[str], now: float) -> None:
    """They go to the end of the round, as far as they have more that is deliverable."""
    for turn, namespace in enumerate(namespaces, _last_turn(db, queue) + 1):
        first_at = _first_at(db, queue, namespace)
        if first_at is None:
            db.execute(_END, (queue, namespace))
        else:
            db.execute(_SET, (queue, namespace, turn if first_at <= now else None, first_at))


def next_at(db: sqlite3.Connection, queue: str) -> float | None:
    """When the first of all messages is deliverable, or was; None: there is none."""
    ((at,),) = db.execute(_NEXT_AT, {"queue": queue}).fetchall()
    return None if at is None else float(at)


def _first_at(db: sqlite3.Connection, queue: str, namespace: str) -> float | None:
    at = db.execute(_FIRST, (queue, namespace)).fetchone()[0]
    return None if at is None else float(at)


def _last_turn(db: sqlite3.Connection, queue: str) -> int:
    row = db.execute(_LAST_TURN, (queue,)).fetchone()
    return int(row[0]) if row else 0


def _set(
    db: sqlite3.Connection,
    queue: str,
    namespace: str,
    known: object,
    now_is: tuple[int | None, float],
) -> None:
    if known != now_is:
        db.execute(_SET, (queue, namespace, *now_is))
