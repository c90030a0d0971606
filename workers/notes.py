"""What a retry or a failure writes into the document's row."""

from __future__ import annotations

from dataclasses import dataclass, replace

from common.clock import Clock, system_clock
from common.model import QueueName, Row, Status, WakeUp
from common.ports.queue import Delivery, Queue
from common.ports.registry import Registry
from common.transitions import Timers, fail, is_held_by_another, let_go, note_error, reopen
from workers.outcome import Done, GiveUp, HandlerOutcome, NotBuried, Retry
from workers.rows import change_row

UNTRIED_SECONDS = 600.0
"""For so long the row of a message that is handed back untried need not be written again."""


@dataclass(slots=True, kw_only=True)
class RegistryNote:
    """People and the sweeper look at the row, so the row says what went wrong.

    A message that is given up answers for its document no longer (`common.transitions.claim`): a
    newer version, whose own wake-up may have relied on it, is woken.
    """

    registry: Registry
    queue: Queue
    timers: Timers
    clock: Clock = system_clock

    async def __call__(self, delivery: Delivery, outcome: HandlerOutcome | NotBuried) -> None:
        await change_row(
            self.registry, delivery.wake_up.key, lambda row: self._told(row, delivery, outcome)
        )
        if isinstance(outcome, GiveUp):
            await self._wake_newer(delivery)

    async def _wake_newer(self, delivery: Delivery) -> None:
        """What is behind and has not failed was accepted after what is given up."""
        row = await self.registry.get(delivery.wake_up.key)
        if row is None or not row.behind or row.status is Status.FAILED or row.desired.tombstone:
            return
        wake_up = WakeUp(
            namespace=row.key.namespace,
            document_id=row.key.document_id,
            version=row.desired.version,
            traceparent=row.desired.traceparent,
        )
        await self.queue.send(QueueName.CHANGE, [wake_up])

    def _told(
        self, row: Row, delivery: Delivery, outcome: HandlerOutcome | NotBuried
    ) -> Row | None:
        """A repeated message that fails says nothing of a document that another one embeds."""
        if isinstance(outcome, Retry | GiveUp) and self._is_of_another(row, delivery):
            return None
        return self._noted(row, delivery, outcome)

    def _noted(
        self, row: Row, delivery: Delivery, outcome: HandlerOutcome | NotBuried
    ) -> Row | None:
        version = _worked_on(row, delivery)
        match outcome:
            case Done():
                return None
            case Retry(delay_seconds, noted=False):
                return self._untried(row, self.clock() + delay_seconds)
            case Retry(delay_seconds, reason):
                now = self.clock()
                noted = note_error(row, version, reason, now, self.timers)
                if noted is not None:
                    return self._left_alone(noted, now + delay_seconds)
                return let_go(row, delivery.message_id, now, self.timers)
            case GiveUp(reason):
                now = self.clock()
                failed = fail(row, version, reason, now, self.timers)
                return failed or let_go(row, delivery.message_id, now, self.timers)
            case NotBuried(reason):
                # Whatever version was failed just now: the claim that named it is gone.
                return reopen(row, row.desired.version, reason, self.clock(), self.timers)

    def _is_of_another(self, row: Row, delivery: Delivery) -> bool:
        """Whether another message embeds the document: then that one tells how it goes."""
        of_change = delivery.queue is QueueName.CHANGE
        return of_change and is_held_by_another(row, delivery.message_id, self.clock())

    def _untried(self, row: Row, until: float) -> Row | None:
        """Nothing to tell: written only when the sweeper would come before the message does."""
        if not row.behind or row.sweep_at is None or row.sweep_at > until:
            return None
        return self._left_alone(row, until + UNTRIED_SECONDS)

    def _left_alone(self, row: Row, until: float) -> Row:
        """Not swept while the message waits: another wake-up would not wait as it was told to."""
        if row.sweep_at is None:
            return row
        return replace(row, sweep_at=max(row.sweep_at, until + self.timers.stale_after_seconds))


def _worked_on(row: Row, delivery: Delivery) -> int:
    """A wake-up may have worked on a later version than it names: its claim tells."""
    if row.claim is not None and row.claim.message_id == delivery.message_id:
        return row.claim.version
    return delivery.wake_up.version
