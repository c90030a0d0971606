"""The queue on SQLite between processes: killed ones lose nothing, waiting ones are woken."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from common.adapters.queue import sqlite as sqlite_queue
from common.adapters.queue.sqlite import SqliteQueue
from common.model import QueueName, WakeUp
from common.ports.errors import PermanentError, TransientError
from common.ports.queue import Delivery
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
    receive = plan(sqlite_queue._NEXT, ("change", 1.0, 1))
    depth = plan(sqlite_queue._DEPTH, {"now": 1.0, "queue": "change"})
    db.close()

    assert receive == "SEARCH messages USING INDEX messages_by_time (queue=? AND visible_at<?)"
    assert depth == "SEARCH messages USING COVERING INDEX messages_by_time (queue=?)"


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
