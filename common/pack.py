"""The pack: one version's chunks in order, with hashes, spans and vectors, as one blob.

It is the embedding backup, the source of reused vectors, and what the consumers write from.
Layout: magic, length of the header (u32 little-endian), zlib-compressed JSON header, float32
little-endian vectors (chunks × dimension), SHA-256 of all before it: a torn blob is recognised.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import zlib
from array import array
from dataclasses import dataclass

from common.model import MetadataValue, Vector

MAGIC = b"BWPACK1\n"
_DIGEST_BYTES = 32


class CorruptPackError(Exception):
    """The blob is not a whole pack; it has to be made again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedChunk:
    """`start` and `end` are characters of the extracted text, half open."""

    hash: str
    text: str
    start: int
    end: int
    heading_path: tuple[str, ...]
    token_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """`vectors[i]` belongs to `chunks[i]`; all have `dimension` components."""

    namespace: str
    document_id: str
    version: int
    doc_hash: str
    content_hash: str
    metadata_hash: str
    metadata: dict[str, MetadataValue]
    embedding_profile: str
    dimension: int
    accepted_at: float
    embedded: int
    """Chunks that went through the model for this version; the others were reused."""
    chunks: tuple[PackedChunk, ...]
    vectors: tuple[Vector[float], ...]


_CHUNK_FIELDS = PackedChunk.__slots__


def encode(pack: Pack) -> bytes:
    header = {
        name: getattr(pack, name) for name in Pack.__slots__ if name not in ("chunks", "vectors")
    }
    header["chunks"] = [{name: getattr(c, name) for name in _CHUNK_FIELDS} for c in pack.chunks]
    text = zlib.compress(json.dumps(header, ensure_ascii=False).encode(), level=3)
    vectors = b"".join(_little_endian(vector).tobytes() for vector in pack.vectors)
    body = b"".join([MAGIC, struct.pack("<I", len(text)), text, vectors])
    return body + hashlib.sha256(body).digest()


def decode(data: bytes) -> Pack:
    """Raises CorruptPackError."""
    body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if not body.startswith(MAGIC) or hashlib.sha256(body).digest() != digest:
        raise CorruptPackError("the checksum of the pack does not match its content")
    start = len(MAGIC) + 4
    (size,) = struct.unpack_from("<I", body, len(MAGIC))
    header = json.loads(zlib.decompress(body[start : start + size]))
    chunks = tuple(
        PackedChunk(**{**chunk, "heading_path": tuple(chunk["heading_path"])})
        for chunk in header.pop("chunks")
    )
    vectors = _split(body[start + size :], len(chunks), header["dimension"])
    return Pack(**header, chunks=chunks, vectors=vectors)


def _split(data: bytes, count: int, dimension: int) -> tuple[Vector[float], ...]:
    width = 4 * dimension
    if len(data) != count * width:
        raise CorruptPackError("the pack holds another number of vectors than of chunks")
    return tuple(
        _little_endian(array("f", data[i * width : (i + 1) * width])) for i in range(count)
    )


def _little_endian(vector: Vector[float]) -> Vector[float]:
    if sys.byteorder == "little":
        return vector
    swapped = array("f", vector)
    swapped.byteswap()
    return swapped
