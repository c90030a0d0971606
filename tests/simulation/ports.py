"""The ports as a simulated process sees them: in-memory stores behind a network with faults."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

from common.adapters.vectors.memory import MemoryVectorCache
from common.model import (
    DocumentKey,
    EmbeddingProfile,
    Match,
    QueueName,
    Record,
    Row,
    Vector,
    WakeUp,
)
from common.ports.blobs import BlobInfo
from common.ports.embedder import Passage, Tokenizer
from common.ports.errors import PermanentError, TransientError
from common.ports.index import FreshnessToken, MetadataFilter
from common.ports.queue import Delivery, Depth
from tests.fakes.blobs import MemoryBlobStore
from tests.fakes.embedder import WordTokenizer
from tests.fakes.index import MemoryIndex
from tests.fakes.queue import MemoryQueue
from tests.fakes.registry import MemoryRegistry
from tests.simulation.loop import current_process
from tests.simulation.network import Network, now

POISON = "poison"
DIMENSION = 4
PROFILE = EmbeddingProfile(model="words", fingerprint="1", dimension=DIMENSION, max_tokens=512)


@dataclass(slots=True)
class Delivering:
    """What an at-least-once queue does to its messages, per message."""

    lost: float = 0.0
    repeated: float = 0.0
    delayed: float = 0.0
    longest_delay_seconds: float = 60.0


class QueueWitness(Protocol):
    def message_sent(self, wake_up: WakeUp, lost: bool) -> None: ...

    def message_ended(self, delivery: Delivery, others: bool) -> None:
        """`others`: whether a queue holds another message of its document."""

    def message_lost(self, wake_up: WakeUp) -> None:
        """The queue took a message away from whoever needs it."""


class FaultyQueue:
    """Messages are lost, repeated, delayed; `witness` is told of each as it is sent and ends."""

    def __init__(
        self, network: Network, queue: MemoryQueue, delivering: Delivering, witness: QueueWitness
    ) -> None:
        self._network, self._queue = network, queue
        self._delivering = delivering
        self._witness = witness

    async def send(
        self, queue: QueueName, wake_ups: Sequence[WakeUp], *, delay_seconds: float = 0.0
    ) -> None:
        await self._network.call("send", lambda: self._send(queue, wake_ups, delay_seconds))

    async def _send(
        self, queue: QueueName, wake_ups: Sequence[WakeUp], delay_seconds: float
    ) -> None:
        net, rates = self._network, self._delivering
        for wake_up in wake_ups:
            lost = net.chance(rates.lost)
            self._witness.message_sent(wake_up, lost)
            if lost:
                net.tell("message lost")
                continue
            times = 2 if net.chance(rates.repeated) else 1
            for _ in range(times):
                delay = delay_seconds
                if net.chance(rates.delayed):
                    net.tell("message delayed")
                    delay += net.random.uniform(0, rates.longest_delay_seconds)
                await self._queue.send(queue, [wake_up], delay_seconds=delay)

    async def receive(
        self, queue: QueueName, *, limit: int, visibility_seconds: float, wait_seconds: float
    ) -> list[Delivery]:
        net = self._network
        net.check()
        if net.chance(net.rates.refused):
            net.tell("receive refused")
            raise TransientError("receive: refused")
        got = await self._queue.receive(
            queue, limit=limit, visibility_seconds=visibility_seconds, wait_seconds=wait_seconds
        )
        net.check()
        if got and net.chance(net.rates.unanswered):
            net.tell("receive unanswered")
            raise TransientError("receive: no answer")
        for delivery in got:
            if net.chance(self._delivering.repeated):
                net.tell("message delivered twice")
                self._queue.repeat(delivery)
        return got

    async def extend(self, delivery: Delivery, visibility_seconds: float) -> None:
        call, queue = self._network.call, self._queue
        await call("extend", lambda: queue.extend(delivery, visibility_seconds))

    async def ack(self, delivery: Delivery) -> None:
        await self._network.call("ack", lambda: self._ended(delivery, self._queue.ack(delivery)))

    async def retry_later(self, delivery: Delivery, delay_seconds: float) -> None:
        call, queue = self._network.call, self._queue
        await call("retry_later", lambda: queue.retry_later(delivery, delay_seconds))

    async def release(self, delivery: Delivery, delay_seconds: float = 0.0) -> None:
        call, queue = self._network.call, self._queue
        await call("release", lambda: queue.release(delivery, delay_seconds))

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        call, queue = self._network.call, self._queue
        ends = lambda: self._ended(delivery, queue.dead_letter(delivery, reason))  # noqa: E731
        await call("dead_letter", ends)

    async def _ended(self, delivery: Delivery, ends: Awaitable[None]) -> None:
        await ends
        self._witness.message_ended(delivery, self._queue.holds(delivery.wake_up.key))

    async def depth(self, queue: QueueName) -> Depth:
        return await self._network.call("depth", lambda: self._queue.depth(queue))


class FaultyRegistry:
    """Loses compare-and-set races that nobody ran; `written` tells of each write that counted."""

    def __init__(
        self,
        network: Network,
        registry: MemoryRegistry,
        races_lost: float,
        written: Callable[[Row | None, Row | None], None],
    ) -> None:
        self._network, self._registry = network, registry
        self._races_lost = races_lost
        self._written = written

    async def get(self, key: DocumentKey) -> Row | None:
        return await self._network.call("get row", lambda: self._registry.get(key))

    async def get_many(self, keys: Sequence[DocumentKey]) -> dict[DocumentKey, Row]:
        return await self._network.call("get rows", lambda: self._registry.get_many(keys))

    async def put_if(self, row: Row) -> Row | None:
        if self._network.chance(self._races_lost):
            self._network.tell("race lost")
            return None
        return await self._network.call("put row", lambda: self._put_if(row))

    async def _put_if(self, row: Row) -> Row | None:
        before = self._registry.rows.get(row.key)
        stored = await self._registry.put_if(row)
        if stored is not None:
            self._written(before, stored)
        return stored

    async def delete_if(self, row: Row) -> bool:
        return await self._network.call("delete row", lambda: self._delete_if(row))

    async def _delete_if(self, row: Row) -> bool:
        before = self._registry.rows.get(row.key)
        deleted = await self._registry.delete_if(row)
        if deleted:
            self._written(before, None)
        return deleted

    async def due(self, *, before: float, limit: int) -> list[Row]:
        call, registry = self._network.call, self._registry
        return await call("due", lambda: registry.due(before=before, limit=limit))

    async def bind_namespace(self, namespace: str, profile: EmbeddingProfile) -> EmbeddingProfile:
        return await self._registry.bind_namespace(namespace, profile)

    def __getattr__(self, name: str) -> object:
        """scan, namespaces, counts: what goes through pages is not made to fail."""
        return getattr(self._registry, name)


class FaultyBlobs:
    """Calls fail; what is lost or torn at rest is the world's doing."""

    def __init__(self, network: Network, blobs: MemoryBlobStore) -> None:
        self._network, self._blobs = network, blobs

    async def put(self, key: str, data: bytes) -> bool:
        return await self._network.call("put blob", lambda: self._blobs.put(key, data))

    async def get(self, key: str) -> bytes:
        return await self._network.call("get blob", lambda: self._blobs.get(key))

    async def exists(self, key: str) -> bool:
        return await self._network.call("look for blob", lambda: self._blobs.exists(key))

    async def delete(self, keys: Sequence[str]) -> None:
        await self._network.call("delete blobs", lambda: self._blobs.delete(keys))

    async def delete_if_older(self, keys: Sequence[str], *, before: float) -> int:
        call, blobs = self._network.call, self._blobs
        return await call("delete blobs", lambda: blobs.delete_if_older(keys, before=before))

    async def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        async for info in self._blobs.list(prefix):
            yield info


class FaultyIndex:
    """Batches succeed in part; `wrote` tells of each record as it lands."""

    def __init__(
        self,
        network: Network,
        index: MemoryIndex,
        partial: float,
        wrote: Callable[[Sequence[Record]], None],
        excused: set[str],
    ) -> None:
        self._network, self._index = network, index
        self._partial = partial
        self._wrote = wrote
        self._excused = excused

    async def upsert(self, namespace: str, records: Sequence[Record]) -> FreshnessToken:
        net, process = self._network, current_process()
        slept_seconds = process.slept_seconds

        async def upsert(part: Sequence[Record]) -> FreshnessToken:
            if process.slept_seconds > slept_seconds:
                self._excused.update(record.id for record in part)
            self._wrote(part)
            return await self._index.upsert(namespace, part)

        if net.chance(self._partial):
            net.tell("upsert in part")
            some = records[: net.random.randrange(len(records))]
            await net.call("upsert", lambda: upsert(some))
            raise TransientError("upsert: a part of it")
        return await net.call("upsert", lambda: upsert(records))

    async def wait_visible(
        self, namespace: str, token: FreshnessToken, *, timeout_seconds: float
    ) -> None:
        self._network.check()
        await self._index.wait_visible(namespace, token, timeout_seconds=timeout_seconds)

    async def delete(self, namespace: str, ids: Sequence[str]) -> None:
        net = self._network
        if net.chance(self._partial):
            net.tell("delete in part")
            part = ids[: net.random.randrange(len(ids))]
            await net.call("delete", lambda: self._index.delete(namespace, part))
            raise TransientError("delete: a part of it")
        await net.call("delete", lambda: self._index.delete(namespace, ids))

    async def query(
        self,
        namespace: str,
        vector: Vector[float],
        *,
        top_k: int,
        where: MetadataFilter | None = None,
    ) -> list[Match]:
        call, index = self._network.call, self._index
        return await call("query", lambda: index.query(namespace, vector, top_k=top_k, where=where))

    def __getattr__(self, name: str) -> object:
        return getattr(self._index, name)


class FaultyVectors:
    """The cache of a machine: it may fail or hang, and nobody may notice."""

    def __init__(self, network: Network, cache: MemoryVectorCache) -> None:
        self._network, self._cache = network, cache

    async def get_many(
        self, namespace: str, profile_id: str, hashes: Sequence[str]
    ) -> dict[str, Vector[float]]:
        call, cache = self._network.call, self._cache
        return await call("get vectors", lambda: cache.get_many(namespace, profile_id, hashes))

    async def put_many(
        self, namespace: str, profile_id: str, vectors: Mapping[str, Vector[float]]
    ) -> None:
        call, cache = self._network.call, self._cache
        await call("put vectors", lambda: cache.put_many(namespace, profile_id, vectors))

    async def close(self) -> None:
        return None


@dataclass(slots=True)
class FaultyEmbedder:
    """Slow, out of reach, or broken in a way nobody foresaw; it can never read POISON."""

    network: Network
    unforeseen: float
    slowest_seconds: float
    profile: EmbeddingProfile = field(default=PROFILE)

    async def load(self) -> None:
        return None

    async def tokenizer(self) -> Tokenizer:
        return _TOKENIZER

    async def embed_documents(self, passages: Sequence[Passage]) -> list[Vector[float]]:
        net = self.network
        texts = [passage.text for passage in passages]
        if net.chance(0.2):
            await net.slow_down(self.slowest_seconds)
        if any(POISON in text for text in texts):
            raise PermanentError("the model cannot read this")
        if net.chance(self.unforeseen):
            net.tell("embedder broke")
            raise RuntimeError("the model broke down")
        return await net.call("embed", lambda: _vectors(texts))

    async def embed_query(self, text: str) -> Vector[float]:
        return vector_of(text)

    async def close(self) -> None:
        return None


_TOKENIZER = WordTokenizer()


async def _vectors(texts: Sequence[str]) -> list[Vector[float]]:
    return [vector_of(text) for text in texts]


@lru_cache(maxsize=10_000)
def vector_of(text: str) -> Vector[float]:
    digest = hashlib.sha256(text.encode()).digest()
    return array("f", [1.0 + byte / 256 for byte in digest[:DIMENSION]])


__all__ = [
    "PROFILE",
    "Delivering",
    "FaultyBlobs",
    "FaultyEmbedder",
    "FaultyIndex",
    "FaultyQueue",
    "FaultyRegistry",
    "FaultyVectors",
    "now",
]
