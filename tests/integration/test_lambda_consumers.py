"""The functions that queues and schedules call, over a real SQS and the stores of one machine.

The mapping's part is played here as AWS documents it: receive, call the function, delete what it
did not name.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from common.adapters.embedder.profile import url_of
from common.adapters.queue.sqs import SqsQueue
from common.aws.clients import shared_clients
from common.lambda_runtime import CannotStartError
from common.model import DocumentKey, QueueName, Row, Status, WakeUp
from common.ports.errors import TransientError
from common.ports.queue import Delivery
from common.wire import wake_up_to_json
from tests.fakes.embedder import HashEmbedder
from tests.lambda_events import FunctionContext, failed, record_of, shape, sqs_event
from tests.pipeline import NAMESPACE, Pipeline, pipeline
from tests.servers.aws import moto, use
from workers import lambda_entry
from workers.apply import ApplyHandler
from workers.lease import Lease
from workers.outcome import HandlerOutcome

if TYPE_CHECKING:
    from types_aiobotocore_sqs.client import SQSClient

QUEUES = ("change", "create", "update", "delete", "dead_letter")
Function = Callable[[dict[str, Any], FunctionContext], dict[str, Any]]


class Mapping:
    """An event source mapping of one queue with ReportBatchItemFailures."""

    def __init__(self, sqs: SQSClient, url: str, function: Function) -> None:
        self._sqs, self._url, self._function = sqs, url, function

    async def turn(self, *, seconds: float = 60.0) -> list[str]:
        """One batch; the bodies that came back."""
        got = await self._sqs.receive_message(
            QueueUrl=self._url, MaxNumberOfMessages=10, VisibilityTimeout=30,
            MessageAttributeNames=["All"], AttributeNames=["All"],
        )  # fmt: skip
        messages = got.get("Messages", [])
        if not messages:
            return []
        answer = await asyncio.to_thread(
            self._function, sqs_event(*map(record_of, messages)), FunctionContext(seconds)
        )
        back = [m for m in messages if m["MessageId"] in failed(answer)]
        done = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]}
                for n, m in enumerate(messages) if m not in back]  # fmt: skip
        if done:
            await self._sqs.delete_message_batch(QueueUrl=self._url, Entries=done)  # type: ignore[arg-type]
        return [message["Body"] for message in back]


class World:
    """Documents are accepted and embedded here; the functions apply and delete them."""

    def __init__(self, flow: Pipeline, sqs: SQSClient, urls: dict[str, str]) -> None:
        self.flow, self.sqs, self.urls = flow, sqs, urls

    def mapping(self, name: str) -> Mapping:
        return Mapping(self.sqs, self.urls[name], getattr(lambda_entry, name))

    async def embedded(self, *documents: str) -> None:
        """Their wake-ups stand in the create or update queue on SQS."""
        for name in documents:
            await self.flow.insert(name, f"What {name} says.")
            await self.flow.step(QueueName.CHANGE)
        await self.hand_over()

    async def hand_over(self) -> None:
        """From the queue of the pipeline to SQS, by the adapter that workers use."""
        for queue in (QueueName.CREATE, QueueName.UPDATE, QueueName.DELETE):
            wake_ups = []
            while delivery := await self.flow.receive(queue):
                wake_ups.append(delivery.wake_up)
                await self.flow.queue.ack(delivery)
            await asyncio.to_thread(lambda_entry.SANDBOX.run, _sending(queue, wake_ups))

    async def row(self, name: str) -> Row:
        row = await self.flow.registry.get(DocumentKey(NAMESPACE, name))
        assert row is not None
        return row

    async def arn_of(self, name: str) -> str:
        got = await self.sqs.get_queue_attributes(
            QueueUrl=self.urls[name], AttributeNames=["QueueArn"]
        )
        return got["Attributes"]["QueueArn"]

    async def waiting(self, name: str) -> int:
        """Messages of any state."""
        got = await self.sqs.get_queue_attributes(QueueUrl=self.urls[name], AttributeNames=["All"])
        return sum(
            int(value) for key, value in got["Attributes"].items()
            if key.startswith("ApproximateNumberOfMessages")
        )  # fmt: skip


def _sending(
    queue: QueueName, wake_ups: list[WakeUp]
) -> Callable[[lambda_entry.Workshop], Coroutine[Any, Any, None]]:
    return lambda shop: shop.ports.queue.send(queue, wake_ups)


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    use(monkeypatch, await asyncio.to_thread(moto))
    suffix = uuid4().hex[:8]
    for name in QUEUES:
        monkeypatch.setenv(f"BLOOMWEAVER_{name.upper()}_QUEUE_NAME", f"{name}-{suffix}")
    monkeypatch.setenv("BLOOMWEAVER_QUEUE_URL", "sqs:")
    monkeypatch.setenv("BLOOMWEAVER_SQS_SETTLE_WAIT_SECONDS", "0.05")
    monkeypatch.setenv("BLOOMWEAVER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("BLOOMWEAVER_EMBEDDER_URL", url_of(HashEmbedder().profile))
    monkeypatch.setattr("common.telemetry.configure_logging", lambda *_: None)
    clients = shared_clients()
    sqs: SQSClient = await clients.client("sqs")
    urls = {}
    for name in QUEUES:
        made = await sqs.create_queue(QueueName=f"{name}-{suffix}")
        urls[name] = made["QueueUrl"]
    async with pipeline(tmp_path) as flow:
        yield World(flow, sqs, urls)
    await asyncio.to_thread(lambda_entry.SANDBOX.close)
    await clients.release()


async def test_documents_are_created_updated_and_deleted_by_the_functions(world: World) -> None:
    await world.embedded("a", "b", "c")
    assert await world.mapping("create").turn() == []
    assert [(await world.row(n)).applied.version for n in "abc"] == [1, 1, 1]
    assert await world.waiting("create") == 0
    await world.flow.insert("a", "What a says, and more.")
    await world.flow.step(QueueName.CHANGE)
    await world.flow.delete("b")
    await world.hand_over()
    assert await world.mapping("update").turn() == []
    assert await world.mapping("delete").turn() == []
    assert (await world.row("a")).applied.version == 2
    assert (await world.row("b")).applied.manifest == ()


async def test_a_batch_as_lambda_hands_it_over_is_worked(world: World) -> None:
    """Of its four messages one was redriven and has another program's attribute, one was sent by
    hand without any, and two are of documents that are not there."""
    event, context = shape("sqs_wake_ups"), FunctionContext(60)
    for name, record in (("a.md", event["Records"][0]), ("c.md", event["Records"][2])):
        await world.flow.insert(name, f"What {name} says.")
        await world.flow.step(QueueName.CHANGE)
        delivery = await world.flow.receive(QueueName.CREATE)
        assert delivery is not None
        await world.flow.queue.ack(delivery)
        record["body"] = wake_up_to_json(delivery.wake_up)
    assert failed(await asyncio.to_thread(lambda_entry.create, event, context)) == []
    assert [(await world.row(name)).applied.version for name in ("a.md", "c.md")] == [1, 1]


async def test_of_ten_messages_the_two_poisoned_ones_come_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And are dead letters after the third time, with the reason in their rows."""
    names = [f"d{n}" for n in range(10)]
    await world.embedded(*names)
    real = ApplyHandler.__call__

    async def poisoned(self: ApplyHandler, delivery: Delivery, lease: Lease) -> HandlerOutcome:
        if delivery.wake_up.document_id in ("d3", "d7"):
            raise RuntimeError("poison")
        return await real(self, delivery, lease)

    monkeypatch.setattr(ApplyHandler, "__call__", poisoned)
    monkeypatch.setattr("workers.retry.FIRST_DELAY_SECONDS", 0.0)
    mapping = world.mapping("create")
    back = await mapping.turn()
    assert sorted(json.loads(body)["document_id"] for body in back) == ["d3", "d7"]
    for _ in range(4):  # Each alone, twice.
        await mapping.turn()
    assert [(await world.row(n)).applied.version for n in names if n not in ("d3", "d7")] == [1] * 8
    assert (
        await world.row("d3")
    ).error == "failed 3 times, the last time with: RuntimeError: poison"
    assert (await world.waiting("create"), await world.waiting("dead_letter")) == (0, 2)


async def test_no_time_left_means_that_everything_comes_back_at_once(world: World) -> None:
    await world.embedded("a", "b")
    assert len(await world.mapping("create").turn(seconds=0.0)) == 2
    assert await world.waiting("create") == 2
    assert await world.mapping("create").turn() == []
    assert (await world.row("a")).applied.version == 1


@pytest.mark.parametrize("schedule", ["eventbridge_rule_schedule", "eventbridge_scheduler"])
async def test_a_sweep_wakes_what_stayed_behind(world: World, schedule: str) -> None:
    await world.flow.insert("late", "Its wake-up was lost.")
    await world.flow.receive(QueueName.CHANGE)
    event, context = shape(schedule), FunctionContext(60)
    summary = await asyncio.to_thread(lambda_entry.sweep, event, context)
    assert summary == {"rows": 1, "passes": 1, "adopted": 0, "cut_short": False}
    assert await world.waiting("change") == 1


async def test_a_sweep_tells_of_what_the_service_gave_up_by_itself(world: World) -> None:
    """A function that dies at each receive tells nobody why its message became a dead letter."""
    letters = await world.arn_of("dead_letter")
    policy = json.dumps({"deadLetterTargetArn": letters, "maxReceiveCount": 1})
    await world.sqs.set_queue_attributes(
        QueueUrl=world.urls["create"], Attributes={"RedrivePolicy": policy}
    )
    await world.embedded("a")
    for _ in range(2):
        await world.sqs.receive_message(QueueUrl=world.urls["create"], VisibilityTimeout=0)
    assert (await world.waiting("create"), await world.waiting("dead_letter")) == (0, 1)
    event, context = shape("eventbridge_rule_schedule"), FunctionContext(60)
    summary = await asyncio.to_thread(lambda_entry.sweep, event, context)
    assert summary["adopted"] == 1
    row = await world.row("a")
    assert row.status is Status.FAILED
    assert "never settled" in (row.error or "")


async def test_rows_are_swept_even_where_letters_cannot_be_looked_at(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.flow.insert("late", "Its wake-up was lost.")
    await world.flow.receive(QueueName.CHANGE)

    async def denied(_: SqsQueue, *, limit: int) -> list[Delivery]:
        raise TransientError(f"may not look at {limit} letters")

    monkeypatch.setattr(SqsQueue, "adopt", denied)
    summary = await asyncio.to_thread(lambda_entry.sweep, {}, FunctionContext(60))
    assert summary == {"rows": 1, "passes": 1, "adopted": 0, "cut_short": False}
    assert await world.waiting("change") == 1


class ColdStart(FunctionContext):
    """It takes all the time there is."""

    def get_remaining_time_in_millis(self) -> int:
        return 60_000 if lambda_entry.SANDBOX._opened is None else 0


async def test_a_cold_start_takes_its_time_from_the_event(world: World) -> None:
    await world.embedded("a")
    await asyncio.to_thread(lambda_entry.SANDBOX.close)
    batch = shape("sqs_wake_ups")
    answer = await asyncio.to_thread(lambda_entry.create, batch, ColdStart())
    assert failed(answer) == [record["messageId"] for record in batch["Records"]]
    for function in (lambda_entry.sweep, lambda_entry.scrub):
        await asyncio.to_thread(lambda_entry.SANDBOX.close)
        assert (await asyncio.to_thread(function, {}, ColdStart()))["cut_short"]


async def test_a_sweep_of_blobs_removes_what_nothing_refers_to(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLOOMWEAVER_BLOB_GRACE_SECONDS", "0.000001")
    await world.flow.insert("kept", "Referred to.")
    await world.flow.blobs.put("raw/docs/left-over", b"nobody's")
    event, context = {"blobs": True}, FunctionContext(60)
    summary = await asyncio.to_thread(lambda_entry.sweep, event, context)
    assert summary == {"blobs": 1, "cut_short": False}
    assert not await world.flow.blobs.exists("raw/docs/left-over")


async def test_a_scrub_reports_what_it_found_and_repairs_nothing(world: World) -> None:
    await world.embedded("a")
    assert await world.mapping("create").turn() == []
    event, context = shape("eventbridge_scheduler"), FunctionContext(60)
    clean = await asyncio.to_thread(lambda_entry.scrub, event, context)
    assert (clean["documents"], clean["findings"], clean["cut_short"]) == (1, 0, False)
    for blob in [blob async for blob in world.flow.blobs.list("packs/")]:
        await world.flow.blobs.delete_if_older([blob.key], before=1e12)
    found = await asyncio.to_thread(lambda_entry.scrub, event, context)
    assert found["findings"] == sum(found["by_kind"].values()) == 1
    again = await asyncio.to_thread(lambda_entry.scrub, event, context)
    assert again == found


@pytest.mark.parametrize("name", ["sweep", "scrub"])
async def test_what_the_time_does_not_suffice_for_says_so(world: World, name: str) -> None:
    await world.flow.insert("late", "Behind.")
    function: Function = getattr(lambda_entry, name)
    summary = await asyncio.to_thread(function, {}, FunctionContext(0))
    assert summary["cut_short"]


async def test_a_missing_queue_fails_the_batch_until_it_is_there(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.embedded("a")
    await asyncio.to_thread(lambda_entry.SANDBOX.close)
    with monkeypatch.context() as wrong:
        wrong.setenv("BLOOMWEAVER_UPDATE_QUEUE_NAME", "nowhere")
        with capture_logs() as told, pytest.raises(CannotStartError, match="no such queue"):
            await world.mapping("create").turn()
    errors = [line["event"] for line in told if line["log_level"] == "error"]
    assert errors == ["function.cannot_start"]
    assert (await world.row("a")).applied.version == 0
    assert await world.waiting("create") == 1


async def test_functions_need_a_queue_that_is_mapped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLOOMWEAVER_QUEUE_URL", "sqlite:")
    with pytest.raises(CannotStartError, match=r"BLOOMWEAVER_QUEUE_URL='sqlite:'.*sqs:"):
        await asyncio.to_thread(lambda_entry.create, shape("sqs_wake_ups"), FunctionContext())
