"""Texts that were too large for the index, taken from the packs of the versions that are shown."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from common import identity
from common.model import DocumentKey
from common.pack import CorruptPackError, PackedChunk, decode
from common.ports.blobs import BlobNotFoundError, BlobStore
from common.ports.errors import PermanentError

log = structlog.get_logger(__name__)

PACKS_AT_ONCE: Final = 4
"""A pack of a large document takes tens of megabytes while it is read."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A chunk of an applied version, by its place in the document, from 0."""

    document_id: str
    version: int
    doc_hash: str
    chunk: int


async def chunks_at(
    blobs: BlobStore | None, namespace: str, places: Iterable[Place]
) -> dict[Place, PackedChunk]:
    """Each pack is read once. A place whose pack is missing or torn is absent: scrub mends it.

    Raises TransientError when the store is out of reach.
    """
    by_pack: dict[tuple[str, int, str], list[Place]] = {}
    for place in places:
        by_pack.setdefault((place.document_id, place.version, place.doc_hash), []).append(place)
    if not by_pack:
        return {}
    if blobs is None:
        raise PermanentError("texts are in packs, and this search has no blob store")
    keys = {
        identity.pack_key(DocumentKey(namespace, name), version, doc_hash): wanted
        for (name, version, doc_hash), wanted in by_pack.items()
    }
    gate = asyncio.Semaphore(PACKS_AT_ONCE)
    try:
        async with asyncio.TaskGroup() as group:
            reads = [
                group.create_task(_read(blobs, gate, blob_key, wanted))
                for blob_key, wanted in keys.items()
            ]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return {place: chunk for read in reads for place, chunk in read.result().items()}


async def _read(
    blobs: BlobStore, gate: asyncio.Semaphore, blob_key: str, wanted: list[Place]
) -> Mapping[Place, PackedChunk]:
    try:
        async with gate:
            pack = await asyncio.to_thread(decode, await blobs.get(blob_key))
        return {place: pack.chunks[place.chunk] for place in wanted}
    except (BlobNotFoundError, CorruptPackError, IndexError, ValueError, zlib.error) as error:
        log.error("search.text_lost", blob=blob_key, error=str(error) or type(error).__name__)
        return {}
