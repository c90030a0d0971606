"""The stores of a run, and how its processes see them: through the network with its faults."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol, cast

from common.adapters.vectors.memory import MemoryVectorCache
from common.model import Record, Row
from common.ports.blobs import BlobStore
from common.ports.index import Index
from common.ports.queue import Queue
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


class Stores:
    """The queue, registry, blobs and index themselves, as nobody in the installation sees them."""

    def __init__(
        self, drawn: random.Random, plan: Plan, network: Network, ledger: Ledger, witness: Witness
    ) -> None:
        self._random, self._plan, self._network = drawn, plan, network
        self._ledger = ledger
        self._witness = witness
        clock = network.loop.time
        self.queue = MemoryQueue(clock=clock, pick=self._pick)
        self.registry = MemoryRegistry(checked=False)
        self.blobs = MemoryBlobStore(clock=clock)
        self.cache = MemoryVectorCache(limit_bytes=CACHE_BYTES, unused_seconds=200, clock=clock)
        self.index = LaggingIndex(self._lag, network.later)
        self.excused: set[str] = set()
        """Ids written by a process that slept in the very call: only a scrub finds them."""

    def _lag(self) -> float:
        most = self._plan.lag_seconds
        return self._random.uniform(0.0, most) if most and not self._network.calm else 0.0

    def _pick(self, ids: Sequence[str]) -> str:
        chosen = self._random.choice(ids)
        if chosen != ids[0]:
            self._network.faults["message overtaken"] += 1
        return chosen

    def ports(self) -> Ports:
        """As a process sees them. What the wrappers do not name goes through to the stores."""
        net, plan, witness = self._network, self._plan, self._witness
        registry = FaultyRegistry(net, self.registry, plan.races_lost, witness.row_written)
        queue = FaultyQueue(net, self.queue, plan.delivering, self._ledger)
        index = FaultyIndex(net, self.index, plan.partial, witness.records_written, self.excused)
        return (
            cast("Registry", registry),
            cast("BlobStore", FaultyBlobs(net, self.blobs)),
            cast("Queue", queue),
            cast("Index", index),
        )

    def vectors(self) -> FaultyVectors:
        return FaultyVectors(self._network, self.cache)

    def embedder(self) -> FaultyEmbedder:
        return FaultyEmbedder(self._network, self._plan.unforeseen, SLOWEST_EMBEDDING_SECONDS)
