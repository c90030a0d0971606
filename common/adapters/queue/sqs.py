"""The queue on Amazon SQS: standard queues, batched requests, and a lease clock of its own."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from common.adapters.queue.sqs_api import SqsApi
from common.adapters.queue.sqs_check import checked, line_of
from common.adapters.queue.sqs_leases import Leases
from common.adapters.queue.sqs_letters import DeadLetters, HeldLetter
from common.adapters.queue.sqs_line import LONGEST_POLL_SECONDS, MOST_RECEIVED, SqsLine
from common.adapters.queue.sqs_messages import (
    Envelope,
    copy_of,
    delivery_of,
    new_message,
    opened,
)
from common.clock import Clock, system_clock
from common.model import QueueName, WakeUp
from common.ports.errors import PortError
from common.ports.queue import DeadLetter, Delivery, Depth, LeaseLostError
from common.settings import Settings
from common.single_flight import SingleFlight
from common.variants import own_variant, variant_of, variants_of
from common.wire import DamagedDataError

__all__ = ["QueueNames", "SqsQueue", "connect"]

log = structlog.get_logger(__name__)

POLLS_PER_VISIBILITY = 3
"""A lease counts from before the poll that brought it. So no poll is longer than this part of it:
a message that arrives at its end can still be renewed in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueNames:
    """Names in this account and region, or URLs. `variants`: further change queues."""

    of: Mapping[QueueName, str]
    dead_letters: str
    variants: Sequence[str] = ()

    @classmethod
    def in_settings(cls, settings: Settings, variants: Sequence[str] = ()) -> QueueNames:
        return cls(
            of={
                QueueName.CHANGE: settings.change_queue_name,
                QueueName.CREATE: settings.create_queue_name,
                QueueName.UPDATE: settings.update_queue_name,
                QueueName.DELETE: settings.delete_queue_name,
            },
            dead_letters=settings.dead_letter_queue_name,
            variants=[name for name in variants if name != settings.change_queue_name],
        )

    def all_of(self, queue: QueueName) -> list[str]:
        return [self.of[queue], *(self.variants if queue is QueueName.CHANGE else ())]

    @property
    def every(self) -> list[str]:
        return [*self.of.values(), *self.variants, self.dead_letters]

    def setting_of(self, name: str) -> str:
        """The variable that names the queue."""
        if name == self.dead_letters:
            return "BLOOMWEAVER_DEAD_LETTER_QUEUE_NAME"
        for queue, of in self.of.items():
            if name == of and not (queue is QueueName.CHANGE and self.variants):
                return f"BLOOMWEAVER_{queue.upper()}_QUEUE_NAME"
        return "BLOOMWEAVER_CHANGE_QUEUE_NAME or BLOOMWEAVER_EMBEDDING_VARIANTS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """In seconds. `send`: of any request, for company. `settle`: of a busy worker's requests."""

    send: float = 0.005
    crowd: float = 0.1
    """Of sends of which many come at once, as those of a feed being accepted."""
    settle: float = 2.0
    depth: float = 1.0
    """So long an answer about a queue's depth is taken for true."""


class SqsQueue:
    """Implements Queue, BatchReceivingQueue, AdoptingQueue and Checkable.

    Requests cost, so callers share them: sends, deletes and changes of visibility go ten at a
    time, and wait for company where enough of it is on its way (sqs_batches.py). Each answers for
    itself, also when a part of its batch fails.

    What SQS cannot do, and what follows:
    - A standard queue keeps no order, and may deliver a message twice at a time.
    - Its fairness is not turns: the namespace is the message group, and SQS prefers groups that are
      quiet when it has noticed a noisy one. So this is no FairQueue.
    - It cannot lower a receive count: `release` sends a copy with the same id and deletes the
      message. A death between the two leaves both. A delay is 15 minutes at most.
    - It takes a delete with a stale receipt for done. So a lease ends here by the clock, counted
      from before the request that began it, and its receipt is not used any more. What is left:
      a process that stands still between that look at the clock and its request, for longer than
      the lease, may delete a message that another one works on. That one goes on; if it dies too,
      the sweeper wakes the document again.
    - Times are whole seconds, and are rounded up. A message can be in hand for 12 hours.
    - A poll that is cancelled goes on, and what it brings is given back, one receive older;
      after close() its connection is gone, and what SQS gave it then comes after its visibility
      timeout.
    - The age of the oldest message is not known: 0.0.
    - Dead letters: see sqs_letters.py. SQS moves a message to them by itself when its receivers
      died; `adopt` finds these.

    `change_queue_of` names the queue for a namespace's changes; `clock` gives the epoch's seconds.
    `visibility_seconds` is what consumers are set to: the queues' own should not be shorter.
    """

    worthwhile_receive = MOST_RECEIVED

    def __init__(
        self,
        names: QueueNames,
        *,
        max_receives: int = 3,
        visibility_seconds: float = 0.0,
        timeout_seconds: float = 30.0,
        waits: Waits | None = None,
        change_queue_of: Callable[[str], str] | None = None,
        clock: Clock = system_clock,
    ) -> None:
        self._names = names
        self._waits = waits or Waits()
        self._timeout_seconds = timeout_seconds
        self._change_queue_of = change_queue_of or (lambda _: names.of[QueueName.CHANGE])
        self._clock = clock
        self._api = SqsApi(timeout_seconds)
        self._lines: dict[str, SqsLine] = {}
        self._leases = Leases(_now)
        self._max_receives = max_receives
        self._visibility_seconds = visibility_seconds
        self._letters = DeadLetters(
            self._line(names.dead_letters),
            sources=[*names.of.values(), *names.variants],
            max_receives=max_receives,
            clock=clock,
        )
        self._depths: dict[QueueName, tuple[float, Depth]] = {}
        self._asking_depth: SingleFlight[QueueName, Depth] = SingleFlight()
        self._abandoned: set[asyncio.Task[list[Delivery]]] = set()
        self._giving_back: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """What waits for company goes; polls that were cancelled end."""
        for poll in self._abandoned:
            poll.cancel()
        while self._giving_back:
            await asyncio.wait(self._giving_back)
        await asyncio.gather(*[line.close() for line in self._lines.values()])
        await self._api.close()

    async def check(self) -> str:
        """Raises as Checkable says. Warnings are part of the line: they stop nobody."""
        every = self._names.every
        setting_of = self._names.setting_of
        found = await asyncio.gather(*[checked(self._api, n, setting_of(n)) for n in every])
        by_name = dict(zip(every, found, strict=True))
        return line_of(by_name, self._names, self._max_receives, self._visibility_seconds)

    # --- sending ----------------------------------------------------------------------------

    async def send(
        self, queue: QueueName, wake_ups: Sequence[WakeUp], *, delay_seconds: float = 0.0
    ) -> None:
        """A delay is 15 minutes at most."""
        now = self._clock()
        sends = [
            self._send(new_message(queue, wake_up, now), wake_up.namespace, delay_seconds)
            for wake_up in wake_ups
        ]
        _raise_first(await asyncio.gather(*sends, return_exceptions=True))

    async def _send(self, envelope: Envelope, namespace: str, delay_seconds: float = 0.0) -> None:
        """A worker with a request's worth of messages in hand is busy: its wake-ups can wait."""
        of_change = envelope.queue is QueueName.CHANGE
        name = self._change_queue_of(namespace) if of_change else self._names.of[envelope.queue]
        working = len(self._leases) >= MOST_RECEIVED
        patience = self._waits.settle if working else self._waits.crowd
        await self._line(name).send(
            envelope, delay_seconds=delay_seconds, longest_wait_seconds=patience
        )

    # --- receiving --------------------------------------------------------------------------

    async def receive(
        self, queue: QueueName, *, limit: int, visibility_seconds: float, wait_seconds: float
    ) -> list[Delivery]:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        polling = asyncio.create_task(self._receive(queue, limit, visibility_seconds, wait_seconds))
        try:
            return await asyncio.shield(polling)
        except asyncio.CancelledError:
            self._abandon(polling)
            raise

    async def _receive(
        self, queue: QueueName, limit: int, visibility_seconds: float, wait_seconds: float
    ) -> list[Delivery]:
        """More than ten only where the first ten came at once: an idle poll is not doubled."""
        ends = _now() + wait_seconds
        longest = max(1.0, visibility_seconds / POLLS_PER_VISIBILITY)
        longest = min(longest, LONGEST_POLL_SECONDS)
        while True:
            wait = min(max(ends - _now(), 0.0), longest)
            first = await self._poll(queue, limit, visibility_seconds, wait)
            if first or _now() >= ends:
                break
        if len(first) < MOST_RECEIVED or limit <= MOST_RECEIVED:
            return first
        rest = range(limit - MOST_RECEIVED, 0, -MOST_RECEIVED)
        polls = [self._poll(queue, most, visibility_seconds, 0) for most in rest]
        found = await asyncio.gather(*polls, return_exceptions=True)
        more = [part for part in found if isinstance(part, list)]  # the first ten are in hand
        return [*first, *itertools.chain.from_iterable(more)]

    async def _poll(
        self, queue: QueueName, limit: int, visibility_seconds: float, wait_seconds: float
    ) -> list[Delivery]:
        line = self._line(self._names.of[queue])
        messages, until = await line.receive(
            limit=limit, visibility_seconds=visibility_seconds, wait_seconds=wait_seconds
        )
        deliveries = []
        for message in messages:
            envelope = opened(message, queue)
            try:
                delivery = delivery_of(envelope)
            except DamagedDataError as error:
                await self._bury_unreadable(line, envelope, until, error)
                continue
            self._leases.hold(delivery.receipt, until)
            deliveries.append(delivery)
        return deliveries

    async def _bury_unreadable(
        self, line: SqsLine, envelope: Envelope, until: float, error: DamagedDataError
    ) -> None:
        """Where that fails it comes back, and it is tried again."""
        try:
            await self._letters.add(envelope, f"unreadable: {error}", longest_wait_seconds=0.0)
            await line.delete(envelope.receipt, until)
        except PortError as failed:
            log.warning("message.not_buried", queue=envelope.queue.value, error=str(failed))

    def _abandon(self, polling: asyncio.Task[list[Delivery]]) -> None:
        self._abandoned.add(polling)
        polling.add_done_callback(self._abandoned.discard)
        giving_back = asyncio.create_task(self._give_back(polling))
        self._giving_back.add(giving_back)
        giving_back.add_done_callback(self._giving_back.discard)

    async def _give_back(self, polling: asyncio.Task[list[Delivery]]) -> None:
        await asyncio.wait([polling])
        if polling.cancelled() or polling.exception():
            return
        returns = [self.retry_later(delivery, 0.0) for delivery in polling.result()]
        for result in await asyncio.gather(*returns, return_exceptions=True):
            if isinstance(result, BaseException):
                log.warning("message.not_handed_back", error=str(result))

    # --- settling ---------------------------------------------------------------------------

    async def extend(self, delivery: Delivery, visibility_seconds: float) -> None:
        """What is being settled is not extended: it is over soon.

        Heartbeats of many messages come at one moment, and so share requests without waiting.
        """
        if self._leases.is_settling(delivery):
            return
        until, before = self._leases.deadline(delivery), _now()
        try:
            await self._line_of(delivery).hide(
                delivery.receipt, until, visibility_seconds, lease_bound=True
            )
        except LeaseLostError:
            if self._leases.is_settling(delivery):
                return
            self._leases.lose(delivery)
            raise
        self._leases.renew(delivery, before + visibility_seconds)

    async def ack(self, delivery: Delivery) -> None:
        with self._leases.settling(delivery) as until:
            await self._delete(delivery, until)

    async def retry_later(self, delivery: Delivery, delay_seconds: float) -> None:
        """12 hours at most."""
        with self._leases.settling(delivery) as until:
            await self._line_of(delivery).hide(
                delivery.receipt, until, delay_seconds, longest_wait_seconds=self._waits.settle
            )

    async def release(self, delivery: Delivery, delay_seconds: float = 0.0) -> None:
        """15 minutes at most. The copy stands at the end of the line."""
        with self._leases.settling(delivery) as until:
            await self._line_of(delivery).send(
                copy_of(delivery),
                delay_seconds=delay_seconds,
                longest_wait_seconds=self._waits.settle,
            )
            await self._delete(delivery, until)

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        with self._leases.settling(delivery) as until:
            await self._letters.add(
                copy_of(delivery), reason, longest_wait_seconds=self._waits.settle
            )
            await self._delete(delivery, until)

    async def _delete(self, delivery: Delivery, until: float) -> None:
        await self._line_of(delivery).delete(
            delivery.receipt, until, longest_wait_seconds=self._waits.settle
        )

    # --- looking ----------------------------------------------------------------------------

    async def depth(self, queue: QueueName) -> Depth:
        """Approximate, as SQS says, and up to a second old. Of changes: of all variants' queues."""
        known = self._depths.get(queue)
        if known is not None and _now() < known[0]:
            return known[1]
        depth, _ = await self._asking_depth.run(queue, lambda: self._ask_depth(queue))
        self._depths[queue] = (_now() + self._waits.depth, depth)
        return depth

    async def _ask_depth(self, queue: QueueName) -> Depth:
        names = self._names.all_of(queue)
        found = await asyncio.gather(*[self._line(name).attributes() for name in names])

        def total(attribute: str) -> int:
            return sum(int(attributes.get(attribute, 0)) for attributes in found)

        return Depth(
            waiting=total("ApproximateNumberOfMessages"),
            in_flight=total("ApproximateNumberOfMessagesNotVisible"),
            delayed=total("ApproximateNumberOfMessagesDelayed"),
            oldest_age_seconds=0.0,
        )

    async def dead_letters(self, *, limit: int, after: str | None = None) -> list[DeadLetter]:
        return await self._letters.listed(limit=limit, after=after)

    async def dead_letter_count(self) -> int:
        return await self._letters.count()

    async def redrive(self, message_ids: Sequence[str]) -> int:
        return await self._letters.redrive(message_ids, self._send_again)

    async def discard(self, message_ids: Sequence[str]) -> int:
        return await self._letters.discard(message_ids)

    async def _send_again(self, envelope: Envelope) -> None:
        try:
            namespace = envelope.wake_up().namespace
        except DamagedDataError:
            await self._line(self._names.of[envelope.queue]).send(envelope)
        else:
            await self._send(envelope, namespace)

    # --- adopting ---------------------------------------------------------------------------

    async def adopt(self, *, limit: int) -> list[Delivery]:
        adopted = []
        for held in await self._letters.strays(limit):
            try:
                delivery = delivery_of(held.letter)
            except DamagedDataError as error:
                await self._explain(held, f"unreadable: {error}")
                continue
            self._leases.hold(delivery.receipt, held.until)
            adopted.append(delivery)
        return adopted

    async def explain(self, delivery: Delivery, reason: str) -> None:
        with self._leases.settling(delivery) as until:
            letter = replace(copy_of(delivery), receipt=delivery.receipt)
            await self._explain(HeldLetter(letter, until), reason)

    async def dismiss(self, delivery: Delivery) -> None:
        with self._leases.settling(delivery) as until:
            await self._line(self._names.dead_letters).delete(delivery.receipt, until)

    async def _explain(self, held: HeldLetter, reason: str) -> None:
        await self._letters.add(held.letter, reason, longest_wait_seconds=0.0)
        await self._line(self._names.dead_letters).delete(held.letter.receipt, held.until)

    # --- for those whose messages come by another way ---------------------------------------

    def delivered(self, queue: QueueName, message: Mapping[str, Any], *, until: float) -> Delivery:
        """Take a message in hand that another client received (an event source mapping).

        `message` has the form of ReceiveMessage's answer; `until`: loop time at which its
        visibility timeout ends at the earliest. Raises DamagedDataError.
        """
        delivery = delivery_of(opened(message, queue))
        self._leases.hold(delivery.receipt, until)
        return delivery

    def forget(self, delivery: Delivery) -> None:
        """It is done, and the mapping removes it."""
        self._leases.lose(delivery)

    def _line_of(self, delivery: Delivery) -> SqsLine:
        return self._line(self._names.of[delivery.queue])

    def _line(self, name: str) -> SqsLine:
        if name not in self._lines:
            self._lines[name] = SqsLine(
                self._api,
                name,
                timeout_seconds=self._timeout_seconds,
                shortest_wait_seconds=self._waits.send,
            )
        return self._lines[name]


def _raise_first(results: Sequence[object]) -> None:
    for result in results:
        if isinstance(result, BaseException):
            raise result


def _now() -> float:
    return asyncio.get_running_loop().time()


def connect(url: str, settings: Settings, receiver: str) -> SqsQueue:
    """`sqs:`; the queues' names are settings of their own."""
    own = settings.model_copy(update={"change_queue_name": own_variant(settings).change_queue_name})
    variants = [variant.change_queue_name for variant in variants_of(settings)]
    return SqsQueue(
        QueueNames.in_settings(own, variants),
        max_receives=settings.max_receives,
        visibility_seconds=settings.visibility_timeout_seconds,
        timeout_seconds=settings.request_timeout_seconds,
        change_queue_of=lambda namespace: variant_of(settings, namespace).change_queue_name,
        waits=Waits(send=settings.sqs_send_wait_seconds, settle=settings.sqs_settle_wait_seconds),
    )
