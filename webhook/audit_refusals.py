"""Refusals on their way to the audit trail. Pure.

Anybody can be refused as often as they like, and the trail is kept for years: the first refusal of
a kind is told at once, and those like it in the minute behind it together, as one with a count.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from common.ports.audit import AuditEvent

WINDOW_SECONDS = 60.0
MOST_KINDS = 100
"""In one window; what is beyond is counted together by its result, whoever it was."""

_Kind = tuple[str, ...]


@dataclass(slots=True)
class Refusals:
    """`take` each; what it returns and what `due` returns is to be told."""

    _since: float = float("-inf")
    _more: dict[_Kind, AuditEvent] = field(default_factory=dict)
    """By kind: the last one, with the count of those that were not told."""

    @property
    def untold(self) -> bool:
        return any(event.count for event in self._more.values())

    def take(self, event: AuditEvent) -> list[AuditEvent]:
        """`event` itself if it is the first of its kind, behind what the last window has left."""
        told = self.due(event.at)
        kind = _kind_of(event)
        if kind not in self._more and len(self._more) >= MOST_KINDS:
            event = _anybody(event)
            kind = _kind_of(event)
        known = self._more.get(kind)
        if known is not None:
            self._more[kind] = replace(event, count=known.count + 1)
            return told
        if not self._more:
            self._since = event.at
        self._more[kind] = replace(event, count=0)
        return [*told, event]

    def due(self, now: float, *, at_once: bool = False) -> list[AuditEvent]:
        """What has been counted, once its window is over."""
        if not at_once and now - self._since < WINDOW_SECONDS:
            return []
        told = [event for event in self._more.values() if event.count]
        self._more.clear()
        return told


def _kind_of(event: AuditEvent) -> _Kind:
    return (
        event.result, event.principal, event.address, event.subject, event.namespace, event.source,
    )  # fmt: skip


def _anybody(event: AuditEvent) -> AuditEvent:
    return AuditEvent(
        at=event.at, principal="", action=event.action, result=event.result, subject="many"
    )
