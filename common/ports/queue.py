"""The queue port: at-least-once delivery with visibility timeouts, as SQS defines it.

Promised: a message that was sent is delivered until it is acknowledged or dead-lettered; while its
lease lasts nobody else gets it, save for the rare duplicate of a queue of many machines; its id
stays, whatever happens to it. Not promised: any order (but see FairQueue); delays and timeouts of
less than a second (they may be rounded up).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from common.model import QueueName, WakeUp
from common.ports.errors import PortError, TransientError

__all__ = [
    "AdoptingQueue",
    "BatchReceivingQueue",
    "DeadLetter",
    "Delivery",
    "Depth",
    "FairQueue",
    "HandedQueue",
    "LeaseLostError",
    "Queue",
    "ReclaimingQueue",
    "TransientError",
    "WatchableQueue",
]


class LeaseLostError(PortError):
    """The receipt is stale: the visibility timeout ran out and the message is someone else's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One receipt of a message. `receipt` changes with every receive, `message_id` never."""

    queue: QueueName
    message_id: str
    receipt: str
    wake_up: WakeUp
    receive_count: int
    """1 at the first delivery."""
    sent_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """waiting: deliverable now; in_flight: leased; delayed: waiting for their time.

    What is to be tried again later is delayed, or in flight where the queue cannot tell (SQS).
    """

    waiting: int
    in_flight: int
    delayed: int
    oldest_age_seconds: float
    """Age of the oldest message that is waiting or delayed; 0.0 when there is none, or when the
    queue cannot tell (SQS)."""

    @property
    def tells_age(self) -> bool:
        """Whether `oldest_age_seconds` says anything about those that wait."""
        return self.waiting == 0 or self.oldest_age_seconds > 0.0

    @property
    def backlog(self) -> int:
        return self.waiting + self.in_flight + self.delayed


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message that was given up, with the reason a person needs to mend it."""

    message_id: str
    source: QueueName
    wake_up: WakeUp
    reason: str
    receive_count: int
    sent_at: float
    """When it was sent, or sent again; 0.0 where that was not recorded."""
    died_at: float


class Queue(Protocol):
    """Raises TransientError when the queue cannot be reached or is busy for too long."""

    async def send(
        self, queue: QueueName, wake_ups: Sequence[WakeUp], *, delay_seconds: float = 0.0
    ) -> None:
        """Store all wake-ups. When it returns they survive the death of any process."""

    async def receive(
        self, queue: QueueName, *, limit: int, visibility_seconds: float, wait_seconds: float
    ) -> list[Delivery]:
        """Up to `limit` messages, hidden from others for `visibility_seconds`.

        Waits up to `wait_seconds` for the first one (long polling); [] when none came. What can
        be had at once may be fewer than there are.
        Cancelling it gives back what arrives after, or leaves it leased until its timeout.
        """

    async def extend(self, delivery: Delivery, visibility_seconds: float) -> None:
        """Hide the message for `visibility_seconds` from now. Raises LeaseLostError."""

    async def ack(self, delivery: Delivery) -> None:
        """Remove the message. A stale receipt removes nothing and raises LeaseLostError."""

    async def retry_later(self, delivery: Delivery, delay_seconds: float) -> None:
        """Make the message deliverable again after a delay. Raises LeaseLostError."""

    async def release(self, delivery: Delivery, delay_seconds: float = 0.0) -> None:
        """Hand a message back for no fault of its own: not counted, where the queue can.

        Deliverable after the delay; without one it takes its old place in line, where the queue
        has such places. A delay may be cut to 15 minutes. Raises LeaseLostError.
        """

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        """Move the message to the dead-letter queue. Raises LeaseLostError."""

    async def depth(self, queue: QueueName) -> Depth:
        """Where many machines make the queue: approximate, and up to a second old."""

    async def dead_letters(self, *, limit: int, after: str | None = None) -> list[DeadLetter]:
        """In order of message id, those after `after`.

        A queue without a peek shows a bounded part (SQS: 1,000), and hides from others what it
        looks at while it does.
        """

    async def dead_letter_count(self) -> int: ...

    async def redrive(self, message_ids: Sequence[str]) -> int:
        """Send dead letters to the queue they came from, receive count 0; how many moved.

        An unknown id is passed over: it was redriven by someone else. So may be one that another
        process is looking at.
        """

    async def discard(self, message_ids: Sequence[str]) -> int:
        """Remove dead letters for good; how many there were. An unknown id is passed over."""

    async def close(self) -> None: ...


CRASHES_REFUNDED = 10
"""How often a message may be in hand when everything dies before that counts against it."""


@runtime_checkable
class FairQueue(Protocol):
    """A queue whose namespaces take turns. The embedded queue is one; each of its queues is.

    Promised: a namespace's messages are received in the order in which they became deliverable. A
    receive takes one message of each namespace that has any deliverable, in turn, before it takes a
    second one of any; the next receive goes on where it ended, whoever asks. A namespace that gets
    its first deliverable message, by a send, a delay that ends or a lease that runs out, comes last
    in the round. So it waits for one message of each of the others that wait, however long their
    lines are; and none waits for ever, however many others come.

    The many-machine queue (SQS) promises less: see its adapter.
    """

    @property
    def fair_between_namespaces(self) -> bool: ...

    async def receive_of_others(
        self,
        queue: QueueName,
        *,
        besides: Collection[str],
        limit: int,
        visibility_seconds: float,
    ) -> list[Delivery]:
        """As `receive` and in the same turns, but nothing of the namespaces `besides`, and without
        waiting."""

    async def backlog_of(self, namespace: str, *, at_most: int) -> int:
        """Its messages on all queues, wherever they stand, counted up to `at_most`: cheap enough to
        be asked for each change."""


@runtime_checkable
class WatchableQueue(Protocol):
    """A queue that can tell of a message without receiving it."""

    async def wait_for_message(self, queue: QueueName, *, timeout_seconds: float) -> None:
        """Return when something was sent or became deliverable, or after the timeout."""


@runtime_checkable
class BatchReceivingQueue(Protocol):
    """A queue that bills by the request, so that it is not asked for single messages."""

    @property
    def worthwhile_receive(self) -> int:
        """As many messages as one request brings."""


@runtime_checkable
class AdoptingQueue(Protocol):
    """A queue whose service moves messages to the dead letters by itself, without telling."""

    async def adopt(self, *, limit: int) -> list[Delivery]:
        """Dead letters that were moved so: hidden from other lookers for a minute.

        `queue` is where they came from. Each has to be noted and then explained or dismissed; one
        that is neither is found again. Cheap enough to be called once a minute.
        """

    async def explain(self, delivery: Delivery, reason: str) -> None:
        """Give an adopted letter its reason. Raises LeaseLostError when the minute is over."""

    async def dismiss(self, delivery: Delivery) -> None:
        """Discard an adopted letter. Raises LeaseLostError when the minute is over."""


@runtime_checkable
class ReclaimingQueue(Protocol):
    """A queue whose receivers run on this machine, so that a dead one's leases can be freed."""

    async def reclaim(self, *, receiver: str | None = None, refund: bool = False) -> int:
        """Make the messages leased by `receiver` (None: by anyone) deliverable now.

        `refund` takes this receive off their receive count: it was not the message's fault. A
        message is refunded CRASHES_REFUNDED times at most, since it may have been after all.
        Returns how many were freed.
        """


@runtime_checkable
class HandedQueue(Queue, Protocol):
    """A queue whose messages another client may receive and remove: an event source mapping."""

    def delivered(self, queue: QueueName, message: Mapping[str, Any], *, until: float) -> Delivery:
        """Take a message in hand that another client received, in the form of its service.

        `until`: the loop's time at which its visibility timeout ends at the earliest. Raises
        PermanentError for what is no wake-up.
        """

    def forget(self, delivery: Delivery) -> None:
        """It is done, and removed by who received it."""
