"""The whole flow in one process, a message at a time: real stores, and an index and an embedder
that tests can look into. Nothing runs by itself, so every interleaving can be spelled out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from common.adapters.blobs.folder import FolderBlobStore
from common.adapters.queue.sqlite import SqliteQueue
from common.adapters.registry.sqlite import SqliteRegistry
from common.adapters.vectors.memory import MemoryVectorCache
from common.chunking.chunker import ChunkSizes
from common.model import DocumentKey, MetadataValue, QueueName, Record, Row, expand
from common.ports.queue import Delivery
from common.ports.vectors import VectorCache
from common.storage.data_folder import DataFolder
from tests.builders import TIMERS
from tests.fakes.embedder import HashEmbedder
from tests.fakes.index import MemoryIndex
from webhook.accept import Accepted, Acceptor, Change, ChangeType
from webhook.search import Searcher
from workers.apply import ApplyHandler
from workers.burst import BurstWait
from workers.delete import DeleteHandler
from workers.embed import EmbedHandler
from workers.lease import Lease
from workers.loop import Handler
from workers.outcome import Done, HandlerOutcome
from workers.sweep import Sweeper

NAMESPACE = "docs"


@dataclass
class Clock:
    """Stands still until a test turns it; seconds."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def memory_vectors() -> MemoryVectorCache:
    return MemoryVectorCache(limit_bytes=2**24, unused_seconds=1e9)


@dataclass
class Pipeline:
    """Everybody looks at the same `clock`."""

    clock: Clock
    queue: SqliteQueue
    registry: SqliteRegistry
    blobs: FolderBlobStore
    index: MemoryIndex = field(default_factory=MemoryIndex)
    embedder: HashEmbedder = field(default_factory=HashEmbedder)
    vectors: VectorCache = field(default_factory=memory_vectors)
    sizes: ChunkSizes = field(default_factory=lambda: ChunkSizes(target_tokens=40, max_tokens=128))
    bursts: BurstWait = field(init=False)

    def __post_init__(self) -> None:
        self.bursts = BurstWait(places=2, pause=self._pause)

    async def _pause(self, seconds: float) -> None:
        """Nobody sleeps in a test: the clock is turned."""
        self.clock.now += seconds

    @property
    def acceptor(self) -> Acceptor:
        return Acceptor(
            self.registry, self.blobs, self.queue, self.embedder.profile, TIMERS, self.clock
        )

    @property
    def searcher(self) -> Searcher:
        return Searcher(self.index, self.registry, self.embedder, self.clock)

    @property
    def sweeper(self) -> Sweeper:
        return Sweeper(
            registry=self.registry,
            queue=self.queue,
            blobs=self.blobs,
            index=self.index,
            timers=TIMERS,
            interval_seconds=1,
            blob_interval_seconds=1,
            blob_grace_seconds=3600,
            clock=self.clock,
        )

    def handlers(self) -> dict[QueueName, Handler]:
        def apply(kind: QueueName) -> ApplyHandler:
            return ApplyHandler(
                kind=kind,
                registry=self.registry,
                blobs=self.blobs,
                queue=self.queue,
                index=self.index,
                timers=TIMERS,
                write_timeout_seconds=5,
                clock=self.clock,
            )

        embed = EmbedHandler(
            registry=self.registry,
            blobs=self.blobs,
            queue=self.queue,
            embedder=self.embedder,
            vectors=self.vectors,
            sizes=self.sizes,
            timers=TIMERS,
            claim_seconds=30,
            bursts=self.bursts,
            clock=self.clock,
        )
        return {
            QueueName.CHANGE: embed,
            QueueName.CREATE: apply(QueueName.CREATE),
            QueueName.UPDATE: apply(QueueName.UPDATE),
            QueueName.DELETE: DeleteHandler(
                registry=self.registry, index=self.index, timers=TIMERS, clock=self.clock
            ),
        }

    async def insert(
        self,
        document_id: str,
        text: str,
        *,
        metadata: dict[str, MetadataValue] | None = None,
        source_version: int | None = None,
    ) -> Accepted:
        return await self.acceptor.accept(
            Change(
                key=DocumentKey(NAMESPACE, document_id),
                change_type=ChangeType.INSERT,
                content=text.encode(),
                content_type="text/markdown",
                metadata=metadata or {},
                source_version=source_version,
            )
        )

    async def delete(self, document_id: str) -> Accepted:
        key = DocumentKey(NAMESPACE, document_id)
        return await self.acceptor.accept(Change(key=key, change_type=ChangeType.DELETE))

    async def receive(self, queue: QueueName) -> Delivery | None:
        got = await self.queue.receive(queue, limit=1, visibility_seconds=30, wait_seconds=0)
        return got[0] if got else None

    async def handle(self, delivery: Delivery) -> HandlerOutcome:
        lease = Lease(self.clock, self.clock.now + 30)
        outcome = await self.handlers()[delivery.queue](delivery, lease)
        if isinstance(outcome, Done):
            await self.queue.ack(delivery)
        return outcome

    async def step(self, queue: QueueName) -> HandlerOutcome | None:
        """Handle one message of the queue, if there is one."""
        delivery = await self.receive(queue)
        return await self.handle(delivery) if delivery else None

    async def run(self) -> None:
        """Until every queue is empty."""
        while any([await self.step(queue) for queue in QueueName]):
            pass

    async def row(self, document_id: str) -> Row:
        row = await self.registry.get(DocumentKey(NAMESPACE, document_id))
        assert row is not None
        return row

    async def shown(self, document_id: str) -> list[str]:
        """The texts of the document's manifest, in order, as the index holds them."""
        row = await self.row(document_id)
        records = {(r.generation, r.number): r for r in self._records_of(document_id)}
        return [records[ids].text or "" for ids in expand(row.applied.manifest)]

    def _records_of(self, document_id: str) -> list[Record]:
        held = self.index.records[NAMESPACE].values()
        return [record for record in held if record.document_id == document_id]


@asynccontextmanager
async def pipeline(folder: Path) -> AsyncIterator[Pipeline]:
    data = DataFolder(folder / "data")
    clock = Clock()
    made = Pipeline(
        clock=clock,
        queue=SqliteQueue(data, receiver="test", clock=clock),
        registry=SqliteRegistry(data.registry_path),
        blobs=FolderBlobStore(data.blobs_path),
    )
    try:
        yield made
    finally:
        await made.queue.close()
        await made.registry.close()
        await made.blobs.close()
