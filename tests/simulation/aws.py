"""An installation on AWS: a queue as SQS, an index that is eventually consistent, functions that a
mapping calls, and sweeps and scrubs that begin by the clock, end by themselves and may overlap."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, cast

from common.model import DocumentKey, QueueName
from common.ports.errors import PortError
from common.ports.index import Index
from common.ports.queue import HandedQueue, LeaseLostError, Queue
from common.scrubbing import Finding, FindingKind
from tests.simulation.eventual import EventualIndex
from tests.simulation.installation import (
    APPLY_QUEUES,
    VISIBILITY_SECONDS,
    Installation,
    Member,
    Role,
)
from tests.simulation.ledger import Ledger, Violation
from tests.simulation.loop import Process, current_process
from tests.simulation.network import Network
from tests.simulation.plan import AwsPlan, Plan
from tests.simulation.ports import FaultyIndex
from tests.simulation.sqs import SqsService
from tests.simulation.sqs_api import SimulatedSqsApi, SimulatedSqsQueue
from tests.simulation.stores import Stores, Witness
from workers.lambda_batch import MappedQueue, work_batch
from workers.loop import Consumer
from workers.scrub import Scrubber
from workers.sweep import Sweeper

Pass = Callable[[Member], Coroutine[Any, Any, None]]

BATCH = 4
FUNCTION_SECONDS = 60.0
"""At most what SQS demands: no longer than a message is hidden."""
WORK_SECONDS = 54.0
COLD_STARTS = 0.2
COLDEST_START_SECONDS = 10.0
SWEEP_EVERY_SECONDS = 18.0
SCRUB_EVERY_SECONDS = 30.0
SCRUB_SECONDS = 300.0
SCRUBS_AT_MOST = 6
BLOBS_SWEPT = 0.3
"""The part of sweeps that look after blobs, too."""


class AwsStores(Stores):
    def __init__(
        self, drawn: random.Random, plan: Plan, network: Network, ledger: Ledger, witness: Witness
    ) -> None:
        super().__init__(drawn, plan, network, ledger, witness)
        assert plan.aws
        self.queue = self.service = SqsService(network, plan.aws.sqs, ledger.message_lost)
        self.index = self._records = EventualIndex(
            network,
            replica_lags=plan.aws.replica_lags,
            listing_lag_seconds=plan.aws.listing_lag_seconds,
            reposts=plan.aws.reposts,
            excused=self.excused,
        )

    def _queue_port(self) -> Queue:
        """The product's adapter, as a process of its own has it."""
        net, service, ledger = self._network, self.service, self._ledger
        skew_seconds = current_process().skew_seconds
        api = SimulatedSqsApi(net, service, self._plan.delivering, ledger, ledger.broke)
        clock = lambda: service.now + skew_seconds  # noqa: E731
        return SimulatedSqsQueue(api, self._random, clock, service.rates.max_receives)

    def _index_port(self) -> Index:
        net, partial, wrote = self._network, self._plan.partial, self._witness.records_written
        return cast("Index", FaultyIndex(net, self._records, partial, wrote, self.excused))

    @property
    def expired_letters(self) -> set[DocumentKey]:
        return self.service.expired_letters


class AwsInstallation(Installation):
    """Members that are functions or passes have a sandbox for a process: whoever calls them while
    it sleeps or is gone begins another one beside it."""

    def __init__(
        self,
        drawn: random.Random,
        plan: Plan,
        network: Network,
        stores: AwsStores,
        broke: Callable[[Violation], None],
    ) -> None:
        super().__init__(drawn, plan, network, stores)
        self._broke = broke
        assert plan.aws
        self._aws: AwsPlan = plan.aws
        self._service = stores.service
        self._clockwork = Process("aws")
        self._sandboxes: dict[Process, tuple[Consumer, MappedQueue]] = {}
        self._sweepers: dict[Process, Sweeper] = {}
        self._busy: dict[Process, bool] = {}
        self._scrubs_left = SCRUBS_AT_MOST

    def _roles(self) -> list[Role]:
        plan = self._plan
        return [
            ("webhook", self._start_webhook, plan.webhooks),
            ("embedder", self._start_embedder, plan.embedders),
            *[
                (f"applier-{name}", self._applier_of(name), count)
                for name, count in zip(APPLY_QUEUES, self._aws.appliers, strict=True)
            ],
            ("sweeper", self._start_idle, plan.sweepers),
            ("scrubber", self._start_idle, int(self._aws.scrubs)),
        ]

    def begin(self) -> None:
        super().begin()
        for member in self.members:
            role = member.name.rpartition("-")[0]
            if role == "sweeper":
                self._by_the_clock(member, self._sweep, SWEEP_EVERY_SECONDS, FUNCTION_SECONDS)
            elif role == "scrubber":
                self._by_the_clock(member, self._scrub, SCRUB_EVERY_SECONDS, SCRUB_SECONDS)
            elif role.startswith("applier") and self._aws.functions:
                name = QueueName(role.rpartition("-")[2])
                self._loop.spawn(self._clockwork, self._map(name, member))

    # --- members ------------------------------------------------------------------------------

    def _start_idle(self, member: Member) -> None:
        """A sandbox that waits to be called."""

    def _applier_of(self, name: QueueName) -> Callable[[Member], None]:
        def serve(member: Member) -> None:
            member.stop = asyncio.Event()
            ports = self._stores.ports()
            handler = self._apply_handler(name, ports, self._clock(member))
            self._consume(member, {name: handler}, ports)

        return self._start_idle if self._aws.functions else serve

    def _sandbox(self, member: Member) -> Process:
        """One that answers; what an earlier one still does goes on."""
        if not member.process.alive or member.process.paused:
            self.restart(member)
        return member.process

    # --- functions ----------------------------------------------------------------------------

    async def _map(self, name: QueueName, member: Member) -> None:
        """An event source mapping with one batch at a time: what it calls may die of it."""
        while not self._network.over:
            taken = self._service.take(name, BATCH, VISIBILITY_SECONDS)
            if not taken:
                await self._service.changed(name, VISIBILITY_SECONDS)
                continue
            if self._network.chance(COLD_STARTS):
                await asyncio.sleep(self._random.uniform(0.0, COLDEST_START_SECONDS))
            process = self._sandbox(member)
            answer: asyncio.Future[set[str]] = self._loop.create_future()
            self._loop.spawn(process, self._watched(self._invoke(name, member, taken, answer)))
            try:
                async with asyncio.timeout(FUNCTION_SECONDS):
                    failed = await answer
            except TimeoutError:
                self._end(member, process)
            else:
                self._delete(name, taken, failed)

    async def _invoke(
        self,
        name: QueueName,
        member: Member,
        taken: list[dict[str, Any]],
        answer: asyncio.Future[set[str]],
    ) -> None:
        consumer, queue = self._function(name, member)
        records = [_in_an_event(message) for message in taken]
        said = await work_batch(consumer, queue, records, WORK_SECONDS)
        if not answer.done():
            answer.set_result({item["itemIdentifier"] for item in said["batchItemFailures"]})

    def _function(self, name: QueueName, member: Member) -> tuple[Consumer, MappedQueue]:
        """Kept as long as its sandbox."""
        process = member.process
        if process not in self._sandboxes:
            ports = self._stores.ports()
            mapped = MappedQueue(cast("HandedQueue", ports[2]))
            handler = self._apply_handler(name, ports, self._clock(member))
            consumer = self._consumer(member, name, handler, ports, cast("Queue", mapped))
            self._sandboxes[process] = consumer, mapped
        return self._sandboxes[process]

    def _delete(self, name: QueueName, taken: list[dict[str, Any]], failed: set[str]) -> None:
        """What the answer does not name; some of it is not deleted for all that."""
        for message in taken:
            if message["MessageId"] in failed or self._network.chance(self._aws.sqs.partial):
                continue
            try:
                self._service.delete(name, message["ReceiptHandle"])
            except LeaseLostError:
                self._network.tell("mapping lost a lease")

    def _end(self, member: Member, process: Process) -> None:
        """Its time is over: what it was doing is cut off."""
        if process.alive and not self._network.over:
            self._network.tell("function timed out")
            self._loop.kill(process)
            if member.process is process:
                self.restart(member)

    # --- passes -------------------------------------------------------------------------------

    def _by_the_clock(self, member: Member, work: Pass, every: float, longest: float) -> None:
        self._loop.spawn(self._clockwork, self._schedule(member, work, every, longest))

    async def _schedule(self, member: Member, work: Pass, every: float, longest: float) -> None:
        """Each pass in a sandbox that is free: one that is late is overtaken by the next."""
        while not self._network.over:
            await asyncio.sleep(self._random.uniform(0.5, 1.5) * every)
            if self._busy.get(member.process):
                self.restart(member)
            process = self._sandbox(member)
            task = self._loop.spawn(process, self._watched(self._passing(process, work(member))))
            self._network.later(longest, self._cut_short, member, process, task)

    async def _passing(self, process: Process, work: Coroutine[Any, Any, None]) -> None:
        self._busy[process] = True
        await work
        self._busy[process] = False

    def _cut_short(self, member: Member, process: Process, task: asyncio.Task[None]) -> None:
        if not task.done():
            self._end(member, process)

    async def _sweep(self, member: Member) -> None:
        if member.process not in self._sweepers:
            self._sweepers[member.process] = self._sweeper(member)
        sweeper = self._sweepers[member.process]
        passes = [sweeper.sweep_rows, sweeper.adopt_letters]
        if self._random.random() < BLOBS_SWEPT:
            passes.append(sweeper.sweep_blobs)
        for sweep in passes:
            try:
                await sweep()
            except PortError:
                self._network.tell("sweep failed")

    async def _scrub(self, member: Member) -> None:
        if self._network.calm or not self._scrubs_left:
            return  # what is left over must not be mended before it is counted
        self._scrubs_left -= 1
        registry, blobs, queue, index = self._stores.ports()
        scrubber = Scrubber(
            registry=registry,
            blobs=blobs,
            queue=queue,
            index=index,
            timers=self._timers,
            clock=self._clock(member),
        )
        try:
            report = await scrubber.scrub(namespace=None, repair=self._aws.scrubs_repair)
        except PortError:
            self._network.tell("scrub failed")
        else:
            for finding in report.findings:
                self._network.tell(f"scrub in motion found {finding.kind}")
                self._check(finding)

    def _check(self, finding: Finding) -> None:
        """What is only on its way is no finding."""
        is_orphan = finding.kind is FindingKind.ORPHAN
        excused = finding.kind is FindingKind.UNCHECKED or (is_orphan and self._stores.excused)
        if not excused and not self._plan.damage:
            key = DocumentKey(finding.namespace, finding.document_id)
            self._broke(Violation("what is on its way is no finding", key, str(finding)))


def _in_an_event(message: dict[str, Any]) -> dict[str, Any]:
    """A record of the event, with the names that a mapping gives its parts."""
    attributes = {
        name: {"stringValue": value["StringValue"], "dataType": value["DataType"]}
        for name, value in message["MessageAttributes"].items()
    }
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message["Attributes"],
        "messageAttributes": attributes,
        "eventSource": "aws:sqs",
    }
