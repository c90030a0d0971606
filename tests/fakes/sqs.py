"""A client of SQS in memory, in the time of the running loop: for counting requests over hours.

What requests and answers look like is shown against real servers; this only stands in for them
where time has to pass quickly.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

CALL_SECONDS = 0.02
_FAULT = {"SenderFault": True, "Message": ""}


@dataclass(slots=True)
class _Message:
    id: str
    body: str
    attributes: dict[str, Any]
    visible_at: float
    receipt: str = ""
    receives: int = 0


@dataclass
class SqsClient:
    """`calls` counts requests by operation."""

    calls: Counter[str] = field(default_factory=Counter)
    received_parts: list[int] = field(default_factory=list)
    """How many messages each ReceiveMessage brought."""
    _queues: dict[str, dict[str, _Message]] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    async def get_queue_url(self, QueueName: str) -> dict[str, str]:  # noqa: N803
        return {"QueueUrl": f"https://sqs.test/1/{QueueName}"}

    async def receive_message(self, **given: Any) -> dict[str, Any]:
        await self._called("ReceiveMessage")
        ends = _now() + given["WaitTimeSeconds"]
        queue = self._queue(given)
        while not (ready := [m for m in queue.values() if m.visible_at <= _now()]):
            if _now() >= ends:
                break
            await asyncio.sleep(min(0.05, ends - _now()))
        taken = ready[: given["MaxNumberOfMessages"]]
        self.received_parts.append(len(taken))
        return {"Messages": [self._leased(m, given["VisibilityTimeout"]) for m in taken]}

    async def send_message_batch(self, **given: Any) -> dict[str, Any]:
        await self._called("SendMessageBatch")
        for entry in given["Entries"]:
            number = f"m{next(self._numbers)}"
            at = _now() + entry.get("DelaySeconds", 0)
            self._queue(given)[number] = _Message(
                number, entry["MessageBody"], entry["MessageAttributes"], at
            )
        return _all_done(given)

    async def delete_message_batch(self, **given: Any) -> dict[str, Any]:
        await self._called("DeleteMessageBatch")
        for entry in given["Entries"]:
            self._queue(given).pop(entry["ReceiptHandle"].partition("/")[0], None)
        return _all_done(given)

    async def change_message_visibility_batch(self, **given: Any) -> dict[str, Any]:
        await self._called("ChangeMessageVisibilityBatch")
        gone = []
        for entry in given["Entries"]:
            message = self._queue(given).get(entry["ReceiptHandle"].partition("/")[0])
            if message is None:
                gone.append({"Id": entry["Id"], "Code": "ReceiptHandleIsInvalid", **_FAULT})
            else:
                message.visible_at = _now() + entry["VisibilityTimeout"]
        return {**_all_done(given), "Failed": gone}

    async def get_queue_attributes(self, **given: Any) -> dict[str, Any]:
        await self._called("GetQueueAttributes")
        return {"Attributes": {"ApproximateNumberOfMessages": str(len(self._queue(given)))}}

    async def _called(self, operation: str) -> None:
        self.calls[operation] += 1
        await asyncio.sleep(CALL_SECONDS)

    def _queue(self, given: dict[str, Any]) -> dict[str, _Message]:
        return self._queues.setdefault(given["QueueUrl"], {})

    def _leased(self, message: _Message, seconds: float) -> dict[str, Any]:
        message.receives += 1
        message.visible_at = _now() + seconds
        message.receipt = f"{message.id}/{next(self._numbers)}"
        return {
            "MessageId": message.id,
            "ReceiptHandle": message.receipt,
            "Body": message.body,
            "MessageAttributes": message.attributes,
            "Attributes": {"ApproximateReceiveCount": str(message.receives)},
        }


def _all_done(given: dict[str, Any]) -> dict[str, Any]:
    return {"Successful": [{"Id": entry["Id"]} for entry in given["Entries"]]}


def _now() -> float:
    return asyncio.get_running_loop().time()
