"""A queue service that behaves like SQS: what the documentation of its standard queues leaves open
happens.

No order; a message may be delivered to two receivers at once; a deleted one may come back; a stale
receipt deletes the message, or does not, and both look the same; what was received too often goes
to the dead letters by the service's own hand, without a word why; every message ends after the
retention. Nothing is lost before that.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from common.model import DocumentKey, QueueName, WakeUp
from common.ports.queue import DeadLetter, LeaseLostError
from common.wire import wake_up_from_json
from tests.simulation.network import Network

DEAD = "dead"
LATEST_GHOST_SECONDS = 120.0
SHARDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SqsRates:
    """How often what happens. Drawn once a run."""

    twice: float = 0.0
    """Received, and deliverable all the same: two receivers have it at once."""
    ghosts: float = 0.0
    """Deleted, and back once."""
    sampled: float = 0.0
    """A receive asks only some of the shards that hold the queue."""
    partial: float = 0.0
    """An entry of a batch fails beside others that succeed."""
    throttled: float = 0.0
    """Calls that begin a time of throttling."""
    stale_depth: float = 0.0
    """The numbers of a depth are an old look's, or off."""
    max_receives: int = 3
    retention_seconds: float = 1400.0
    """Less than tombstones are kept, as 14 days are less than 15."""


@dataclass(slots=True)
class Stored:
    """A message as the service holds it. The last receipt is the valid one."""

    number: int
    body: str
    attributes: Mapping[str, Any]
    enqueued_at: float
    visible_at: float
    receives: int = 0
    receipts: int = 0
    was_back: bool = False

    @property
    def receipt(self) -> str:
        return f"{self.number}:{self.receipts}"

    @property
    def wake_up(self) -> WakeUp:
        return wake_up_of(self.body)

    @property
    def reason(self) -> str:
        """Of a dead letter; empty for one that the service moved."""
        return str(self.attributes.get("reason", {}).get("StringValue", ""))

    @property
    def answer(self) -> dict[str, Any]:
        """As ReceiveMessage gives it."""
        return {
            "MessageId": f"sqs-{self.number}",
            "ReceiptHandle": self.receipt,
            "Body": self.body,
            "Attributes": {
                "ApproximateReceiveCount": str(self.receives),
                "SentTimestamp": str(int(self.enqueued_at * 1000)),
            },
            "MessageAttributes": self.attributes,
        }


@dataclass(slots=True)
class Deleted:
    """What a delete did: the message, if it did anything, and whether the receipt was stale."""

    stored: Stored | None = None
    stale: bool = False


@dataclass(slots=True)
class SqsService:
    """`ended_early` is told of a message that the service took away from whoever needs it."""

    network: Network
    rates: SqsRates
    ended_early: Callable[[WakeUp], None]
    queues: dict[str, dict[int, Stored]] = field(
        default_factory=lambda: {name: {} for name in (*QueueName, DEAD)}
    )
    expired_letters: set[DocumentKey] = field(default_factory=set)
    lapsed: int = 0
    closed: bool = False
    throttled_until: float = 0.0
    lent_until: dict[str, float] = field(default_factory=dict)
    """By receipt, what the receiver was told."""
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _waiting: list[asyncio.Future[None]] = field(default_factory=list)

    @property
    def now(self) -> float:
        return self.network.loop.time()

    # --- messages -----------------------------------------------------------------------------

    def send(
        self, queue: str, body: str, attributes: Mapping[str, Any], delay_seconds: float = 0.0
    ) -> None:
        number, now = next(self._numbers), self.now
        self.queues[queue][number] = Stored(number, body, attributes, now, now + delay_seconds)
        self.ring()

    def take(self, queue: str, limit: int, visibility_seconds: float) -> list[dict[str, Any]]:
        """What a receive finds now, as its answer."""
        self.expire()
        now, net = self.now, self.network
        ready = [m for m in self.queues[queue].values() if m.visible_at <= now]
        if len(ready) > 1 and net.chance(self.rates.sampled):
            net.tell("receive sampled")
            asked = net.random.randrange(SHARDS)
            ready = [m for m in ready if m.number % SHARDS != asked]
        net.random.shuffle(ready)
        taken: list[dict[str, Any]] = []
        for stored in ready[:limit]:
            if queue != DEAD and stored.receives >= self.rates.max_receives:
                self._redrive(queue, stored)
            else:
                taken.append(self._lease(stored, now + visibility_seconds))
        return taken

    def _lease(self, stored: Stored, until: float) -> dict[str, Any]:
        self.lapsed += stored.receives > 0
        stored.receives += 1
        stored.receipts += 1
        stored.visible_at = self.lent_until[stored.receipt] = until
        if self.network.chance(self.rates.twice):
            self.network.tell("message delivered twice")
            stored.visible_at = self.now
            self.ring()
        return stored.answer

    def _redrive(self, queue: str, stored: Stored) -> None:
        """The redrive policy: nobody is told."""
        self.network.tell("dead by the queue")
        del self.queues[queue][stored.number]
        self.queues[DEAD][stored.number] = stored
        stored.visible_at = self.now

    def delete(self, queue: str, receipt: str) -> Deleted:
        """Raises LeaseLostError for some of the stale receipts; others seem to have worked."""
        stored = self.named(queue, receipt)
        if stored is None:
            return Deleted()
        stale = stored.receipt != receipt
        if stale:
            draw = self.network.random.random()
            if draw < 0.2:
                raise LeaseLostError("the receipt handle is invalid")
            if draw < 0.6:
                self.network.tell("stale delete did nothing")
                return Deleted(stale=True)
            self.network.tell("stale delete worked")
        del self.queues[queue][stored.number]
        if not stored.was_back and self.network.chance(self.rates.ghosts):
            self._haunt(queue, stored)
        return Deleted(stored, stale)

    def _haunt(self, queue: str, stored: Stored) -> None:
        self.network.under_way += 1
        seconds = self.network.random.uniform(0.0, LATEST_GHOST_SECONDS)
        self.network.later(seconds, self._come_back, queue, stored)

    def _come_back(self, queue: str, stored: Stored) -> None:
        self.network.under_way -= 1
        if not self.network.over:
            self.network.tell("deleted message is back")
            stored.was_back = True
            stored.visible_at = self.now
            self.queues[queue][stored.number] = stored
            self.ring()

    def change_visibility(self, queue: str, receipt: str, seconds: float) -> None:
        """Raises LeaseLostError for a message that is gone or not in flight."""
        stored = self.named(queue, receipt)
        if stored is None or stored.visible_at <= self.now:
            raise LeaseLostError("the message is not in flight")
        if stored.receipt != receipt:
            if self.network.random.random() < 0.5:
                raise LeaseLostError("the receipt handle is invalid")
            self.network.tell("stale extend worked")
        stored.visible_at = self.lent_until[receipt] = self.now + seconds
        self.ring()

    def named(self, queue: str, receipt: str) -> Stored | None:
        return self.queues[queue].get(int(receipt.partition(":")[0]))

    # --- time ---------------------------------------------------------------------------------

    def expire(self) -> None:
        oldest = self.now - self.rates.retention_seconds
        if oldest < 0:
            return
        for queue, held in self.queues.items():
            for stored in [m for m in held.values() if m.enqueued_at <= oldest]:
                self.network.tell("message expired")
                del held[stored.number]
                self.ended_early(stored.wake_up)
                if queue == DEAD:
                    self.expired_letters.add(stored.wake_up.key)

    async def changed(self, queue: str, seconds: float) -> None:
        """Until something was sent or freed, a lease ended, or `seconds` are over."""
        loop = self.network.loop
        hidden = [m.visible_at - self.now for m in self.queues[queue].values()]
        seconds = min([seconds, *(left for left in hidden if left > 0)])
        ring: asyncio.Future[None] = loop.create_future()
        self._waiting.append(ring)
        timer = loop.call_later(max(seconds, 0.0), _ring, ring)
        try:
            await ring
        finally:
            timer.cancel()
            if ring in self._waiting:
                self._waiting.remove(ring)

    def ring(self) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            _ring(one)

    def attributes(self, queue: str) -> dict[str, str]:
        """As GetQueueAttributes tells them."""
        held, now = self.queues[queue].values(), self.now
        hidden = [m for m in held if m.visible_at > now]
        leased = sum(m.receives > 0 for m in hidden)
        return {
            "ApproximateNumberOfMessages": str(len(held) - len(hidden)),
            "ApproximateNumberOfMessagesNotVisible": str(leased),
            "ApproximateNumberOfMessagesDelayed": str(len(hidden) - leased),
        }

    # --- what the simulation sees ---------------------------------------------------------------

    @property
    def backlog(self) -> int:
        self.expire()
        return sum(len(self.queues[name]) for name in QueueName)

    @property
    def letters(self) -> list[DeadLetter]:
        """All dead letters; those that the service moved have no reason until they are adopted."""
        self.expire()
        return [_letter(stored) for stored in self.queues[DEAD].values()]

    async def dead_letters(self, *, limit: int) -> list[DeadLetter]:
        return self.letters[:limit]

    async def redrive(self, message_ids: Sequence[str]) -> int:
        """As people do in the console: each letter goes back to its queue."""
        held = self.queues[DEAD]
        moved = [m for m in held.values() if _text(m, "message_id") in message_ids]
        for stored in moved:
            del held[stored.number]
            kept = {k: v for k, v in stored.attributes.items() if k not in _OF_LETTERS}
            self.send(_text(stored, "queue"), stored.body, kept)
        return len(moved)

    def holds(self, key: DocumentKey) -> bool:
        """Whether the service has a message of the document, those without a reason included."""
        held = itertools.chain.from_iterable(m.values() for m in self.queues.values())
        return any(m.wake_up.key == key and not m.reason for m in held)

    def has(self, message_id: str) -> bool:
        """Whether a copy of the message is on any queue, dead letters not counted."""
        held = itertools.chain.from_iterable(self.queues[name].values() for name in QueueName)
        return any(_text(stored, "message_id") == message_id for stored in held)


_OF_LETTERS = ("reason", "receive_count", "died_at")


def _letter(stored: Stored) -> DeadLetter:
    return DeadLetter(
        message_id=_text(stored, "message_id"),
        source=QueueName(_text(stored, "queue")),
        wake_up=stored.wake_up,
        reason=stored.reason,
        receive_count=stored.receives,
        sent_at=stored.enqueued_at,
        died_at=stored.enqueued_at,
    )


def _text(stored: Stored, name: str) -> str:
    return str(stored.attributes[name]["StringValue"])


@lru_cache(maxsize=1000)
def wake_up_of(body: str) -> WakeUp:
    return wake_up_from_json(body)


def _ring(one: asyncio.Future[None]) -> None:
    if not one.done():
        one.set_result(None)
