"""Errors that every adapter raises in place of its library's own."""

from __future__ import annotations


class PortError(Exception):
    """Something outside failed. The message is fit for a log line and holds no secret."""


class TransientError(PortError):
    """The call may succeed later. It may also have taken effect: callers must be idempotent."""


class PermanentError(PortError):
    """Trying again cannot help; a person must change something first."""
