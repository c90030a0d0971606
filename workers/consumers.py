"""The create, update and delete consumers and the sweeper, as one part of a process.

With the embedded index they live in the process that owns it.
"""

from __future__ import annotations

import asyncio

import structlog

from common.model import QueueName
from common.parts import Ports, timers_of
from common.ports.index import Index
from common.ports.queue import Queue
from workers.apply import ApplyHandler
from workers.delete import DeleteHandler
from workers.loop import Consumer, Handler
from workers.notes import RegistryNote
from workers.scrub_job import scrub_job_of
from workers.sweep import Sweeper

log = structlog.get_logger(__name__)


class ConsumersPart:
    """Starts one consumer per apply queue, a sweeper, and a scrub now and then."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        index = self._ports.index
        if index is None:
            raise RuntimeError("the apply consumers need the index; this process has none")
        for name, handler in handlers_of(self._ports, index).items():
            consumer = consumer_of(
                self._ports, name, handler, self._ports.settings.apply_concurrency
            )
            self._tasks.append(
                asyncio.create_task(consumer.run(self._stop), name=f"{name}-consumer")
            )
        sweeper = sweeper_of(self._ports)
        self._tasks.append(asyncio.create_task(sweeper.run(self._stop), name="sweeper"))
        self._start_scrubs(index)

    def _start_scrubs(self, index: Index) -> None:
        scrubs = scrub_job_of(self._ports, index)
        self._ports.scrub = scrubs
        interval = self._ports.settings.scrub_interval_seconds
        if interval:
            periodic = scrubs.run(self._stop, interval)
            self._tasks.append(asyncio.create_task(periodic, name="scrub"))

    def tasks(self) -> list[asyncio.Task[None]]:
        return list(self._tasks)

    async def stop(self) -> None:
        self._stop.set()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception):
                log.error("part.failed", part="consumers", exc_info=result)


def consumer_of(
    ports: Ports,
    name: QueueName,
    handler: Handler,
    concurrency: int,
    *,
    queue: Queue | None = None,
) -> Consumer:
    """`queue`: in place of the ports' own, for the messages in hand; notes wake that one."""
    settings = ports.settings
    return Consumer(
        queue=queue or ports.queue,
        name=name,
        handle=handler,
        note=RegistryNote(registry=ports.registry, queue=ports.queue, timers=timers_of(settings)),
        concurrency=concurrency,
        visibility_seconds=settings.visibility_timeout_seconds,
        max_receives=settings.max_receives,
        drain_seconds=settings.drain_timeout_seconds,
        isolate_suspects=True,
        guest_places=concurrency,
    )


def sweeper_of(ports: Ports) -> Sweeper:
    settings = ports.settings
    return Sweeper(
        registry=ports.registry,
        queue=ports.queue,
        blobs=ports.blobs,
        index=ports.index,
        timers=timers_of(settings),
        interval_seconds=settings.sweep_interval_seconds,
        blob_interval_seconds=settings.blob_sweep_interval_seconds,
        blob_grace_seconds=settings.blob_grace_seconds,
    )


def handlers_of(ports: Ports, index: Index) -> dict[QueueName, Handler]:
    timers = timers_of(ports.settings)

    def apply(kind: QueueName) -> ApplyHandler:
        return ApplyHandler(
            kind=kind,
            registry=ports.registry,
            blobs=ports.blobs,
            queue=ports.queue,
            index=index,
            timers=timers,
            write_timeout_seconds=ports.settings.request_timeout_seconds,
        )

    delete = DeleteHandler(registry=ports.registry, index=index, timers=timers)
    return {
        QueueName.CREATE: apply(QueueName.CREATE),
        QueueName.UPDATE: apply(QueueName.UPDATE),
        QueueName.DELETE: delete,
    }
