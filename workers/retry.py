"""Which errors are worth another try, and when."""

from __future__ import annotations

import random

from common.extraction.extract import UnreadableDocument
from common.ports.errors import PermanentError, TransientError
from common.ports.queue import Delivery
from workers.outcome import GiveUp, Retry

FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 60.0
OUTAGE_PATIENCE_SECONDS = 6 * 3600.0
"""How old a message may become while something outside is out of reach."""


class PermanentFailureError(Exception):
    """A handler's own verdict: another try cannot help. The message tells people why."""


def decide(
    error: Exception, delivery: Delivery, *, max_receives: int, now: float, jitter: random.Random
) -> Retry | GiveUp:
    """Permanent errors and the last receive give up; others back off exponentially.

    What is out of reach is not the message's fault: such a receive is not counted, and the delay
    grows with the message's age. Full jitter (each delay is drawn from 0 to its bound), so that a
    fleet does not return as one.
    """
    reason = describe(error)
    if isinstance(error, PermanentError | PermanentFailureError | UnreadableDocument):
        return GiveUp(reason)
    age_seconds = max(now - delivery.sent_at, 0.0)
    if isinstance(error, TransientError) and age_seconds < OUTAGE_PATIENCE_SECONDS:
        bound = min(FIRST_DELAY_SECONDS + age_seconds, LONGEST_DELAY_SECONDS)
        return Retry(jitter.uniform(bound / 2, bound), reason, counted=False)
    if delivery.receive_count >= max_receives or isinstance(error, TransientError):
        return GiveUp(f"failed {delivery.receive_count} times, the last time with: {reason}")
    bound = min(FIRST_DELAY_SECONDS * 4.0 ** (delivery.receive_count - 1), LONGEST_DELAY_SECONDS)
    return Retry(jitter.uniform(0.0, bound), reason)


def describe(error: Exception) -> str:
    """One line for a person; unexpected errors name their type."""
    if isinstance(error, PermanentFailureError | UnreadableDocument | PermanentError):
        return str(error)
    return f"{type(error).__name__}: {error}"
