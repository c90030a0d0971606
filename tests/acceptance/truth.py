"""Compares index, registry and feed: the index must hold exactly the chunks of what is alive."""

from __future__ import annotations

import gzip
import json
import time
from array import array
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from common import identity
from common.adapters.blobs.folder import FolderBlobStore
from common.adapters.embedder.packaged_model import PACKAGED_MODELS, tokenizer_path
from common.adapters.index.qdrant_edge import QdrantEdgeIndex
from common.adapters.queue.sqlite import SqliteQueue
from common.adapters.registry.sqlite import SqliteRegistry
from common.chunking.tokenizer import ModelTokenizer
from common.extraction.content_types import guess_content_type
from common.model import Match, QueueName, Row, Status, expand
from common.storage.data_folder import DataFolder
from common.transitions import Timers
from workers.embed import make_chunks, sizes_for
from workers.scrub import Scrubber
from workers.sweep import Sweeper

NAMESPACE = "default"


def changes(feed: Path) -> Iterator[dict[str, Any]]:
    opener = gzip.open if feed.suffix == ".gz" else open
    with opener(feed, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def alive(feed: Path) -> dict[str, str]:
    """The documents left at the end of the feed, and their contents."""
    left: dict[str, str] = {}
    for change in changes(feed):
        if change["change_type"] == "delete":
            left.pop(change["document_id"], None)
        else:
            left[change["document_id"]] = change["content"]
    return left


async def assert_true_to(expected: dict[str, str], data_dir: Path) -> int:
    """Opens the data folder of a stopped service. Returns the number of chunks compared."""
    folder = DataFolder(data_dir)
    registry = SqliteRegistry(folder.registry_path)
    index = QdrantEdgeIndex(folder.index_path)
    queue = SqliteQueue(folder, receiver="test")
    blobs = FolderBlobStore(folder.blobs_path)
    try:
        await _sweep(registry, queue, blobs, index)
        await _assert_scrub_finds_nothing(registry, queue, blobs, index)
        rows = await _rows(registry)
        _assert_registry_says(rows, expected)
        records = await _records(index)
        _assert_index_holds(records, rows, expected)
        for name in QueueName:
            assert (await queue.depth(name)).backlog == 0, f"messages left on {name}"
        assert await queue.dead_letter_count() == 0
        return len(records)
    finally:
        for adapter in (queue, registry, index, blobs):
            await adapter.close()


async def _sweep(
    registry: SqliteRegistry, queue: SqliteQueue, blobs: FolderBlobStore, index: QdrantEdgeIndex
) -> None:
    """What the sweeper does an hour later, when the leases of killed attempts have run out."""
    for hours in (1, 2):
        sweeper = Sweeper(
            registry=registry,
            queue=queue,
            blobs=blobs,
            index=index,
            timers=Timers(),
            interval_seconds=1,
            blob_interval_seconds=1,
            blob_grace_seconds=3600,
            clock=partial(_later, hours),
        )
        await sweeper.sweep_rows()


async def _assert_scrub_finds_nothing(
    registry: SqliteRegistry, queue: SqliteQueue, blobs: FolderBlobStore, index: QdrantEdgeIndex
) -> None:
    scrubber = Scrubber(
        registry=registry,
        blobs=blobs,
        index=index,
        queue=queue,
        timers=Timers(),
        clock=partial(_later, 2),
    )
    report = await scrubber.scrub(namespace=None, repair=False)
    assert report.findings == ()
    assert report.documents_in_motion == 0


def _later(hours: int) -> float:
    return time.time() + hours * 3600


async def _rows(registry: SqliteRegistry) -> dict[str, Row]:
    page = await registry.scan(NAMESPACE, limit=100_000)
    assert page.cursor is None
    return {row.key.document_id: row for row in page.rows}


def _assert_registry_says(rows: dict[str, Row], expected: dict[str, str]) -> None:
    living = {name for name, row in rows.items() if row.status is not Status.DELETED}
    assert living == set(expected)
    for name, row in rows.items():
        assert not row.behind, f"{name} is behind"
        assert row.garbage == (), f"{name} has garbage left"
        if name in expected:
            assert row.status is Status.COMPLETED
            assert row.desired.content_hash == identity.sha256_hex(expected[name].encode())
        else:
            assert row.applied.manifest == (), f"deleted {name} still shows records"


async def _records(index: QdrantEdgeIndex) -> dict[str, Match]:
    """Every record: an exact search that asks for more than there are."""
    count = await index.count(NAMESPACE)
    probe = array("f", [1.0] * 384)
    found = await index.query(NAMESPACE, probe, top_k=count + 10)
    assert len(found) == count
    return {match.id: match for match in found}


def _assert_index_holds(
    records: dict[str, Match], rows: dict[str, Row], expected: dict[str, str]
) -> None:
    (model,) = PACKAGED_MODELS.values()
    counter = ModelTokenizer(tokenizer_path(model))
    sizes = sizes_for(256, 512, 512)
    named: set[str] = set()
    for name, content in expected.items():
        row = rows[name]
        key = identity.document_key(row.key)
        ids = [identity.record_id(key, *pair) for pair in expand(row.applied.manifest)]
        named |= set(ids)
        shown = [(records[i].heading_path, records[i].text) for i in ids]
        content_type = guess_content_type(name) or "text/plain"
        chunks = make_chunks(content.encode(), content_type, counter, sizes)
        assert shown == [(c.heading_path, c.text) for c in chunks], f"{name} shows another text"
    assert set(records) == named, "the index holds records that no manifest names"
