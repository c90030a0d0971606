"""What the listing of every landing zone must do. A new adapter is one more line in CASES.

What becomes of one name is tested with notifications, in tests/integration/test_intake_s3.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from common.adapters.landing import s3 as s3_landing
from common.adapters.landing.s3 import S3Landing
from common.aws.s3_bucket import S3Bucket
from common.landing import key_of
from common.ports.landing import Area, Landing
from tests.fakes.landing import MemoryLanding
from tests.servers.aws import ministack, moto
from tests.servers.buckets import new_bucket, s3_client
from tests.servers.process import ServerProcess

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

PREFIX = "some/prefix/"
PUTS_AT_ONCE = 16
LARGEST_MOVE_BYTES = 3


class Zone(Protocol):
    """A landing zone that moves objects of three bytes at most, and its users."""

    @property
    def landing(self) -> Landing: ...

    async def put(self, area: Area, name: str, data: bytes = b"x") -> None: ...

    async def put_later(self, area: Area, name: str, data: bytes) -> None:
        """So that whoever compares times knows it to be newer than what was put before."""

    async def remove(self, area: Area, name: str) -> None: ...


@dataclass
class MemoryZone:
    landing: MemoryLanding

    async def put(self, area: Area, name: str, data: bytes = b"x") -> None:
        self.landing.put(area, name, data)

    async def put_later(self, area: Area, name: str, data: bytes) -> None:
        self.landing.now += 1
        self.landing.put(area, name, data)

    async def remove(self, area: Area, name: str) -> None:
        self.landing.remove(area, name)


@dataclass
class S3Zone:
    landing: S3Landing
    s3: S3Client
    bucket: str

    async def put(self, area: Area, name: str, data: bytes = b"x") -> None:
        await self.s3.put_object(Bucket=self.bucket, Key=key_of(PREFIX, area, name), Body=data)

    async def put_later(self, area: Area, name: str, data: bytes) -> None:
        """In parts: such an upload is dated by its beginning, and taken for newer by as much as
        it may have lasted."""
        at: dict[str, Any] = {"Bucket": self.bucket, "Key": key_of(PREFIX, area, name)}
        upload = (await self.s3.create_multipart_upload(**at))["UploadId"]
        part = await self.s3.upload_part(**at, UploadId=upload, PartNumber=1, Body=data)
        await self.s3.complete_multipart_upload(
            **at,
            UploadId=upload,
            MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
        )

    async def remove(self, area: Area, name: str) -> None:
        await self.s3.delete_object(Bucket=self.bucket, Key=key_of(PREFIX, area, name))


@contextlib.asynccontextmanager
async def memory(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Zone]:
    yield MemoryZone(MemoryLanding(largest_move_bytes=LARGEST_MOVE_BYTES, now=time.time()))


Case = Callable[[pytest.MonkeyPatch], AbstractAsyncContextManager[Zone]]


def s3(server: Callable[[], ServerProcess], *, versioned: bool) -> Case:
    @contextlib.asynccontextmanager
    async def case(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Zone]:
        monkeypatch.setattr(s3_landing, "MAX_COPY_BYTES", LARGEST_MOVE_BYTES)
        async with new_bucket(server(), versioned=versioned) as bucket, s3_client() as client:
            landing = S3Landing(S3Bucket(bucket, timeout_seconds=30), PREFIX)
            yield S3Zone(landing, client, bucket)
            await landing.close()

    return case


CASES: dict[str, Case] = {
    "memory": memory,
    "s3-moto": s3(moto, versioned=True),
    "s3-ministack": s3(ministack, versioned=True),
    "s3-ministack-unversioned": s3(ministack, versioned=False),
}


@pytest.fixture(
    params=[pytest.param(n, marks=[] if n == "memory" else [pytest.mark.slow]) for n in CASES]
)
async def zone(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Zone]:
    async with CASES[request.param](monkeypatch) as opened:
        yield opened


async def waiting(zone: Zone, *, seconds: float = -3600.0) -> list[str]:
    """What was put at least so long ago; by default whatever there is, an hour from now."""
    pages = zone.landing.waiting(before=time.time() - seconds)
    return sorted([name async for page in pages for name in page])


async def put_all(zone: Zone, names: Iterable[str]) -> None:
    places = asyncio.Semaphore(PUTS_AT_ONCE)

    async def put(name: str) -> None:
        async with places:
            await zone.put(Area.INCOMING, name)

    await asyncio.gather(*(put(name) for name in names))


async def test_it_names_what_lies_in_incoming_and_stands_for_a_document(zone: Zone) -> None:
    names = ["docs/a b+ü%.md", "docs/deep/er/x", "docs/called.error.json", "docs/odd/", "alone"]
    await put_all(zone, names)
    for folder in ("", "docs/", "docs/deep/"):
        await zone.put(Area.INCOMING, folder, b"")
    await zone.put(Area.PROCESSED, "docs/processed.md")
    await zone.put(Area.FAILED, "docs/failed.md")

    assert await waiting(zone) == sorted(names)


async def test_it_names_nothing_that_was_put_just_now(zone: Zone) -> None:
    await zone.put(Area.INCOMING, "docs/a.md")

    assert await waiting(zone, seconds=60) == []
    assert await waiting(zone, seconds=-60) == ["docs/a.md"]


async def test_it_names_all_of_more_than_a_page_while_they_are_worked_off(zone: Zone) -> None:
    names = [f"docs/{number:04}" for number in range(1003)]
    await put_all(zone, names)

    found = []
    async for page in zone.landing.waiting(before=time.time() + 3600):
        found += page
        for name in page[:10]:
            await zone.remove(Area.INCOMING, name)

    assert sorted(found) == names


async def test_what_can_never_be_moved_is_named_until_its_reason_is_there(zone: Zone) -> None:
    await zone.put(Area.INCOMING, "docs/large", b"large")
    await zone.put(Area.INCOMING, "docs/large.error.json", b"large")
    await zone.put(Area.INCOMING, "docs/moves", b"x")
    # The first one's reason would be called as the second one's begins.
    for name in ("docs/large.error.json", "docs/moves"):
        await zone.landing.explain(name, b"{}")
    assert await waiting(zone) == ["docs/large", "docs/moves"]

    await zone.landing.explain("docs/large", b"{}")
    assert await waiting(zone) == ["docs/moves"]

    await zone.put_later(Area.INCOMING, "docs/large", b"larger")
    assert await waiting(zone) == ["docs/large", "docs/moves"]
