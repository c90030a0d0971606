"""An error that no port promises ends nothing: the consumers, the sweeper and the fleet go on."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from common import telemetry
from common.adapters.queue.sqlite import SqliteQueue
from common.model import QueueName, WakeUp
from common.parts import Ports
from common.ports.errors import TransientError
from common.ports.queue import Delivery
from common.settings import Settings
from common.storage.data_folder import DataFolder
from tests.pipeline import pipeline
from workers import fleet as fleet_module
from workers.fleet import FleetPart
from workers.lease import Lease
from workers.loop import Consumer
from workers.outcome import Done, HandlerOutcome, NotBuried

CHANGE = QueueName.CHANGE
ODD = [sqlite3.OperationalError("odd"), OSError("odd"), ZeroDivisionError("odd")]


class Fragile:
    """A queue whose named call raises the errors first, one each time."""

    def __init__(self, queue: SqliteQueue, call: str, errors: list[Exception]) -> None:
        self._queue, self._call, self._errors = queue, call, errors
        self.spent = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._queue, name)
        if name != self._call or not self._errors:
            return found

        async def fail(*args: object, **options: object) -> object:
            if self._errors:
                error = self._errors.pop(0)
                if not self._errors:
                    self.spent.set()
                raise error
            return await found(*args, **options)

        return fail


@pytest.fixture
async def queue(tmp_path: Path) -> AsyncIterator[SqliteQueue]:
    made = SqliteQueue(DataFolder(tmp_path / "data"), receiver="test")
    yield made
    await made.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses after an error are as short as they can be drawn."""
    real = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda seconds: real(min(seconds, 0.01)))


async def first_of(event: asyncio.Event, task: asyncio.Task[None]) -> None:
    """A task that ends by itself has failed: its error is the test's."""
    told = asyncio.create_task(event.wait())
    await asyncio.wait([told, task], return_when=asyncio.FIRST_COMPLETED)
    told.cancel()


def counted(where: str) -> float:
    return float(telemetry.UNFORESEEN.labels(where)._value.get())


@pytest.mark.parametrize("call", ["receive", "ack", "extend"])
async def test_a_consumer_survives_errors_of_its_queue(queue: SqliteQueue, call: str) -> None:
    errors: list[Exception] = [*ODD]
    handled: list[int] = []
    enough = asyncio.Event()

    async def handler(delivery: Delivery, lease: Lease) -> HandlerOutcome:
        if call == "extend":
            await fragile.spent.wait()
        handled.append(delivery.wake_up.version)
        if not errors or len(handled) == len(ODD) + 1:
            enough.set()
        return Done("ok")

    async def note(delivery: Delivery, outcome: HandlerOutcome | NotBuried) -> None:
        raise AssertionError("nothing failed")

    fragile: Any = Fragile(queue, call, errors)
    consumer = Consumer(
        queue=fragile, name=CHANGE, handle=handler, note=note, concurrency=1,
        visibility_seconds=30, max_receives=3, drain_seconds=5,
    )  # fmt: skip
    for version in range(1, len(ODD) + 2):
        await queue.send(CHANGE, [WakeUp(namespace="n", document_id="d", version=version)])
    before = counted("change-consumer")
    stop = asyncio.Event()
    with capture_logs() as logs:
        task = asyncio.create_task(consumer.run(stop))
        await first_of(enough, task)
        stop.set()
        await task
    assert handled
    told = [entry for entry in logs if entry["log_level"] == "error" and entry["exc_info"]]
    assert len(told) == len(ODD)
    if call != "extend":  # heartbeats have their own place for it
        assert counted("change-consumer") - before == len(ODD)


async def test_the_sweeper_survives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with pipeline(tmp_path) as flow:
        sweeper = flow.sweeper
        sweeper.interval_seconds = 0.001
        errors: list[Exception] = [*ODD, TransientError("away")]
        real, again = flow.registry.due, asyncio.Event()

        async def due(**options: Any) -> Any:
            if errors:
                raise errors.pop(0)
            again.set()
            return await real(**options)

        monkeypatch.setattr(flow.registry, "due", due)
        stop = asyncio.Event()
        before = counted("sweeper")
        with capture_logs():
            task = asyncio.create_task(sweeper.run(stop))
            await first_of(again, task)
            stop.set()
            await task
        assert counted("sweeper") - before == len(ODD)


@pytest.mark.parametrize("call", ["depth", "wait_for_message"])
async def test_the_fleet_survives(
    queue: SqliteQueue, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_module, "WATCH_SECONDS", 0.001)
    errors: list[Exception] = [*ODD, TransientError("locked")]
    fragile: Any = Fragile(queue, call, errors)
    nothing: Any = None
    ports = Ports(
        settings=Settings(_env_file=None, data_dir=tmp_path / "data"), queue=fragile,
        registry=nothing, blobs=nothing, vectors=nothing, embedder=nothing, index=None,
    )  # fmt: skip
    part = FleetPart(ports)
    with capture_logs():
        await part.start()
        (task,) = part.tasks()
        await first_of(fragile.spent, task)
        assert not task.done()
        await part.stop()
    assert not errors
