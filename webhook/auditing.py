"""What the audit trail is told, and what happens while it cannot be.

A change that was accepted is answered once its entry is durable. Where the entry cannot be written
the answer is 503, the entry is owed, and until it is written no other change is begun: so at most
the changes that were under way at that moment are ahead of the trail, and only as long as this
process lives and the trail is out of reach.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import structlog

from common.audit import normal
from common.clock import Clock, system_clock
from common.ports.audit import AuditEvent, AuditTrail
from common.ports.errors import PortError
from common.settings import Settings
from webhook.accept import NOTHING_WAS_CHANGED, Accepted, Change
from webhook.audit_refusals import Refusals
from webhook.problems import AUDIT_UNAVAILABLE, Problem

if TYPE_CHECKING:
    from webhook.callers import Caller

log = structlog.get_logger(__name__)

REFUSED = "refused"
ACCEPTED = "accepted"
BEGUN = "begun"
UNCERTAIN = "uncertain"
"""The result of what failed on its way: it may have taken effect."""
MOST_OWED = 100_000
_LOOK_SECONDS = 5.0
_RETRY_SECONDS = (0.5, 30.0)
_RETENTION_SECONDS = 6 * 3600.0


@dataclass(slots=True, kw_only=True)
class Auditing:
    """Call `start` once, and `close` at the end. `trail` None: nothing is told to anybody."""

    trail: AuditTrail | None = None
    timeout_seconds: float = 30.0
    retention_seconds: float = float("inf")
    clock: Clock = system_clock
    _owed: deque[AuditEvent] = field(default_factory=deque)
    _refusals: Refusals = field(default_factory=Refusals)
    _failing: bool = False
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _ended: asyncio.Event = field(default_factory=asyncio.Event)
    _appending: set[asyncio.Task[bool]] = field(default_factory=set)
    _task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="auditing")

    async def close(self) -> None:
        """Tell what is owed, once more. What cannot be told is in the log, whole."""
        self._ended.set()
        self._wake.set()
        if self._task is not None:
            # Not cancelled: what it is appending would be told a second time below.
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*self._appending, return_exceptions=True)
        self._owed += self._refusals.due(self.clock(), at_once=True)
        if not await self._told_all():
            for event in self._owed:
                log.error("audit.entry_lost", **_as_log(event))

    # --- telling ---------------------------------------------------------------------------------

    def require_open(self) -> None:
        """Raises Problem (503) while the trail is out of reach. Ask before anything is done."""
        if self._failing:
            raise _unavailable("nothing was done")

    async def tell(self, events: Sequence[AuditEvent]) -> None:
        """Durable when it returns, also for a caller that is cancelled meanwhile. Raises Problem
        (503); the events are owed then."""
        if self.trail is None:
            return
        task = asyncio.create_task(self._appended(events))
        self._appending.add(task)
        task.add_done_callback(self._appending.discard)
        if not await asyncio.shield(task):
            raise _unavailable("it took effect, and sending it again is safe")

    def owe(self, events: Iterable[AuditEvent]) -> None:
        """To be told soon, by the task of `start`."""
        for event in events if self.trail else ():
            if len(self._owed) < MOST_OWED:
                self._owed.append(event)
            else:
                log.error("audit.entry_lost", **_as_log(event))
        self._wake.set()

    def refuse(self, event: AuditEvent) -> None:
        self.owe(self._refusals.take(event))

    @contextlib.asynccontextmanager
    async def doing(self, events: Callable[[str], Sequence[AuditEvent]]) -> AsyncIterator[None]:
        """Around something that takes effect: tells `events` of its result, `accepted` once it is
        done, `uncertain` when it fails."""
        self.require_open()
        try:
            yield
        except BaseException:
            self.owe(events(UNCERTAIN))
            raise
        await self.tell(events(ACCEPTED))

    # --- the task --------------------------------------------------------------------------------

    async def _appended(self, events: Sequence[AuditEvent]) -> bool:
        if await self._append(events):
            return True
        self._failing = True
        self.owe(events)
        return False

    async def _append(self, events: Sequence[AuditEvent]) -> bool:
        try:
            async with asyncio.timeout(self.timeout_seconds):
                if self.trail is not None:
                    await self.trail.append(events)
        except (PortError, TimeoutError) as error:
            log.error("audit.unavailable", error=str(error) or "no answer in time")
            return False
        except Exception as error:
            log.error("audit.failed", exc_info=error)
            return False
        return True

    async def _told_all(self) -> bool:
        """Whether nothing is owed any more."""
        while self._owed:
            events = [self._owed[n] for n in range(min(len(self._owed), 1000))]
            if not await self._append(events):
                self._failing = True
                return False
            for _ in events:
                self._owed.popleft()
        if self._failing:
            log.info("audit.available")
        self._failing = False
        return True

    async def _run(self) -> None:
        drop_at = 0.0
        failures = 0
        while True:
            more = self.clock() >= drop_at and await self._drop_old()
            if not more and self.clock() >= drop_at:
                drop_at = self.clock() + _RETENTION_SECONDS
            self._wake.clear()
            if self._ended.is_set():
                return
            self._owed += self._refusals.due(self.clock())
            failures = 0 if await self._told_all() else failures + 1
            if failures or not more:
                await self._pause(failures)

    async def _pause(self, failures: int) -> None:
        if failures:
            least, most = _RETRY_SECONDS
            seconds, event = min(least * 2.0 ** min(failures - 1, 10), most), self._ended
        else:
            seconds, event = _LOOK_SECONDS if self._refusals.untold else 60.0, self._wake
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()

    async def _drop_old(self) -> bool:
        """Some of what is too old; whether there may be more."""
        now = self.clock()
        try:
            async with asyncio.timeout(self.timeout_seconds):
                if self.trail is not None:
                    return bool(await self.trail.drop(before=now - self.retention_seconds, now=now))
        except Exception as error:
            log.warning("audit.retention_failed", error=str(error) or "no answer in time")
        return False


# --- events --------------------------------------------------------------------------------------


async def accept_and_tell(
    auditing: Auditing,
    change: Change,
    caller: Caller,
    accept: Callable[[Change], Awaitable[Accepted]],
) -> Accepted:
    """Accepts, and returns once the entry is durable. Raises what `accept` raises, and Problem
    (503) where the trail is out of reach."""
    auditing.require_open()
    try:
        accepted = await accept(change)
    except NOTHING_WAS_CHANGED:
        raise
    except BaseException:
        auditing.owe([event_of(auditing, change, caller, result=UNCERTAIN)])
        raise
    told = event_of(
        auditing, change, caller, result=accepted.outcome.value, version=accepted.version
    )
    await auditing.tell([told])
    return accepted


def event_of(
    auditing: Auditing, change: Change, caller: Caller, *, result: str, version: int = 0
) -> AuditEvent:
    return event_by(
        auditing,
        caller,
        action=change.change_type.value,
        namespace=change.key.namespace,
        document_id=change.key.document_id,
        result=result,
        version=version,
    )


def event_by(
    auditing: Auditing,
    caller: Caller,
    *,
    action: str,
    result: str,
    namespace: str = "",
    document_id: str = "",
    subject: str = "",
    version: int = 0,
    count: int = 1,
) -> AuditEvent:
    """What the caller has done just now."""
    return AuditEvent(
        at=auditing.clock(),
        principal=caller.principal.id,
        action=action,
        namespace=namespace,
        document_id=document_id,
        subject=subject,
        result=result,
        version=version,
        count=count,
        address=caller.address,
        request_id=caller.request_id,
        source=caller.source,
    )


def refuse_change(auditing: Auditing, change: Change, caller: Caller, problem: Problem) -> None:
    """Tells of a change that the caller may not make. Nobody else is to tell of the problem."""
    problem.audited = True
    auditing.refuse(
        event_by(
            auditing,
            caller,
            action=REFUSED,
            namespace=change.key.namespace,
            document_id=change.key.document_id,
            subject=change.change_type.value,
            result=problem.kind.slug,
        )
    )


def _unavailable(what_happened: str) -> Problem:
    return Problem(AUDIT_UNAVAILABLE, f"the audit trail is out of reach: {what_happened}")


def _as_log(event: AuditEvent) -> dict[str, object]:
    return {f"entry_{name}": value for name, value in asdict(normal(event)).items()}


def auditing_of(trail: AuditTrail, settings: Settings) -> Auditing:
    return Auditing(
        trail=trail,
        timeout_seconds=settings.request_timeout_seconds,
        retention_seconds=settings.audit_retention_days * 86400.0,
    )
