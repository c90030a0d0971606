"""Works off the intake queue: what S3 tells of the landing zone, with a bounded number in hand.

What fails for something that is out of reach is put back as a fresh copy, which costs the message
none of its receives: an outage of any length gives nothing up. Whatever else fails is left to its
visibility timeout, and to the queue's redrive policy if it keeps failing. What a document itself is
refused for ends in failed/ and never comes here.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from common import telemetry
from common.aws.event_queue import EventMessage
from common.ports.errors import PortError, TransientError

log = structlog.get_logger(__name__)

BEATS_PER_VISIBILITY = 3
LONGEST_PAUSE_SECONDS = 30.0
LONGEST_DELAY_SECONDS = 300.0
"""Of a message that was put back, however long the outage lasts."""


class EventQueue(Protocol):
    """See SqsEventQueue."""

    async def receive(self, limit: int) -> list[EventMessage]: ...

    async def keep(self, message: EventMessage) -> None: ...

    async def hand_back(self, message: EventMessage) -> None: ...

    async def put_back(self, message: EventMessage, delay_seconds: float) -> None: ...

    async def remove(self, message: EventMessage) -> None: ...


@dataclass(slots=True, kw_only=True)
class IntakeLoop:
    """`take` is `IntakeHandler.take_event`."""

    queue: EventQueue
    take: Callable[[str], Awaitable[None]]
    concurrency: int
    visibility_seconds: float
    drain_seconds: float
    jitter: random.Random = field(default_factory=random.Random)
    _in_hand: set[asyncio.Task[None]] = field(default_factory=set)
    _failed_receives: int = 0
    _failed_takes: int = 0
    """In a row, of whatever messages."""

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set; then finish what is in hand, or hand it back."""
        stopped = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                free = self.concurrency - len(self._in_hand)
                if free < 1:
                    some = [stopped, *self._in_hand]
                    await asyncio.wait(some, return_when=asyncio.FIRST_COMPLETED)
                    continue
                for message in await self._received(free, stopped):
                    task = asyncio.create_task(self._work(message))
                    self._in_hand.add(task)
                    task.add_done_callback(self._in_hand.discard)
            if self._in_hand:
                await asyncio.wait([*self._in_hand], timeout=self.drain_seconds)
        finally:
            await _cancel([stopped, *self._in_hand])

    async def _received(self, limit: int, stopped: asyncio.Task[bool]) -> list[EventMessage]:
        """[] when stopped; what comes just then is delivered again after its timeout."""
        receive = asyncio.create_task(self._receive(limit))
        await asyncio.wait([stopped, receive], return_when=asyncio.FIRST_COMPLETED)
        if receive.done():
            return receive.result()
        await _cancel([receive])
        return []

    async def _receive(self, limit: int) -> list[EventMessage]:
        try:
            messages = await self.queue.receive(limit)
        except Exception as error:
            if isinstance(error, PortError):
                log.warning("intake.queue_unavailable", error=str(error))
            else:
                _tell(error)
            self._failed_receives += 1
            bound = _growing(self._failed_receives, LONGEST_PAUSE_SECONDS)
            await asyncio.sleep(self.jitter.uniform(0.5, bound))
            return []
        self._failed_receives = 0
        return messages

    async def _work(self, message: EventMessage) -> None:
        heartbeat = asyncio.create_task(self._beat(message))
        try:
            if await self._taken(message):
                await self.queue.remove(message)
        except asyncio.CancelledError:
            await asyncio.shield(asyncio.create_task(self._hand_back(message)))
            raise
        except PortError as error:
            log.warning("intake.failed", message=message.id, error=str(error))
        except Exception as error:
            _tell(error, message)
        finally:
            await _cancel([heartbeat])

    async def _taken(self, message: EventMessage) -> bool:
        """False: it was put back. Raises what is no passing trouble."""
        try:
            await self.take(message.body)
        except TransientError as error:
            self._failed_takes += 1
            bound = _growing(self._failed_takes, LONGEST_DELAY_SECONDS)
            delay = self.jitter.uniform(1.0, bound)
            log.warning("intake.put_back", message=message.id, seconds=delay, error=str(error))
            await self.queue.put_back(message, delay)
            return False
        self._failed_takes = 0
        return True

    async def _beat(self, message: EventMessage) -> None:
        while True:
            await asyncio.sleep(self.visibility_seconds / BEATS_PER_VISIBILITY)
            try:
                await self.queue.keep(message)
            except PortError as error:
                # It may be delivered twice then, which does no harm.
                log.warning("intake.not_kept", message=message.id, error=str(error))
            except Exception as error:
                _tell(error, message)

    async def _hand_back(self, message: EventMessage) -> None:
        """What was cut off by a drain goes to another intake at once."""
        try:
            await self.queue.hand_back(message)
        except PortError as error:
            log.warning("intake.not_handed_back", message=message.id, error=str(error))
        except Exception as error:
            _tell(error, message)


def _growing(failures: int, longest_seconds: float) -> float:
    return min(2.0 ** min(failures, 10), longest_seconds)


def _tell(error: Exception, message: EventMessage | None = None) -> None:
    """Of an error that nobody foresaw."""
    telemetry.UNFORESEEN.labels("intake").inc()
    log.error("intake.failed", message=message.id if message else None, exc_info=error)


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
