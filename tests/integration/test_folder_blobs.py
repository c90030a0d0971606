"""Blobs in a folder: killed writers, full disks, torn files, what is left behind."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import multiprocessing
import os
import time
from collections.abc import AsyncIterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from common.adapters.blobs.folder import FolderBlobStore
from common.ports.errors import PermanentError, TransientError

SPAWN = multiprocessing.get_context("spawn")
DAY_SECONDS = 86400.0


@pytest.fixture
async def blobs(tmp_path: Path) -> AsyncIterator[FolderBlobStore]:
    opened = FolderBlobStore(tmp_path)
    yield opened
    await opened.close()


def put_until_killed(path: str, pipe: Connection) -> None:
    async def writer(store: FolderBlobStore, name: int) -> None:
        number = 0
        while True:
            data = f"{name}-{number}".encode() * 50_000
            key = f"raw/{name}/{hashlib.sha256(data).hexdigest()}"
            await store.put(key, data)
            pipe.send(key)
            number += 1

    async def run() -> None:
        store = FolderBlobStore(Path(path))
        await asyncio.gather(*[writer(store, name) for name in range(8)])

    asyncio.run(run())


@pytest.mark.slow
async def test_a_killed_writer_leaves_every_blob_whole_or_absent(tmp_path: Path) -> None:
    stored: set[str] = set()
    for reports in (3, 17, 60):
        ours, theirs = SPAWN.Pipe(duplex=False)
        writer = SPAWN.Process(target=put_until_killed, args=(str(tmp_path), theirs))
        writer.start()
        theirs.close()
        stored |= {ours.recv() for _ in range(reports)}
        writer.kill()
        try:
            while True:
                stored.add(ours.recv())
        except EOFError:
            writer.join()

    store = FolderBlobStore(tmp_path)
    found = {info.key async for info in store.list("")}
    for key in found:
        assert hashlib.sha256(await store.get(key)).hexdigest() == key.rpartition("/")[2]
    await store.close()
    assert found >= stored


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (errno.ENOSPC, TransientError, "full: free some space"),
        (errno.EDQUOT, TransientError, "full: free some space"),
        (errno.EIO, TransientError, "disk .* error"),
        (errno.EMFILE, TransientError, "cannot be used now"),
        (errno.EROFS, TransientError, "cannot be used now: Read-only"),
    ],
)
async def test_a_failing_disk_is_told_and_the_old_blob_stays(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    kind: type[Exception],
    words: str,
) -> None:
    blobs = FolderBlobStore(tmp_path)
    await blobs.put("k/a", b"old")

    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(kind, match=words):
            await blobs.put("k/a", b"new")

    assert await blobs.get("k/a") == b"old"
    await blobs.close()
    assert list((tmp_path / ".tmp").iterdir()) == []


async def test_the_bytes_are_on_the_disk_before_the_name_and_the_name_before_it_returns(
    blobs: FolderBlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def recorded_fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        place = "file" if path.parent.name == ".tmp" else str(path.relative_to(tmp_path))
        events.append(f"fsync {place}")
        fsync(descriptor)

    def recorded_replace(self: Path, target: Path) -> Path:
        events.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(Path, "replace", recorded_replace)
    await blobs.put("k/deep/a", b"data")

    assert events == ["fsync .", "fsync k", "fsync file", "rename", "fsync k/deep"]


async def test_putting_again_refreshes_the_time(blobs: FolderBlobStore, tmp_path: Path) -> None:
    await blobs.put("k/a", b"data")
    os.utime(tmp_path / "k" / "a", (1000, 1000))

    await blobs.put("k/a", b"data")

    (info,) = [info async for info in blobs.list("k/")]
    assert info.modified_at == pytest.approx(time.time(), abs=60)


@pytest.mark.parametrize("torn", [b"", b"da", b"datA"])
async def test_putting_again_heals_a_torn_file(
    blobs: FolderBlobStore, tmp_path: Path, torn: bytes
) -> None:
    await blobs.put("k/a", b"data")
    (tmp_path / "k" / "a").write_bytes(torn)

    await blobs.put("k/a", b"data")

    assert await blobs.get("k/a") == b"data"


async def test_leftovers_of_killed_writers_go_after_a_day(tmp_path: Path) -> None:
    (tmp_path / ".tmp").mkdir()
    old, young = tmp_path / ".tmp" / "1-old", tmp_path / ".tmp" / "2-young"
    old.write_bytes(b"x")
    young.write_bytes(b"x")
    os.utime(old, (1000, 1000))
    os.utime(young, (2000, 2000))

    store = FolderBlobStore(tmp_path, clock=lambda: DAY_SECONDS + 1500)

    assert not old.exists()
    assert young.exists()
    assert [info async for info in store.list("")] == []
    await store.close()


async def test_the_temporary_folder_is_no_key(blobs: FolderBlobStore) -> None:
    with pytest.raises(ValueError, match="blob key"):
        await blobs.put(".tmp/x", b"")


async def test_deleting_the_last_blob_removes_its_folders(
    blobs: FolderBlobStore, tmp_path: Path
) -> None:
    await blobs.put("packs/a/b/1", b"x")
    await blobs.put("packs/c/1", b"x")

    await blobs.delete(["packs/a/b/1"])

    assert sorted(path.name for path in (tmp_path / "packs").iterdir()) == ["c"]


async def test_puts_and_deletes_of_one_folder_do_not_trip_over_each_other(
    blobs: FolderBlobStore, tmp_path: Path
) -> None:
    other = FolderBlobStore(tmp_path)

    async def churn(store: FolderBlobStore, key: str) -> None:
        for _ in range(100):
            await store.put(key, b"x")
            assert await store.get(key) == b"x"
            await store.delete([key])

    await asyncio.gather(
        *[churn(store, f"k/deep/{n}-{m}") for n, store in enumerate((blobs, other)) for m in "ab"]
    )
    await other.close()

    assert [info async for info in blobs.list("")] == []


async def test_a_missing_temporary_folder_is_made_again(
    blobs: FolderBlobStore, tmp_path: Path
) -> None:
    (tmp_path / ".tmp").rmdir()

    await blobs.put("k/a", b"data")

    assert await blobs.get("k/a") == b"data"


async def test_a_file_in_the_way_is_told(blobs: FolderBlobStore) -> None:
    await blobs.put("k/a", b"data")

    with pytest.raises(PermanentError, match="cannot be used"):
        await blobs.put("k/a/b", b"data")
    with pytest.raises(PermanentError, match="cannot be used"):
        await blobs.put("k", b"data")


def test_a_root_that_may_not_be_written_is_told_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(PermanentError, match="cannot be used: Read-only"):
        FolderBlobStore(tmp_path)


def test_a_root_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    with pytest.raises(PermanentError, match="cannot be used"):
        FolderBlobStore(tmp_path / "file")
