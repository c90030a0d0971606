"""A whole installation in one thread: webhooks, workers, consumers and sweepers run the production
handlers on in-memory stores, while clients write and search and chaos does its worst.

Everything is drawn from the seed: the workload, which faults this run knows and how often, who
goes next. `run(seed)` returns what was found, None if every invariant holds.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, cast
from unittest import mock

import workers.apply
import workers.collect
import workers.embed
import workers.loop
import workers.packs
from common import identity
from common.chunking.chunk import Chunk
from common.chunking.chunker import ChunkSizes
from common.model import Desired, DocumentKey, MetadataValue, QueueName, Record, Row, Status, expand
from common.pack import Pack, decode
from common.ports.blobs import BlobStore
from common.ports.errors import TransientError
from common.ports.index import Index
from common.ports.queue import Queue
from common.ports.registry import Registry
from common.scrubbing import Finding
from common.transitions import Timers
from tests.fakes.blobs import MemoryBlobStore
from tests.fakes.embedder import WordCounter
from tests.fakes.queue import MemoryQueue
from tests.fakes.registry import MemoryRegistry
from tests.simulation.index import LaggingIndex
from tests.simulation.ledger import Ledger, Violation, check_end
from tests.simulation.loop import Process, SimulatedLoop, current_process
from tests.simulation.network import Network, Rates, turn
from tests.simulation.ports import (
    POISON,
    PROFILE,
    Delivering,
    FaultyBlobs,
    FaultyEmbedder,
    FaultyIndex,
    FaultyQueue,
    FaultyRegistry,
    vector_of,
)
from webhook.accept import Accepted, Acceptor, Change, ChangeType, NothingToUpdateError
from webhook.search import Searcher
from workers.apply import ApplyHandler
from workers.delete import DeleteHandler
from workers.embed import EmbedHandler, make_chunks
from workers.loop import Consumer, Handler
from workers.notes import RegistryNote
from workers.scrub import Scrubber
from workers.sweep import Sweeper

NAMESPACE = "sim"
SIZES = ChunkSizes(target_tokens=3, max_tokens=64)
WRITE_TIMEOUT_SECONDS = 12.0
VISIBILITY_SECONDS = 75.0
SKEW_SECONDS = 1.5
"""Clocks are at most so far off, each way: under the search's tolerance."""
SHORT_PAUSE_SECONDS = 10.0
"""With the slowest call this stays within half a lease and the grace: see docs/consistency.md."""
LONG_PAUSE_SECONDS = 240.0
RECENT_SECONDS = 300.0
"""More than any pause, slow write and skew together."""
BUSY_CALLS = 40
ATTEMPTS_STRUCK = 5.0
"""How much likelier a process is struck between writing its records and committing them."""
DEEDS_AT_MOST = 8
PATIENCE_SECONDS = 8_000.0
STEPS_AT_MOST = 100_000

PARAGRAPHS = ("tulips bloom early", "roses need sun", "ferns like shade", "moss grows slow")


@dataclass(frozen=True, slots=True)
class Found:
    """What a run found, and how to see it again."""

    seed: int
    violation: Violation | AssertionError
    mutant: str | None = None

    def __str__(self) -> str:
        again = f"python -m tests.simulation --seed {self.seed}"
        return f"{self.violation}\n  again: {again}" + (
            f" --mutant {self.mutant}" if self.mutant else ""
        )


@dataclass(slots=True, kw_only=True)
class Plan:
    """What kind of run this is: swarm testing, every run knows other faults."""

    documents: int
    writers: int
    changes: int
    readers: int
    embedders: int
    appliers: int
    sweepers: int
    webhooks: int
    rates: Rates
    delivering: Delivering
    races_lost: float
    partial: float
    unforeseen: float
    lag_seconds: float
    kills: float
    pauses: float
    long_pauses: bool
    drains: float
    damage: float
    lost_content: bool
    poison: float
    naps: bool
    lease_seconds: float
    busy: bool
    """Everything comes at once, so that most handlers meet others on the same document."""
    strikes: float

    @property
    def timers(self) -> Timers:
        return Timers(
            stale_after_seconds=40,
            attempt_lease_seconds=self.lease_seconds,
            collect_grace_seconds=45,
            tombstone_retention_seconds=1500,
        )


def draw_plan(drawn: random.Random) -> Plan:
    def maybe(probability: float, most: float) -> float:
        return drawn.random() * most if drawn.random() < probability else 0.0

    size = drawn.choices(("small", "medium", "large"), (75, 20, 5))[0]
    busy = drawn.random() < 0.6
    large, small = size == "large", size == "small"
    return Plan(
        documents=drawn.choice((1, 1, 2)) if not large else drawn.choice((1, 2, 3)),
        writers=1 if small else drawn.choice((1, 2, 3)),
        changes=drawn.randint(2, 4) + (2 if busy and not small else 0) + (3 if large else 0),
        readers=1 if not large else 2,
        embedders=drawn.choice((1, 1, 2)),
        appliers=drawn.choice((1, 1, 2)),
        sweepers=drawn.choice((1, 1, 2)),
        webhooks=1 if small else drawn.choice((1, 2)),
        rates=Rates(
            refused=maybe(0.4, 0.08),
            unanswered=maybe(0.5, 0.10),
            slow=maybe(0.5, 0.12),
            abandoned=maybe(0.4, 0.08),
        ),
        delivering=Delivering(
            lost=maybe(0.3, 0.3), repeated=maybe(0.4, 0.4), delayed=maybe(0.4, 0.4)
        ),
        races_lost=maybe(0.3, 0.4),
        partial=maybe(0.3, 0.3),
        unforeseen=maybe(0.2, 0.4),
        lag_seconds=drawn.choice((0.0, 0.0, 1.0, 8.0)),
        kills=maybe(0.4, 1.0),
        pauses=maybe(0.4, 1.0),
        long_pauses=drawn.random() < 0.3,
        drains=maybe(0.3, 1.0),
        damage=maybe(0.25, 1.0),
        lost_content=drawn.random() < 0.15,
        poison=0.15 if drawn.random() < 0.15 else 0.0,
        naps=drawn.random() < 0.02,
        lease_seconds=drawn.choice((10.0, 30.0)),
        busy=busy,
        strikes=maybe(0.5, 0.08),
    )


@dataclass(slots=True)
class Member:
    """A process of the installation and how it is started again."""

    name: str
    start: Callable[[Member], None]
    process: Process
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    acceptor: Acceptor | None = None
    searcher: Searcher | None = None


class World:
    def __init__(self, seed: int, *, trace: Callable[[str], None] | None = None) -> None:
        self.random = random.Random(seed)
        self.plan = plan = draw_plan(self.random)
        self.timers = plan.timers
        self.loop = SimulatedLoop(self.random)  # type: ignore[abstract]  # the rest is not needed
        self.network = Network(self.loop, self.random, plan.rates)
        self.trace = trace
        self.queue = MemoryQueue(clock=self.loop.time, pick=self._pick)
        self.registry = MemoryRegistry(checked=False)
        self.blobs = MemoryBlobStore(clock=self.loop.time)
        self.index = LaggingIndex(self._lag, self.network.later)
        self.contents: dict[str, bytes] = {}
        self.ledger = Ledger(lambda: self.loop.steps, self._chunks_of)
        self.members: list[Member] = []
        self.director = Process("director")
        self.finished = False
        self.writers_left = plan.writers
        self.written = asyncio.Event()
        self.found: Violation | AssertionError | None = None
        self.damaged = False
        self.excused: set[str] = set()
        """Ids written by a process that slept in the very call: only a scrub finds them."""
        self.searches = 0
        self._stirred: list[asyncio.Future[None]] = []
        self.counters: Counter[str] = self.network.faults
        self.deeds_left = DEEDS_AT_MOST
        self.network.strikes = plan.strikes
        self.network.struck = self._strike
        if trace:
            self.network.trace = self.note

    # --- running ------------------------------------------------------------------------------

    def run(self) -> None:
        """Raises Violation."""
        try:
            self.director.context.run(self._begin)
            quiet = self.loop.run_until_stopped(until=PATIENCE_SECONDS, steps=STEPS_AT_MOST)
            if self.found:
                raise self.found
            if self.loop.errors:
                raise AssertionError(f"a process ended: {self.loop.errors[0]!r}")
            if not quiet:
                raise Violation("convergence", self._restless(), "it never becomes quiet")
            self._check_end()
        finally:
            self.network.over = True
            self.queue.closed = True
            self.loop.bury()

    def _broke(self, violation: Violation | AssertionError) -> None:
        self.found = self.found or violation
        self.loop.stop()

    def _begin(self) -> None:
        plan = self.plan
        starts: list[tuple[str, Callable[[Member], None], int]] = [
            ("webhook", self._start_webhook, plan.webhooks),
            ("embedder", self._start_embedder, plan.embedders),
            ("applier", self._start_applier, plan.appliers),
            ("sweeper", self._start_sweeper, plan.sweepers),
        ]
        for role, start, count in starts:
            for number in range(count):
                name = f"{role}-{number + 1}"
                member = Member(name, start, Process(name, self._skew()))
                self.members.append(member)
                member.process.context.run(start, member)
        for number in range(plan.writers):
            self._direct(self._write(number))
        for number in range(plan.readers):
            self._direct(self._read(number))
        self._direct(self._wreak())
        self._direct(self._watch())

    def _direct(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.loop.spawn(self.director, self._guarded(coroutine))

    async def _guarded(self, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            await coroutine
        except (Violation, AssertionError) as violation:
            self._broke(violation)

    def _skew(self) -> float:
        return self.random.uniform(-SKEW_SECONDS, SKEW_SECONDS)

    def _lag(self) -> float:
        most = self.plan.lag_seconds
        return self.random.uniform(0.0, most) if most and not self.network.calm else 0.0

    def _pick(self, ids: Any) -> str:
        chosen: str = self.random.choice(ids)
        return chosen

    # --- the members --------------------------------------------------------------------------

    def _spawn(self, member: Member, coroutine: Coroutine[Any, Any, None]) -> None:
        self.loop.spawn(member.process, coroutine)

    def _clock(self, member: Member) -> Callable[[], float]:
        process, loop = member.process, self.loop
        return lambda: loop._now + process.skew_seconds

    def _ports(self) -> tuple[Registry, BlobStore, Queue, Index]:
        """As a process sees them. What the wrappers do not name goes through to the stores."""
        net, plan, ledger = self.network, self.plan, self.ledger
        registry = FaultyRegistry(net, self.registry, plan.races_lost, self._row_written)
        queue = FaultyQueue(net, self.queue, plan.delivering, ledger.message_sent)
        index = FaultyIndex(net, self.index, plan.partial, self._records_written, self.excused)
        return (
            cast("Registry", registry),
            cast("BlobStore", FaultyBlobs(net, self.blobs)),
            cast("Queue", queue),
            cast("Index", index),
        )

    def _embedder(self) -> FaultyEmbedder:
        return FaultyEmbedder(self.network, self.plan.unforeseen, 20.0)

    def _start_webhook(self, member: Member) -> None:
        registry, blobs, queue, index = self._ports()
        clock = self._clock(member)
        member.acceptor = Acceptor(registry, blobs, queue, PROFILE, self.timers, clock)
        member.searcher = Searcher(index, registry, self._embedder(), clock, RECENT_SECONDS)

    def _start_embedder(self, member: Member) -> None:
        registry, blobs, queue, _ = self._ports()
        handler = EmbedHandler(
            registry=registry,
            blobs=blobs,
            queue=queue,
            embedder=self._embedder(),
            sizes=SIZES,
            timers=self.timers,
            claim_seconds=VISIBILITY_SECONDS,
            document_timeout_seconds=300,
            clock=self._clock(member),
        )
        self._consume(member, {QueueName.CHANGE: handler}, registry, queue)

    def _start_applier(self, member: Member) -> None:
        registry, blobs, queue, index = self._ports()
        clock = self._clock(member)

        def apply(kind: QueueName) -> ApplyHandler:
            return ApplyHandler(
                kind=kind,
                registry=registry,
                blobs=blobs,
                queue=queue,
                index=index,
                timers=self.timers,
                write_timeout_seconds=WRITE_TIMEOUT_SECONDS,
                clock=clock,
            )

        delete = DeleteHandler(registry=registry, index=index, timers=self.timers, clock=clock)
        handlers: dict[QueueName, Handler] = {
            QueueName.CREATE: apply(QueueName.CREATE),
            QueueName.UPDATE: apply(QueueName.UPDATE),
            QueueName.DELETE: delete,
        }
        self._consume(member, handlers, registry, queue)

    def _consume(
        self,
        member: Member,
        handlers: dict[QueueName, Handler],
        registry: Registry,
        queue: Queue,
    ) -> None:
        member.stop = asyncio.Event()
        clock = self._clock(member)
        consumers = [
            Consumer(
                queue=queue,
                name=name,
                handle=handler,
                note=RegistryNote(registry=registry, timers=self.timers, clock=clock),
                concurrency=2,
                visibility_seconds=VISIBILITY_SECONDS,
                max_receives=3,
                drain_seconds=5,
                isolate_suspects=name is QueueName.CHANGE,
                clock=clock,
                jitter=self.random,
            )
            for name, handler in handlers.items()
        ]
        for consumer in consumers:
            self._spawn(member, self._watched(member, consumer.run(member.stop)))

    async def _watched(self, member: Member, run: Coroutine[Any, Any, None]) -> None:
        """A part that ends by itself ends the process, as in `up`: nothing may make it end."""
        try:
            await run
        except Exception as error:
            if not self.network.over:
                self.loop.errors.append(error)

    def _start_sweeper(self, member: Member) -> None:
        registry, blobs, queue, index = self._ports()
        member.stop = asyncio.Event()
        sweeper = Sweeper(
            registry=registry,
            queue=queue,
            blobs=blobs,
            index=index,
            timers=self.timers,
            interval_seconds=18,
            blob_interval_seconds=60,
            blob_grace_seconds=600,
            clock=self._clock(member),
        )
        self._spawn(member, self._watched(member, sweeper.run(member.stop)))

    def _webhook(self) -> Member | None:
        alive = [m for m in self.members if m.acceptor and m.process.alive]
        return self.random.choice(alive) if alive else None

    # --- clients ------------------------------------------------------------------------------

    async def _write(self, number: int) -> None:
        drawn, plan = self.random, self.plan
        naps = plan.naps
        for _ in range(plan.changes):
            await self._gap()
            if naps and drawn.random() < 0.3:
                naps = False
                await asyncio.sleep(1700.0)
            await self._post(self._change())
        self.writers_left -= 1
        if not self.writers_left:
            self.written.set()

    async def _gap(self) -> None:
        """In a busy run the next change comes while the one before is being worked on."""
        if self.plan.busy:
            await self.network.calls_later(self.random.randrange(BUSY_CALLS))
        else:
            await asyncio.sleep(self.random.choice((0.0, 0.5, 5.0, 20.0)) * self.random.random())

    async def _post(self, change: Change) -> None:
        """Posts until it is answered, as a client that cannot know what became of its request."""
        drawn = self.random
        while True:
            reply: asyncio.Future[Accepted | None] = self.loop.create_future()
            member = self._webhook()
            if member:
                self.loop.spawn(member.process, self._serve(member, change, reply))
                try:
                    async with asyncio.timeout(drawn.uniform(3, 40)):
                        accepted = await reply
                except (TimeoutError, TransientError):
                    self.counters["client tries again"] += 1
                else:
                    self._note_answer(change, accepted)
                    return
            await asyncio.sleep(drawn.uniform(0, 4))

    async def _serve(
        self, member: Member, change: Change, reply: asyncio.Future[Accepted | None]
    ) -> None:
        """The webhook's side; the answer is checked in the moment it is given."""
        assert member.acceptor
        try:
            async with asyncio.timeout(30):
                accepted = await member.acceptor.accept(change)
        except NothingToUpdateError:
            _reply(reply, None)
        except (TimeoutError, TransientError) as error:
            if not reply.done():
                reply.set_exception(TransientError(str(error)))
        else:
            try:
                self.ledger.answered(accepted, partial(_says, change))
            except Violation as violation:
                self._broke(violation)
            _reply(reply, accepted)

    def _note_answer(self, change: Change, accepted: Accepted | None) -> None:
        if self.trace and accepted:
            self.note(f"answered {change.key.document_id} {accepted.outcome} {accepted.version}")

    def _change(self) -> Change:
        drawn = self.random
        key = DocumentKey(NAMESPACE, f"d{drawn.randrange(self.plan.documents)}")
        kind = drawn.choices(list(ChangeType), (6, 2, 3))[0]
        source_version = drawn.randrange(20) if drawn.random() < 0.2 else None
        if kind is ChangeType.DELETE:
            return Change(key=key, change_type=kind, source_version=source_version)
        metadata: dict[str, MetadataValue] | None = None
        if drawn.random() < 0.4:
            metadata = {"lang": drawn.choice(("de", "en"))}
        content = None
        if kind is ChangeType.INSERT or drawn.random() < 0.4:
            content = self._content()
        return Change(
            key=key,
            change_type=kind,
            content=content,
            content_type="text/plain",
            metadata=metadata,
            source_version=source_version,
        )

    def _content(self) -> bytes:
        drawn = self.random
        if drawn.random() < self.plan.poison:
            return POISON.encode()
        count = drawn.choice((1, 2, 3, 3, 5))
        content = "\n\n".join(drawn.choice(PARAGRAPHS) for _ in range(count)).encode()
        blob_key = identity.raw_blob_key(NAMESPACE, identity.sha256_hex(content))
        self.contents[blob_key] = content
        return content

    def _chunks_of(self, blob_key: str) -> list[str]:
        return [chunk.text for chunk in chunks_of(self.contents[blob_key])]

    async def _read(self, number: int) -> None:
        drawn = self.random
        while not self.finished:
            await self._stirring()
            for _ in range(drawn.choice((0, 0, 1, 3, 8))):
                await turn()
            member = self._webhook()
            if member is None:
                continue
            answered: asyncio.Future[None] = self.loop.create_future()
            self.loop.spawn(member.process, self._search(member, number, answered))
            try:
                async with asyncio.timeout(60):
                    await answered
            except TimeoutError:
                pass  # the webhook was killed or sleeps: its late answer counts for nobody

    async def _stirring(self) -> None:
        """Readers come when something is being written: between two writes they would see one
        state only."""
        stirred: asyncio.Future[None] = self.loop.create_future()
        self._stirred.append(stirred)
        await stirred

    def _stir(self) -> None:
        if self._stirred and self.random.random() < 0.3:
            _reply(self._stirred.pop(), None)

    async def _search(self, member: Member, reader: int, answered: asyncio.Future[None]) -> None:
        assert member.searcher
        complete = self.random.random() < 0.8
        since = self.loop.steps
        try:
            vector = vector_of(self.random.choice(PARAGRAPHS))
            top_k = 200 if complete else 3
            hits = await member.searcher.search_vector(NAMESPACE, vector, top_k=top_k)
        except TransientError:
            pass
        else:
            self.searches += 1
            if not answered.done():
                try:
                    self.ledger.searched(reader, since, hits, complete=complete)
                except Violation as violation:
                    self._broke(violation)
        _reply(answered, None)

    # --- chaos --------------------------------------------------------------------------------

    async def _wreak(self) -> None:
        drawn, plan = self.random, self.plan
        weights = {
            self._kill: plan.kills,
            self._pause: plan.pauses,
            self._drain: plan.drains,
            self._damage: plan.damage,
        }
        deeds = [deed for deed, weight in weights.items() if weight]
        while deeds and self.deeds_left and self.writers_left:
            await asyncio.sleep(drawn.uniform(0, 3 if plan.busy else 20))
            if self.network.calm:
                return
            deed = drawn.choice(deeds)
            if drawn.random() < weights[deed]:
                self.deeds_left -= 1
                deed(self._victim())

    def _strike(self, process: Process) -> None:
        """In the middle of its work: when its call took effect, before it knows."""
        member = next((m for m in self.members if m.process is process), None)
        if member and self.deeds_left:
            self.deeds_left -= 1
            if self.random.random() < 0.5:
                self._kill(member)
            else:
                self._pause(member)

    def _victim(self) -> Member | None:
        victims = [m for m in self.members if m.process.alive and not m.process.paused]
        return self.random.choice(victims) if victims else None

    def _kill(self, member: Member | None) -> None:
        if member:
            self.network.tell(f"kill {member.name}")
            self.loop.kill(member.process)
            self.network.later(self.random.uniform(0, 30), self._restart, member)

    def _restart(self, member: Member) -> None:
        if self.network.over:
            return
        member.process = Process(member.name, self._skew())
        member.process.context.run(member.start, member)

    def _pause(self, member: Member | None) -> None:
        if member:
            seconds = self.random.uniform(0, SHORT_PAUSE_SECONDS)
            if self.plan.long_pauses:
                longest = self.random.choice((LONG_PAUSE_SECONDS / 10, LONG_PAUSE_SECONDS))
                seconds = self.random.uniform(longest / 4, longest)
            self.network.tell(f"pause {member.name}")
            self.loop.pause(member.process)
            self.network.later(seconds, self._wake, member.process, seconds)

    def _wake(self, process: Process, seconds: float) -> None:
        process.slept_seconds += seconds
        self.loop.resume(process)

    def _drain(self, member: Member | None) -> None:
        """SIGTERM: what is in hand is finished or handed back, then a new process begins."""
        if member and not member.acceptor:
            self.network.tell(f"drain {member.name}")
            member.stop.set()
            old = member.process
            self.network.later(20.0, self._replace, member, old)

    def _replace(self, member: Member, old: Process) -> None:
        if member.process is old and old.alive and not self.network.over:
            self.loop.kill(old)
            self._restart(member)

    def _damage(self, _: Member | None) -> None:
        keys = sorted(k for k in self.blobs.held if k.startswith("packs/"))
        if self.plan.lost_content and self.random.random() < 0.3:
            keys = sorted(self.blobs.held)
        if not keys:
            return
        self.damaged = True
        key = self.random.choice(keys)
        data, at = self.blobs.held[key]
        if self.random.random() < 0.5:
            self.network.tell(f"blob lost {key[:4]}")
            del self.blobs.held[key]
        else:
            self.network.tell(f"blob torn {key[:4]}")
            self.blobs.held[key] = (data[: self.random.randrange(len(data) + 1)], at)

    # --- the end ------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """When the writers are done the faults end; when all is quiet the run ends."""
        await self.written.wait()
        self.network.calm = True  # who sleeps goes on sleeping, and wakes into a calm world
        await asyncio.sleep(3)
        await self._mend_content()
        await self._redrive()
        await self._until_quiet()
        await self._redrive()
        await self._until_quiet()
        await self._scrub()
        self.finished = True
        self.loop.stop()

    async def _scrub(self) -> None:
        """It finds nothing, unless something was damaged or slept too long: then it mends that."""
        strays = set(self.index.records[NAMESPACE]) - self._named()
        if strays - self.excused:
            raise Violation("nothing leaks", self._owner(min(strays)), f"strays {sorted(strays)}")
        found = await self._scrubbed(repair=self.damaged or bool(strays))
        if not found:
            return
        self.counters["mended by scrub"] += len(found)
        await self._until_quiet()
        await self._scrubbed(repair=False)

    async def _scrubbed(self, *, repair: bool) -> Sequence[Finding]:
        registry, blobs, queue, index = self._ports()
        scrubber = Scrubber(
            registry=registry,
            blobs=blobs,
            queue=queue,
            index=index,
            timers=self.timers,
            clock=self.loop.time,
        )
        report = await scrubber.scrub(namespace=None, repair=repair)
        findings = [finding for finding in report.findings if not self._hopeless(finding)]
        if findings and not repair:
            key = DocumentKey(findings[0].namespace, findings[0].document_id)
            raise Violation("scrub finds nothing", key, str(findings[0]))
        return findings

    def _hopeless(self, finding: Finding) -> bool:
        """What a damaged pack and poison on top of it come to: only another content helps."""
        row = self.registry.rows.get(DocumentKey(finding.namespace, finding.document_id))
        return self.damaged and row is not None and row.status is Status.FAILED

    def _named(self) -> set[str]:
        rows = self.registry.rows.values()
        return {record_id for row in rows for record_id in manifest_ids(row)}

    def _owner(self, record_id: str) -> DocumentKey:
        return DocumentKey(NAMESPACE, self.index.records[NAMESPACE][record_id].document_id)

    async def _until_quiet(self) -> None:
        while True:
            await asyncio.sleep(4)
            if self._quiet():
                return

    async def _mend_content(self) -> None:
        """The clients send again what the blob store lost: its own text says so."""
        for key in sorted(self.registry.rows):
            desired = self.registry.rows[key].desired
            content = self.contents.get(desired.blob_key)
            if content is not None and self.blobs.held.get(desired.blob_key, (b"",))[0] != content:
                self.counters["content sent again"] += 1
                self.blobs.held[desired.blob_key] = (content, self.loop.time())

    async def _redrive(self) -> None:
        letters = await self.queue.dead_letters(limit=1000)
        self.counters["redriven"] += len(letters)
        await self.queue.redrive([letter.message_id for letter in letters])

    def _quiet(self) -> bool:
        return (
            not self.queue.backlog
            and not self.network.under_way
            and self.index.up_to_date
            and self._restless() is None
            and all(m.process.alive and not m.process.paused for m in self.members)
        )

    def _restless(self) -> DocumentKey | None:
        for key, row in self.registry.rows.items():
            if row.garbage or (row.behind and row.status is not Status.FAILED):
                return key
        return None

    def _check_end(self) -> None:
        failed = {letter.wake_up.key: letter.reason for letter in self.queue._dead.values()}
        records = dict(self.index.records[NAMESPACE])
        check_end(self.ledger, records, list(self.registry.rows.values()), failed, manifest_ids)
        for key, row in self.registry.rows.items():
            if row.status is Status.FAILED and row.desired.blob_key in self.contents:
                raise Violation("applied or dead-lettered", key, f"FAILED, and why? {row.error}")

    # --- telling ------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        if self.trace:
            self.trace(f"{self.loop.time():9.3f} {self.loop.steps:7d} {text}")

    def _row_written(self, before: Row | None, after: Row | None) -> None:
        if self.trace:
            self.note(f"{current_process().name:12} {told(before, after)}")
        self.ledger.row_written(before, after)
        self._stir()

    def _records_written(self, records: Sequence[Record]) -> None:
        if self.trace:
            self.note(f"{current_process().name:12} upsert {[r.id[-5:] for r in records]}")
        self.ledger.records_written(records)
        self._stir()
        if self.network.chance(ATTEMPTS_STRUCK * self.plan.strikes):
            self._strike(current_process())


def _reply(reply: asyncio.Future[Any], value: Any) -> None:
    if not reply.done():
        reply.set_result(value)


def _says(change: Change, desired: Desired) -> bool:
    """Whether the accepted version is what the client asked for."""
    if change.change_type is ChangeType.DELETE:
        return desired.tombstone
    if change.content is not None and desired.content_hash != identity.sha256_hex(change.content):
        return False
    return change.metadata is None or desired.metadata == change.metadata


def manifest_ids(row: Row) -> list[str]:
    name = identity.document_key(row.key)
    return [identity.record_id(name, *pair) for pair in expand(row.applied.manifest)]


def told(before: Row | None, after: Row | None) -> str:
    """One line of a document's story."""
    row = after or before
    assert row
    name = row.key.document_id
    if after is None:
        return f"{name} forgotten"
    garbage = " ".join(
        f"{g.ids.generation}:{g.ids.first}-{g.ids.last}{'o' if g.state == 'open' else 'x'}"
        f"@{g.not_before:.0f}"
        for g in after.garbage
    )
    manifest = " ".join(f"{i.generation}:{i.first}-{i.last}" for i in after.applied.manifest)
    what = "tombstone" if after.desired.tombstone else after.desired.content_hash[:6]
    return (
        f"{name} r{after.revision} desired {after.desired.version} {what} "
        f"applied {after.applied.version} [{manifest}] garbage [{garbage}] {after.status}"
        + (f" claim {after.claim.version} by {after.claim.message_id}" if after.claim else "")
        + (f" error {after.error}" if after.error else "")
    )


@lru_cache(maxsize=10_000)
def chunks_of(content: bytes) -> list[Chunk]:
    return make_chunks(content, "text/plain", WordCounter(), SIZES)


def _remembered(content: bytes, content_type: str, counter: object, sizes: object) -> list[Chunk]:
    """Chunking is a pure function and has tests of its own: done once for equal content."""
    return chunks_of(content)


@lru_cache(maxsize=1000)
def _decoded(data: bytes) -> Pack:
    """Also a pure function, and packs are immutable."""
    return decode(data)


@contextmanager
def small_batches() -> Iterator[None]:
    """Batches so small that these small documents need several."""
    with (
        mock.patch.object(workers.apply, "UPSERT_RECORDS", 2),
        mock.patch.object(workers.embed, "SLICE_CHUNKS", 2),
        mock.patch.object(workers.collect, "DELETE_IDS", 2),
        mock.patch.object(workers.embed, "make_chunks", _remembered),
        mock.patch.object(workers.loop, "LONG_POLL_SECONDS", 120.0),
        mock.patch.object(workers.packs, "decode", _decoded),
    ):
        yield


def run(
    seed: int, *, trace: Callable[[str], None] | None = None, stats: Counter[str] | None = None
) -> Found | None:
    """One run; `stats` collects what happened in it."""
    world = World(seed, trace=trace)
    try:
        world.run()
    except (Violation, AssertionError) as violation:
        return Found(seed, violation)
    finally:
        if stats is not None:
            stats.update(world.counters)
            stats["searches"] += world.searches
            stats["steps"] += world.loop.steps
    return None
