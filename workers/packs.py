"""Packs in the blob store."""

from __future__ import annotations

import asyncio

import structlog

from common import identity
from common.model import Applied, DocumentKey
from common.pack import CorruptPackError, Pack, decode, encode
from common.ports.blobs import BlobNotFoundError, BlobStore

log = structlog.get_logger(__name__)


async def write_pack(blobs: BlobStore, key: DocumentKey, pack: Pack) -> None:
    data = await asyncio.to_thread(encode, pack)
    await blobs.put(identity.pack_key(key, pack.version, pack.doc_hash), data)


async def read_pack(blobs: BlobStore, key: DocumentKey, version: int, doc_hash: str) -> Pack | None:
    """None when it is missing, or torn and therefore removed: it has to be made again."""
    blob_key = identity.pack_key(key, version, doc_hash)
    try:
        return await asyncio.to_thread(decode, await blobs.get(blob_key))
    except BlobNotFoundError:
        return None
    except CorruptPackError as error:
        log.error("pack.corrupt", blob=blob_key, error=str(error))
        await blobs.delete([blob_key])
        return None


async def read_applied_pack(blobs: BlobStore, key: DocumentKey, applied: Applied) -> Pack | None:
    """The pack of what the index shows; None when it shows nothing."""
    if not applied.manifest:
        return None
    return await read_pack(blobs, key, applied.version, applied.doc_hash)
