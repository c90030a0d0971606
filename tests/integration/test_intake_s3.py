"""Files in a bucket become documents, told of by the bucket's notifications: moto and ministack as
real processes, registry and blobs on this machine.

Both notify a queue with keys encoded as S3 does it. moto encodes the slashes too, sends no
sequencer, and tells nothing of a delete that leaves a marker. Neither heeds the condition on the
target of a copy, and moto none on its source: tests/unit/test_landing_simulation.py has a landing
zone that does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from common import identity
from common.adapters.landing.s3 import S3Landing
from common.adapters.registry.sqlite import SqliteRegistry
from common.aws.clients import shared_clients
from common.aws.event_queue import EventMessage, SqsEventQueue
from common.aws.s3_bucket import S3Bucket
from common.model import DocumentKey, Row
from common.ports.landing import Area
from common.settings import Settings
from common.storage.data_folder import DataFolder
from tests.builders import TIMERS
from tests.fakes.blobs import MemoryBlobStore
from tests.fakes.embedder import HashEmbedder
from tests.fakes.queue import MemoryQueue
from tests.servers.aws import ministack, moto
from tests.servers.buckets import new_bucket, s3_client
from tests.servers.process import ServerProcess
from webhook.accept import Acceptor
from webhook.intake import IntakeHandler, Settled
from webhook.intake_loop import IntakeLoop

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

pytestmark = pytest.mark.slow

PATIENCE_SECONDS = 60.0
EVENTS: Mapping[str, str] = {
    "incoming/": "s3:ObjectCreated:*",
    "processed/": "s3:ObjectRemoved:*",
    "failed/": "s3:ObjectRemoved:*",
}


@dataclass
class Zone:
    """A bucket that notifies a queue, and an intake."""

    bucket: str
    s3: S3Client
    registry: SqliteRegistry
    blobs: MemoryBlobStore
    intake: IntakeHandler

    async def put(self, key: str, data: bytes, **more: Any) -> None:
        await self.s3.put_object(Bucket=self.bucket, Key=key, Body=data, **more)

    async def delete(self, key: str) -> None:
        await self.s3.delete_object(Bucket=self.bucket, Key=key)

    async def keys(self) -> set[str]:
        page = await self.s3.list_objects_v2(Bucket=self.bucket)
        return {found["Key"] for found in page.get("Contents", [])}

    async def read(self, key: str) -> bytes:
        answer = await self.s3.get_object(Bucket=self.bucket, Key=key)
        return await answer["Body"].read()

    async def row(self, document_id: str) -> Row | None:
        return await self.registry.get(DocumentKey("docs", document_id))

    async def content(self, document_id: str) -> bytes | None:
        row = await self.row(document_id)
        if row is None or row.desired.tombstone:
            return None
        return await self.blobs.get(row.desired.blob_key)

    async def until(self, true: Callable[[], Awaitable[bool]]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not await true():
            assert time.monotonic() < deadline, f"the bucket holds {await self.keys()}"
            await asyncio.sleep(0.05)


SERVERS = pytest.mark.parametrize(
    ("server", "versioned"),
    [
        pytest.param(moto, True, id="moto"),
        pytest.param(ministack, True, id="ministack"),
        pytest.param(ministack, False, id="ministack-unversioned"),
    ],
)


@pytest.fixture
async def zone(
    server: Callable[[], ServerProcess], versioned: bool, tmp_path: Path
) -> AsyncIterator[Zone]:
    async with new_bucket(server(), versioned=versioned) as bucket, s3_client() as s3:
        registry = SqliteRegistry(DataFolder(tmp_path).registry_path)
        blobs = MemoryBlobStore()
        acceptor = Acceptor(registry, blobs, MemoryQueue(), HashEmbedder().profile, TIMERS)
        landing = S3Landing(S3Bucket(bucket, timeout_seconds=30))
        settings = Settings(_env_file=None, max_document_bytes=10_000_000)
        intake = IntakeHandler(landing=landing, acceptor=acceptor, settings=settings)
        yield Zone(bucket, s3, registry, blobs, intake)
        await landing.close()
        await registry.close()


@contextlib.asynccontextmanager
async def notified_queue(zone: Zone) -> AsyncIterator[SqsEventQueue]:
    clients = shared_clients()
    sqs = await clients.client("sqs")
    url = (await sqs.create_queue(QueueName=f"intake-{zone.bucket}"))["QueueUrl"]
    found = await sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    arn = found["Attributes"]["QueueArn"]
    rules: Any = [
        {
            "QueueArn": arn,
            "Events": [event],
            "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": prefix}]}},
        }
        for prefix, event in EVENTS.items()
    ]
    await zone.s3.put_bucket_notification_configuration(
        Bucket=zone.bucket, NotificationConfiguration={"QueueConfigurations": rules}
    )
    queue = SqsEventQueue(f"intake-{zone.bucket}", visibility_seconds=30, timeout_seconds=30)
    assert "waiting" in await queue.check()
    yield queue
    await queue.close()
    await clients.release()


@contextlib.asynccontextmanager
async def running(zone: Zone) -> AsyncIterator[None]:
    async with notified_queue(zone) as queue:
        loop = IntakeLoop(
            queue=queue, take=zone.intake.take_event, concurrency=4,
            visibility_seconds=30, drain_seconds=10,
        )  # fmt: skip
        stop = asyncio.Event()
        task = asyncio.create_task(loop.run(stop))
        try:
            yield
        finally:
            stop.set()
            await task


@pytest.mark.parametrize(
    ("server", "versioned"),
    [(moto, False), (ministack, True), (ministack, False)],
    ids=["moto-unversioned", "ministack", "ministack-unversioned"],
)
async def test_a_file_s_life_from_its_arrival_to_its_removal(zone: Zone) -> None:
    async def is_content(data: bytes | None) -> bool:
        return await zone.content("a b+ü.md") == data

    async with running(zone):
        await zone.put(
            "incoming/docs/a b+ü.md", b"# One", Metadata={"author": "Ada"}, ContentType=""
        )
        await zone.until(lambda: is_content(b"# One"))
        await zone.until(lambda: _equal(zone.keys(), {"processed/docs/a b+ü.md"}))
        row = await zone.row("a b+ü.md")
        assert row is not None
        assert row.desired.content_type == "text/markdown"
        assert row.desired.metadata == {"author": "Ada"}

        await zone.put("incoming/docs/a b+ü.md", b"# Two", ContentType="text/plain")
        await zone.until(lambda: is_content(b"# Two"))
        await zone.until(lambda: _equal(zone.keys(), {"processed/docs/a b+ü.md"}))
        assert await zone.read("processed/docs/a b+ü.md") == b"# Two"

        await zone.put("incoming/docs/a b+ü.md", b"\xff\xff")
        await zone.until(lambda: _contains(zone.keys(), "failed/docs/a b+ü.md"))
        assert await is_content(b"# Two")
        reason = json.loads(await zone.read("failed/docs/a b+ü.md.error.json"))
        assert reason["detail"].startswith("content is not UTF-8 at byte 0")

        await zone.put("incoming/docs/a b+ü.md", b"# Three")
        await zone.until(lambda: is_content(b"# Three"))
        await zone.until(lambda: _equal(zone.keys(), {"processed/docs/a b+ü.md"}))

        await zone.delete("processed/docs/a b+ü.md")
        await zone.until(lambda: is_content(None))


@pytest.mark.parametrize(
    ("server", "versioned"), [(moto, True), (ministack, True)], ids=["moto", "ministack"]
)
async def test_a_message_that_is_put_back_begins_its_receives_anew(zone: Zone) -> None:
    async with notified_queue(zone) as queue:
        await zone.put("incoming/docs/a.md", b"x")
        message = await _received(queue)
        for _ in range(3):
            await queue.put_back(message, 0.2)
            later = await _received(queue)
            assert (later.id != message.id, later.body) == (True, message.body)
            message = later
        await queue.remove(message)
        assert (await queue.check()).endswith(": 0 waiting")


async def _received(queue: SqsEventQueue) -> EventMessage:
    """moto tells in a test event that it has begun to notify."""
    while True:
        (message,) = await queue.receive(1)
        if "s3:TestEvent" not in message.body:
            return message
        await queue.remove(message)


async def _equal(keys: Awaitable[set[str]], expected: set[str]) -> bool:
    return await keys == expected


async def _contains(keys: Awaitable[set[str]], expected: str) -> bool:
    return expected in await keys


@SERVERS
async def test_a_version_that_was_replaced_before_it_was_taken_does_not_come_back(
    zone: Zone,
) -> None:
    await zone.put("incoming/docs/a.md", b"old")
    await zone.put("incoming/docs/a.md", b"new")

    await zone.intake.reconcile("docs/a.md")

    assert await zone.content("a.md") == b"new"
    assert await zone.keys() == {"processed/docs/a.md"}
    assert await zone.read("processed/docs/a.md") == b"new"


@SERVERS
async def test_what_comes_while_a_file_is_taken_is_not_lost(zone: Zone) -> None:
    class Overtaken(Acceptor):
        async def accept(self, change: Any) -> Any:
            accepted = await super().accept(change)
            if change.content == b"first":
                await zone.put("incoming/docs/a.md", b"second")
            return accepted

    old = zone.intake.acceptor
    zone.intake.acceptor = Overtaken(old.registry, old.blobs, old.queue, old.profile, TIMERS)
    await zone.put("incoming/docs/a.md", b"first")

    await zone.intake.reconcile("docs/a.md")

    assert await zone.content("a.md") == b"second"
    assert await zone.read("processed/docs/a.md") == b"second"
    assert await zone.keys() == {"processed/docs/a.md"}


@SERVERS
async def test_what_cannot_be_a_document_ends_in_failed(zone: Zone) -> None:
    cases: dict[str, tuple[bytes, dict[str, Any], str]] = {
        "docs/large.md": (b"x" * 10_000_001, {}, "is larger than the limit"),
        "-bad/a.md": (b"x", {}, "namespace must be ASCII"),
        "nothing-but-a-namespace": (b"x", {}, "document_id must not be empty"),
        "docs/a.json": (b"{}", {"ContentType": "application/json"}, "is not supported"),
        "docs/a.bin": (b"x", {}, "says nothing and neither does the id's suffix"),
        "docs/m.md": (b"x", {"Metadata": {"text": "mine"}}, "metadata.text is reserved"),
        "docs/z.md": (b"x", {"ContentEncoding": "gzip"}, "put the file as it is"),
    }
    for name, (data, more, why) in cases.items():
        await zone.put(f"incoming/{name}", data, **more)

        assert Settled.FAILED in await zone.intake.reconcile(name)

        reason = json.loads(await zone.read(f"failed/{name}.error.json"))
        assert why in reason["detail"]
        assert await zone.read(f"failed/{name}") == data
    assert not [key for key in await zone.keys() if not key.startswith("failed/")]


@SERVERS
async def test_a_file_that_is_withdrawn_leaves_what_was_processed(zone: Zone) -> None:
    await zone.put("incoming/docs/a.md", b"kept")
    await zone.intake.reconcile("docs/a.md")
    row = await zone.row("a.md")

    await zone.put("incoming/docs/a.md", b"kept")
    await zone.delete("incoming/docs/a.md")
    await zone.intake.reconcile("docs/a.md")

    assert row is not None
    assert await zone.row("a.md") == row
    assert row.desired.content_hash == identity.sha256_hex(b"kept")


ONLY_MINISTACK = pytest.mark.parametrize(
    ("server", "versioned"), [(ministack, True), (ministack, False)], ids=["versioned", "plain"]
)
"""moto heeds no condition on the source of a copy."""


@ONLY_MINISTACK
async def test_what_is_no_longer_there_is_not_moved(zone: Zone) -> None:
    await zone.put("incoming/docs/a.md", b"old")
    seen = (await zone.intake.landing.look("docs/a.md")).incoming
    assert seen is not None
    await zone.put("incoming/docs/a.md", b"new")

    moved = await zone.intake.landing.move("docs/a.md", seen, Area.PROCESSED, replacing=None)

    assert moved is None
    assert await zone.keys() == {"incoming/docs/a.md"}


@ONLY_MINISTACK
async def test_what_comes_between_the_copy_and_the_removal_stays(zone: Zone) -> None:
    await zone.put("incoming/docs/a.md", b"old")
    seen = (await zone.intake.landing.look("docs/a.md")).incoming
    assert seen is not None
    sent: list[str] = []

    async def overtake(**_given: Any) -> None:
        await zone.put("incoming/docs/a.md", b"new")

    def remember(params: dict[str, Any], **_given: Any) -> None:
        sent.append(params["headers"]["If-None-Match"])

    events: Any = zone.s3.meta.events  # its types know no handlers that are awaited
    events.register("after-call.s3.CopyObject", overtake)
    events.register("before-call.s3.CopyObject", remember)
    moved = await zone.intake.landing.move("docs/a.md", seen, Area.PROCESSED, replacing=None)

    assert moved is not None
    assert sent == ["*"]  # which neither emulator heeds
    assert await zone.read("incoming/docs/a.md") == b"new"
    assert await zone.read("processed/docs/a.md") == b"old"
