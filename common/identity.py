"""Names and hashes. Each is a pure function of its arguments and must never change its result:
stored rows, packs and records depend on it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from functools import lru_cache

from common.model import DocumentKey, IdRange, Metadata

DOCUMENT_KEY_LENGTH = 26
RAW_PREFIX = "raw/"
PACKS_PREFIX = "packs/"
BLOB_PREFIXES = (RAW_PREFIX, PACKS_PREFIX)
"""Every blob lies under one of these; what else is in the store belongs to someone else."""


def sha256_hex(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@lru_cache(maxsize=16_384)
def document_key(key: DocumentKey) -> str:
    """26 ASCII characters (130 bits) that stand for any Unicode document id in any index."""
    digest = hashlib.sha256(f"{key.namespace}\0{key.document_id}".encode()).digest()
    return base64.b32encode(digest).decode("ascii")[:DOCUMENT_KEY_LENGTH].lower()


def record_id(doc_key: str, generation: int, number: int) -> str:
    """An id is written by one attempt and never used again."""
    return f"{doc_key}#{generation}#{number}"


def record_ids(doc_key: str, ranges: Iterable[IdRange]) -> list[str]:
    return [record_id(doc_key, r.generation, n) for r in ranges for n in range(r.first, r.last + 1)]


def canonical_json(value: object) -> bytes:
    """One byte string per value: sorted keys, no spaces, UTF-8. NaN is refused (ValueError)."""
    text = json.dumps(
        value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
    )
    return text.encode()


def metadata_hash(metadata: Metadata) -> str:
    return sha256_hex(canonical_json(dict(metadata)))


def doc_hash(
    *,
    content_hash: str,
    content_type: str,
    metadata_hash: str,
    embedding_profile: str,
    chunker_profile: str,
) -> str:
    """Names a version's records: same hash, same chunks, same vectors, same metadata."""
    parts = [content_hash, content_type, metadata_hash, embedding_profile, chunker_profile]
    return sha256_hex(canonical_json(parts))


def raw_blob_key(namespace: str, content_hash: str) -> str:
    """Content-addressed within its namespace, so that tenants never share a blob."""
    return f"{RAW_PREFIX}{namespace_key(namespace)}/{content_hash[:2]}/{content_hash}"


def pack_prefix(key: DocumentKey) -> str:
    name = document_key(key)
    return f"{PACKS_PREFIX}{namespace_key(key.namespace)}/{name[:2]}/{name}/"


def pack_key(key: DocumentKey, version: int, doc_hash: str) -> str:
    """The same key always means the same chunk list, whatever code is deployed."""
    return f"{pack_prefix(key)}{version:010d}-{doc_hash}"


@lru_cache(maxsize=4096)
def namespace_key(namespace: str) -> str:
    """26 characters safe in any file or object name."""
    digest = hashlib.sha256(namespace.encode()).digest()
    return base64.b32encode(digest).decode("ascii")[:DOCUMENT_KEY_LENGTH].lower()
