"""What the embedded stores do when the disk is full, and when there is room again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import textwrap
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.adapters.blobs.folder import FolderBlobStore
from common.adapters.index import qdrant_edge_shard
from common.adapters.index.qdrant_edge import QdrantEdgeIndex
from common.adapters.index.qdrant_edge_shard import RESERVE_BYTES
from common.adapters.queue.sqlite import SqliteQueue
from common.adapters.registry.sqlite import SqliteRegistry
from common.model import QueueName, Record, Row, WakeUp
from common.ports.capacity import CapacityAware
from common.ports.errors import TransientError
from common.storage.data_folder import DataFolder
from common.storage.free_space import free_bytes
from tests.builders import KEY, desired

MEBIBYTE = 1024 * 1024
DISK_MEBIBYTES = 160


def record(number: int) -> Record:
    return Record(
        id=f"{'a' * 26}#1#{number}",
        vector=array("f", [1.0, float(number)]),
        document_id="d",
        generation=1,
        number=number,
        doc_hash="h",
        heading_path=(),
        text="text",
        metadata={},
    )


async def test_the_index_refuses_what_would_end_the_process_and_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = QdrantEdgeIndex(tmp_path / "index")
    await index.upsert("docs", [record(1)])

    monkeypatch.setattr(qdrant_edge_shard, "free_bytes", lambda path: RESERVE_BYTES - 1)
    with pytest.raises(TransientError, match="free some space"):
        await index.upsert("docs", [record(2)])
    with pytest.raises(TransientError, match="free some space"):
        await index.upsert("new", [record(1)])
    with pytest.raises(TransientError, match="free some space"):
        await index.delete("docs", [record(1).id])
    assert len(await index.query("docs", array("f", [1.0, 1.0]), top_k=9)) == 1

    monkeypatch.setattr(qdrant_edge_shard, "free_bytes", lambda path: RESERVE_BYTES)
    await index.upsert("docs", [record(2)])
    assert await index.count("docs") == 2
    assert await index.count("new") == 0
    await index.close()


async def test_an_index_is_opened_and_tidied_only_where_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = QdrantEdgeIndex(tmp_path / "index")
    await index.upsert("docs", [record(1)])
    monkeypatch.setattr(qdrant_edge_shard, "free_bytes", lambda path: RESERVE_BYTES - 1)
    await index.close()

    again = QdrantEdgeIndex(tmp_path / "index")
    with pytest.raises(TransientError, match="free some space"):
        await again.count("docs")
    monkeypatch.setattr(qdrant_edge_shard, "free_bytes", lambda path: RESERVE_BYTES)
    assert await again.count("docs") == 1
    await again.close()


async def test_every_embedded_store_tells_how_much_room_there_is(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    index = QdrantEdgeIndex(tmp_path / "not" / "yet" / "there")
    stores: list[Any] = [
        SqliteQueue(folder, receiver="test"),
        SqliteRegistry(folder.registry_path),
        FolderBlobStore(folder.blobs_path),
        index,
    ]
    found = os.statvfs(tmp_path)
    assert all(isinstance(store, CapacityAware) for store in stores)
    for store in stores:
        told = await store.free_bytes()
        assert told == pytest.approx(found.f_bavail * found.f_frsize, abs=2**30)
        await store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, in memory; only where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MEBIBYTES}m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def filled(disk: Path) -> Iterator[None]:
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (MEBIBYTE, 4096, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass
    assert free_bytes(disk) == 0
    yield
    ballast.unlink()


async def test_nothing_is_half_stored_on_a_full_disk(small_disk: Path) -> None:
    folder = DataFolder(small_disk / "data")
    queue = SqliteQueue(folder, receiver="test")
    registry = SqliteRegistry(folder.registry_path)
    blobs = FolderBlobStore(folder.blobs_path)
    wake_ups = [WakeUp(namespace="docs", document_id="x" * 900, version=1)] * 200
    row = Row(key=KEY, revision=0, desired=desired(metadata={"text": "x" * 8000}))

    with filled(small_disk):
        with pytest.raises(TransientError, match="full"):
            await asyncio.gather(*(queue.send(QueueName.CHANGE, wake_ups) for _ in range(9)))
        with pytest.raises(TransientError, match="full"):
            await registry.put_if(row)
        with pytest.raises(TransientError, match="full"):
            await blobs.put("raw/docs/a", b"x" * MEBIBYTE)
        assert await registry.get(KEY) is None
        assert not await blobs.exists("raw/docs/a")
        assert (await queue.depth(QueueName.CHANGE)).backlog % len(wake_ups) == 0

    before = (await queue.depth(QueueName.CHANGE)).backlog
    await queue.send(QueueName.CHANGE, wake_ups)
    assert (await queue.depth(QueueName.CHANGE)).backlog == before + len(wake_ups)
    assert await registry.put_if(row) is not None
    assert await blobs.put("raw/docs/a", b"x" * MEBIBYTE)
    for store in (queue, registry, blobs):
        await store.close()


INDEX_ON_A_FULL_DISK = """
    import asyncio, sys
    from pathlib import Path
    from common.adapters.index.qdrant_edge import QdrantEdgeIndex
    from common.ports.errors import TransientError
    from tests.integration.test_full_disk import filled, record

    async def refused(call):
        try:
            await call
        except TransientError:
            return True
        return False

    async def main(disk):
        index = QdrantEdgeIndex(disk / "index")
        await index.upsert("docs", [record(n) for n in range(500)])
        with filled(disk):
            assert await refused(index.upsert("docs", [record(n) for n in range(500, 900)]))
            assert await refused(index.upsert("new", [record(1)]))
            assert await refused(index.delete("docs", [record(1).id]))
            assert await index.count("docs") == 500
            await index.close()
            index = QdrantEdgeIndex(disk / "index")
            assert await refused(index.count("docs"))
        await index.upsert("docs", [record(n) for n in range(500, 900)])
        assert await index.count("docs") == 900
        await index.close()

    asyncio.run(main(Path(sys.argv[1])))
"""


def test_a_full_disk_does_not_end_the_process_that_owns_the_index(small_disk: Path) -> None:
    """In a process of its own: the engine's way to say that a disk is full is SIGBUS."""
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(INDEX_ON_A_FULL_DISK), str(small_disk)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
