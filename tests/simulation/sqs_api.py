"""The calls of SQS as one process makes them, with what goes wrong on the way; the product's own
adapter runs on top of them (`common.adapters.queue.sqs`)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar
from unittest import mock

from common.adapters.queue import sqs
from common.adapters.queue.sqs import QueueNames, SqsQueue, Waits
from common.adapters.queue.sqs_batches import Failure
from common.adapters.queue.sqs_line import SqsLine
from common.adapters.queue.sqs_messages import delivery_of, opened
from common.model import DocumentKey, QueueName
from common.ports.errors import TransientError
from common.ports.queue import LeaseLostError
from tests.simulation.ledger import Violation
from tests.simulation.network import Network
from tests.simulation.ports import Delivering, QueueWitness
from tests.simulation.sqs import DEAD, SqsService, Stored, wake_up_of

T = TypeVar("T")

LONGEST_THROTTLE_SECONDS = 20.0
THROTTLED_CALLS = 0.7
TIMEOUT_SECONDS = 12.0
NAMES = QueueNames(of={name: name.value for name in QueueName}, dead_letters=DEAD)


class SimulatedSqsApi:
    """In the place of `SqsApi`. `broke` is told of a receipt that is used after its time."""

    def __init__(
        self,
        network: Network,
        service: SqsService,
        delivering: Delivering,
        witness: QueueWitness,
        broke: Callable[[Violation], None],
    ) -> None:
        self._network, self._service = network, service
        self._delivering, self._witness, self._broke = delivering, witness, broke
        self._looked: dict[str, dict[str, str]] = {}

    async def receive(
        self, name: str, *, limit: int, visibility_seconds: int, wait_seconds: int
    ) -> list[dict[str, Any]]:
        net, service = self._network, self._service
        self._throttle("receive")
        net.check()
        if net.chance(net.rates.refused):
            net.tell("receive refused")
            raise TransientError("receive: refused")
        deadline = service.now + wait_seconds
        while True:
            taken = service.take(name, limit, visibility_seconds)
            if taken or service.now >= deadline or service.closed:
                break
            await service.changed(name, deadline - service.now)
        net.check()
        if taken and net.chance(net.rates.unanswered):
            net.tell("receive unanswered")
            raise TransientError("receive: no answer")
        return taken

    async def send(self, name: str, entries: Sequence[Any]) -> list[Failure | None]:
        def send(entry: Mapping[str, Any]) -> None:
            self._send(name, entry)

        return await self._batch("bury" if name == DEAD else "send", send, entries)

    def _send(self, name: str, entry: Mapping[str, Any]) -> None:
        net, rates = self._network, self._delivering
        body, attributes = entry["MessageBody"], entry["MessageAttributes"]
        if name != DEAD:
            self._witness.message_sent(wake_up_of(body), False)
        for _ in range(2 if net.chance(rates.repeated) else 1):
            delay = entry.get("DelaySeconds", 0)
            if net.chance(rates.delayed):
                net.tell("message delayed")
                delay += net.random.uniform(0, rates.longest_delay_seconds)
            self._service.send(name, body, attributes, delay)

    async def delete(self, name: str, receipts: Sequence[str]) -> list[Failure | None]:
        self._check_in_time(name, receipts)
        return await self._batch("delete", lambda receipt: self._delete(name, receipt), receipts)

    def _delete(self, name: str, receipt: str) -> None:
        deleted = self._service.delete(name, receipt)
        if deleted.stored is None or name == DEAD:
            return
        if deleted.stale:
            # Nobody could know: it was delivered twice, or the call took too long.
            self._witness.message_lost(deleted.stored.wake_up)
        ended = delivery_of(opened(deleted.stored.answer, QueueName(name)))
        self._witness.message_ended(ended, self._service.holds(ended.wake_up.key))

    async def hide(self, name: str, receipts: Sequence[tuple[str, int]]) -> list[Failure | None]:
        self._check_in_time(name, [receipt for receipt, _ in receipts])
        change = self._service.change_visibility
        return await self._batch("hide", lambda lease: change(name, *lease), receipts)

    async def attributes(self, name: str) -> dict[str, str]:
        """Approximate: an earlier answer, now and then."""

        async def look() -> dict[str, str]:
            stale = self._network.chance(self._service.rates.stale_depth)
            if name not in self._looked or not stale:
                self._looked[name] = self._service.attributes(name)
            return self._looked[name]

        return await self._call("attributes", look)

    async def close(self) -> None:
        return None

    def _check_in_time(self, name: str, receipts: Sequence[str]) -> None:
        """What a stale receipt does is anybody's guess, so whoever can know uses none."""
        for receipt in receipts:
            late_seconds = self._service.now - self._service.lent_until[receipt]
            if late_seconds > 0:
                told = f"{receipt} of {name}, {late_seconds:.3f} s late"
                self._broke(Violation("no stale receipt is used", self._key(name, receipt), told))

    def _key(self, name: str, receipt: str) -> DocumentKey | None:
        stored: Stored | None = self._service.named(name, receipt)
        return stored.wake_up.key if stored else None

    async def _batch(
        self, name: str, act: Callable[[Any], None], entries: Sequence[Any]
    ) -> list[Failure | None]:
        """Entry by entry: some fail beside others that succeed."""
        net = self._network

        async def each() -> list[Failure | None]:
            outcomes: list[Failure | None] = []
            for entry in entries:
                if net.chance(self._service.rates.partial):
                    net.tell(f"{name} entry failed")
                    outcomes.append(Failure(TransientError(f"{name}: the entry failed"), True))
                    continue
                try:
                    act(entry)
                except LeaseLostError as error:
                    outcomes.append(Failure(error))
                else:
                    outcomes.append(None)
            return outcomes

        answer = await self._call(name, each)
        await net.strike()
        return answer

    async def _call(self, name: str, effect: Callable[[], Coroutine[Any, Any, T]]) -> T:
        self._throttle(name)
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                return await self._network.call(name, effect)
        except TimeoutError:
            raise TransientError(f"{name}: no answer in time") from None

    def _throttle(self, name: str) -> None:
        net, service = self._network, self._service
        if net.chance(service.rates.throttled):
            seconds = net.random.uniform(0.0, LONGEST_THROTTLE_SECONDS)
            service.throttled_until = service.now + seconds
        if service.now < service.throttled_until and net.chance(THROTTLED_CALLS):
            net.tell(f"{name} throttled")
            raise TransientError(f"{name}: throttled")


class SimulatedSqsQueue(SqsQueue):
    """The product's adapter over simulated calls, its pauses drawn from the seed."""

    def __init__(
        self,
        api: SimulatedSqsApi,
        drawn: random.Random,
        clock: Callable[[], float],
        max_receives: int,
    ) -> None:
        self._drawn = drawn
        with mock.patch.object(sqs, "SqsApi", return_value=api):
            super().__init__(
                NAMES,
                max_receives=max_receives,
                timeout_seconds=TIMEOUT_SECONDS,
                waits=Waits(),
                clock=clock,
            )

    def _line(self, name: str) -> SqsLine:
        is_new = name not in self._lines
        line = super()._line(name)
        if is_new:
            for batcher in (line._sends, line._deletes, line._hides):
                batcher.jitter = self._drawn
        return line
