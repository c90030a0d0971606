"""Which errors are worth another try, and when."""

from __future__ import annotations

import random

from common.extraction.extract import UnreadableDocument
from common.ports.errors import PermanentError, TransientError
from common.ports.index import IndexUnavailableError
from common.ports.queue import Delivery
from workers.outcome import GiveUp, Retry

FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 60.0
OUTAGE_PATIENCE_SECONDS = 6 * 3600.0
"""How long a message may meet nothing but transient errors while others get through."""
LONGEST_RETRY_AFTER_SECONDS = 900.0
"""What is asked for beyond it is not believed: queues hide a message no longer."""


class PermanentFailureError(Exception):
    """A handler's own verdict: another try cannot help. The message tells people why."""


def is_out_of_reach(error: Exception) -> bool:
    """Something outside is away: no message's fault. A closed or locked index is mended, too."""
    return isinstance(error, TransientError | IndexUnavailableError)


def decide(
    error: Exception,
    delivery: Delivery,
    *,
    max_receives: int,
    jitter: random.Random,
    failing_seconds: float = 0.0,
    widespread: bool = False,
) -> Retry | GiveUp:
    """Permanent errors and the last receive give up; others back off exponentially.

    What is out of reach is not the message's fault: such a receive is not counted, and the delay
    grows with `failing_seconds`, for which the message met nothing else. It is given up only when
    that lasts very long and is not `widespread`: then something must be wrong with this document.
    Full jitter (each delay is drawn from 0 to its bound), so that a fleet does not return as one.
    """
    reason = describe(error)
    if is_out_of_reach(error):
        if failing_seconds >= OUTAGE_PATIENCE_SECONDS and not widespread:
            return GiveUp(f"failed for {failing_seconds / 3600:.1f} hours, at last with: {reason}")
        bound = min(FIRST_DELAY_SECONDS + failing_seconds, LONGEST_DELAY_SECONDS)
        delay_seconds = _asked_for(error) + jitter.uniform(0.0, bound)
        return Retry(delay_seconds, reason, counted=False)
    if isinstance(error, PermanentError | PermanentFailureError | UnreadableDocument):
        return GiveUp(reason)
    if delivery.receive_count >= max_receives:
        return GiveUp(f"failed {delivery.receive_count} times, the last time with: {reason}")
    bound = min(FIRST_DELAY_SECONDS * 4.0 ** (delivery.receive_count - 1), LONGEST_DELAY_SECONDS)
    return Retry(jitter.uniform(0.0, bound), reason)


def _asked_for(error: Exception) -> float:
    """Seconds for which the other side asked to be left alone; the jitter comes on top."""
    asked = error.retry_after_seconds if isinstance(error, TransientError) else None
    return min(max(asked or 0.0, 0.0), LONGEST_RETRY_AFTER_SECONDS)


def describe(error: Exception) -> str:
    """One line for a person; unexpected errors name their type."""
    if isinstance(error, PermanentFailureError | UnreadableDocument | PermanentError):
        return str(error)
    return f"{type(error).__name__}: {error}"
