"""What can go wrong for a client, as exceptions.

    BloomWeaverError
    ├── ConfigurationError      the address or the key cannot be right
    ├── ApiError                the service answered, and the answer is no (`.status`, `.detail` …)
    │   ├── NotFoundError       404
    │   └── PreconditionFailedError  412: somebody else changed the document (`.version`)
    ├── UnreachableError        nothing answered, or the connection was lost
    │   └── NoAnswerInTimeError the answer did not come within `timeout_seconds`
    ├── DocumentFailedError     the service gave the document up while it was waited for
    └── WaitTimeoutError        it was not searchable within the time it was waited for

Standard library only: what catches these must not pay for what raises them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

JSON = dict[str, Any]

PASSING = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}
"""Statuses after which the same request may well succeed."""
IN_USE = "idempotency-key-in-use"
"""A 409 that only an own repeated request gets: the first is still being worked on."""
NOT_APPLIED = "not-applied-in-time"
"""A 504 that ends a wait: who waited decides whether to wait again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """An RFC 9457 problem as the service states it."""

    status: int
    title: str
    type: str = ""
    """`urn:bloomweaver:problem:quota-exceeded`."""
    detail: str = ""
    field: str = ""
    """The path of what is wrong: `changes[17].document_id`."""
    limit: object = None
    """The number or list that was not met."""
    version: int | None = None
    """With a 412: the last accepted version of the document, 0: there is none."""
    retry_after_seconds: float = 0.0
    """How long the service asks to be left alone."""
    request_id: str = ""
    """Under which the service's log tells of it."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any], status: int = 0) -> Problem:
        version = value.get("version")
        return cls(
            status=_status(value.get("status")) or status,
            title=str(value.get("title") or "refused"),
            type=str(value.get("type") or ""),
            detail=str(value.get("detail") or ""),
            field=str(value.get("field") or ""),
            limit=value.get("limit"),
            version=version if isinstance(version, int) else None,
            retry_after_seconds=seconds_of(value.get("retry_after_seconds")),
            request_id=str(value.get("request_id") or ""),
        )

    @property
    def kind(self) -> str:
        """The last part of its type: `quota-exceeded`."""
        return self.type.rpartition(":")[2]

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed later."""
        if self.kind in (IN_USE, NOT_APPLIED):
            return self.kind == IN_USE
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


def seconds_of(value: object, now: float | None = None) -> float:
    """Of a Retry-After: seconds, or the HTTP date they end at. 0 for anything else."""
    text = str(value)
    try:
        return max(float(text), 0.0)
    except ValueError:
        pass
    try:
        ends = parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return 0.0
    return max(ends - (time.time() if now is None else now), 0.0)


def _status(value: object) -> int:
    return value if isinstance(value, int) else 0


class BloomWeaverError(Exception):
    """Whatever a client raises; never caught by accident with something else."""


class ConfigurationError(BloomWeaverError, ValueError):
    """The address or the key cannot be right; nothing was sent."""


class UnreachableError(BloomWeaverError):
    """Nothing answered at the service's address, or the connection was lost."""

    def __init__(self, url: str, reason: str, *, sent: bool = True) -> None:
        super().__init__(
            f"cannot reach the service at {url} ({reason}): is it running? "
            "start it with `bloomweaver up`, or set BLOOMWEAVER_URL"
        )
        self.url = url
        self.reason = reason
        self.sent = sent
        """Whether the request may have arrived."""


class NoAnswerInTimeError(UnreachableError):
    """The request was sent, and no answer came in time. It may have taken effect."""

    def __init__(self, url: str) -> None:
        super().__init__(url, "no answer in time")


_MENDS: Mapping[str, str] = {
    "unauthenticated": "set BLOOMWEAVER_API_KEY to a key that the service knows "
    "(`bloomweaver keys create` makes one, `bloomweaver keys list` lists them)",
    "forbidden": "set BLOOMWEAVER_API_KEY to a key that may "
    "(`bloomweaver keys list` says what each may do)",
}
"""By the problem's kind: what a person does about it."""


class ApiError(BloomWeaverError):
    """The service answered, and the answer is no. `problem` has all that it said."""

    def __init__(self, problem: Problem) -> None:
        mend = _MENDS.get(problem.kind)
        super().__init__(f"{problem}: {mend}" if mend else str(problem))
        self.problem = problem

    @property
    def status(self) -> int:
        return self.problem.status

    @property
    def type(self) -> str:
        return self.problem.type

    @property
    def kind(self) -> str:
        return self.problem.kind

    @property
    def title(self) -> str:
        return self.problem.title

    @property
    def detail(self) -> str:
        return self.problem.detail

    @property
    def field(self) -> str:
        return self.problem.field

    @property
    def request_id(self) -> str:
        return self.problem.request_id


class NotFoundError(ApiError):
    """There is no such document, namespace or dead letter."""


class PreconditionFailedError(ApiError):
    """The document is not of the version that `if_version` names: read it again, and decide."""

    @property
    def version(self) -> int | None:
        """The last accepted version; 0: the document does not exist."""
        return self.problem.version


_BY_STATUS: Mapping[int, type[ApiError]] = {
    HTTPStatus.NOT_FOUND: NotFoundError,
    HTTPStatus.PRECONDITION_FAILED: PreconditionFailedError,
}


def error_of(problem: Problem) -> ApiError:
    """The exception for what the service said."""
    return _BY_STATUS.get(problem.status, ApiError)(problem)


class DocumentFailedError(BloomWeaverError):
    """The service gave up on the document: no search will see this version."""

    def __init__(self, namespace: str, document_id: str, version: int, error: str) -> None:
        super().__init__(f"{document_id} (version {version}) in {namespace} FAILED: {error}")
        self.namespace = namespace
        self.document_id = document_id
        self.version = version
        self.error = error


class WaitTimeoutError(BloomWeaverError, TimeoutError):
    """It was not searchable in time. The change is accepted all the same, and will be."""


def is_passing(error: BaseException) -> bool:
    """Whether trying again makes sense."""
    if isinstance(error, ApiError):
        return error.problem.passing
    return isinstance(error, UnreachableError)


def is_unsent(error: BaseException) -> bool:
    """Whether the service cannot have seen the request."""
    return isinstance(error, UnreachableError) and not error.sent
