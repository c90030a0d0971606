"""Which errors are worth another try, and when."""

from __future__ import annotations

import random

from common.extraction.extract import UnreadableDocument
from common.ports.errors import PermanentError
from workers.outcome import GiveUp, Retry

FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 60.0


class PermanentFailureError(Exception):
    """A handler's own verdict: another try cannot help. The message tells people why."""


def decide(
    error: Exception, receive_count: int, max_receives: int, jitter: random.Random
) -> Retry | GiveUp:
    """Permanent errors and the last receive give up; others back off exponentially.

    Full jitter (each delay is drawn from 0 to its bound), so that a fleet does not return as one.
    """
    reason = describe(error)
    if isinstance(error, PermanentError | PermanentFailureError | UnreadableDocument):
        return GiveUp(reason)
    if receive_count >= max_receives:
        return GiveUp(f"failed {receive_count} times, the last time with: {reason}")
    bound = min(FIRST_DELAY_SECONDS * 4.0 ** (receive_count - 1), LONGEST_DELAY_SECONDS)
    return Retry(jitter.uniform(0.0, bound), reason)


def describe(error: Exception) -> str:
    """One line for a person; unexpected errors name their type."""
    if isinstance(error, PermanentFailureError | UnreadableDocument | PermanentError):
        return str(error)
    return f"{type(error).__name__}: {error}"
