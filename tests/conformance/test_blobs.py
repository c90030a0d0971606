"""What every blob adapter must do. A new adapter is one more line in CASES.

S3 runs against moto and ministack. Where they differ from the service, and from each other: moto
takes an object whose SHA-256 is wrong and keeps no checksums of parts, ministack refuses and keeps
them; ministack tells times in milliseconds, moto and the service in whole seconds; neither heeds
a condition on the target of a copy, and moto none on its source. Both do heed If-None-Match of a
put, If-Match of a read and a delete, versions and delete markers.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from common.adapters.blobs.folder import FolderBlobStore
from common.adapters.blobs.s3 import S3BlobStore
from common.aws.s3_bucket import S3Bucket
from common.ports.blobs import BlobNotFoundError, BlobStore
from tests.fakes.blobs import MemoryBlobStore
from tests.servers.aws import ministack, moto
from tests.servers.buckets import new_bucket
from tests.servers.process import ServerProcess


@contextlib.asynccontextmanager
async def folder(path: Path) -> AsyncIterator[BlobStore]:
    store = FolderBlobStore(path / "blobs")
    yield store
    await store.close()


@contextlib.asynccontextmanager
async def memory(path: Path) -> AsyncIterator[BlobStore]:
    yield MemoryBlobStore()


Case = Callable[[Path], AbstractAsyncContextManager[BlobStore]]


def s3(server: Callable[[], ServerProcess], *, versioned: bool = True) -> Case:
    @contextlib.asynccontextmanager
    async def case(path: Path) -> AsyncIterator[BlobStore]:
        async with new_bucket(server(), versioned=versioned) as name:
            store = S3BlobStore(S3Bucket(name, timeout_seconds=30), "some/prefix/")
            yield store
            await store.close()

    return case


CASES: dict[str, Case] = {
    "memory": memory,
    "folder": folder,
    "s3-moto": s3(moto),
    "s3-ministack": s3(ministack),
    "s3-ministack-unversioned": s3(ministack, versioned=False),
}
COLLECTING = [name for name in CASES if not name.endswith("-unversioned")]
"""In a bucket that is not versioned a delete by age could undo a put, so that nothing is deleted
there, as the port allows (tests/integration/test_s3_blobs.py)."""


def parametrized(names: Sequence[str]) -> list[ParameterSet]:
    return [
        pytest.param(name, marks=[pytest.mark.slow] if name.startswith("s3") else [])
        for name in names
    ]


@pytest.fixture(params=parametrized([*CASES]))
async def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BlobStore]:
    async with CASES[request.param](tmp_path) as opened:
        yield opened


async def keys(blobs: BlobStore, prefix: str = "") -> set[str]:
    found = [info.key async for info in blobs.list(prefix)]
    assert len(found) == len(set(found))
    return set(found)


@pytest.mark.parametrize("data", [b"", b"\0\xff", b"x" * 3_000_000, b"large" * 4_000_000])
async def test_bytes_come_back_as_they_were(blobs: BlobStore, data: bytes) -> None:
    await blobs.put("raw/a/b", data)

    assert await blobs.get("raw/a/b") == data


async def test_a_later_put_replaces(blobs: BlobStore) -> None:
    await blobs.put("k/a", b"old")
    await blobs.put("k/a", b"new")

    assert await blobs.get("k/a") == b"new"


async def test_a_missing_blob_is_an_error_that_says_so(blobs: BlobStore) -> None:
    await blobs.put("k/a", b"")

    for missing in ("k/b", "k", "k/a/deeper", "nothing/here"):
        with pytest.raises(BlobNotFoundError, match=missing):
            await blobs.get(missing)


async def test_exists(blobs: BlobStore) -> None:
    await blobs.put("k/a", b"")

    assert await blobs.exists("k/a")
    assert not await blobs.exists("k/b")
    assert not await blobs.exists("k")


async def test_delete_removes_these_and_minds_no_missing_ones(blobs: BlobStore) -> None:
    for key in ("k/a", "k/b", "k/c"):
        await blobs.put(key, b"x")

    await blobs.delete(["k/a", "k/missing", "other/missing", "k/b", "k"])
    await blobs.delete([])

    assert await keys(blobs) == {"k/c"}


async def test_what_was_deleted_can_be_put_again(blobs: BlobStore) -> None:
    for _ in range(3):
        await blobs.put("k/deep/a", b"x")
        await blobs.delete(["k/deep/a"])
        assert not await blobs.exists("k/deep/a")


async def test_list_goes_by_whole_segments(blobs: BlobStore) -> None:
    for key in ("raw/a/1", "raw/a/2", "raw/ab/1", "rawer/a"):
        await blobs.put(key, b"x")

    assert await keys(blobs) == {"raw/a/1", "raw/a/2", "raw/ab/1", "rawer/a"}
    assert await keys(blobs, "raw/") == {"raw/a/1", "raw/a/2", "raw/ab/1"}
    assert await keys(blobs, "raw") == {"raw/a/1", "raw/a/2", "raw/ab/1"}
    assert await keys(blobs, "raw/a/") == {"raw/a/1", "raw/a/2"}
    assert await keys(blobs, "nothing/") == set()


async def test_list_tells_size_and_time(blobs: BlobStore) -> None:
    await blobs.put("k/a", b"12345")

    (info,) = [info async for info in blobs.list("k/")]

    assert info.size_bytes == 5
    assert info.modified_at == pytest.approx(time.time(), abs=60)


async def test_list_survives_deletion_of_what_it_has_not_reached(blobs: BlobStore) -> None:
    names = [f"k/{n % 7}/{n}" for n in range(1100)]
    await asyncio.gather(*[blobs.put(name, b"") for name in names])
    await blobs.put("k/kept/x", b"")

    seen: set[str] = set()
    async for info in blobs.list("k/"):
        if not seen:
            await blobs.delete(names)
        seen.add(info.key)

    assert "k/kept/x" in seen
    assert await keys(blobs) == {"k/kept/x"}


async def test_concurrent_puts_of_one_key_leave_one_of_them_whole(blobs: BlobStore) -> None:
    contents = [bytes([n]) * 200_000 for n in range(16)]

    await asyncio.gather(*[blobs.put("k/a", data) for data in contents])

    assert await blobs.get("k/a") in contents
    assert await keys(blobs) == {"k/a"}


@pytest.mark.parametrize(
    "key",
    ["", "/a", "a/", "a//b", "a/../b", "..", ".", "a/./b", "é", "a\nb", "a\\b", "x" * 256, "\0"],
)
async def test_a_bad_key_is_refused(blobs: BlobStore, key: str) -> None:
    for refused in (blobs.put(key, b""), blobs.get(key), blobs.exists(key), blobs.delete([key])):
        with pytest.raises(ValueError, match="blob key"):
            await refused


@pytest.mark.parametrize("blobs", parametrized(COLLECTING), indirect=True)
async def test_only_what_is_old_is_deleted_by_age(blobs: BlobStore) -> None:
    await blobs.put("raw/x/a", b"old")
    await blobs.put("raw/x/b", b"young")
    (old,) = [info.modified_at async for info in blobs.list("raw/x/a")]

    assert await blobs.delete_if_older(["raw/x/a", "raw/x/gone"], before=old) == 0
    assert await keys(blobs) == {"raw/x/a", "raw/x/b"}
    assert await blobs.get("raw/x/a") == b"old"

    assert await blobs.delete_if_older(["raw/x/a"], before=time.time() + 60) == 1
    assert await keys(blobs) == {"raw/x/b"}


async def test_deleting_by_age_never_undoes_a_put(blobs: BlobStore) -> None:
    """The put that is running or over when the collector comes by is younger than its limit."""
    await blobs.put("raw/x/a", b"content")
    (old,) = [info.modified_at async for info in blobs.list("raw/x/a")]
    for _ in range(20 if isinstance(blobs, S3BlobStore) else 100):
        await asyncio.gather(
            blobs.delete_if_older(["raw/x/a"], before=old), blobs.put("raw/x/a", b"content")
        )
        assert await blobs.get("raw/x/a") == b"content"


async def test_a_put_tells_whether_the_bytes_are_new(blobs: BlobStore) -> None:
    assert await blobs.put("raw/x/a", b"content")
    assert not await blobs.put("raw/x/a", b"content")
    assert await blobs.put("raw/x/a", b"another")
