"""A queue in memory: at-least-once delivery with visibility timeouts, as the port defines it.

Waiting goes by the running loop's time, so that a simulated loop can turn it.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from common.clock import Clock, system_clock
from common.model import DocumentKey, QueueName, WakeUp
from common.ports.queue import CRASHES_REFUNDED, DeadLetter, Delivery, Depth, LeaseLostError


@dataclass(slots=True)
class _Message:
    id: str
    queue: QueueName
    wake_up: WakeUp
    sent_at: float
    visible_at: float
    receive_count: int = 0
    receipt: str = ""
    receiver: str = ""
    crashes: int = 0

    @property
    def leased(self) -> bool:
        return bool(self.receipt)


class MemoryQueue:
    """`pick` chooses the next message among those that are deliverable; the oldest by default.

    Ids and receipts are counted, so that equal runs are equal in every detail.
    """

    def __init__(
        self,
        *,
        clock: Clock = system_clock,
        receiver: str = "memory",
        pick: Callable[[Sequence[str]], str] = lambda ids: ids[0],
    ) -> None:
        self._clock = clock
        self._receiver = receiver
        self._pick = pick
        self._messages: dict[QueueName, dict[str, _Message]] = {name: {} for name in QueueName}
        self._dead: dict[str, DeadLetter] = {}
        self._waiting: dict[QueueName, list[asyncio.Future[None]]] = {n: [] for n in QueueName}
        self._numbers = itertools.count(1)
        self.lapsed = 0
        """How many leases ran out and let their message be received once more."""
        self.closed = False

    def seen_by(self, receiver: str) -> MemoryQueue:
        """The same queue as another receiver sees it."""
        other = copy.copy(self)
        other._receiver = receiver
        return other

    async def close(self) -> None:
        self.closed = True
        for queue in QueueName:
            self._ring(queue)

    # --- sending ----------------------------------------------------------------------------

    async def send(
        self, queue: QueueName, wake_ups: Sequence[WakeUp], *, delay_seconds: float = 0.0
    ) -> None:
        now = self._clock()
        for wake_up in wake_ups:
            message = _Message(f"{self._next():012d}", queue, wake_up, now, now + delay_seconds)
            self._messages[queue][message.id] = message
        self._ring(queue)

    def repeat(self, delivery: Delivery) -> None:
        """Deliver a message once more although it was delivered: an at-least-once queue may."""
        message = _Message(
            delivery.message_id, delivery.queue, delivery.wake_up, delivery.sent_at, self._clock()
        )
        message.receive_count = delivery.receive_count
        self._messages[delivery.queue][message.id] = message
        self._ring(delivery.queue)

    # --- receiving --------------------------------------------------------------------------

    async def receive(
        self, queue: QueueName, *, limit: int, visibility_seconds: float, wait_seconds: float
    ) -> list[Delivery]:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_seconds
        while True:
            taken = self.take(queue, limit, visibility_seconds)
            if taken or loop.time() >= deadline or self.closed:
                return taken
            await self._changed(queue, deadline - loop.time())

    def take(self, queue: QueueName, limit: int, visibility_seconds: float) -> list[Delivery]:
        """What receive takes, without waiting."""
        now = self._clock()
        messages = self._messages[queue]
        ready = sorted((m.visible_at, m.id) for m in messages.values() if m.visible_at <= now)
        ids = [message_id for _, message_id in ready]
        taken: list[Delivery] = []
        while ids and len(taken) < limit:
            chosen = self._pick(ids)
            ids.remove(chosen)
            taken.append(self._lease(messages[chosen], now + visibility_seconds))
        return taken

    def _lease(self, message: _Message, until: float) -> Delivery:
        self.lapsed += message.leased
        message.visible_at = until
        message.receipt = f"r{self._next()}"
        message.receiver = self._receiver
        message.receive_count += 1
        return Delivery(
            queue=message.queue,
            message_id=message.id,
            receipt=message.receipt,
            wake_up=message.wake_up,
            receive_count=message.receive_count,
            sent_at=message.sent_at,
        )

    async def wait_for_message(self, queue: QueueName, *, timeout_seconds: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        while loop.time() < deadline and not (await self.depth(queue)).waiting:
            await self._changed(queue, deadline - loop.time())

    async def _changed(self, queue: QueueName, seconds: float) -> None:
        """Until something was sent or freed, a lease ended, or `seconds` are over."""
        loop = asyncio.get_running_loop()
        now = self._clock()
        hidden = [m.visible_at - now for m in self._messages[queue].values() if m.visible_at > now]
        seconds = max(min([seconds, *hidden]), 0.0)
        ring: asyncio.Future[None] = loop.create_future()
        self._waiting[queue].append(ring)
        timer = loop.call_later(seconds, _ring_one, ring)
        try:
            await ring
        finally:
            timer.cancel()
            if ring in self._waiting[queue]:
                self._waiting[queue].remove(ring)

    def _ring(self, queue: QueueName) -> None:
        waiting, self._waiting[queue] = self._waiting[queue], []
        for ring in waiting:
            _ring_one(ring)

    # --- settling ---------------------------------------------------------------------------

    async def extend(self, delivery: Delivery, visibility_seconds: float) -> None:
        self._held(delivery).visible_at = self._clock() + visibility_seconds

    async def ack(self, delivery: Delivery) -> None:
        del self._messages[delivery.queue][self._held(delivery).id]

    async def retry_later(self, delivery: Delivery, delay_seconds: float) -> None:
        message = self._held(delivery)
        message.crashes = 0
        self._free(message, self._clock() + delay_seconds)

    async def release(self, delivery: Delivery, delay_seconds: float = 0.0) -> None:
        message = self._held(delivery)
        message.receive_count = max(message.receive_count - 1, 0)
        visible_at = self._clock() + delay_seconds if delay_seconds else message.sent_at
        self._free(message, visible_at)

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        message = self._held(delivery)
        del self._messages[message.queue][message.id]
        self._dead[message.id] = DeadLetter(
            message_id=message.id,
            source=message.queue,
            wake_up=message.wake_up,
            reason=reason,
            receive_count=message.receive_count,
            sent_at=message.sent_at,
            died_at=self._clock(),
        )

    def _held(self, delivery: Delivery) -> _Message:
        message = self._messages[delivery.queue].get(delivery.message_id)
        if message is None or message.receipt != delivery.receipt:
            raise LeaseLostError(f"the receipt of message {delivery.message_id} is stale")
        return message

    def _free(self, message: _Message, visible_at: float) -> None:
        message.visible_at = visible_at
        message.receipt = message.receiver = ""
        self._ring(message.queue)

    async def reclaim(self, *, receiver: str | None = None, refund: bool = False) -> int:
        now = self._clock()
        held = [m for m in self._all() if m.leased and receiver in (None, m.receiver)]
        for message in held:
            message.receive_count -= int(refund and message.crashes < CRASHES_REFUNDED)
            message.crashes += int(refund)
            self._free(message, min(message.sent_at, now))
        return len(held)

    # --- looking ----------------------------------------------------------------------------

    async def depth(self, queue: QueueName) -> Depth:
        now = self._clock()
        messages = self._messages[queue].values()
        hidden = [m for m in messages if m.visible_at > now]
        sent = [m.sent_at for m in messages if m.visible_at <= now or not m.leased]
        return Depth(
            waiting=len(messages) - len(hidden),
            in_flight=sum(m.leased for m in hidden),
            delayed=sum(not m.leased for m in hidden),
            oldest_age_seconds=max(now - min(sent), 0.0) if sent else 0.0,
        )

    @property
    def backlog(self) -> int:
        """Messages on all queues, wherever they stand."""
        return sum(map(len, self._messages.values()))

    def holds(self, key: DocumentKey) -> bool:
        """Whether a message of the document is on any queue, wherever it stands."""
        return any(message.wake_up.key == key for message in self._all())

    def has(self, message_id: str) -> bool:
        """Whether the message itself is on any queue, wherever it stands."""
        return any(message.id == message_id for message in self._all())

    @property
    def letters(self) -> list[DeadLetter]:
        """All dead letters, in the order of their death."""
        return list(self._dead.values())

    async def dead_letters(self, *, limit: int, after: str | None = None) -> list[DeadLetter]:
        ids = sorted(i for i in self._dead if i > (after or ""))
        return [self._dead[i] for i in ids[:limit]]

    async def dead_letter_count(self) -> int:
        return len(self._dead)

    async def redrive(self, message_ids: Sequence[str]) -> int:
        letters = [self._dead.pop(i) for i in message_ids if i in self._dead]
        now = self._clock()
        for letter in letters:
            message = _Message(letter.message_id, letter.source, letter.wake_up, now, now)
            self._messages[letter.source][message.id] = message
            self._ring(letter.source)
        return len(letters)

    async def discard(self, message_ids: Sequence[str]) -> int:
        return len([self._dead.pop(i) for i in message_ids if i in self._dead])

    def _all(self) -> Iterator[_Message]:
        for messages in self._messages.values():
            yield from messages.values()

    def _next(self) -> int:
        return next(self._numbers)


def _ring_one(ring: asyncio.Future[None]) -> None:
    if not ring.done():
        ring.set_result(None)
