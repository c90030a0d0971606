"""Notices that this machine is about to go, as EC2 gives them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from common.aws.instance_metadata import InstanceMetadata
from common.ports.errors import TransientError

__all__ = ["Notice", "NoticeWatch", "drain_seconds", "lifecycle_notice", "spot_notice"]

log = structlog.get_logger(__name__)

LOOK_EVERY_SECONDS = 5.0
"""As AWS recommends; a spot notice comes two minutes before."""
HAND_BACK_SECONDS = 10.0
"""Of the notice's time, kept for handing back what was not finished."""
SHORTEST_DRAIN_SECONDS = 1.0

SPOT = "spot/instance-action"
LIFECYCLE = "autoscaling/target-lifecycle-state"
REBALANCE = "events/recommendations/rebalance"


@dataclass(frozen=True, slots=True)
class Notice:
    """`ends_at`: when the machine stops, in seconds since the epoch; None: it was not said."""

    why: str
    ends_at: float | None = None
    hooked: bool = False
    """An Auto Scaling group waits for its lifecycle hook to be completed."""


def spot_notice(text: str) -> Notice:
    """`{"action": "terminate", "time": "2026-09-18T08:22:00Z"}`. What cannot be read is one too."""
    try:
        said = json.loads(text)
        action, time = str(said["action"]), datetime.fromisoformat(str(said["time"]))
    except (ValueError, KeyError, TypeError):
        return Notice("spot interruption")
    aware = time if time.tzinfo else time.replace(tzinfo=UTC)
    return Notice(f"spot interruption: {action}", aware.timestamp())


def lifecycle_notice(state: str) -> Notice | None:
    """None for the states of an instance that stays: InService, Standby, Warmed:Stopped …"""
    if state.strip().rpartition(":")[2] != "Terminated":
        return None
    return Notice("its Auto Scaling group terminates it", hooked=True)


def drain_seconds(notice: Notice, now: float, most: float) -> float:
    """How long work in hand may go on: `most`, or less where the machine ends before."""
    if notice.ends_at is None:
        return most
    left = notice.ends_at - now - HAND_BACK_SECONDS
    return max(min(most, left), min(most, SHORTEST_DRAIN_SECONDS))


class NoticeWatch:
    """Looks for a notice every few seconds."""

    def __init__(
        self, metadata: InstanceMetadata, *, every_seconds: float = LOOK_EVERY_SECONDS
    ) -> None:
        self._metadata = metadata
        self._every_seconds = every_seconds
        self._rebalance_told = False
        self._away = False

    async def first(self) -> Notice:
        """Return when there is a notice. What the service fails to answer is asked again."""
        while True:
            try:
                notice = await self._look()
                self._away = False
                if notice:
                    return notice
            except TransientError as error:
                self._tell_away(error)
            await asyncio.sleep(self._every_seconds)

    async def _look(self) -> Notice | None:
        if text := await self._metadata.get(SPOT):
            return spot_notice(text)
        if notice := lifecycle_notice(await self._metadata.get(LIFECYCLE) or ""):
            return notice
        if not self._rebalance_told and await self._metadata.get(REBALANCE):
            self._rebalance_told = True
            log.warning("instance.rebalance_recommended", meaning="it may be interrupted soon")
        return None

    def _tell_away(self, error: TransientError) -> None:
        """Once for a failure of any length."""
        tell = log.debug if self._away else log.warning
        tell("instance.metadata_unavailable", error=str(error))
        self._away = True
