"""An SQS queue that another service fills: its messages as they are, not wake-ups."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.aws.clients import AwsClients, shared_clients
from common.aws.errors import SDK_ERRORS, at_start, transient

if TYPE_CHECKING:
    from types_aiobotocore_sqs.client import SQSClient

LONG_POLL_SECONDS = 20
MOST_MESSAGES = 10
LONGEST_DELAY_SECONDS = 900


@dataclass(frozen=True, slots=True)
class EventMessage:
    """One receipt of a message."""

    id: str
    receipt: str
    body: str


class SqsEventQueue:
    """`name` may be a URL. Implements Checkable. Raises TransientError when out of reach."""

    def __init__(self, name: str, *, visibility_seconds: float, timeout_seconds: float) -> None:
        self._name = name
        self._visibility_seconds = int(visibility_seconds)
        self._timeout_seconds = timeout_seconds
        self._clients: AwsClients | None = None
        self._url = name if name.startswith(("https://", "http://")) else ""

    async def close(self) -> None:
        clients, self._clients = self._clients, None
        if clients is not None:
            await clients.release()

    async def check(self) -> str:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                sqs = await self._client()
                found = await sqs.get_queue_attributes(
                    QueueUrl=await self._found_url(),
                    AttributeNames=["ApproximateNumberOfMessages"],
                )
        except SDK_ERRORS as error:
            raise at_start(error, f"look at the queue {self._name}") from error
        waiting = found["Attributes"]["ApproximateNumberOfMessages"]
        return f"{self._name}: {waiting} waiting"

    async def receive(self, limit: int) -> list[EventMessage]:
        """Waits up to 20 s; [] when none came."""
        async with self._calling("receive from", LONG_POLL_SECONDS) as sqs:
            answer = await sqs.receive_message(
                QueueUrl=await self._found_url(),
                MaxNumberOfMessages=min(limit, MOST_MESSAGES),
                VisibilityTimeout=self._visibility_seconds,
                WaitTimeSeconds=LONG_POLL_SECONDS,
            )
        return [
            EventMessage(found["MessageId"], found["ReceiptHandle"], found["Body"])
            for found in answer.get("Messages", [])
        ]

    async def keep(self, message: EventMessage) -> None:
        """Hide it for another visibility timeout."""
        await self._hide(message, self._visibility_seconds)

    async def hand_back(self, message: EventMessage) -> None:
        """Deliverable at once."""
        await self._hide(message, 0)

    async def remove(self, message: EventMessage) -> None:
        async with self._calling("delete from") as sqs:
            await sqs.delete_message(
                QueueUrl=await self._found_url(), ReceiptHandle=message.receipt
            )

    async def put_back(self, message: EventMessage, delay_seconds: float) -> None:
        """As a fresh copy, none of whose receives count yet: SQS cannot lower a count. A death
        between the two leaves both."""
        await self.send(message.body, delay_seconds)
        await self.remove(message)

    async def send(self, body: str, delay_seconds: float) -> None:
        """Deliverable after the delay, of 15 minutes at most."""
        async with self._calling("send to") as sqs:
            await sqs.send_message(
                QueueUrl=await self._found_url(),
                MessageBody=body,
                DelaySeconds=min(math.ceil(delay_seconds), LONGEST_DELAY_SECONDS),
            )

    async def _hide(self, message: EventMessage, seconds: int) -> None:
        async with self._calling("change the visibility of a message in") as sqs:
            await sqs.change_message_visibility(
                QueueUrl=await self._found_url(),
                ReceiptHandle=message.receipt,
                VisibilityTimeout=seconds,
            )

    @contextlib.asynccontextmanager
    async def _calling(self, doing: str, wait_seconds: float = 0.0) -> AsyncIterator[SQSClient]:
        try:
            async with asyncio.timeout(self._timeout_seconds + wait_seconds):
                yield await self._client()
        except SDK_ERRORS as error:
            raise transient(error, f"{doing} {self._name}") from error

    async def _client(self) -> SQSClient:
        if self._clients is None:
            self._clients = shared_clients()
        client: SQSClient = await self._clients.client("sqs")
        return client

    async def _found_url(self) -> str:
        if not self._url:
            sqs = await self._client()
            self._url = (await sqs.get_queue_url(QueueName=self._name))["QueueUrl"]
        return self._url
