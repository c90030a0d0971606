"""The consumer loop: receive what can be started now, keep its lease, settle its outcome.

'Stop fetching' and 'cancel work' are two steps, and heartbeats stop last, so that a drain never
loses a lease on work that is still going on.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from common import telemetry
from common.clock import Clock, system_clock
from common.model import QueueName
from common.ports.errors import TransientError
from common.ports.queue import (
    BatchReceivingQueue,
    Delivery,
    FairQueue,
    LeaseLostError,
    Queue,
)
from workers.lease import Lease, LeaseExpiredError
from workers.outage import Outage, untried
from workers.outcome import Done, GiveUp, HandlerOutcome, NotBuried, Retry
from workers.retry import decide, is_out_of_reach
from workers.unforeseen import tell

log = structlog.get_logger(__name__)

Handler = Callable[[Delivery, Lease], Awaitable[HandlerOutcome]]
ErrorNote = Callable[[Delivery, HandlerOutcome | NotBuried], Awaitable[None]]
"""Tells the registry of a retry or a failure, before the message moves."""

LONG_POLL_SECONDS = 20.0
LONGEST_UNNOTED_SECONDS = 30.0
"""Until a document that is to be given up is tried again, when its row could not say so."""
LONGEST_QUEUE_PAUSE_SECONDS = 30.0
PLACES_PATIENCE_SECONDS = 5.0
"""So long free places wait for others to become free, where a receive costs."""
GUEST_PATIENCE_SECONDS = 0.5
"""So often a namespace of which nothing is in hand is asked for while every place is taken."""
HEARTBEATS_PER_VISIBILITY = 3
FIRST_RECEIVE_ALONE = 3
"""The second may have neighbours: most workers that die do so of no message, and what they had in
hand should not wait in line for it."""


@dataclass(slots=True, kw_only=True)
class Consumer:
    """Works one queue with at most `concurrency` messages in hand."""

    queue: Queue
    name: QueueName
    handle: Handler
    note: ErrorNote
    concurrency: int
    visibility_seconds: float
    max_receives: int
    drain_seconds: float
    isolate_suspects: bool = False
    guest_places: int = 0
    """Beyond `concurrency`, for namespaces of which nothing is in hand, one message of each: so
    that large documents of one, which hold a place for minutes, keep no other waiting. Only where
    the queue can be asked for them (FairQueue)."""
    on_in_hand: Callable[[int], None] | None = None
    """Told of every change of how many messages are in hand."""
    clock: Clock = system_clock
    jitter: random.Random = field(default_factory=random.Random)
    _alone: bool = False
    _outage: Outage = field(default_factory=Outage)
    _failed_receives: int = 0
    _outlasted_seconds: float | None = None
    """What is cut off now had so long."""
    _heartbeat: asyncio.Task[None] | None = None
    _in_hand: dict[asyncio.Task[None], tuple[Delivery, Lease]] = field(default_factory=dict)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set; then finish what is in hand, or hand it back."""
        try:
            await self._fetch(stop)
            await self._drain()
        finally:
            await self._let_go()

    async def work(self, deliveries: Sequence[Delivery], *, seconds: float) -> None:
        """These, received by someone else just now, all at once. Returns when each is settled.

        What outlasts `seconds` is tried again, and given up like any other failure that repeats:
        as a hand-back it would come back for ever. What is not begun is handed back, uncounted.
        """
        begun = self._alone_of(deliveries) if seconds > 0 else []
        await asyncio.gather(*[self._release(d) for d in deliveries if d not in begun])
        try:
            for delivery in begun:
                self._start(delivery)
            if self._in_hand:
                await asyncio.wait(list(self._in_hand), timeout=seconds)
            self._outlasted_seconds = seconds
        finally:
            await self._let_go()
            self._outlasted_seconds = None

    def _is_suspect(self, delivery: Delivery) -> bool:
        """Whether its worker may have died of it, so often that it is to be worked alone.

        Beyond `max_receives` it is given up without being worked.
        """
        first = max(2, min(FIRST_RECEIVE_ALONE, self.max_receives))
        return self.isolate_suspects and first <= delivery.receive_count <= self.max_receives

    def _alone_of(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """All of them, or one suspect alone.

        A death counts against every message in hand. So that a poison document takes no neighbour
        with it, what was received together with a suspect goes back.

        A suspect and not the others: where these went first, suspects would wait for as long as
        others come with them, while so each batch settles one.
        """
        suspects = [d for d in deliveries if self._is_suspect(d)]
        if not suspects:
            return deliveries
        return [max(suspects, key=lambda delivery: delivery.receive_count)]

    async def _let_go(self) -> None:
        heartbeat = [self._heartbeat] if self._heartbeat else []
        await _cancel([*self._in_hand, *heartbeat])

    async def _fetch(self, stop: asyncio.Event) -> None:
        stopped = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                free = await self._room(stopped)
                if free < 1:
                    continue
                if rest_seconds := self._outage.rest_seconds(self.jitter):
                    await asyncio.wait([stopped], timeout=rest_seconds)
                    if stop.is_set():
                        break
                deliveries = await self._receive(free, stopped)
                for delivery in await self._parted(deliveries):
                    self._start(delivery)
        finally:
            await _cancel([stopped])

    @property
    def in_hand(self) -> int:
        return len(self._in_hand)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._in_hand.pop(task, None)
        self._tell_in_hand()

    def _tell_in_hand(self) -> None:
        if self.on_in_hand:
            self.on_in_hand(self.in_hand)

    async def _room(self, stopped: asyncio.Task[bool]) -> int:
        """How many messages to receive now, once that is worth a request; 0 when stopped.

        Where requests cost, a place that became free waits for others, though not for long: what
        is in hand may take hours.
        """
        while self._places() < 1 and not stopped.done():
            await _first_of(stopped, *self._in_hand, timeout_seconds=self._until_guests())
            if self._places() < 1 and not stopped.done():
                await self._let_guest_in()
        now = asyncio.get_running_loop().time
        until = now() + PLACES_PATIENCE_SECONDS
        while self._in_hand and self._places() < self._worthwhile() and now() < until:
            if stopped.done():
                return 0
            await _first_of(stopped, *self._in_hand, timeout_seconds=until - now())
        return self._places()

    def _worthwhile(self) -> int:
        """As many as one request brings, but half of the places stay at work."""
        if not isinstance(self.queue, BatchReceivingQueue):
            return 1
        most = 1 if self._alone else self.concurrency
        return max(1, min(self.queue.worthwhile_receive, most // 2))

    def _places(self) -> int:
        """How many messages may be received now. A suspect is worked alone."""
        most = 1 if self._alone else self.concurrency
        return most - len(self._in_hand)

    def _until_guests(self) -> float | None:
        """None: none can be let in until something in hand has ended."""
        full = len(self._in_hand) >= self.concurrency + self.guest_places
        can_ask = isinstance(self.queue, FairQueue) and self.queue.fair_between_namespaces
        return None if full or self._alone or not can_ask else GUEST_PATIENCE_SECONDS

    async def _let_guest_in(self) -> None:
        if self._until_guests() is None or not isinstance(self.queue, FairQueue):
            return
        in_hand = {delivery.wake_up.namespace for delivery, _ in self._in_hand.values()}
        try:
            deliveries = await self.queue.receive_of_others(
                self.name, besides=in_hand, limit=1, visibility_seconds=self.visibility_seconds
            )
        except TransientError as error:
            log.warning("queue.unavailable", queue=self.name.value, error=str(error))
            return
        for delivery in await self._parted(deliveries):
            self._start(delivery)

    async def _parted(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """What to begin now; the rest is handed back, suspects last: what is handed back last is
        what a queue is likely to bring next. While something is in hand a suspect is not begun: no
        more is received until nothing is."""
        if not deliveries:
            return []
        self._alone = any(self._is_suspect(d) for d in deliveries)
        if self._alone and self._in_hand:
            begun: Sequence[Delivery] = []
        else:
            begun = self._alone_of(deliveries)
        for delivery in sorted(deliveries, key=self._is_suspect):
            if delivery not in begun:
                await self._release(delivery)
        return begun

    async def _release(self, delivery: Delivery) -> None:
        """What cannot be handed back comes back when its visibility timeout ends."""
        try:
            await self.queue.release(delivery)
        except (LeaseLostError, TransientError) as error:
            log.warning("message.not_handed_back", error=str(error))
        except Exception as error:
            tell(f"{self.name}-consumer", error)

    async def _receive(self, limit: int, stopped: asyncio.Task[bool]) -> list[Delivery]:
        """[] when stopped, when nothing came, or when the queue is out of reach."""
        receive = asyncio.create_task(self._long_poll(limit))
        try:
            await _first_of(stopped, receive)
            return receive.result() if receive.done() else []
        finally:
            if not receive.done():
                await _cancel([receive])

    async def _long_poll(self, limit: int) -> list[Delivery]:
        try:
            deliveries = await self.queue.receive(
                self.name,
                limit=limit,
                visibility_seconds=self.visibility_seconds,
                wait_seconds=LONG_POLL_SECONDS,
            )
        except TransientError as error:
            log.warning("queue.unavailable", queue=self.name.value, error=str(error))
        except Exception as error:
            tell(f"{self.name}-consumer", error)
        else:
            self._failed_receives = 0
            return deliveries
        self._failed_receives += 1
        bound = min(2.0 ** min(self._failed_receives, 10), LONGEST_QUEUE_PAUSE_SECONDS)
        await asyncio.sleep(self.jitter.uniform(0.5, bound))
        return []

    def _start(self, delivery: Delivery) -> None:
        monotonic = asyncio.get_running_loop().time
        lease = Lease(monotonic, monotonic() + self.visibility_seconds)
        if delivery.receive_count == 1:
            age = self.clock() - delivery.sent_at
            telemetry.QUEUE_AGE_SECONDS.labels(self.name.value).observe(max(age, 0.0))
        task = asyncio.create_task(self._work(delivery, lease))
        self._in_hand[task] = (delivery, lease)
        self._tell_in_hand()
        if self._heartbeat is None or self._heartbeat.done():
            self._heartbeat = asyncio.create_task(self._beat())
        task.add_done_callback(self._ended)

    async def _work(self, delivery: Delivery, lease: Lease) -> None:
        wake_up = delivery.wake_up
        structlog.contextvars.bind_contextvars(
            namespace=wake_up.namespace,
            document=wake_up.document_id,
            version=wake_up.version,
            queue=self.name.value,
            trace=wake_up.traceparent,
        )
        began = asyncio.get_running_loop().time()
        try:
            outcome = await self._outcome(delivery, lease)
            await self._settle(delivery, outcome)
        except (LeaseLostError, LeaseExpiredError) as error:
            telemetry.HANDLED.labels(self.name.value, "lease_lost").inc()
            log.warning("message.lease_lost", error=str(error))
        except asyncio.CancelledError:
            await self._cut_off(delivery, lease)
            raise
        except TransientError as error:
            # Unsettled: the message comes back when its visibility timeout ends.
            log.warning("message.unsettled", error=str(error))
        except Exception as error:
            tell(f"{self.name}-consumer", error)
        finally:
            took = asyncio.get_running_loop().time() - began
            telemetry.HANDLE_SECONDS.labels(self.name.value).observe(took)

    async def _outcome(self, delivery: Delivery, lease: Lease) -> HandlerOutcome:
        if delivery.receive_count > self.max_receives:
            return GiveUp(
                f"its worker died or lost its lease {delivery.receive_count - 1} times in a row "
                "while working on it"
            )
        if not self._outage.admits(delivery, self.clock()):
            return untried(self.jitter)
        try:
            done = await self.handle(delivery, lease)
        except (LeaseLostError, LeaseExpiredError):
            raise
        except Exception as error:
            outcome = self._decided(error, delivery)
            log.warning("message.failed", outcome=type(outcome).__name__, exc_info=error)
            return outcome
        finally:
            self._outage.ended(delivery)
        self._outage.passed(delivery, self.clock())
        return done

    def _decided(self, error: Exception, delivery: Delivery) -> HandlerOutcome:
        now = self.clock()
        away = is_out_of_reach(error)
        outcome = decide(
            error,
            delivery,
            max_receives=self.max_receives,
            jitter=self.jitter,
            failing_seconds=self._outage.failed(delivery, now, self.jitter) if away else 0.0,
            widespread=self._outage.widespread(delivery, now),
        )
        if isinstance(outcome, GiveUp):
            self._outage.forget(delivery)  # or it would be given up at once when it is redriven
        return outcome

    async def _settle(self, delivery: Delivery, outcome: HandlerOutcome) -> None:
        """The row first, the message second: a crash between them repeats both."""
        telemetry.HANDLED.labels(self.name.value, type(outcome).__name__.lower()).inc()
        match outcome:
            case Done(why):
                await self.queue.ack(delivery)
                log.info("message.done", why=why)
            case Retry(delay_seconds, reason, counted):
                await self._noted(delivery, outcome)
                again = self.queue.retry_later if counted else self.queue.release
                await again(delivery, delay_seconds)
                # What goes back untried does so many times a second while its namespace is away.
                tell_of = log.info if outcome.noted else log.debug
                tell_of("message.retry", reason=reason, delay_seconds=round(delay_seconds, 3))
            case GiveUp(reason):
                if await self._noted(delivery, outcome):
                    await self._bury(delivery, reason)
                else:
                    delay_seconds = self.jitter.uniform(1.0, LONGEST_UNNOTED_SECONDS)
                    await self.queue.release(delivery, delay_seconds)

    async def _noted(self, delivery: Delivery, outcome: HandlerOutcome) -> bool:
        """False when the registry is out of reach, which is not the message's fault either."""
        try:
            await self.note(delivery, outcome)
        except TransientError as error:
            log.warning("message.not_noted", error=str(error))
            return False
        return True

    async def _bury(self, delivery: Delivery, reason: str) -> None:
        try:
            await self.queue.dead_letter(delivery, reason)
        except LeaseLostError:
            await self.note(delivery, NotBuried(reason))
            raise
        log.error("message.dead_lettered", reason=reason)

    async def _cut_off(self, delivery: Delivery, lease: Lease) -> None:
        """Work cut off by a drain goes to another worker at once, and is not held against it."""
        if lease.remaining_seconds <= 0:
            return
        if self._outlasted_seconds is None:
            await asyncio.shield(self._release(delivery))
        else:
            await asyncio.shield(self._try_again(delivery, self._outlasted_seconds))

    async def _try_again(self, delivery: Delivery, seconds: float) -> None:
        """What cannot be settled comes back when its visibility timeout ends."""
        late = TimeoutError(f"not done within the {seconds:.3g} s that there were for it")
        outcome = decide(late, delivery, max_receives=self.max_receives, jitter=self.jitter)
        log.warning("message.cut_off", outcome=type(outcome).__name__, seconds=seconds)
        try:
            await self._settle(delivery, outcome)
        except (LeaseLostError, TransientError) as error:
            log.warning("message.not_handed_back", error=str(error))
        except Exception as error:
            tell(f"{self.name}-consumer", error)

    async def _drain(self) -> None:
        if self._in_hand:
            log.info("consumer.draining", queue=self.name.value, in_hand=len(self._in_hand))
            await asyncio.wait(list(self._in_hand), timeout=self.drain_seconds)

    async def _beat(self) -> None:
        """For as long as something is in hand: an idle consumer has nothing to keep."""
        while self._in_hand:
            await asyncio.sleep(self.visibility_seconds / HEARTBEATS_PER_VISIBILITY)
            beats = [self._extend(t, d, lease) for t, (d, lease) in self._in_hand.items()]
            for result in await asyncio.gather(*beats, return_exceptions=True):
                if isinstance(result, Exception):
                    # One message's trouble must not end the heartbeats of the others.
                    log.error("message.not_extended", queue=self.name.value, exc_info=result)

    async def _extend(self, task: asyncio.Task[None], delivery: Delivery, lease: Lease) -> None:
        """The deadline counts from before the call: what the queue grants is never shorter."""
        before = asyncio.get_running_loop().time()
        try:
            await self.queue.extend(delivery, self.visibility_seconds)
            lease.renew(before + self.visibility_seconds)
        except LeaseLostError:
            lease.revoke()
            if task in self._in_hand:
                log.warning("message.taken_over", queue=self.name.value)
                task.cancel()
        except TransientError as error:
            # The lease runs on until its deadline; the next beat tries again.
            log.warning("message.not_extended", queue=self.name.value, error=str(error))


async def _first_of(*tasks: asyncio.Task[Any], timeout_seconds: float | None = None) -> None:
    await asyncio.wait(tasks, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
