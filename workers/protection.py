"""Keeps an Auto Scaling group from taking an instance whose worker has documents in hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from common.ports.errors import TransientError

__all__ = ["Guard", "Protection"]

log = structlog.get_logger(__name__)

IDLE_SECONDS = 60.0
PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 300.0


@dataclass(slots=True)
class Protection:
    """Decides what the group is to be told: protected with the first message, unprotected after
    `idle_seconds` without one, so that a request a minute is the most. Times are monotonic."""

    idle_since: float
    idle_seconds: float = IDLE_SECONDS
    in_hand: int = 0
    told: bool | None = None
    """What the group is known to have been told last; None: not known, as at the start (an earlier
    process of this machine may have told it something) and while it is being told."""

    def took(self, in_hand: int, now: float) -> None:
        """The worker has so many messages in hand now."""
        if self.in_hand and not in_hand:
            self.idle_since = now
        self.in_hand = in_hand

    def due(self, now: float) -> bool | None:
        """What to tell the group now; None: nothing."""
        if self.in_hand:
            wanted = True
        elif now - self.idle_since >= self.idle_seconds:
            wanted = False
        else:
            return None
        return None if wanted == self.told else wanted

    def rest_seconds(self, now: float) -> float | None:
        """When time alone will make something due; None: only work does."""
        if self.in_hand or self.told is False:
            return None
        return max(self.idle_since + self.idle_seconds - now, 0.0)


class Guard:
    """Tells the group what `Protection` decides. A failure is logged, and tried again later."""

    def __init__(
        self,
        protect: Callable[[bool], Awaitable[None]],
        *,
        idle_seconds: float = IDLE_SECONDS,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        """`protect` tells the group (`GroupMember.protect`); it may raise TransientError."""
        self._protect = protect
        self._pause_seconds = pause_seconds
        self._now = asyncio.get_running_loop().time
        self._state = Protection(self._now(), idle_seconds)
        self._changed = asyncio.Event()

    def took(self, in_hand: int) -> None:
        self._state.took(in_hand, self._now())
        self._changed.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        failures = 0
        while True:
            self._changed.clear()
            failures = 0 if await self._told() else failures + 1
            if failures:
                pause = self._pause_seconds * 2.0 ** min(failures, 10)
                await asyncio.sleep(min(pause, LONGEST_PAUSE_SECONDS))
            else:
                await self._rest()

    async def release(self) -> None:
        """The worker ends: the group may take the instance, whatever it was told before."""
        self._state.in_hand = 0
        self._state.idle_since = float("-inf")
        await self._told()

    async def _told(self) -> bool:
        """False if something was due and could not be told."""
        due = self._state.due(self._now())
        if due is None:
            return True
        self._state.told = None  # it may take effect though no answer comes, or nobody waits for it
        try:
            await self._protect(due)
        except TransientError as error:
            log.warning("instance.protection_failed", wanted=due, error=str(error))
            return False
        self._state.told = due
        log.info("instance.protection", protected=due)
        return True

    async def _rest(self) -> None:
        seconds = self._state.rest_seconds(self._now())
        waiting = asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait([waiting], timeout=seconds)
        finally:
            waiting.cancel()
