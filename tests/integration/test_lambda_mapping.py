"""A function deployed: ministack runs the handler from a zip, in a process of its own, and an event
source mapping of a real queue calls it. What the other tests play, it does."""

from __future__ import annotations

import asyncio
import io
import json
import time
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from common.adapters.embedder.profile import url_of
from common.adapters.queue.sqs_messages import entry_of, new_message
from common.aws.clients import shared_clients
from common.model import DocumentKey, QueueName
from tests.fakes.embedder import HashEmbedder
from tests.pipeline import NAMESPACE, Pipeline, pipeline
from tests.servers.aws import ministack, use

if TYPE_CHECKING:
    from types_aiobotocore_sqs.client import SQSClient

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PACKAGES = ("common", "workers")
QUEUES = ("change", "create", "update", "delete", "dead_letter")
ROLE = "arn:aws:iam::000000000000:role/bloomweaver-create"
VISIBILITY_SECONDS = 10
MAX_RECEIVES = 2
PATIENCE_SECONDS = 120.0


def package() -> bytes:
    """The consumers' own code; what it depends on is installed where the function runs."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        files = (path for name in PACKAGES for path in (ROOT / name).rglob("*"))
        for source in sorted(path for path in files if path.suffix in (".py", ".json")):
            archive.write(source, source.relative_to(ROOT))
    return packed.getvalue()


class World:
    def __init__(self, flow: Pipeline, suffix: str, folder: Path) -> None:
        self.flow, self.suffix = flow, suffix
        self.settings = {
            "BLOOMWEAVER_QUEUE_URL": "sqs:",
            "BLOOMWEAVER_DATA_DIR": str(folder / "data"),
            "BLOOMWEAVER_EMBEDDER_URL": url_of(HashEmbedder().profile),
            **{f"BLOOMWEAVER_{name.upper()}_QUEUE_NAME": self.named(name) for name in QUEUES},
        }
        self.clients = shared_clients()
        self.urls: dict[str, str] = {}

    def named(self, queue: str) -> str:
        return f"{queue}-{self.suffix}"

    async def make_queues(self) -> None:
        sqs: SQSClient = await self.clients.client("sqs")
        for name in reversed(QUEUES):  # The dead letters first.
            attributes: Any = {"VisibilityTimeout": str(VISIBILITY_SECONDS)}
            if name != "dead_letter":
                target = await self.arn_of("dead_letter")
                policy = {"deadLetterTargetArn": target, "maxReceiveCount": MAX_RECEIVES}
                attributes["RedrivePolicy"] = json.dumps(policy)
            made = await sqs.create_queue(QueueName=self.named(name), Attributes=attributes)
            self.urls[name] = made["QueueUrl"]

    async def arn_of(self, name: str) -> str:
        return (await self._attributes(name))["QueueArn"]

    async def in_queue(self, name: str) -> int:
        """Whether visible or in hand."""
        found = await self._attributes(name)
        kinds = ("", "NotVisible", "Delayed")
        return sum(int(found[f"ApproximateNumberOfMessages{kind}"]) for kind in kinds)

    async def _attributes(self, name: str) -> dict[str, str]:
        sqs: SQSClient = await self.clients.client("sqs")
        found = await sqs.get_queue_attributes(QueueUrl=self.urls[name], AttributeNames=["All"])
        return {str(key): value for key, value in found["Attributes"].items()}

    async def deploy(self) -> None:
        """`workers.lambda_entry.create` behind the create queue, warm."""
        functions = await self.clients.client("lambda")
        name = self.named("create")
        await functions.create_function(
            FunctionName=name, Runtime="python3.11", Role=ROLE, Timeout=60, MemorySize=512,
            Handler="workers.lambda_entry.create", Code={"ZipFile": package()},
            Environment={"Variables": self.settings},
        )  # fmt: skip
        await functions.get_waiter("function_active_v2").wait(FunctionName=name)
        called = await functions.invoke(FunctionName=name, Payload=b'{"Records": []}')
        assert json.loads(await called["Payload"].read()) == {"batchItemFailures": []}
        await functions.create_event_source_mapping(
            FunctionName=name, EventSourceArn=await self.arn_of("create"), BatchSize=10,
            FunctionResponseTypes=["ReportBatchItemFailures"],
        )  # fmt: skip

    async def remove(self) -> None:
        functions = await self.clients.client("lambda")
        name = self.named("create")
        mappings = await functions.list_event_source_mappings(FunctionName=name)
        for mapping in mappings["EventSourceMappings"]:
            await functions.delete_event_source_mapping(UUID=mapping["UUID"])
        await functions.delete_function(FunctionName=name)

    async def send(self, entries: list[Any]) -> None:
        sqs: SQSClient = await self.clients.client("sqs")
        numbered = [{**entry, "Id": str(number)} for number, entry in enumerate(entries)]
        await sqs.send_message_batch(QueueUrl=self.urls["create"], Entries=numbered)  # type: ignore[arg-type]

    async def dead_letter(self) -> str:
        """The body of the next one."""
        sqs: SQSClient = await self.clients.client("sqs")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            got = await sqs.receive_message(QueueUrl=self.urls["dead_letter"], WaitTimeSeconds=10)
            for message in got.get("Messages", []):
                return message["Body"]
        raise AssertionError(f"no dead letter; {await self.in_queue('create')} in the queue")


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    use(monkeypatch, await asyncio.to_thread(ministack))
    async with pipeline(tmp_path) as flow:
        made = World(flow, uuid4().hex[:8], tmp_path)
        await made.make_queues()
        await made.deploy()
        yield made
        await made.remove()
        await made.clients.release()


async def test_a_deployed_function_applies_documents_and_hands_back_what_it_cannot_read(
    world: World,
) -> None:
    await world.flow.insert("a", "What a says.")
    await world.flow.step(QueueName.CHANGE)
    embedded = await world.flow.receive(QueueName.CREATE)
    assert embedded is not None
    wake_up = entry_of(new_message(QueueName.CREATE, embedded.wake_up, time.time()))
    await world.send([wake_up, {"MessageBody": '{"not": "ours"}'}])
    assert await world.dead_letter() == '{"not": "ours"}'
    row = await world.flow.registry.get(DocumentKey(NAMESPACE, "a"))
    assert row is not None
    assert row.applied.version == 1
    assert (await world.in_queue("create"), await world.in_queue("dead_letter")) == (0, 1)
