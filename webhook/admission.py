"""Backpressure: whether changes are accepted for now, by the length of the queues and the disk.

Nothing that was accepted may be lost, so what cannot be stored safely is refused before it is
accepted. Room is left below the limits: consumers and deletes go on writing when inserts and
updates are refused, and namespaces of which hardly anything waits are let in: a long import of one
is no reason to refuse an edit of another, where the queue is fair to both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from common import telemetry
from common.model import QueueName
from common.ports.capacity import CapacityAware
from common.ports.errors import PortError
from common.ports.queue import FairQueue, Queue
from common.settings import Settings
from webhook.accept import Change, ChangeType
from webhook.problems import OVER_CAPACITY, Problem

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0
"""At most one look in so many seconds."""
LOOK_SHARE = 0.1
"""And at most this part of the time is spent looking: the depth of a long queue takes a while."""
PATIENCE_SECONDS = 1.0
"""So long a change waits for a look; then what was known before is what is known."""
ANSWER_SECONDS = 5.0
"""So long an answer to a look may take; later ones come too late to refuse anything by."""
FEW_MESSAGES = 100
"""A namespace of which fewer wait is let in up to twice the limit."""
FEW_SHARE = 0.01
"""And fewer than this part of the limit."""
BACKLOG_RETRY_SECONDS = 5
DISK_RETRY_SECONDS = 30


REASONS = ("backlog", "disk")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """0 turns a limit off."""

    max_backlog_messages: int
    min_free_disk_bytes: int

    def for_deletes(self) -> Limits:
        """Deletes are let in for longer: they are small, and what frees space in the end."""
        return Limits(
            max_backlog_messages=2 * self.max_backlog_messages,
            min_free_disk_bytes=self.min_free_disk_bytes // 2,
        )

    def for_few(self) -> Limits:
        """As near to the end as deletes come, but not where the disk is what is short."""
        return replace(self, max_backlog_messages=2 * self.max_backlog_messages)

    @property
    def few_messages(self) -> int:
        return min(FEW_MESSAGES, int(FEW_SHARE * self.max_backlog_messages))


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the last look found; None: it could not be told."""

    backlog_messages: int | None = None
    free_disk_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """`reason` is one of REASONS; `limit` is the setting that was not met."""

    reason: str
    detail: str
    limit: int
    retry_after_seconds: int

    def problem(self) -> Problem:
        return Problem(
            OVER_CAPACITY,
            self.detail,
            limit=self.limit,
            headers={"Retry-After": str(self.retry_after_seconds)},
            reason=self.reason,
            retry_after_seconds=self.retry_after_seconds,
        )


def refusal_of(seen: Seen, limits: Limits) -> Refusal | None:
    """What cannot be told refuses nothing: the stores themselves refuse what they cannot hold."""
    free, least = seen.free_disk_bytes, limits.min_free_disk_bytes
    if least and free is not None and free < least:
        return Refusal(
            reason="disk",
            detail=f"no more is accepted until there is room: the disk has {free:,} bytes left",
            limit=least,
            retry_after_seconds=DISK_RETRY_SECONDS,
        )
    backlog, most = seen.backlog_messages, limits.max_backlog_messages
    if most and backlog is not None and backlog >= most:
        return Refusal(
            reason="backlog",
            detail=f"no more is accepted until the backlog shrinks: {backlog:,} messages wait",
            limit=most,
            retry_after_seconds=BACKLOG_RETRY_SECONDS,
        )
    return None


def limits_of(settings: Settings) -> Limits:
    return Limits(
        max_backlog_messages=settings.max_backlog_messages,
        min_free_disk_bytes=settings.min_free_disk_bytes,
    )


@dataclass(slots=True)
class _Question:
    """Asked again only when it was answered: what hangs may hold a thread until it ends."""

    ask: Callable[[], Awaitable[int | None]]
    patience_seconds: float
    _asked: asyncio.Future[int | None] | None = None

    async def answer(self) -> int | None:
        """None when it cannot be told, or not in time."""
        if self._asked is None:
            self._asked = asyncio.ensure_future(self.ask())
        asked = self._asked
        await asyncio.wait([asked], timeout=self.patience_seconds)
        if not asked.done():
            log.warning("admission.no_answer", after_seconds=self.patience_seconds)
            return None
        self._asked = None
        try:
            return asked.result()
        except PortError as error:
            log.warning("admission.cannot_look", error=str(error))
        except Exception as error:
            telemetry.UNFORESEEN.labels("admission").inc()
            log.error("admission.cannot_look", exc_info=error)
        return None

    async def close(self) -> None:
        if self._asked is not None:
            self._asked.cancel()
            await asyncio.gather(self._asked, return_exceptions=True)


class Admission:
    """Looks now and then, one look at a time, and decides by what it saw last.

    `stores` are all that a change ends in; those that fill a disk tell how much room it has.
    """

    def __init__(
        self,
        queue: Queue,
        stores: Sequence[object],
        limits: Limits,
        *,
        look_seconds: float = LOOK_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self.seen = Seen()
        self._queue = queue
        self._stores = [store for store in stores if isinstance(store, CapacityAware)]
        self._limits = limits
        self._look_seconds = look_seconds
        self._patience_seconds = patience_seconds
        self._backlog = _Question(self._ask_backlog, answer_seconds)
        self._free_disk = _Question(self._ask_free_disk, answer_seconds)
        self._look: asyncio.Task[None] | None = None
        self._next_look_at = 0.0
        self._refusing = ""

    async def admit(self, change: Change) -> None:
        """Raises Problem (503) when the change is refused for now."""
        await self.look()
        delete = change.change_type is ChangeType.DELETE
        refusal = refusal_of(self.seen, self._limits.for_deletes() if delete else self._limits)
        if refusal is not None and refusal.reason == "backlog" and not delete:
            more = refusal_of(self.seen, self._limits.for_few())
            refusal = refusal if more or not await self._has_few(change.key.namespace) else None
        if refusal is not None:
            telemetry.REFUSED.labels(refusal.reason).inc()
            raise refusal.problem()

    async def _has_few(self, namespace: str) -> bool:
        """False where the queue is not fair, or cannot tell: one more would wait behind all."""
        most = self._limits.few_messages
        if not isinstance(self._queue, FairQueue) or most < 1:
            return False
        try:
            async with asyncio.timeout(self._patience_seconds):
                return await self._queue.backlog_of(namespace, at_most=most) < most
        except (PortError, TimeoutError) as error:
            log.warning("admission.cannot_look", error=str(error))
            return False

    def refusal(self) -> Refusal | None:
        """Why inserts and updates are refused, as of the last look."""
        return refusal_of(self.seen, self._limits)

    async def look(self) -> None:
        """Returns when `seen` is of now, or when looking takes too long."""
        if self._look is None:
            if asyncio.get_running_loop().time() < self._next_look_at:
                return
            self._look = asyncio.create_task(self._look_now(), name="admission")
        await asyncio.wait([self._look], timeout=self._patience_seconds)

    async def close(self) -> None:
        if self._look is not None:
            self._look.cancel()
            await asyncio.gather(self._look, return_exceptions=True)
        await self._backlog.close()
        await self._free_disk.close()

    async def _look_now(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            backlog, free = await asyncio.gather(self._backlog.answer(), self._free_disk.answer())
            self.seen = Seen(backlog_messages=backlog, free_disk_bytes=free)
            self._tell()
        finally:
            took = loop.time() - began
            self._next_look_at = loop.time() + max(self._look_seconds, took / LOOK_SHARE)
            self._look = None

    async def _ask_backlog(self) -> int:
        depths = [await self._queue.depth(name) for name in QueueName]
        return sum(depth.backlog for depth in depths)

    async def _ask_free_disk(self) -> int | None:
        return min([await store.free_bytes() for store in self._stores], default=None)

    def _tell(self) -> None:
        """Once when it begins and once when it ends."""
        refusal = self.refusal()
        reason = refusal.reason if refusal else ""
        if reason == self._refusing:
            return
        self._refusing = reason
        if refusal:
            log.error("admission.refusing", reason=reason, why=refusal.detail)
        else:
            log.info("admission.open_again")

    def as_json(self) -> dict[str, Any]:
        """For /v1/stats."""
        refusal = self.refusal()
        return {
            "refusing": refusal.reason if refusal else None,
            "why": refusal.detail if refusal else None,
            "backlog_messages": self.seen.backlog_messages,
            "max_backlog_messages": self._limits.max_backlog_messages,
            "free_disk_bytes": self.seen.free_disk_bytes,
            "min_free_disk_bytes": self._limits.min_free_disk_bytes,
        }
