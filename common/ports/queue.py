"""The queue port: at-least-once delivery with visibility timeouts, as SQS defines it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from common.model import QueueName, WakeUp
from common.ports.errors import PortError, TransientError

__all__ = [
    "DeadLetter",
    "Delivery",
    "Depth",
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
    """waiting: deliverable now; in_flight: leased; delayed: waiting for their time."""

    waiting: int
    in_flight: int
    delayed: int
    oldest_age_seconds: float
    """Age of the oldest message that is waiting or delayed; 0.0 when there is none."""

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

        Waits up to `wait_seconds` for the first one (long polling); [] when none came.
        Cancelling it may leave messages leased until their visibility timeout.
        """

    async def extend(self, delivery: Delivery, visibility_seconds: float) -> None:
        """Hide the message for `visibility_seconds` from now. Raises LeaseLostError."""

    async def ack(self, delivery: Delivery) -> None:
        """Remove the message. A stale receipt removes nothing and raises LeaseLostError."""

    async def retry_later(self, delivery: Delivery, delay_seconds: float) -> None:
        """Make the message deliverable again after a delay. Raises LeaseLostError."""

    async def release(self, delivery: Delivery, delay_seconds: float = 0.0) -> None:
        """Hand a message back for no fault of its own: not counted, where the queue can.

        Deliverable after the delay; without one it takes its old place in line. Raises
        LeaseLostError.
        """

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        """Move the message to the dead-letter queue. Raises LeaseLostError."""

    async def depth(self, queue: QueueName) -> Depth: ...

    async def dead_letters(self, *, limit: int, after: str | None = None) -> list[DeadLetter]:
        """In order of message id, those after `after`."""

    async def dead_letter_count(self) -> int: ...

    async def redrive(self, message_ids: Sequence[str]) -> int:
        """Send dead letters to the queue they came from, receive count 0; how many moved.

        An unknown id is passed over: it was redriven by someone else.
        """

    async def discard(self, message_ids: Sequence[str]) -> int:
        """Remove dead letters for good; how many there were. An unknown id is passed over."""

    async def close(self) -> None: ...


CRASHES_REFUNDED = 10
"""How often a message may be in hand when everything dies before that counts against it."""


@runtime_checkable
class WatchableQueue(Protocol):
    """A queue that can tell of a message without receiving it."""

    async def wait_for_message(self, queue: QueueName, *, timeout_seconds: float) -> None:
        """Return when something was sent or became deliverable, or after the timeout."""


@runtime_checkable
class ReclaimingQueue(Protocol):
    """A queue whose receivers run on this machine, so that a dead one's leases can be freed."""

    async def reclaim(self, *, receiver: str | None = None, refund: bool = False) -> int:
        """Make the messages leased by `receiver` (None: by anyone) deliverable now.

        `refund` takes this receive off their receive count: it was not the message's fault. A
        message is refunded CRASHES_REFUNDED times at most, since it may have been after all.
        Returns how many were freed.
        """
