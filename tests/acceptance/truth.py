"""Compares index, registry and feed: the index must hold exactly the chunks of what is alive."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
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
from common.model import QueueName, Record, Row, Status, expand
from common.ports.blobs import BlobStore
from common.ports.index import Index
from common.ports.queue import Queue
from common.ports.registry import Registry
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """What an installation leaves behind, opened by the test."""

    queue: Queue
    registry: Registry
    blobs: BlobStore
    index: Index


async def assert_true_to(expected: dict[str, str], data_dir: Path) -> int:
    """Opens the data folder of a stopped service. Returns the number of chunks compared."""
    folder = DataFolder(data_dir)
    stores = Stores(
        queue=SqliteQueue(folder, receiver="test"),
        registry=SqliteRegistry(folder.registry_path),
        blobs=FolderBlobStore(folder.blobs_path),
        index=QdrantEdgeIndex(folder.index_path),
    )
    try:
        return await assert_stores_true_to(expected, stores)
    finally:
        for adapter in (stores.queue, stores.registry, stores.index, stores.blobs):
            await adapter.close()


async def assert_stores_true_to(expected: dict[str, str], stores: Stores) -> int:
    """Nobody may be working on the stores. Returns the number of chunks compared."""
    await _sweep(stores)
    await _assert_scrub_finds_nothing(stores)
    rows = await _rows(stores.registry)
    _assert_registry_says(rows, expected)
    records = await _records(stores.index)
    _assert_index_holds(records, rows, expected)
    for name in QueueName:
        assert (await stores.queue.depth(name)).backlog == 0, f"messages left on {name}"
    letters = await stores.queue.dead_letters(limit=10)
    assert letters == [], "dead letters are left"
    return len(records)


async def _sweep(stores: Stores) -> None:
    """What the sweeper does an hour later, when the leases of killed attempts have run out."""
    for hours in (1, 2):
        sweeper = Sweeper(
            registry=stores.registry,
            queue=stores.queue,
            blobs=stores.blobs,
            index=stores.index,
            timers=Timers(),
            interval_seconds=1,
            blob_interval_seconds=1,
            blob_grace_seconds=3600,
            clock=partial(_later, hours),
        )
        await sweeper.sweep_rows()
        await sweeper.adopt_letters()


async def _assert_scrub_finds_nothing(stores: Stores) -> None:
    scrubber = Scrubber(
        registry=stores.registry,
        blobs=stores.blobs,
        index=stores.index,
        queue=stores.queue,
        timers=Timers(),
        clock=partial(_later, 2),
    )
    report = await scrubber.scrub(namespace=None, repair=False)
    assert report.findings == ()
    assert report.documents_in_motion == 0


def _later(hours: int) -> float:
    return time.time() + hours * 3600


async def _rows(registry: Registry) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    cursor: str | None = None
    while True:
        page = await registry.scan(NAMESPACE, cursor=cursor, limit=1000)
        rows |= {row.key.document_id: row for row in page.rows}
        cursor = page.cursor
        if cursor is None:
            return rows


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


async def _records(index: Index) -> dict[str, Record]:
    ids = [record_id async for record_id in index.list_ids(NAMESPACE)]
    found = {record.id: record for record in await index.fetch(NAMESPACE, ids)}
    assert len(ids) == len(found) == await index.count(NAMESPACE)
    return found


def _assert_index_holds(
    records: dict[str, Record], rows: dict[str, Row], expected: dict[str, str]
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
