"""The embed handler: from a wake-up to a pack. Embeds only chunks the applied pack lacks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import structlog

from common import identity, telemetry
from common.chunking.chunk import Chunk, embedding_text
from common.chunking.chunker import CHUNKER_VERSION, ChunkSizes, TokenCounter, chunk_text
from common.clock import Clock, system_clock
from common.extraction.extract import extract
from common.model import Desired, DocumentKey, QueueName, Row, Vector, WakeUp
from common.pack import Pack, PackedChunk
from common.ports.blobs import BlobNotFoundError, BlobStore
from common.ports.embedder import Embedder
from common.ports.errors import TransientError
from common.ports.queue import Delivery, Queue
from common.ports.registry import Registry
from common.transitions import Timers, claim, extend_claim
from workers.lease import Lease
from workers.outcome import Done, HandlerOutcome
from workers.packs import read_applied_pack, read_pack, write_pack
from workers.retry import PermanentFailureError
from workers.rows import change_row
from workers.unforeseen import tell

log = structlog.get_logger(__name__)

SLICE_CHUNKS = 16
"""Chunks given to the model at once: a second or so of work, so that documents take turns."""


def chunker_profile(sizes: ChunkSizes) -> str:
    """What decides the chunk list besides the content; part of every doc_hash."""
    return f"v{CHUNKER_VERSION}:{sizes.target_tokens}:{sizes.max_tokens}:{sizes.max_characters}"


@dataclass(slots=True, kw_only=True)
class EmbedHandler:
    """Reconciles a document's pack with its desired version."""

    registry: Registry
    blobs: BlobStore
    queue: Queue
    embedder: Embedder
    sizes: ChunkSizes
    timers: Timers
    claim_seconds: float
    document_timeout_seconds: float = 7200.0
    clock: Clock = system_clock

    async def __call__(self, delivery: Delivery, lease: Lease) -> HandlerOutcome:
        wake_up = delivery.wake_up
        row = await self.registry.get(wake_up.key)
        if row is None or not row.behind:
            return Done("already applied")
        if row.desired.tombstone:
            await self._wake(QueueName.DELETE, row, "")
            return Done("is a delete")
        await self._check_profile(wake_up.namespace)
        doc_hash = self._doc_hash(row.desired)
        if await read_pack(self.blobs, row.key, row.desired.version, doc_hash) is not None:
            await self._wake_apply(row, doc_hash)
            return Done("pack exists")
        claimed = await change_row(
            self.registry, row.key, lambda fresh: self._claim(fresh, row.desired, delivery)
        )
        if claimed is None:
            return Done("another wake-up has it")
        pack = await self._claimed_pack(claimed, doc_hash, delivery, lease)
        await write_pack(self.blobs, row.key, pack)
        await self._wake_apply(claimed, doc_hash)
        return Done("embedded")

    def _claim(self, row: Row, planned: Desired, delivery: Delivery) -> Row | None:
        """None as well when a newer change came in between: its own wake-up is on its way."""
        if not row.behind or row.desired.version != planned.version:
            return None
        now = self.clock()
        until = now + self.claim_seconds
        return claim(row, delivery.message_id, now, until, self.timers)

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
        """The claim is renewed meanwhile, so that no other wake-up begins the same work."""
        renewal = asyncio.create_task(self._renew_claim(row.key, delivery))
        limit = asyncio.timeout(self.document_timeout_seconds)
        try:
            async with limit:
                return await self._make_pack(row, doc_hash, lease)
        except TimeoutError as error:
            if not limit.expired():  # something it called gave up, not the document's time
                raise TransientError(f"timed out: {error}") from error
            raise PermanentFailureError(
                f"it took longer than {self.document_timeout_seconds:g} s to read and embed it; "
                "split the document or raise BLOOMWEAVER_DOCUMENT_TIMEOUT_SECONDS"
            ) from None
        finally:
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)

    async def _make_pack(self, row: Row, doc_hash: str, lease: Lease) -> Pack:
        content = await self._content(row)
        counter = await self.embedder.token_counter()
        chunks = await asyncio.to_thread(
            make_chunks, content, row.desired.content_type, counter, self.sizes
        )
        known = await self._known_vectors(row)
        missing = list({c.hash: c for c in chunks if c.hash not in known}.values())
        known.update(await self._embed(missing, lease))
        telemetry.CHUNKS.labels("embedded").inc(len(missing))
        telemetry.CHUNKS.labels("reused").inc(len(chunks) - len(missing))
        log.info("document.embedded", chunks=len(chunks), embedded=len(missing))
        return self._pack(row, doc_hash, chunks, known, len(missing))

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

    async def _known_vectors(self, row: Row) -> dict[str, Vector[float]]:
        if row.applied.embedding_profile != self.embedder.profile.id:
            return {}
        base = await read_applied_pack(self.blobs, row.key, row.applied)
        if base is None:
            return {}
        return {c.hash: v for c, v in zip(base.chunks, base.vectors, strict=True)}

    async def _embed(self, chunks: Sequence[Chunk], lease: Lease) -> dict[str, Vector[float]]:
        vectors: dict[str, Vector[float]] = {}
        began = asyncio.get_running_loop().time()
        for start in range(0, len(chunks), SLICE_CHUNKS):
            lease.check()
            part = chunks[start : start + SLICE_CHUNKS]
            texts = [embedding_text(chunk.heading_path, chunk.text) for chunk in part]
            for chunk, vector in zip(part, await self.embedder.embed_documents(texts), strict=True):
                vectors[chunk.hash] = vector
        if chunks:
            took = asyncio.get_running_loop().time() - began
            telemetry.EMBED_SECONDS.observe(took)
        return vectors

    async def _renew_claim(self, key: DocumentKey, delivery: Delivery) -> None:
        """Until it is cancelled, or a newer version is desired: this one's pack may still help."""
        while True:
            await asyncio.sleep(self.claim_seconds / 3)
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
    content: bytes, content_type: str, counter: TokenCounter, sizes: ChunkSizes
) -> list[Chunk]:
    """CPU-bound: call it in a thread. Raises UnreadableDocument."""
    return chunk_text(extract(content, content_type), counter, sizes)


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
