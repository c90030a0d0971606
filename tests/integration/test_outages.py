"""Hours of trouble in a moment: the production consumers, handlers and sweeper, on virtual time."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from structlog.testing import capture_logs

from common.adapters.vectors.none import NoVectorCache
from common.chunking.chunker import ChunkSizes
from common.model import DocumentKey, QueueName, Record, Status, Vector
from common.ports.embedder import Passage
from common.ports.errors import TransientError
from common.ports.index import FreshnessToken
from common.ports.queue import Delivery
from tests.builders import TIMERS
from tests.fakes.blobs import MemoryBlobStore
from tests.fakes.embedder import HashEmbedder
from tests.fakes.index import MemoryIndex
from tests.fakes.queue import MemoryQueue
from tests.fakes.registry import MemoryRegistry
from tests.simulation.loop import Process, SimulatedLoop
from webhook.accept import Acceptor, Change, ChangeType
from workers.apply import ApplyHandler
from workers.delete import DeleteHandler
from workers.embed import EmbedHandler
from workers.lease import Lease
from workers.loop import Consumer, Handler
from workers.notes import RegistryNote
from workers.outage import (
    LONGEST_HAND_BACK_SECONDS,
    LONGEST_PAUSE_SECONDS,
    LONGEST_REST_SECONDS,
)
from workers.outcome import HandlerOutcome
from workers.retry import LONGEST_DELAY_SECONDS, OUTAGE_PATIENCE_SECONDS
from workers.sweep import Sweeper

HOUR = 3600.0
STEPS = 5_000_000
DOCUMENTS = 24
CALL_SECONDS = 0.01
APPLY = (QueueName.CREATE, QueueName.UPDATE, QueueName.DELETE)


class Away(HashEmbedder):
    """Fails as `fault` says, by the first of the texts; None: works. Each call takes a moment."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: Callable[[str], Exception | None] = lambda text: None
        self.calls: list[float] = []

    async def embed_documents(self, passages: Sequence[Passage]) -> list[Vector[float]]:
        self.calls.append(asyncio.get_running_loop().time())
        await asyncio.sleep(CALL_SECONDS)
        if error := self.fault(passages[0].text):
            raise error
        return await super().embed_documents(passages)


class Shards(MemoryIndex):
    """One shard a namespace; those named in `away` are out of reach. Each write takes a moment."""

    def __init__(self) -> None:
        super().__init__()
        self.away: set[str] = set()

    async def upsert(self, namespace: str, records: Sequence[Record]) -> FreshnessToken:
        await asyncio.sleep(CALL_SECONDS)
        if namespace in self.away:
            raise TransientError("shard away")
        return await super().upsert(namespace, records)


def simulated_loop() -> SimulatedLoop:
    kind: Any = SimulatedLoop  # it has what asyncio's tasks need, not all that a loop may have
    loop: SimulatedLoop = kind(random.Random(7))
    return loop


@dataclass
class Service:
    """Everything that runs in one installation, at the settings' defaults."""

    loop: SimulatedLoop = field(default_factory=simulated_loop)
    process: Process = field(default_factory=lambda: Process("service"))
    embedder: Away = field(default_factory=Away)
    index: Shards = field(default_factory=Shards)
    receives: list[Delivery] = field(default_factory=list)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        clock = self.loop.time
        self.queue = MemoryQueue(clock=clock)
        self.registry = MemoryRegistry()
        self.vectors = NoVectorCache()
        self.blobs = MemoryBlobStore(clock=clock)
        self.acceptor = Acceptor(
            self.registry, self.blobs, self.queue, self.embedder.profile, TIMERS, clock
        )

    # --- the parts ---

    def start(self) -> None:
        note = RegistryNote(
            registry=self.registry, queue=self.queue, timers=TIMERS, clock=self.loop.time
        )
        for number, (name, handler) in enumerate(self._handlers().items()):
            consumer = Consumer(
                queue=self.queue,
                name=name,
                handle=partial(self._seen, handler),
                note=note,
                concurrency=4 if name is QueueName.CHANGE else 8,
                visibility_seconds=30,
                max_receives=3,
                drain_seconds=25,
                isolate_suspects=True,
                clock=self.loop.time,
                jitter=random.Random(number),
            )
            self.loop.spawn(self.process, consumer.run(self.stop))
        self.loop.spawn(self.process, self._sweeper().run(self.stop))

    async def _seen(self, handler: Handler, delivery: Delivery, lease: Lease) -> HandlerOutcome:
        self.receives.append(delivery)
        return await handler(delivery, lease)

    def _handlers(self) -> dict[QueueName, Handler]:
        clock = self.loop.time
        handlers: dict[QueueName, Handler] = {
            name: ApplyHandler(
                kind=name,
                registry=self.registry,
                blobs=self.blobs,
                queue=self.queue,
                index=self.index,
                timers=TIMERS,
                write_timeout_seconds=5,
                clock=clock,
            )
            for name in (QueueName.CREATE, QueueName.UPDATE)
        }
        handlers[QueueName.DELETE] = DeleteHandler(
            registry=self.registry, index=self.index, timers=TIMERS, clock=clock
        )
        handlers[QueueName.CHANGE] = EmbedHandler(
            registry=self.registry,
            blobs=self.blobs,
            queue=self.queue,
            embedder=self.embedder,
            vectors=self.vectors,
            sizes=ChunkSizes(target_tokens=40, max_tokens=128),
            timers=TIMERS,
            claim_seconds=30,
            clock=clock,
        )
        return handlers

    def _sweeper(self) -> Sweeper:
        return Sweeper(
            registry=self.registry,
            queue=self.queue,
            blobs=self.blobs,
            index=self.index,
            timers=TIMERS,
            interval_seconds=5,
            blob_interval_seconds=HOUR,
            blob_grace_seconds=HOUR,
            clock=self.loop.time,
        )

    # --- what a test does ---

    def accept(
        self,
        *names: str,
        namespace: str = "docs",
        content: bytes = b"words",
        content_type: str = "",
    ) -> None:
        async def accept_all() -> None:
            for name in names:
                change = Change(
                    key=DocumentKey(namespace, name),
                    change_type=ChangeType.INSERT,
                    content=content + b" " + name.encode(),
                    content_type=content_type or "text/plain",
                )
                await self.acceptor.accept(change)

        task = self.loop.spawn(self.process, accept_all())
        assert self.loop.run_until(task.done, until=self.loop.time(), steps=STEPS)
        task.result()

    def go_on(self, seconds: float) -> None:
        until = self.loop.time() + seconds
        self.loop.run_until(lambda: False, until=until, steps=STEPS)
        assert not self.loop.errors

    def seconds_until(self, done: Callable[[], bool], *, within: float = 10 * HOUR) -> float:
        began = self.loop.time()
        assert self.loop.run_until(done, until=began + within, steps=STEPS)
        return self.loop.time() - began

    def statuses(self) -> Counter[Status]:
        return Counter(row.status for row in self.registry.rows.values())

    def complete(self, count: int) -> bool:
        return self.statuses()[Status.COMPLETED] == count

    def status(self, name: str) -> Status:
        return self.registry.rows[DocumentKey("docs", name)].status

    def dead(self) -> dict[str, str]:
        """Why each was given up."""
        letters = self.queue._dead.values()
        return {letter.wake_up.document_id: letter.reason for letter in letters}

    def busiest(self, name: QueueName) -> int:
        return sum(delivery.queue is name for delivery in self.receives)


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    made.start()
    with capture_logs():  # thousands of tracebacks, rendered, would take minutes
        yield made
    made.loop.bury()


NAMES = [f"d{number}" for number in range(DOCUMENTS)]
NOTICED_SECONDS = LONGEST_PAUSE_SECONDS + LONGEST_HAND_BACK_SECONDS
"""Until a message comes back that may be tried, though few wait."""
RECOVERY_SECONDS = NOTICED_SECONDS + LONGEST_DELAY_SECONDS + 10.0
TRIES_AT_MOST = int(2 * HOUR / (LONGEST_PAUSE_SECONDS / 2))
"""Twice as many as the pauses between single tries would let through on average."""


def raises(error: Exception) -> Callable[[str], None]:
    def raise_it(_: str) -> None:
        raise error

    return raise_it


def test_an_hour_without_the_index_costs_nothing_but_the_hour(service: Service) -> None:
    service.index.before_write = raises(TransientError("index away"))
    service.accept(*NAMES)
    service.go_on(HOUR)
    assert service.statuses()[Status.COMPLETED] == 0
    assert service.queue.backlog == DOCUMENTS  # the sweeper did not lengthen it
    assert service.busiest(QueueName.CREATE) < TRIES_AT_MOST

    service.index.before_write = lambda what: None
    service.seconds_until(lambda: service.complete(DOCUMENTS), within=RECOVERY_SECONDS)
    assert service.dead() == {}
    assert {delivery.receive_count for delivery in service.receives} == {1}


def test_an_hour_without_the_embedder_costs_nothing_but_the_hour(service: Service) -> None:
    service.embedder.fault = lambda text: TransientError("model away")
    service.accept(*NAMES)
    service.go_on(HOUR)
    assert service.statuses()[Status.COMPLETED] == 0
    assert service.queue.backlog == DOCUMENTS
    assert len(service.embedder.calls) < TRIES_AT_MOST

    service.embedder.fault = lambda text: None
    service.seconds_until(lambda: service.complete(DOCUMENTS), within=RECOVERY_SECONDS)
    assert service.dead() == {}
    assert {delivery.receive_count for delivery in service.receives} == {1}


def test_an_outage_longer_than_any_patience_gives_nobody_up(service: Service) -> None:
    service.index.before_write = raises(TransientError("index away"))
    few = NAMES[:6]
    service.accept(*few)
    service.go_on(OUTAGE_PATIENCE_SECONDS + HOUR)
    service.index.before_write = lambda what: None
    service.seconds_until(lambda: service.complete(len(few)), within=RECOVERY_SECONDS)
    assert service.dead() == {}


def test_a_bad_document_fails_at_once_and_others_pass_while_the_provider_is_flaky(
    service: Service,
) -> None:
    drawn = random.Random(3)

    def flaky(text: str) -> Exception | None:
        return TransientError("try again") if drawn.random() < 0.5 else None

    service.embedder.fault = flaky
    service.accept("bad", content=b"no PDF at all", content_type="application/pdf")
    service.accept(*NAMES)
    service.seconds_until(lambda: service.status("bad") is Status.FAILED, within=1.0)
    service.seconds_until(lambda: service.complete(DOCUMENTS), within=5 * 60.0)
    assert list(service.dead()) == ["bad"]
    assert "PDF" in service.dead()["bad"]


def test_a_document_that_the_provider_never_takes_blocks_nobody(service: Service) -> None:
    service.embedder.fault = lambda text: TransientError("500") if "stuck" in text else None
    service.accept("stuck")
    service.go_on(HOUR)
    service.accept(*NAMES)
    service.seconds_until(lambda: service.complete(DOCUMENTS), within=10.0)
    assert service.dead() == {}

    service.seconds_until(lambda: bool(service.dead()), within=OUTAGE_PATIENCE_SECONDS)
    assert service.status("stuck") is Status.FAILED
    assert "hours" in service.dead()["stuck"]

    redriven = service.queue.redrive(list(service.queue._dead))
    service.loop.spawn(service.process, redriven)
    service.go_on(60.0)
    assert service.dead() == {}  # patience begins anew


def test_a_bad_minute_harms_nothing_that_has_waited_for_long(service: Service) -> None:
    """What counts is how long a message has failed, not how old it is."""
    service.embedder.fault = lambda text: TransientError("429")
    old = DocumentKey("docs", "old")

    async def sent_long_ago() -> None:
        change = Change(key=old, change_type=ChangeType.INSERT, content=b"x")
        await service.acceptor.accept(change)
        for message in service.queue._messages[QueueName.CHANGE].values():
            message.sent_at -= 2 * OUTAGE_PATIENCE_SECONDS

    service.loop.spawn(service.process, sent_long_ago())
    service.go_on(60.0)
    assert len(service.embedder.calls) > 1
    service.embedder.fault = lambda text: None
    service.seconds_until(lambda: service.complete(1), within=RECOVERY_SECONDS)
    assert service.dead() == {}


def test_what_the_provider_asks_for_is_honoured(service: Service) -> None:
    throttled = TransientError("slow down", retry_after_seconds=120)
    service.embedder.fault = lambda text: throttled
    service.accept("a")
    service.go_on(600.0)
    calls = service.embedder.calls
    gaps = [later - earlier for earlier, later in itertools.pairwise(calls)]
    assert 2 <= len(gaps) <= 5
    assert min(gaps) >= 120.0


def test_a_call_that_times_out_is_not_taken_for_the_documents_own_time_limit(
    service: Service,
) -> None:
    service.embedder.fault = lambda text: TimeoutError("read") if service.loop.time() < 60 else None
    service.accept("a")
    service.seconds_until(lambda: service.complete(1), within=3 * 60.0)
    assert service.dead() == {}


def test_the_end_of_an_outage_is_noticed_by_what_waits(service: Service) -> None:
    """Nothing needs a restart, a redrive or the sweeper: the next try opens the door again."""
    service.index.before_write = raises(TransientError("index away"))
    service.accept(*NAMES)
    service.go_on(HOUR)
    service.index.before_write = lambda what: None
    first = service.seconds_until(lambda: service.statuses()[Status.COMPLETED] > 0)
    assert first <= NOTICED_SECONDS


def test_a_namespace_that_is_away_holds_no_other_up(service: Service) -> None:
    service.index.away = {"broken"}
    broken = [f"b{number}" for number in range(200)]
    service.accept(*broken, namespace="broken")
    service.go_on(HOUR)
    for name in NAMES:
        service.accept(name)
        waits = partial(service.complete, NAMES.index(name) + 1)
        service.seconds_until(waits, within=LONGEST_REST_SECONDS + 1.0)
        service.go_on(60.0)
    assert service.queue.backlog == len(broken)  # nothing given up, and nothing sent twice
    assert service.busiest(QueueName.CREATE) < TRIES_AT_MOST
    told = {row.error for row in service.registry.rows.values() if row.key.namespace == "broken"}
    assert told <= {None, "TransientError: shard away"}

    service.index.away.clear()
    everything = len(broken) + DOCUMENTS
    service.seconds_until(lambda: service.complete(everything), within=RECOVERY_SECONDS)
    assert service.dead() == {}
    assert {delivery.receive_count for delivery in service.receives} == {1}


def test_a_namespace_may_be_away_longer_than_any_patience(service: Service) -> None:
    """Though another does well meanwhile, and though its documents are few."""
    service.index.away = {"broken"}
    few = NAMES[:4]
    service.accept(*few, namespace="broken")
    for hour in range(int(OUTAGE_PATIENCE_SECONDS / HOUR) + 1):
        service.accept(f"h{hour}")
        service.go_on(HOUR)
    assert service.complete(7)
    assert service.dead() == {}
    service.index.away.clear()
    service.seconds_until(lambda: service.complete(7 + len(few)), within=RECOVERY_SECONDS)
