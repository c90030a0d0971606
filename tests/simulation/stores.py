"""The stores of a run, and how its processes see them: through the network with its faults."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol, cast

from common.adapters.vectors.memory import MemoryVectorCache
from common.model import DocumentKey, Record, Row
from common.ports.blobs import BlobStore
from common.ports.index import Index
from common.ports.queue import DeadLetter, Queue
from common.ports.registry import Registry
from tests.fakes.blobs import MemoryBlobStore
from tests.fakes.queue import MemoryQueue
from tests.fakes.registry import MemoryRegistry
from tests.simulation.index import LaggingIndex
from tests.simulation.ledger import Ledger
from tests.simulation.network import Network
from tests.simulation.plan import Plan
from tests.simulation.ports import (
    FaultyBlobs,
    FaultyEmbedder,
    FaultyIndex,
    FaultyQueue,
    FaultyRegistry,
    FaultyVectors,
)

SLOWEST_EMBEDDING_SECONDS = 20.0
CACHE_BYTES = 10_000
"""Room for a few versions: some chunks are found, others were dropped."""

Ports = tuple[Registry, BlobStore, Queue, Index]


class Witness(Protocol):
    """Sees every write in the moment it takes effect, in the process that made it."""

    def row_written(self, before: Row | None, after: Row | None) -> None: ...

    def records_written(self, records: Sequence[Record]) -> None: ...


class QueueStore(Protocol):
    """A queue as the simulation sees it: no call of these fails."""

    closed: bool
    lapsed: int
    """How many leases ran out and let their message be received once more."""

    @property
    def backlog(self) -> int:
        """Messages on all queues, wherever they stand."""

    def has(self, message_id: str) -> bool:
        """Whether the message is on any queue, wherever it stands."""

    @property
    def letters(self) -> list[DeadLetter]: ...

    async def dead_letters(self, *, limit: int) -> list[DeadLetter]: ...

    async def redrive(self, message_ids: Sequence[str]) -> int: ...


class IndexStore(Protocol):
    """An index as the simulation sees it."""

    records: dict[str, dict[str, Record]]
    """What was written, whether it shows or not."""

    @property
    def up_to_date(self) -> bool:
        """Whether all of it shows."""


class Stores:
    """The queue, registry, blobs and index themselves, as nobody in the installation sees them."""

    queue: QueueStore
    index: IndexStore

    def __init__(
        self, drawn: random.Random, plan: Plan, network: Network, ledger: Ledger, witness: Witness
    ) -> None:
        self._random, self._plan, self._network = drawn, plan, network
        self._ledger = ledger
        self._witness = witness
        clock = network.loop.time
        self.excused: set[str] = set()
        """Ids that no guard keeps out of the index, so that only a scrub finds them: of a process
        that slept in the very call, or of a request that was posted again."""
        self.registry = MemoryRegistry(checked=False)
        self.blobs = MemoryBlobStore(clock=clock)
        self.cache = MemoryVectorCache(limit_bytes=CACHE_BYTES, unused_seconds=200, clock=clock)

    def ports(self) -> Ports:
        """As a process sees them. What the wrappers do not name goes through to the stores."""
        net, plan, written = self._network, self._plan, self._witness.row_written
        registry = FaultyRegistry(net, self.registry, plan.races_lost, written)
        return (
            cast("Registry", registry),
            cast("BlobStore", FaultyBlobs(net, self.blobs)),
            self._queue_port(),
            self._index_port(),
        )

    @property
    def expired_letters(self) -> set[DocumentKey]:
        """Of which documents a dead letter was kept as long as the queue keeps anything."""
        return set()

    def _queue_port(self) -> Queue:
        raise NotImplementedError

    def _index_port(self) -> Index:
        raise NotImplementedError

    def vectors(self) -> FaultyVectors:
        return FaultyVectors(self._network, self.cache)

    def embedder(self) -> FaultyEmbedder:
        return FaultyEmbedder(self._network, self._plan.unforeseen, SLOWEST_EMBEDDING_SECONDS)


class MachineStores(Stores):
    """A queue and an index on one machine."""

    def __init__(
        self, drawn: random.Random, plan: Plan, network: Network, ledger: Ledger, witness: Witness
    ) -> None:
        super().__init__(drawn, plan, network, ledger, witness)
        self.queue = self._messages = MemoryQueue(clock=network.loop.time, pick=self._pick)
        self.index = self._records = LaggingIndex(self._lag, network.later)

    def _lag(self) -> float:
        most = self._plan.lag_seconds
        return self._random.uniform(0.0, most) if most and not self._network.calm else 0.0

    def _pick(self, ids: Sequence[str]) -> str:
        chosen = self._random.choice(ids)
        if chosen != ids[0]:
            self._network.faults["message overtaken"] += 1
        return chosen

    def _queue_port(self) -> Queue:
        delivering = self._plan.delivering
        return cast("Queue", FaultyQueue(self._network, self._messages, delivering, self._ledger))

    def _index_port(self) -> Index:
        net, partial, wrote = self._network, self._plan.partial, self._witness.records_written
        return cast("Index", FaultyIndex(net, self._records, partial, wrote, self.excused))
