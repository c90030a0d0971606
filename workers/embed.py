"""The embed handler: from a wake-up to a pack. Embeds only chunks that nobody embedded before.

A wake-up that claimed a document answers for it: when the pack is written it looks whether a newer
version is desired by now, and goes on with the newest. The wake-ups of versions in between end
without doing anything, so that a burst of edits costs one more embedding, not one each. To go on
it waits until the burst is over (`workers/burst.py`); the first version never waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import structlog

from common import identity, telemetry
from common.chunking.chunk import Chunk, embedding_text
from common.chunking.chunker import CHUNKER_VERSION, ChunkSizes, chunk_text
from common.clock import Clock, system_clock
from common.extraction.extract import extract
from common.model import Desired, DocumentKey, QueueName, Row, Vector, WakeUp
from common.pack import Pack, PackedChunk
from common.ports.blobs import BlobNotFoundError, BlobStore
from common.ports.embedder import Embedder, Passage, Tokenizer
from common.ports.errors import TransientError
from common.ports.queue import Delivery, Queue
from common.ports.registry import Registry
from common.ports.vectors import VectorCache
from common.transitions import Timers, claim, extend_claim, is_held_by_another, let_go
from workers.burst import Burst, BurstWait, seconds_to_wait, seen
from workers.lease import Lease
from workers.outcome import Done, HandlerOutcome
from workers.packs import read_pack, write_pack
from workers.retry import PermanentFailureError
from workers.reuse import Reuse
from workers.rows import RACES_BEFORE_GIVING_UP, change_row
from workers.unforeseen import tell

log = structlog.get_logger(__name__)

SLICE_CHUNKS = 8
"""Chunks handed to the embedder in one call; their vectors are in the cache when they are ready."""
SLICES_IN_FLIGHT = 4
"""Calls of one document under way: as one ends the next begins, so that the model always has work,
and a long document does not fill the queue of those that came after it."""
RENEWALS_PER_CLAIM = 3
VERSIONS_AT_MOST = 4
"""Embedded for one message. A document under steady editing then waits its turn behind others."""


def chunker_profile(sizes: ChunkSizes) -> str:
    """What decides the chunk list besides the content; part of every doc_hash."""
    return f"v{CHUNKER_VERSION}:{sizes.target_tokens}:{sizes.max_tokens}:{sizes.max_characters}"


@dataclass(slots=True)
class _Turn:
    """What one delivery has come to so far."""

    delivery: Delivery
    lease: Lease
    packed: int = 0
    """The last version whose pack exists and whose apply queue was woken for it."""
    versions: int = 0
    """How many were embedded."""
    burst: Burst | None = None
    """The one whose newest version is to be embedded next."""
    gives_way: bool = False
    """Others would have to wait with it for the end of a burst: it goes behind them instead."""
    why: str = "already applied"

    @property
    def is_spent(self) -> bool:
        return self.gives_way or self.versions >= VERSIONS_AT_MOST


@dataclass(slots=True, kw_only=True)
class EmbedHandler:
    """Reconciles a document's pack with its desired version."""

    registry: Registry
    blobs: BlobStore
    queue: Queue
    embedder: Embedder
    vectors: VectorCache
    sizes: ChunkSizes
    timers: Timers
    claim_seconds: float
    document_timeout_seconds: float = 7200.0
    bursts: BurstWait = field(default_factory=BurstWait)
    clock: Clock = system_clock
    _reuse: Reuse = field(init=False)

    def __post_init__(self) -> None:
        self._reuse = Reuse(self.blobs, self.vectors, self.embedder.profile)

    async def __call__(self, delivery: Delivery, lease: Lease) -> HandlerOutcome:
        """It ends with a look at the row that finds nothing left to do and lets the claim go."""
        turn, key = _Turn(delivery, lease), delivery.wake_up.key
        for _ in range(RACES_BEFORE_GIVING_UP):
            row = await self._calm_row(turn, key)
            if row is None:
                return Done(turn.why)
            if self._is_left_to(turn, row):
                await self._make_version(turn, row)
            elif await self._let_go(turn, row):
                return await self._ended(turn, row)
        raise TransientError(f"too many writers at once on document {key.document_id!r}")

    async def _calm_row(self, turn: _Turn, key: DocumentKey) -> Row | None:
        """The row; after a first version only once the burst that it is in, if any, is over."""
        row = await self.registry.get(key)
        if row is None or not self._seconds_to_wait(turn, row):
            return row
        if turn.delivery.receive_count > 1 or not self.bursts.has_place():
            turn.gives_way = True  # what came back may be worked alone: everybody would wait
            return row
        with self.bursts.place():
            async with self._kept_claim(key, turn.delivery):
                return await self._calmed(turn, row)

    async def _calmed(self, turn: _Turn, row: Row) -> Row | None:
        """As the last look found it: a delete, a lost claim and a drain end the wait, too."""
        last: Row | None = row
        while last is not None and (seconds := self._seconds_to_wait(turn, last)):
            await self.bursts.for_seconds(seconds)
            last = await self.registry.get(row.key)
        return last

    def _seconds_to_wait(self, turn: _Turn, row: Row) -> float:
        """Until the next look; 0 for a message's first version: no single edit is delayed."""
        if not turn.versions or not self._is_left_to(turn, row) or self.bursts.stop.is_set():
            return 0.0
        now = self.clock()
        turn.burst = seen(turn.burst, row.desired, now)
        return seconds_to_wait(turn.burst, now, self.bursts.patience)

    def _is_left_to(self, turn: _Turn, row: Row) -> bool:
        """Whether the desired version lacks a pack that this message should make."""
        return (
            self._is_open(turn, row)
            and not turn.is_spent
            and not is_held_by_another(row, turn.delivery.message_id, self.clock())
        )

    def _is_open(self, turn: _Turn, row: Row) -> bool:
        return row.behind and not row.desired.tombstone and row.desired.version > turn.packed

    async def _let_go(self, turn: _Turn, row: Row) -> bool:
        """Leave the claim, if `row` is still as it was read: nobody else is woken for it."""
        free = let_go(row, turn.delivery.message_id, self.clock(), self.timers)
        return free is None or await self.registry.put_if(free) is not None

    async def _ended(self, turn: _Turn, row: Row) -> Done:
        if row.behind and row.desired.tombstone:
            await self._wake(QueueName.DELETE, row, "")
            return Done("is a delete")
        if not self._is_open(turn, row):
            return Done(turn.why)
        if turn.is_spent:
            await self._wake(QueueName.CHANGE, row, "")
            return Done("embedded, and passed on")
        return Done("embedded" if turn.versions else "another wake-up has it")

    async def _make_version(self, turn: _Turn, row: Row) -> None:
        """The pack of what `row` desires; nothing if the row was changed meanwhile."""
        turn.lease.check()
        desired = row.desired
        await self._check_profile(row.key.namespace)
        doc_hash = self._doc_hash(desired)
        if await read_pack(self.blobs, row.key, desired.version, doc_hash) is not None:
            turn.packed, turn.why = desired.version, "pack exists"
            await self._wake_apply(row, doc_hash)
            return
        claimed = await change_row(
            self.registry, row.key, lambda fresh: self._claim(turn, fresh, desired)
        )
        if claimed is None:
            return
        pack = await self._claimed_pack(claimed, doc_hash, turn.delivery, turn.lease)
        await write_pack(self.blobs, row.key, pack)
        await self._wake_apply(claimed, doc_hash)
        turn.packed, turn.versions, turn.why = desired.version, turn.versions + 1, "embedded"
        turn.burst = None

    def _claim(self, turn: _Turn, row: Row, planned: Desired) -> Row | None:
        """None as well when a newer change came in between: then that one is to be planned.

        A claim of a message that somebody else ended would keep newer versions waiting.
        """
        turn.lease.check()
        if row.desired.version != planned.version:
            return None
        now = self.clock()
        return claim(row, turn.delivery.message_id, now, now + self.claim_seconds, self.timers)

    async def _check_profile(self, namespace: str) -> None:
        ours = self.embedder.profile
        bound = await self.registry.bind_namespace(namespace, ours)
        if bound.id != ours.id:
            raise PermanentFailureError(
                f"namespace {namespace!r} is bound to the embedding profile {bound.id}, this "
                f"worker embeds with {ours.id}: vectors of two models are never mixed"
            )

    def _doc_hash(self, desired: Desired) -> str:
        return identity.doc_hash(
            content_hash=desired.content_hash,
            content_type=desired.content_type,
            metadata_hash=desired.metadata_hash,
            embedding_profile=self.embedder.profile.id,
            chunker_profile=chunker_profile(self.sizes),
        )

    async def _claimed_pack(
        self, row: Row, doc_hash: str, delivery: Delivery, lease: Lease
    ) -> Pack:
        limit = asyncio.timeout(self.document_timeout_seconds)
        try:
            async with self._kept_claim(row.key, delivery), limit:
                return await self._make_pack(row, doc_hash, lease)
        except TimeoutError as error:
            if not limit.expired():  # something it called gave up, not the document's time
                raise TransientError(f"timed out: {error}") from error
            raise PermanentFailureError(
                f"it took longer than {self.document_timeout_seconds:g} s to read and embed it; "
                "split the document or raise BLOOMWEAVER_DOCUMENT_TIMEOUT_SECONDS"
            ) from None

    @asynccontextmanager
    async def _kept_claim(self, key: DocumentKey, delivery: Delivery) -> AsyncIterator[None]:
        """The claim is renewed meanwhile, so that no other wake-up begins the same work."""
        renewal = asyncio.create_task(self._renew_claim(key, delivery))
        try:
            yield
        finally:
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)

    async def _make_pack(self, row: Row, doc_hash: str, lease: Lease) -> Pack:
        content = await self._content(row)
        tokenizer = await self.embedder.tokenizer()
        chunks = await asyncio.to_thread(
            make_chunks, content, row.desired.content_type, tokenizer, self.sizes
        )
        different = {chunk.hash: chunk for chunk in chunks}
        vectors = await self._reuse.known(row, list(different))
        missing = [chunk for chunk_hash, chunk in different.items() if chunk_hash not in vectors]
        vectors.update(await self._embed(row.key.namespace, missing, lease))
        embedded, reused = len(missing), len(chunks) - len(missing)
        telemetry.CHUNKS.labels("embedded").inc(embedded)
        telemetry.EMBEDDED_TOKENS.inc(sum(chunk.token_count for chunk in missing))
        telemetry.CHUNKS.labels("reused").inc(reused)
        log.info(
            "document.embedded",
            version=row.desired.version,
            chunks=len(chunks),
            embedded=embedded,
            reused=reused,
        )
        return self._pack(row, doc_hash, chunks, vectors, embedded)

    async def _content(self, row: Row) -> bytes:
        try:
            content = await self.blobs.get(row.desired.blob_key)
        except BlobNotFoundError:
            raise PermanentFailureError(
                "the stored content is missing from the blob store; send the document again"
            ) from None
        if await asyncio.to_thread(identity.sha256_hex, content) != row.desired.content_hash:
            raise PermanentFailureError("the stored content is damaged; send the document again")
        return content

    async def _embed(
        self, namespace: str, chunks: Sequence[Chunk], lease: Lease
    ) -> dict[str, Vector[float]]:
        """By chunk hash. Slices run side by side; each is remembered as soon as it is ready."""
        if not chunks:
            return {}
        began = asyncio.get_running_loop().time()
        vectors: dict[str, Vector[float]] = {}
        under_way: list[asyncio.Task[dict[str, Vector[float]]]] = []
        slices = _slices(chunks)
        try:
            while self._begin_slices(under_way, slices, namespace, lease):
                await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in [task for task in under_way if task.done()]:
                    under_way.remove(task)
                    vectors.update(task.result())
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
        telemetry.EMBED_SECONDS.observe(asyncio.get_running_loop().time() - began)
        return vectors

    def _begin_slices(
        self,
        under_way: list[asyncio.Task[dict[str, Vector[float]]]],
        slices: Iterator[Sequence[Chunk]],
        namespace: str,
        lease: Lease,
    ) -> bool:
        """Fill the window; whether anything is under way. Raises LeaseExpiredError."""
        while len(under_way) < SLICES_IN_FLIGHT and (part := next(slices, None)) is not None:
            lease.check()
            under_way.append(asyncio.create_task(self._embed_slice(namespace, part)))
        return bool(under_way)

    async def _embed_slice(
        self, namespace: str, chunks: Sequence[Chunk]
    ) -> dict[str, Vector[float]]:
        passages = [Passage(embedding_text(c.heading_path, c.text), c.token_ids) for c in chunks]
        made = await self.embedder.embed_documents(passages)
        vectors = {chunk.hash: vector for chunk, vector in zip(chunks, made, strict=True)}
        await self._reuse.remember(namespace, vectors)
        return vectors

    async def _renew_claim(self, key: DocumentKey, delivery: Delivery) -> None:
        """Until it is cancelled, or someone else has the claim: this pack may still help."""
        while True:
            await asyncio.sleep(self.claim_seconds / RENEWALS_PER_CLAIM)
            try:
                renewed = await change_row(self.registry, key, partial(self._renewed, delivery))
            except TransientError as error:
                log.warning("claim.not_renewed", error=str(error))
            except Exception as error:
                tell("claim-renewal", error)
            else:
                if renewed is None:
                    return

    def _renewed(self, delivery: Delivery, row: Row) -> Row | None:
        now = self.clock()
        return extend_claim(row, delivery.message_id, now, now + self.claim_seconds, self.timers)

    def _pack(
        self,
        row: Row,
        doc_hash: str,
        chunks: Sequence[Chunk],
        vectors: dict[str, Vector[float]],
        embedded: int,
    ) -> Pack:
        desired = row.desired
        return Pack(
            namespace=row.key.namespace,
            document_id=row.key.document_id,
            version=desired.version,
            doc_hash=doc_hash,
            content_hash=desired.content_hash,
            metadata_hash=desired.metadata_hash,
            metadata=desired.metadata,
            embedding_profile=self.embedder.profile.id,
            dimension=self.embedder.profile.dimension,
            accepted_at=desired.accepted_at,
            embedded=embedded,
            chunks=tuple(_packed(chunk) for chunk in chunks),
            vectors=tuple(vectors[chunk.hash] for chunk in chunks),
        )

    async def _wake_apply(self, row: Row, doc_hash: str) -> None:
        queue = QueueName.UPDATE if row.applied.manifest else QueueName.CREATE
        await self._wake(queue, row, doc_hash)

    async def _wake(self, queue: QueueName, row: Row, doc_hash: str) -> None:
        wake_up = WakeUp(
            namespace=row.key.namespace,
            document_id=row.key.document_id,
            version=row.desired.version,
            doc_hash=doc_hash,
            traceparent=row.desired.traceparent,
        )
        await self.queue.send(queue, [wake_up])


def make_chunks(
    content: bytes, content_type: str, tokenizer: Tokenizer, sizes: ChunkSizes
) -> list[Chunk]:
    """CPU-bound: call it in a thread. Raises UnreadableDocument."""
    return chunk_text(extract(content, content_type), tokenizer, sizes)


def _slices(chunks: Sequence[Chunk]) -> Iterator[Sequence[Chunk]]:
    for start in range(0, len(chunks), SLICE_CHUNKS):
        yield chunks[start : start + SLICE_CHUNKS]


def _packed(chunk: Chunk) -> PackedChunk:
    return PackedChunk(
        hash=chunk.hash,
        text=chunk.text,
        start=chunk.start,
        end=chunk.end,
        heading_path=chunk.heading_path,
        token_count=chunk.token_count,
    )


def sizes_for(target_tokens: int, max_tokens: int, window: int) -> ChunkSizes:
    """Chunk sizes capped by the model's window."""
    limit = min(max_tokens, window)
    return replace(ChunkSizes(), target_tokens=min(target_tokens, limit), max_tokens=limit)
