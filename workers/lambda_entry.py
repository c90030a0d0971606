"""The apply consumers, the sweeper and the scrub as AWS Lambda functions.

`create`, `update` and `delete` take the batches of SQS event source mappings, which have to have
ReportBatchItemFailures on; `sweep` and `scrub` take the events of EventBridge schedules, whose
constant input may say more: {"blobs": true}, {"namespace": "kb"}.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import structlog

from common.checks import require_usable
from common.composition import ConfigurationError, open_ports
from common.lambda_runtime import Context, Event, Sandbox, work_seconds
from common.lambda_sqs import records_of
from common.model import QueueName
from common.parts import Ports
from common.ports.errors import PortError
from common.ports.index import Index
from common.ports.queue import HandedQueue
from common.settings import Settings
from workers.consumers import consumer_of, handlers_of, sweeper_of
from workers.lambda_batch import MappedQueue, work_batch
from workers.loop import Consumer
from workers.sweep import ROWS_PER_PASS, Sweeper
from workers.unforeseen import tell

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Workshop:
    """What the functions work with. A consumer is kept: it remembers who is out of reach."""

    ports: Ports
    queue: HandedQueue
    index: Index
    _consumers: dict[QueueName, tuple[Consumer, MappedQueue]] = field(default_factory=dict)

    def consumer(self, name: QueueName) -> tuple[Consumer, MappedQueue]:
        if name not in self._consumers:
            queue = MappedQueue(self.queue)
            handler = handlers_of(self.ports, self.index)[name]
            concurrency = self.ports.settings.apply_concurrency
            consumer = consumer_of(self.ports, name, handler, concurrency, queue=queue)
            self._consumers[name] = consumer, queue
        return self._consumers[name]


@contextlib.asynccontextmanager
async def open_workshop(settings: Settings) -> AsyncIterator[Workshop]:
    receiver = f"function-{os.getpid()}"
    async with open_ports(settings, receiver=receiver, own_index=True) as ports:
        assert ports.index is not None  # noqa: S101 - own_index opens it
        if not isinstance(ports.queue, HandedQueue):
            raise ConfigurationError(
                f"BLOOMWEAVER_QUEUE_URL={settings.queue_url!r}: functions work queues that a "
                "mapping hands them messages of: set it to sqs:"
            )
        await require_usable(ports)
        yield Workshop(ports, ports.queue, ports.index)


SANDBOX: Sandbox[Workshop] = Sandbox(open_workshop)


def create(event: Event, context: Context) -> dict[str, Any]:
    """Names what failed. The whole batch comes back when it raises NotABatchError or
    CannotStartError."""
    return _consume(QueueName.CREATE, event, context)


def update(event: Event, context: Context) -> dict[str, Any]:
    return _consume(QueueName.UPDATE, event, context)


def delete(event: Event, context: Context) -> dict[str, Any]:
    return _consume(QueueName.DELETE, event, context)


def sweep(event: Event, context: Context) -> dict[str, Any]:
    """Looks at the rows that are due; with {"blobs": true} it removes unreferenced blobs instead.

    Rows every minute or two, blobs every hour or so: two schedules.
    """
    task = sweep_blobs if event.get("blobs") is True else sweep_rows
    return SANDBOX.run(lambda workshop: task(workshop, work_seconds(context)))


def scrub(event: Event, context: Context) -> dict[str, Any]:
    """Compares everything, or {"namespace": …}, and repairs nothing; the log has the findings."""
    namespace = event.get("namespace")
    return SANDBOX.run(lambda workshop: scrub_once(workshop, namespace, work_seconds(context)))


def _consume(name: QueueName, event: Event, context: Context) -> dict[str, Any]:
    records = records_of(event)

    async def work(workshop: Workshop) -> dict[str, Any]:
        consumer, queue = workshop.consumer(name)
        return await work_batch(consumer, queue, records, work_seconds(context))

    return SANDBOX.run(work)


async def sweep_rows(workshop: Workshop, seconds: float) -> dict[str, Any]:
    """Letters that the queue's service moved by itself are told of first: without that their rows
    would be woken again. Then passes until no more than one pass' rows are due, or no time is left.
    """
    sweeper = sweeper_of(workshop.ports)
    rows, passes, adopted = 0, 0, 0
    async with _until(seconds) as time:
        adopted = await _adopted(sweeper)
        swept = ROWS_PER_PASS
        while swept == ROWS_PER_PASS:
            swept = await sweeper.sweep_rows()
            rows, passes = rows + swept, passes + 1
    counts = {"rows": rows, "passes": passes, "adopted": adopted}
    return _summary("sweep.done", cut_short=time.over, **counts)


async def _adopted(sweeper: Sweeper) -> int:
    """Rows are swept even where letters cannot be looked at."""
    try:
        return await sweeper.adopt_letters()
    except PortError as error:
        log.warning("sweep.failed", error=str(error))
    except Exception as error:
        tell("sweeper", error)
    return 0


async def sweep_blobs(workshop: Workshop, seconds: float) -> dict[str, Any]:
    blobs = 0
    async with _until(seconds) as time:
        blobs = await sweeper_of(workshop.ports).sweep_blobs()
    return _summary("sweep.done", blobs=blobs, cut_short=time.over)


async def scrub_once(workshop: Workshop, namespace: str | None, seconds: float) -> dict[str, Any]:
    from workers.scrub_job import scrub_job_of

    job = scrub_job_of(workshop.ports, workshop.index)
    report = None
    async with _until(seconds) as time:
        report = await job(namespace=namespace, repair=False)
    if report is None:
        return _summary("scrub.cut_short", cut_short=time.over)
    return {
        "documents": report.documents_checked,
        "records": report.records_checked,
        "findings": report.findings_total,
        "by_kind": {kind.value: count for kind, count in report.counts.items()},
        "cut_short": False,
    }


@dataclass(slots=True)
class _Time:
    over: bool = False


@contextlib.asynccontextmanager
async def _until(seconds: float) -> AsyncIterator[_Time]:
    """Ends what is inside when the time is over, and says so instead of raising."""
    time = _Time()
    deadline = asyncio.timeout(seconds)
    try:
        async with deadline:
            yield time
    except TimeoutError:
        if not deadline.expired():
            raise
        time.over = True


def _summary(event: str, *, cut_short: bool, **counts: int) -> dict[str, Any]:
    tell = log.warning if cut_short else log.info
    tell(event, cut_short=cut_short, **counts)
    return {**counts, "cut_short": cut_short}
