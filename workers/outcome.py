"""How a handler's work on a message ended: a returned value, not a side effect."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Done:
    """The message can go. `why` is a few words for the log and the metrics."""

    why: str


@dataclass(frozen=True, slots=True)
class Retry:
    """Deliver the message again after `delay_seconds`."""

    delay_seconds: float
    reason: str
    counted: bool = True
    """Whether this receive speaks against the message; an outage does not."""
    noted: bool = True
    """Whether the row tells people of it; a message that was not tried has nothing to tell."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Mark the document FAILED and move the message to the dead-letter queue."""

    reason: str


@dataclass(frozen=True, slots=True)
class NotBuried:
    """The document was marked FAILED, but its message is someone else's by now."""

    reason: str


HandlerOutcome = Done | Retry | GiveUp
