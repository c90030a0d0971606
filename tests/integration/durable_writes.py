"""A program for test_durability.py: does each write that must be durable, and says when.

Each write happens between the lines `NAME begins` and `NAME returned` on standard output.
"""

from __future__ import annotations

import asyncio
import os
import sys
from array import array
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from common import identity
from common.adapters.blobs.folder import FolderBlobStore
from common.adapters.index.qdrant_edge import QdrantEdgeIndex
from common.adapters.registry.sqlite import SqliteRegistry
from common.model import Desired, DocumentKey, Record, Row

KEY = DocumentKey("docs", "the-needle")


def row() -> Row:
    desired = Desired(
        version=1,
        content_hash="c",
        metadata_hash="m",
        blob_key="raw/c",
        content_type="text/plain",
        metadata={},
        source_version=None,
        tombstone=False,
        accepted_at=1.0,
        size_bytes=1,
        traceparent="",
    )
    return Row(key=KEY, revision=0, desired=desired)


def record(number: int) -> Record:
    return Record(
        id=identity.record_id(identity.document_key(KEY), 1, number),
        vector=array("f", [1.0, 0.5, 0.25]),
        document_id=KEY.document_id,
        generation=1,
        number=number,
        doc_hash="h",
        heading_path=(),
        text="text",
        metadata={},
    )


async def told(name: str, write: Awaitable[Any]) -> None:
    os.write(1, f"{name} begins\n".encode())
    await write
    os.write(1, f"{name} returned\n".encode())


async def run(folder: Path) -> None:
    blobs = FolderBlobStore(folder / "blobs")
    await told("blob", blobs.put("raw/ns/hash", b"the-needle in a blob"))
    registry = SqliteRegistry(folder / "registry.sqlite")
    await told("row", registry.put_if(row()))
    index = QdrantEdgeIndex(folder / "index")
    await index.upsert("docs", [record(0)])  # creates the shard
    await told("upsert", index.upsert("docs", [record(1)]))
    await told("delete", index.delete("docs", [record(1).id]))
    os._exit(0)  # what is written while closing is not the question


asyncio.run(run(Path(sys.argv[1])))
