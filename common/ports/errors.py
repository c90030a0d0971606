"""Errors that every adapter raises in place of its library's own."""

from __future__ import annotations


class PortError(Exception):
    """Something outside failed. The message is fit for a log line and holds no secret."""


class TransientError(PortError):
    """The call may succeed later. It may also have taken effect: callers must be idempotent.

    `retry_after_seconds`: how long the other side asks to be left alone; None when it did not say.
    """

    def __init__(self, message: str = "", *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class PermanentError(PortError):
    """Trying again cannot help; a person must change something first."""
