"""The processes of an installation: webhooks, embedders, appliers and sweepers, each with its own
clock, running the production handlers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from common.clock import Clock
from common.model import QueueName
from common.ports.queue import Queue
from tests.simulation.changes import SIZES
from tests.simulation.loop import Process
from tests.simulation.network import Network
from tests.simulation.plan import Plan
from tests.simulation.ports import PROFILE
from tests.simulation.stores import Ports, Stores
from webhook.accept import Acceptor
from webhook.search import Searcher
from workers.apply import ApplyHandler
from workers.burst import BurstWait, Patience, places_of
from workers.delete import DeleteHandler
from workers.embed import EmbedHandler
from workers.loop import Consumer, Handler
from workers.notes import RegistryNote
from workers.sweep import Sweeper

WRITE_TIMEOUT_SECONDS = 12.0
VISIBILITY_SECONDS = 75.0
CONCURRENCY = 2
APPLY_QUEUES = (QueueName.CREATE, QueueName.UPDATE, QueueName.DELETE)
PATIENCE = Patience(quiet_seconds=6.0, wait_seconds=40.0)
"""So long that accepts, deletes, renewals, drains and kills come during a burst's wait."""
SKEW_SECONDS = 1.5
"""Clocks are at most so far off, each way: under the search's tolerance."""
RECENT_SECONDS = 300.0
"""More than any pause, slow write and skew together."""


@dataclass(slots=True)
class Member:
    """A process of the installation and how it is started again."""

    name: str
    start: Callable[[Member], None]
    process: Process
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    acceptor: Acceptor | None = None
    searcher: Searcher | None = None


Role = tuple[str, Callable[[Member], None], int]
"""Its name, what starts one, and how many there are."""


class Installation:
    def __init__(self, drawn: random.Random, plan: Plan, network: Network, stores: Stores) -> None:
        self._random, self._plan, self._network = drawn, plan, network
        self._stores = stores
        self._loop = network.loop
        self._timers = plan.timers
        self.members: list[Member] = []

    def _roles(self) -> list[Role]:
        plan = self._plan
        return [
            ("webhook", self._start_webhook, plan.webhooks),
            ("embedder", self._start_embedder, plan.embedders),
            ("applier", self._start_applier, plan.appliers),
            ("sweeper", self._start_sweeper, plan.sweepers),
        ]

    def begin(self) -> None:
        for role, start, count in self._roles():
            for number in range(count):
                name = f"{role}-{number + 1}"
                member = Member(name, start, Process(name, self._skew()))
                self.members.append(member)
                member.process.context.run(start, member)

    def restart(self, member: Member) -> None:
        """A new process in the place of the one that is gone."""
        if self._network.over:
            return
        member.process = Process(member.name, self._skew())
        member.process.context.run(member.start, member)

    def webhook(self) -> Member | None:
        """One that lives, though it may sleep; None if there is none."""
        alive = [m for m in self.members if m.acceptor and m.process.alive]
        return self._random.choice(alive) if alive else None

    @property
    def awake(self) -> list[Member]:
        return [m for m in self.members if m.process.alive and not m.process.paused]

    def member_of(self, process: Process) -> Member | None:
        return next((m for m in self.members if m.process is process), None)

    def _skew(self) -> float:
        return self._random.uniform(-SKEW_SECONDS, SKEW_SECONDS)

    def _clock(self, member: Member) -> Clock:
        process, time = member.process, self._loop.time
        return lambda: time() + process.skew_seconds

    def _start_webhook(self, member: Member) -> None:
        registry, blobs, queue, index = self._stores.ports()
        clock = self._clock(member)
        embedder = self._stores.embedder()
        member.acceptor = Acceptor(registry, blobs, queue, PROFILE, self._timers, clock)
        member.searcher = Searcher(index, registry, embedder, clock, RECENT_SECONDS)

    def _start_embedder(self, member: Member) -> None:
        member.stop = asyncio.Event()
        ports = registry, blobs, queue, _ = self._stores.ports()
        handler = EmbedHandler(
            registry=registry,
            blobs=blobs,
            queue=queue,
            embedder=self._stores.embedder(),
            vectors=self._stores.vectors(),
            sizes=SIZES,
            timers=self._timers,
            claim_seconds=VISIBILITY_SECONDS,
            document_timeout_seconds=300,
            bursts=BurstWait(PATIENCE, places=places_of(CONCURRENCY), stop=member.stop),
            clock=self._clock(member),
        )
        self._consume(member, {QueueName.CHANGE: handler}, ports)

    def _start_applier(self, member: Member) -> None:
        member.stop = asyncio.Event()
        ports, clock = self._stores.ports(), self._clock(member)
        handlers = {name: self._apply_handler(name, ports, clock) for name in APPLY_QUEUES}
        self._consume(member, handlers, ports)

    def _apply_handler(self, name: QueueName, ports: Ports, clock: Clock) -> Handler:
        registry, blobs, queue, index = ports
        if name is QueueName.DELETE:
            return DeleteHandler(registry=registry, index=index, timers=self._timers, clock=clock)
        return ApplyHandler(
            kind=name,
            registry=registry,
            blobs=blobs,
            queue=queue,
            index=index,
            timers=self._timers,
            write_timeout_seconds=WRITE_TIMEOUT_SECONDS,
            clock=clock,
        )

    def _consume(self, member: Member, handlers: Mapping[QueueName, Handler], ports: Ports) -> None:
        for name, handler in handlers.items():
            consumer = self._consumer(member, name, handler, ports)
            self._loop.spawn(member.process, self._watched(consumer.run(member.stop)))

    def _consumer(
        self,
        member: Member,
        name: QueueName,
        handler: Handler,
        ports: Ports,
        in_hand: Queue | None = None,
    ) -> Consumer:
        """`in_hand`: the queue for the messages in hand, where it is not that of the ports."""
        clock = self._clock(member)
        registry, _, queue, _ = ports
        return Consumer(
            queue=in_hand or queue,
            name=name,
            handle=handler,
            note=RegistryNote(registry=registry, queue=queue, timers=self._timers, clock=clock),
            concurrency=CONCURRENCY,
            visibility_seconds=VISIBILITY_SECONDS,
            max_receives=3,
            drain_seconds=5,
            isolate_suspects=name is QueueName.CHANGE,
            clock=clock,
            jitter=self._random,
        )

    def _start_sweeper(self, member: Member) -> None:
        member.stop = asyncio.Event()
        sweeper = self._sweeper(member)
        self._loop.spawn(member.process, self._watched(sweeper.run(member.stop)))

    def _sweeper(self, member: Member) -> Sweeper:
        registry, blobs, queue, index = self._stores.ports()
        return Sweeper(
            registry=registry,
            queue=queue,
            blobs=blobs,
            index=index,
            timers=self._timers,
            interval_seconds=18,
            blob_interval_seconds=60,
            blob_grace_seconds=600,
            clock=self._clock(member),
        )

    async def _watched(self, run: Coroutine[Any, Any, None]) -> None:
        """A part that ends by itself ends the process, as in `up`: nothing may make it end."""
        try:
            await run
        except Exception as error:
            if not self._network.over:
                self._loop.errors.append(error)
