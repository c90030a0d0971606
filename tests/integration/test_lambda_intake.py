"""The intake's function: files of a real landing zone become documents, message by message."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus
from uuid import uuid4

import pytest

from common.adapters.embedder.profile import url_of
from common.aws.clients import shared_clients
from common.lambda_runtime import CannotStartError
from common.lambda_sqs import NotABatchError
from common.model import DocumentKey
from common.ports.errors import TransientError
from tests.fakes.embedder import HashEmbedder
from tests.lambda_events import FunctionContext, failed, shape, sqs_event, told_by_s3
from tests.pipeline import NAMESPACE, Pipeline, pipeline
from tests.servers.aws import moto, use
from webhook import lambda_entry
from webhook.intake import IntakeHandler


class World:
    def __init__(self, flow: Pipeline, s3: Any, bucket: str) -> None:
        self.flow, self.s3, self.bucket = flow, s3, bucket

    async def put(self, key: str, content: str) -> None:
        await self.s3.put_object(Bucket=self.bucket, Key=key, Body=content.encode())

    def told(self, key: str, number: int) -> dict[str, Any]:
        """The message that S3 sends of the object."""
        notification = shape("s3_object_created_put")
        notification["Records"][0]["s3"]["object"]["key"] = key
        return told_by_s3(self.here(notification), number)

    def here(self, notification: dict[str, Any]) -> dict[str, Any]:
        """As if it told of this bucket."""
        text = json.dumps(notification).replace("bloomweaver-landing", self.bucket)
        renamed: dict[str, Any] = json.loads(text)
        return renamed

    async def is_accepted(self, name: str) -> bool:
        return await self.flow.registry.get(DocumentKey(NAMESPACE, name)) is not None

    async def is_removed(self, name: str) -> bool:
        row = await self.flow.registry.get(DocumentKey(NAMESPACE, name))
        assert row is not None
        return row.desired.tombstone


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    use(monkeypatch, await asyncio.to_thread(moto))
    bucket = f"landing-{uuid4().hex[:8]}"
    monkeypatch.setenv("BLOOMWEAVER_LANDING_URL", f"s3://{bucket}")
    monkeypatch.setenv("BLOOMWEAVER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("BLOOMWEAVER_EMBEDDER_URL", url_of(HashEmbedder().profile))
    monkeypatch.setattr("common.telemetry.configure_logging", lambda *_: None)
    clients = shared_clients()
    s3 = await clients.client("s3")
    where = {"LocationConstraint": "eu-central-1"}
    await s3.create_bucket(Bucket=bucket, CreateBucketConfiguration=where)
    async with pipeline(tmp_path) as flow:
        yield World(flow, s3, bucket)
    await asyncio.to_thread(lambda_entry.INTAKE.close)
    await clients.release()


async def take(*records: dict[str, Any], seconds: float = 60.0) -> list[str]:
    """The ids of the messages that come back."""
    event, context = sqs_event(*records), FunctionContext(seconds)
    return failed(await asyncio.to_thread(lambda_entry.intake, event, context))


async def test_files_become_documents(world: World) -> None:
    await world.put("incoming/docs/a file.md", "What it says.")
    await world.put("incoming/docs/b.md", "More.")
    records = [world.told("incoming/docs/a+file.md", 1), world.told("incoming/docs/b.md", 2)]
    assert await take(*records) == []
    assert await world.is_accepted("a file.md")
    assert await world.is_accepted("b.md")


CREATED = {
    "s3_object_created_put": "a file @home.md",
    "s3_object_created_multipart": "größe 100%.md",
    "eventbridge_s3_created": "a+b %20c.md",
}
REMOVED = {
    "s3_object_removed": "old.md",
    "s3_delete_marker_created": "older.md",
    "eventbridge_s3_deleted": "old b.md",
}
EXPIRED = {"s3_lifecycle_expiration": "expired.md", "eventbridge_s3_expired": "expired b.md"}
OTHER = ("s3_object_tagging", "s3_test_event")


async def test_a_batch_of_all_that_s3_sends(world: World) -> None:
    gone = [*REMOVED.values(), *EXPIRED.values()]
    for number, name in enumerate(gone):
        await world.put(f"incoming/docs/{name}", f"What {name} says.")
        assert await take(world.told(quote_plus(f"incoming/docs/{name}", safe="/"), number)) == []
        await world.s3.delete_object(Bucket=world.bucket, Key=f"processed/docs/{name}")
    for name in CREATED.values():
        await world.put(f"incoming/docs/{name}", f"What {name} says.")
    shapes = [*CREATED, *REMOVED, *EXPIRED, *OTHER]
    records = [told_by_s3(world.here(shape(name)), n) for n, name in enumerate(shapes)]
    assert await take(*records) == []
    assert [await world.is_removed(name) for name in REMOVED.values()] == [True] * 3
    assert [await world.is_removed(name) for name in EXPIRED.values()] == [False] * 2
    assert [await world.is_removed(name) for name in CREATED.values()] == [False] * 3


async def test_a_notification_as_lambda_hands_it_over_is_taken_in(world: World) -> None:
    await world.put("incoming/docs/a file @home.md", "What it says.")
    assert await take(*world.here(shape("sqs_s3_notification"))["Records"]) == []
    assert await world.is_accepted("a file @home.md")


async def test_only_what_failed_comes_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.put("incoming/docs/a.md", "What it says.")
    real = IntakeHandler.reconcile

    async def reconcile(self: IntakeHandler, name: str, **given: Any) -> Any:
        if name.endswith("away.md"):
            raise TransientError("S3 is away")
        if name.endswith("odd.md"):
            raise RuntimeError("nobody foresaw it")
        return await real(self, name, **given)

    monkeypatch.setattr(IntakeHandler, "reconcile", reconcile)
    records = [
        world.told("incoming/docs/away.md", 1),
        world.told("incoming/docs/a.md", 2),
        world.told("incoming/docs/odd.md", 3),
        told_by_s3({"from": "someone else"}, 4),
    ]
    back = await take(*records)
    assert back == [records[n]["messageId"] for n in (0, 2, 3)]
    assert await world.is_accepted("a.md")


async def test_an_outage_costs_a_message_none_of_its_receives(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes to its queue again as another message; a queue that is away too hands it back."""

    async def reconcile(_self: IntakeHandler, _name: str, **_given: Any) -> Any:
        raise TransientError("S3 is away")

    monkeypatch.setattr(IntakeHandler, "reconcile", reconcile)
    clients = shared_clients()
    sqs = await clients.client("sqs")
    url = (await sqs.create_queue(QueueName=f"of-{world.bucket}"))["QueueUrl"]
    records = [world.told("incoming/docs/a.md", n) for n in (1, 2)]
    records[0]["eventSourceARN"] = f"arn:aws:sqs:eu-central-1:123456789012:of-{world.bucket}"
    records[1]["eventSourceARN"] = "arn:aws:sqs:eu-central-1:123456789012:no-such-queue"

    assert await take(*records) == [records[1]["messageId"]]

    found = await sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
    await clients.release()
    assert found["Attributes"]["ApproximateNumberOfMessagesDelayed"] == "1"


LISTING = [
    {"listing": True}, shape("eventbridge_rule_schedule"), shape("eventbridge_scheduler"),
]  # fmt: skip


@pytest.mark.parametrize("event", LISTING, ids=["input", "rule", "scheduler"])
async def test_a_schedule_has_it_find_what_nobody_told_of(
    world: World, monkeypatch: pytest.MonkeyPatch, event: dict[str, Any]
) -> None:
    await world.put("incoming/docs/a.md", "What it says.")
    await world.put("incoming/docs/odd.bin", "Nobody knows its type.")
    young = await asyncio.to_thread(lambda_entry.intake, event, FunctionContext(60))
    assert young == {"files": 0, "settled": 0, "left": 0, "cut_short": False}

    monkeypatch.setattr("common.aws.s3_listing.COARSEST_SECONDS", -3600.0)  # put an hour ago
    hurried = await asyncio.to_thread(lambda_entry.intake, event, FunctionContext(0))
    assert (hurried["settled"], hurried["cut_short"]) == (0, True)
    old = await asyncio.to_thread(lambda_entry.intake, event, FunctionContext(60))
    assert old == {"files": 2, "settled": 2, "left": 0, "cut_short": False}
    assert await world.is_accepted("a.md")
    page = await world.s3.list_objects_v2(Bucket=world.bucket)
    assert {found["Key"] for found in page["Contents"]} == {
        "processed/docs/a.md", "failed/docs/odd.bin", "failed/docs/odd.bin.error.json",
    }  # fmt: skip


async def test_a_listing_that_fails_is_an_error_of_the_function(world: World) -> None:
    """So that the schedule's alarms see it."""
    assert await take() == []
    await world.s3.delete_bucket(Bucket=world.bucket)
    with pytest.raises(TransientError, match="cannot list incoming/"):
        await asyncio.to_thread(lambda_entry.intake, {"listing": True}, FunctionContext(60))


@pytest.mark.parametrize("event", [{}, {"listing": False}, shape("eventbridge_s3_created")])
async def test_nothing_else_has_it_list(world: World, event: dict[str, Any]) -> None:
    with pytest.raises(NotABatchError):
        await asyncio.to_thread(lambda_entry.intake, event, FunctionContext())


class ColdStart(FunctionContext):
    """It takes all the time there is."""

    def get_remaining_time_in_millis(self) -> int:
        return 60_000 if lambda_entry.INTAKE._opened is None else 0


async def test_a_cold_start_takes_its_time_from_the_event(world: World) -> None:
    await world.put("incoming/docs/a.md", "What it says.")
    event = sqs_event(world.told("incoming/docs/a.md", 1))
    answer = await asyncio.to_thread(lambda_entry.intake, event, ColdStart())
    assert len(failed(answer)) == 1
    assert not await world.is_accepted("a.md")


async def test_what_the_time_does_not_suffice_for_comes_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled: list[str] = []

    async def reconcile(_self: IntakeHandler, name: str, **_given: Any) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(name)

    monkeypatch.setattr(IntakeHandler, "reconcile", reconcile)
    record = world.told("incoming/docs/a.md", 1)
    assert await take(record, seconds=1.1) == [record["messageId"]]
    assert cancelled == ["docs/a.md"]


async def test_it_needs_a_landing_zone_and_a_batch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLOOMWEAVER_LANDING_URL", "")
    with pytest.raises(CannotStartError, match="BLOOMWEAVER_LANDING_URL is not set"):
        await take(world.told("incoming/docs/a.md", 1))
    with pytest.raises(NotABatchError):
        await asyncio.to_thread(
            lambda_entry.intake, shape("s3_object_created_put"), FunctionContext()
        )
