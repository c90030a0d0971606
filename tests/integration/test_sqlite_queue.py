"""The queue on SQLite between processes: killed ones lose nothing, waiting ones are woken."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import os
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.adapters.queue import sqlite as sqlite_queue
from common.adapters.queue import sqlite_turns
from common.adapters.queue.sqlite import SqliteQueue
from common.model import QueueName, WakeUp
from common.ports.errors import PermanentError, TransientError
from common.ports.queue import Delivery, LeaseLostError
from common.storage.data_folder import DataFolder
from common.storage.doorbell import Doorbells
from common.wire import wake_up_to_json

SPAWN = multiprocessing.get_context("spawn")
CHANGE = QueueName.CHANGE


@pytest.fixture
async def queue(tmp_path: Path) -> AsyncIterator[SqliteQueue]:
    opened = SqliteQueue(DataFolder(tmp_path), receiver="test")
    yield opened
    await opened.close()


def wake_up(name: str) -> WakeUp:
    return WakeUp(namespace="docs", document_id=name, version=1)


async def take(queue: SqliteQueue, limit: int = 10_000) -> list[Delivery]:
    return await queue.receive(CHANGE, limit=limit, visibility_seconds=600, wait_seconds=0)


def work_until_killed(path: str, name: str, pipe: Connection) -> None:
    """Send, receive and acknowledge for ever, reporting each step before or after it is done."""
    asyncio.run(_work_until_killed(path, name, pipe))


async def _work_until_killed(path: str, name: str, pipe: Connection) -> None:
    queue = SqliteQueue(DataFolder(Path(path)), receiver=name)
    numbers = itertools.count()

    async def produce() -> None:
        while True:
            batch = [f"{name}-{next(numbers)}" for _ in range(3)]
            await queue.send(CHANGE, [wake_up(one) for one in batch])
            pipe.send(("sent", batch))

    async def consume() -> None:
        while True:
            for delivery in await take(queue, limit=2):
                pipe.send(("acking", [delivery.wake_up.document_id]))
                await queue.ack(delivery)
                pipe.send(("acked", [delivery.wake_up.document_id]))

    await asyncio.gather(*[produce() for _ in range(4)], *[consume() for _ in range(4)])


def drained(pipe: Connection, events: dict[str, set[str]], *, until: int | None = None) -> None:
    """Collect reports: `until` so many, or all that a dead process has left."""
    count = 0
    while until is None or count < until:
        try:
            kind, names = pipe.recv()
        except EOFError:
            return
        events[kind].update(names)
        count += 1


@pytest.mark.slow
async def test_nothing_stored_is_lost_and_nothing_acked_returns_when_processes_are_killed(
    tmp_path: Path,
) -> None:
    events: dict[str, set[str]] = {"sent": set(), "acking": set(), "acked": set()}
    for generation in range(3):
        workers = []
        for number in range(2):
            ours, theirs = SPAWN.Pipe(duplex=False)
            name = f"{generation}-{number}"
            worker = SPAWN.Process(target=work_until_killed, args=(str(tmp_path), name, theirs))
            worker.start()
            theirs.close()
            workers.append((worker, ours))
        for worker, pipe in workers:
            await asyncio.to_thread(drained, pipe, events, until=400)
            worker.kill()
            drained(pipe, events)
            worker.join()
            pipe.close()

    queue = SqliteQueue(DataFolder(tmp_path), receiver="test")
    await queue.reclaim()
    left = {delivery.wake_up.document_id for delivery in await take(queue, limit=1_000_000)}
    await queue.close()

    assert len(events["sent"]) > 300
    assert len(events["acked"]) > 100
    assert events["sent"] - events["acking"] - left == set()
    assert events["acked"] & left == set()


def receive_and_tell(path: str, pipe: Connection) -> None:
    asyncio.run(_receive_and_tell(path, pipe))


async def _receive_and_tell(path: str, pipe: Connection) -> None:
    queue = SqliteQueue(DataFolder(Path(path)), receiver="child")
    asyncio.get_running_loop().call_soon(pipe.send, "waiting")
    for _ in range(20):
        (delivery,) = await queue.receive(CHANGE, limit=1, visibility_seconds=600, wait_seconds=30)
        pipe.send((delivery.wake_up.document_id, time.monotonic()))
        await queue.ack(delivery)
    await queue.close()


@pytest.mark.slow
async def test_a_receiver_in_another_process_is_woken_at_once(
    queue: SqliteQueue, tmp_path: Path
) -> None:
    ours, theirs = SPAWN.Pipe()
    child = SPAWN.Process(target=receive_and_tell, args=(str(tmp_path), theirs))
    child.start()
    assert await asyncio.to_thread(ours.recv) == "waiting"
    seconds = []
    for number in range(20):
        await asyncio.sleep(0.02)  # lets the receiver fall asleep; the test holds without it too
        sent_at = time.monotonic()
        await queue.send(CHANGE, [wake_up(str(number))])
        name, received_at = await asyncio.to_thread(ours.recv)
        assert name == str(number)
        seconds.append(received_at - sent_at)
    child.join()

    # Without the doorbell it would be the safety poll's 2 s; a loaded machine gets its leave.
    assert sorted(seconds)[10] < 0.1
    assert list((tmp_path / "run" / "doorbells" / "change").iterdir()) == []


async def test_an_idle_receiver_hardly_looks(
    queue: SqliteQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    look = queue._take

    async def counted(*args: object) -> list[Delivery]:
        looks.append(args)
        return await look(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(queue, "_take", counted)
    assert await queue.receive(CHANGE, limit=1, visibility_seconds=9, wait_seconds=1) == []

    assert len(looks) == 2  # at the start and at the end


async def test_a_sleeping_receiver_wakes_when_a_delay_ends(queue: SqliteQueue) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    await queue.send(CHANGE, [wake_up("a")], delay_seconds=0.3)

    (delivery,) = await queue.receive(CHANGE, limit=1, visibility_seconds=9, wait_seconds=20)

    assert delivery.wake_up == wake_up("a")
    assert 0.29 <= loop.time() - began < 1.0


async def test_a_sleeping_receiver_hears_of_a_delayed_send(queue: SqliteQueue) -> None:
    loop = asyncio.get_running_loop()
    waiting = asyncio.create_task(
        queue.receive(CHANGE, limit=1, visibility_seconds=9, wait_seconds=20)
    )
    await asyncio.sleep(0.05)
    began = loop.time()
    await queue.send(CHANGE, [wake_up("a")], delay_seconds=0.2)

    assert len(await waiting) == 1
    assert loop.time() - began < 1.0


async def test_a_lost_ring_costs_only_the_safety_poll(
    queue: SqliteQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_queue, "_SAFETY_POLL_SECONDS", 0.1)
    monkeypatch.setattr(queue._doorbells, "ring", lambda _: None)
    waiting = asyncio.create_task(
        queue.receive(CHANGE, limit=1, visibility_seconds=9, wait_seconds=20)
    )
    await asyncio.sleep(0.05)
    await queue.send(CHANGE, [wake_up("a")])

    assert len(await asyncio.wait_for(waiting, 5)) == 1


async def test_closing_ends_a_wait(tmp_path: Path) -> None:
    queue = SqliteQueue(DataFolder(tmp_path), receiver="test")
    waiting = asyncio.create_task(
        queue.receive(CHANGE, limit=1, visibility_seconds=9, wait_seconds=20)
    )
    await asyncio.sleep(0.05)
    await queue.close()

    with pytest.raises(TransientError, match="closed"):
        await asyncio.wait_for(waiting, 5)
    with pytest.raises(TransientError, match="closed"):
        await queue.receive(CHANGE, limit=1, visibility_seconds=9, wait_seconds=20)


async def test_an_unreadable_message_is_put_aside_and_its_neighbours_arrive(
    queue: SqliteQueue, tmp_path: Path
) -> None:
    await queue.send(CHANGE, [wake_up("a"), wake_up("b"), wake_up("c")])
    with sqlite3.connect(tmp_path / "queue.sqlite") as other:
        other.execute("UPDATE messages SET body = '{\"v\": 2}' WHERE body LIKE '%\"b\"%'")
    other.close()

    assert [d.wake_up.document_id for d in await take(queue)] == ["a", "c"]

    (letter,) = await queue.dead_letters(limit=10)
    assert letter.reason.startswith("unreadable: not a wake-up")
    assert letter.wake_up.document_id == '{"v": 2}'
    assert await queue.redrive([letter.message_id]) == 1
    assert await take(queue) == []
    assert await queue.dead_letter_count() == 1


async def test_ids_sort_by_age_even_when_the_clock_steps_back(tmp_path: Path) -> None:
    times = iter([50.0, 40.0, 60.0])
    queue = SqliteQueue(DataFolder(tmp_path), receiver="test", clock=lambda: next(times, 99.0))
    for name in ("a", "b", "c"):
        await queue.send(CHANGE, [wake_up(name), wake_up(name + "2")])

    by_id = sorted(await take(queue), key=lambda delivery: delivery.message_id)
    await queue.close()

    assert [d.wake_up.document_id for d in by_id] == ["a", "a2", "b", "b2", "c", "c2"]


async def test_what_is_asked_often_is_answered_from_the_index(
    queue: SqliteQueue, tmp_path: Path
) -> None:
    def plan(statement: str, values: object) -> str:
        rows = db.execute(f"EXPLAIN QUERY PLAN {statement}", values)  # type: ignore[arg-type]
        return "; ".join(str(row[3]) for row in rows)

    db = sqlite3.connect(tmp_path / "queue.sqlite")
    message = plan(sqlite_turns._NEXT, ("change", "docs", 1.0, 1))
    turn = plan(sqlite_turns._IN_TURN, ("change", 1))
    last_turn = plan(sqlite_turns._LAST_TURN, ("change",))
    due = plan(sqlite_turns._DUE, ("change", 1.0, 1))
    db.create_function("namespace_in", 1, str)
    nameless = plan(sqlite_queue._NAME, ())
    backlog = plan(sqlite_queue._BACKLOG_OF, ("docs", 9))
    depth = plan(sqlite_queue._DEPTH, {"now": 1.0, "queue": "change"})
    db.close()

    line = "queue=? AND namespace=?"
    assert message == f"SEARCH messages USING INDEX messages_in_line ({line} AND visible_at<?)"
    assert turn == "SEARCH lines USING COVERING INDEX lines_by_turn (queue=? AND turn>?)"
    assert last_turn == turn
    assert due == "SEARCH lines USING INDEX lines_by_time (queue=? AND next_at<?)"
    assert nameless == f"SEARCH messages USING COVERING INDEX messages_in_line ({line})"
    assert f"SEARCH messages USING COVERING INDEX messages_in_line ({line})" in backlog
    assert depth == "SEARCH messages USING COVERING INDEX messages_in_line (queue=?)"


async def test_a_receive_without_a_lease_takes_a_message_once(queue: SqliteQueue) -> None:
    await queue.send(CHANGE, [wake_up("a")])

    taken = await queue.receive(CHANGE, limit=5, visibility_seconds=0, wait_seconds=0)

    assert [d.wake_up.document_id for d in taken] == ["a"]


async def steps_of_a_receive(queue: SqliteQueue, limit: int) -> int:
    """Instructions of SQLite's machine, which a loaded computer does not change."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    connection = queue._database._writer
    connection.set_progress_handler(count, 1)
    taken = await take(queue, limit=limit)
    connection.set_progress_handler(None, 1)
    assert len(taken) == limit
    return steps


async def test_a_receive_does_as_little_in_long_lines_and_among_many_namespaces(
    queue: SqliteQueue,
) -> None:
    async def send(namespace: str, count: int, delay_seconds: float = 0.0) -> None:
        wake_ups = [
            WakeUp(namespace=namespace, document_id=str(n), version=1) for n in range(count)
        ]
        await queue.send(CHANGE, wake_ups, delay_seconds=delay_seconds)

    await asyncio.gather(*[send(namespace, 3) for namespace in "abcdefgh"])
    few = await steps_of_a_receive(queue, limit=4)

    await send("import", 20_000)
    await asyncio.gather(*[send(f"one-{n}", 1) for n in range(1000)])
    await asyncio.gather(*[send(f"later-{n}", 1, delay_seconds=600) for n in range(1000)])
    many = await steps_of_a_receive(queue, limit=4)

    assert many < 1.2 * few


async def test_receive_refuses_a_limit_of_none(queue: SqliteQueue) -> None:
    with pytest.raises(ValueError, match="limit"):
        await take(queue, limit=0)


async def test_a_dead_listeners_doorbell_is_removed(tmp_path: Path) -> None:
    doorbells = Doorbells(tmp_path)
    bell = doorbells.listen("q")
    dead = tmp_path / "q" / "999999-dead"
    os.mkfifo(dead)
    half_made = tmp_path / "q" / ".1-being-made"
    os.mkfifo(half_made)

    rings = bell.rings
    doorbells.ring("q")
    doorbells.ring("nobody ever listened")
    await bell.wait(rings=rings, timeout_seconds=20)

    assert bell.rings == rings + 1
    assert not dead.exists()
    assert half_made.exists()
    doorbells.close()


async def test_a_ring_before_the_wait_is_not_missed(tmp_path: Path) -> None:
    doorbells = Doorbells(tmp_path)
    bell = doorbells.listen("q")
    before = bell.rings
    doorbells.ring("q")
    await bell.wait(rings=before, timeout_seconds=20)
    assert bell.rings == before + 1  # it was heard, by this waiter

    began = asyncio.get_running_loop().time()
    await bell.wait(rings=before, timeout_seconds=20)  # another looked for work before the ring
    doorbells.close()

    assert asyncio.get_running_loop().time() - began < 10


async def test_ringing_never_blocks_though_nobody_hears(tmp_path: Path) -> None:
    doorbells = Doorbells(tmp_path)
    bell = doorbells.listen("q")
    for _ in range(70_000):  # more than the pipe holds
        doorbells.ring("q")

    await bell.wait(rings=0, timeout_seconds=20)
    doorbells.close()

    assert bell.rings > 0


async def test_a_file_system_without_fifos_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "mkfifo", refuse)

    with pytest.raises(PermanentError, match="local file system"):
        Doorbells(tmp_path).listen("q")


async def test_dead_letters_of_the_first_release_are_read_and_redriven(tmp_path: Path) -> None:
    """Its table had no sent_at."""
    folder = DataFolder(tmp_path)
    await SqliteQueue(folder, receiver="test").close()
    with contextlib.closing(sqlite3.connect(folder.queue_path, isolation_level=None)) as db:
        db.execute("DROP TABLE dead_letters")
        db.execute(
            """CREATE TABLE dead_letters (
                id TEXT PRIMARY KEY, queue TEXT NOT NULL, body TEXT NOT NULL, reason TEXT NOT NULL,
                receive_count INTEGER NOT NULL, died_at REAL NOT NULL) WITHOUT ROWID"""
        )
        body = wake_up_to_json(wake_up("old"))
        db.execute("INSERT INTO dead_letters VALUES ('m', 'change', ?, 'broken', 3, 7)", (body,))

    for _ in range(2):  # opened twice: the column is there the second time
        queue = SqliteQueue(folder, receiver="test")
        try:
            (letter,) = await queue.dead_letters(limit=10)
            assert (letter.wake_up, letter.sent_at, letter.died_at) == (wake_up("old"), 0.0, 7.0)
        finally:
            await queue.close()

    queue = SqliteQueue(folder, receiver="test")
    try:
        assert await queue.redrive(["m"]) == 1
        (delivery,) = await take(queue)
        await queue.dead_letter(delivery, "again")
        (letter,) = await queue.dead_letters(limit=10)
        assert (letter.sent_at, letter.reason) == (delivery.sent_at, "again")
    finally:
        await queue.close()


_OF_THE_SECOND_RELEASE = """
    CREATE TABLE messages (
        id TEXT PRIMARY KEY, queue TEXT NOT NULL, body TEXT NOT NULL, sent_at REAL NOT NULL,
        visible_at REAL NOT NULL, receive_count INTEGER NOT NULL, leased INTEGER NOT NULL,
        receipt TEXT, receiver TEXT, crashes INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
    CREATE INDEX messages_by_time ON messages (queue, visible_at, id, leased, sent_at);
"""
"""It knew no lines."""


def store_as_before(db: sqlite3.Connection, number: int, body: str, visible_at: float) -> None:
    values = (f"{number:04d}", body, float(number), visible_at)
    db.execute(
        """INSERT INTO messages (id, queue, body, sent_at, visible_at, receive_count, leased)
            VALUES (?, 'change', ?, ?, ?, 0, 0)""",
        values,
    )


async def test_messages_of_an_earlier_release_take_turns(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    folder.queue_path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(folder.queue_path, isolation_level=None)) as db:
        db.executescript(_OF_THE_SECOND_RELEASE)
        for number in range(20):
            store_as_before(db, number, wake_up_to_json(wake_up(f"import-{number}")), number)
        edit = WakeUp(namespace="small", document_id="edit", version=1)
        store_as_before(db, 20, wake_up_to_json(edit), 20.0)
        store_as_before(db, 21, wake_up_to_json(wake_up("later")), 5e9)
        store_as_before(db, 22, "of another program", 22.0)

    queue = SqliteQueue(folder, receiver="test")
    try:
        first = await take(queue, limit=3)
        assert [d.wake_up.document_id for d in first] == ["import-0", "edit"]
        (letter,) = await queue.dead_letters(limit=9)
        assert letter.wake_up.document_id == "of another program"
        assert len(await take(queue)) == 19
        assert (await queue.depth(CHANGE)).delayed == 1
    finally:
        await queue.close()


async def test_what_an_earlier_release_wrote_in_between_is_found(tmp_path: Path) -> None:
    """A data folder that went back to it for a while: it stores messages, takes others away, and
    makes leased ones deliverable, without knowing of lines."""
    folder, now = DataFolder(tmp_path), [1000.0]
    queue = SqliteQueue(folder, receiver="test", clock=lambda: now[0])
    for namespace in ("gone", "held"):
        await queue.send(CHANGE, [WakeUp(namespace=namespace, document_id="d", version=1)])
    await take(queue)
    await queue.close()
    with contextlib.closing(sqlite3.connect(folder.queue_path, isolation_level=None)) as db:
        db.execute("DELETE FROM messages WHERE namespace = 'gone'")
        db.execute("UPDATE messages SET leased = 0, visible_at = 1 WHERE namespace = 'held'")
        store_as_before(db, 1, wake_up_to_json(wake_up("new")), 1.0)

    queue = SqliteQueue(folder, receiver="test", clock=lambda: now[0])
    try:
        assert await queue.reclaim(refund=True) == 0
        assert {d.wake_up.namespace for d in await take(queue)} == {"docs", "held"}
        now[0] += 601.0
        assert len(await take(queue)) == 2
    finally:
        await queue.close()


class Story:
    """Whatever may happen to messages, by the numbers that Hypothesis draws."""

    NAMESPACES = ("a", "b", "c")

    def __init__(self, path: Path) -> None:
        self.now = 1000.0
        self.path = path
        self.queue = SqliteQueue(DataFolder(path), receiver="test", clock=lambda: self.now)
        self.held: list[Delivery] = []

    async def step(self, what: int, which: int) -> None:
        if what == 0:
            sent = WakeUp(namespace=self.NAMESPACES[which % 3], document_id="d", version=1)
            await self.queue.send(CHANGE, [sent] * (1 + which % 2), delay_seconds=which % 3)
        elif what == 1:
            self.now += which - 2  # the clock may be set back
        elif what == 2:
            self.held += await self.queue.receive(
                CHANGE, limit=1 + which, visibility_seconds=which, wait_seconds=0
            )
        elif what == 3:
            await self.queue.reclaim(refund=which % 2 == 0)
        elif what == 4:
            letters = await self.queue.dead_letters(limit=which)
            await self.queue.redrive([letter.message_id for letter in letters])
        elif self.held:
            await self._settle(what, self.held.pop(which % len(self.held)), which)

    async def _settle(self, what: int, delivery: Delivery, which: int) -> None:
        settle = {
            5: lambda: self.queue.ack(delivery),
            6: lambda: self.queue.retry_later(delivery, which % 4),
            7: lambda: self.queue.release(delivery, which % 4),
            8: lambda: self.queue.extend(delivery, which),
            9: lambda: self.queue.dead_letter(delivery, "why"),
        }
        with contextlib.suppress(LeaseLostError):
            await settle[what]()

    def differences(self) -> list[tuple[str, float]]:
        """Between the lines and the messages: a line for each namespace that has messages, of the
        time of its first one."""
        with contextlib.closing(sqlite3.connect(self.path / "queue.sqlite")) as db:
            lines = db.execute("SELECT namespace, next_at FROM lines").fetchall()
            firsts = db.execute(
                "SELECT namespace, min(visible_at) FROM messages GROUP BY namespace"
            ).fetchall()
        return sorted(set(lines) ^ set(firsts))


def settled(*how: int) -> list[tuple[int, int]]:
    """One message is sent, received for five seconds, and settled so."""
    return [(0, 0), (2, 5), *[(what, 4) for what in how]]


@settings(max_examples=60, deadline=None)
@example(settled(5))
@example(settled(6, 1, 2))
@example(settled(7, 1, 2))
@example(settled(8, 1, 2))
@example(settled(9, 4, 2))
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 6)), max_size=40))
def test_lines_say_what_messages_say(steps: list[tuple[int, int]]) -> None:
    async def tell() -> None:
        with tempfile.TemporaryDirectory() as path:
            story = Story(Path(path))
            try:
                for what, which in steps:
                    await story.step(what, which)
                    assert story.differences() == []
                story.now += 1e6
                left = await take(story.queue)
                depth = await story.queue.depth(CHANGE)
                assert (depth.waiting, depth.in_flight) == (0, len(left))
            finally:
                await story.queue.close()

    asyncio.run(tell())


async def test_what_is_handed_back_untried_is_next(queue: SqliteQueue) -> None:
    """Or who waits to be worked by itself would wait a whole round each time it meets others."""
    names = [WakeUp(namespace=n, document_id=d, version=1) for n in "abc" for d in "xy"]
    await queue.send(CHANGE, names)
    (first,) = await take(queue, limit=1)
    await queue.release(first)
    (again,) = await take(queue, limit=1)
    assert again.message_id == first.message_id
    (other,) = await take(queue, limit=1)
    assert other.wake_up.namespace != again.wake_up.namespace
