"""A batch of messages that an SQS event source mapping hands to a function, and its answer.

The mapping receives, and deletes what the function does not name as failed. So nothing but an
outcome that is done, or dead-lettered, may be left out of the answer: whatever else happens to a
message, it is named, and comes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog

from common.lambda_sqs import Record, answer_naming, message_of
from common.model import QueueName, WakeUp
from common.ports.errors import PermanentError
from common.ports.queue import DeadLetter, Delivery, Depth, HandedQueue
from workers.loop import Consumer

log = structlog.get_logger(__name__)


class MappedQueue:
    """A Queue whose messages a mapping receives and removes: `ack` only takes note.

    Everything else goes to the queue itself, so that delays, hand-backs and dead letters are what
    they are for a consumer that runs for long.
    """

    def __init__(self, queue: HandedQueue) -> None:
        self._queue = queue
        self._settled: set[str] = set()

    def begin(self) -> None:
        """A new batch: nothing of it is settled."""
        self._settled.clear()

    def has_settled(self, delivery: Delivery) -> bool:
        """Whether the message need not come back."""
        return delivery.receipt in self._settled

    def delivered(self, queue: QueueName, record: Record, *, until: float) -> Delivery:
        return self._queue.delivered(queue, message_of(record), until=until)

    async def ack(self, delivery: Delivery) -> None:
        self._settled.add(delivery.receipt)
        self._queue.forget(delivery)

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        await self._queue.dead_letter(delivery, reason)
        self._settled.add(delivery.receipt)

    async def retry_later(self, delivery: Delivery, delay_seconds: float) -> None:
        await self._queue.retry_later(delivery, delay_seconds)

    async def release(self, delivery: Delivery, delay_seconds: float = 0.0) -> None:
        await self._queue.release(delivery, delay_seconds)

    async def extend(self, delivery: Delivery, visibility_seconds: float) -> None:
        await self._queue.extend(delivery, visibility_seconds)

    async def send(
        self, queue: QueueName, wake_ups: Sequence[WakeUp], *, delay_seconds: float = 0.0
    ) -> None:
        await self._queue.send(queue, wake_ups, delay_seconds=delay_seconds)

    async def receive(
        self, queue: QueueName, *, limit: int, visibility_seconds: float, wait_seconds: float
    ) -> list[Delivery]:
        return await self._queue.receive(
            queue, limit=limit, visibility_seconds=visibility_seconds, wait_seconds=wait_seconds
        )

    async def depth(self, queue: QueueName) -> Depth:
        return await self._queue.depth(queue)

    async def dead_letters(self, *, limit: int, after: str | None = None) -> list[DeadLetter]:
        return await self._queue.dead_letters(limit=limit, after=after)

    async def dead_letter_count(self) -> int:
        return await self._queue.dead_letter_count()

    async def redrive(self, message_ids: Sequence[str]) -> int:
        return await self._queue.redrive(message_ids)

    async def discard(self, message_ids: Sequence[str]) -> int:
        return await self._queue.discard(message_ids)

    async def close(self) -> None:
        """The queue itself belongs to who opened it."""


async def work_batch(
    consumer: Consumer,
    queue: MappedQueue,
    records: Sequence[Record],
    seconds: float,
) -> dict[str, Any]:
    """Works all records at once for at most so long. `consumer` works on `queue`."""
    queue.begin()
    until = asyncio.get_running_loop().time() + consumer.visibility_seconds
    deliveries = {
        record["messageId"]: delivery
        for record in records
        if (delivery := _read(consumer, queue, record, until)) is not None
    }
    await consumer.work(list(deliveries.values()), seconds=seconds)
    done = {name for name, delivery in deliveries.items() if queue.has_settled(delivery)}
    return answer_naming([r["messageId"] for r in records if r["messageId"] not in done])


def _read(consumer: Consumer, queue: MappedQueue, record: Record, until: float) -> Delivery | None:
    """None for a message that cannot be read: it comes back until the queue's redrive policy puts
    it with the dead letters, where people find it."""
    try:
        return queue.delivered(consumer.name, record, until=until)
    except PermanentError as error:
        log.error("message.unreadable", message=record["messageId"], error=str(error))
        return None
