"""What can go wrong for a command, each with the exit code it ends in.

Standard library only: every command module needs these, also those that must start at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from http import HTTPStatus
from typing import Any

JSON = dict[str, Any]

PASSING = {
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}
"""Statuses after which the same request may well succeed."""


class ExitCode(IntEnum):
    DONE = 0
    FAILED = 1
    """Documents failed, or lines were refused."""
    USAGE = 2
    """Wrong usage or configuration."""
    UNREACHABLE = 3
    INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """An RFC 9457 problem as the service states it."""

    status: int
    title: str
    detail: str = ""
    field: str = ""
    limit: object = None
    retry_after_seconds: float = 0.0
    """How long the service asks to be left alone."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any], status: int = 0) -> Problem:
        return cls(
            status=int(value.get("status") or status),
            title=str(value.get("title") or "refused"),
            detail=str(value.get("detail") or ""),
            field=str(value.get("field") or ""),
            limit=value.get("limit"),
            retry_after_seconds=_seconds(value.get("retry_after_seconds")),
        )

    @property
    def passing(self) -> bool:
        return self.status in PASSING

    def __str__(self) -> str:
        where = f"{self.field}: " if self.field else ""
        limit = f" (limit: {self.limit})" if self.limit is not None else ""
        return f"{where}{self.detail or self.title}{limit}"

    def as_json(self) -> JSON:
        members = {
            "status": self.status,
            "title": self.title,
            "detail": self.detail,
            "field": self.field,
            "limit": self.limit,
        }
        return {name: value for name, value in members.items() if value not in ("", None)}


def _seconds(value: object) -> float:
    """A date, which the header may also be, is left to the backoff."""
    try:
        return max(float(str(value)), 0.0)
    except ValueError:
        return 0.0


class CommandError(Exception):
    """Ends the command with its message and its exit code; never with a traceback."""

    exit_code = ExitCode.FAILED


class WrongUsageError(CommandError):
    """The command line or the configuration cannot be right."""

    exit_code = ExitCode.USAGE


class UnreachableError(CommandError):
    """Nothing answered at the service's address, or the connection was lost."""

    exit_code = ExitCode.UNREACHABLE

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"cannot reach the service at {url} ({reason}): is it running? "
            "start it with `bloomweaver up`, or set BLOOMWEAVER_URL"
        )
        self.reason = reason


class ApiError(CommandError):
    """The service answered, and the answer is no."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def is_passing(error: BaseException) -> bool:
    """Whether trying again makes sense."""
    if isinstance(error, ApiError):
        return error.problem.passing
    return isinstance(error, UnreachableError)
