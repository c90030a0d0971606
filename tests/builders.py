"""Values for tests, complete and plain; name only what the test is about."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from common import identity
from common.model import Desired, DocumentKey, QueueName, Row, Vector, WakeUp
from common.pack import Pack, PackedChunk
from common.ports.queue import Delivery
from common.transitions import Timers

KEY = DocumentKey("docs", "guide/start.md")
TIMERS = Timers(
    stale_after_seconds=60,
    attempt_lease_seconds=30,
    collect_grace_seconds=10,
    tombstone_retention_seconds=1000,
)


def desired(text: str = "hello", **changes: Any) -> Desired:
    content = text.encode()
    value = Desired(
        version=1,
        content_hash=identity.sha256_hex(content),
        metadata_hash=identity.metadata_hash({}),
        blob_key=identity.raw_blob_key(KEY.namespace, identity.sha256_hex(content)),
        content_type="text/plain",
        metadata={},
        source_version=None,
        tombstone=False,
        accepted_at=100.0,
        size_bytes=len(content),
        traceparent="",
    )
    return replace(value, **changes)


def tombstone(**changes: Any) -> Desired:
    return desired("", tombstone=True, content_hash="", blob_key="", content_type="", **changes)


def row(**changes: Any) -> Row:
    return replace(Row(key=KEY, revision=1, desired=desired()), **changes)


def vector(*components: float) -> Vector[float]:
    return array("f", components)


def pack(chunks: Sequence[str], *, version: int = 1, metadata: Any = None, **changes: Any) -> Pack:
    """A pack whose chunk hashes are the texts themselves and whose doc_hash names its version."""
    metadata = metadata or {}
    value = Pack(
        namespace=KEY.namespace,
        document_id=KEY.document_id,
        version=version,
        doc_hash=f"hash-{version}",
        content_hash="c",
        metadata_hash=identity.metadata_hash(metadata),
        metadata=metadata,
        embedding_profile="profile",
        dimension=3,
        accepted_at=100.0,
        embedded=len(chunks),
        chunks=tuple(
            PackedChunk(
                hash=text, text=text, start=0, end=len(text), heading_path=("A",), token_count=1
            )
            for text in chunks
        ),
        vectors=tuple(vector(1.0, float(place), 0.5) for place in range(len(chunks))),
    )
    return replace(value, **changes)


def delivery(
    queue: QueueName = QueueName.CHANGE,
    *,
    version: int = 1,
    doc_hash: str = "",
    receive_count: int = 1,
    message_id: str = "m1",
    key: DocumentKey = KEY,
) -> Delivery:
    return Delivery(
        queue=queue,
        message_id=message_id,
        receipt="r1",
        wake_up=WakeUp(
            namespace=key.namespace,
            document_id=key.document_id,
            version=version,
            doc_hash=doc_hash,
        ),
        receive_count=receive_count,
        sent_at=100.0,
    )
