"""Errors as RFC 9457 problem documents: what is wrong, where, which limit, and nothing internal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from common import telemetry
from common.filters import FilterError
from common.ports.embedder import NoModelError
from common.ports.errors import PermanentError, TransientError
from common.ports.index import DimensionMismatchError
from webhook.accept import NothingToUpdateError, ProfileMismatchError
from webhook.namespaces import TooManyNamespacesError
from webhook.preconditions import PreconditionFailedError
from webhook.search import NotAppliedInTimeError

log = structlog.get_logger(__name__)

CONTENT_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:bloomweaver:problem:"
RETRY_AFTER_SECONDS = 1
BROKEN_BODY = (web.RequestPayloadError, HttpProcessingError)
"""What aiohttp raises when a body breaks off or cannot be decompressed."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What clients tell problems apart by; `slug` is the last part of the type URI."""

    slug: str
    status: int
    title: str


MALFORMED_JSON = Kind("malformed-json", 400, "The JSON cannot be read")
MALFORMED_REQUEST = Kind("malformed-request", 400, "The request cannot be read")
UNAUTHENTICATED = Kind("unauthenticated", 401, "Who you are is not known")
FORBIDDEN = Kind("forbidden", 403, "You may not do this")
QUOTA_EXCEEDED = Kind("quota-exceeded", 403, "There is as much as there may be")
NOT_FOUND = Kind("not-found", 404, "There is nothing under this name")
METHOD_NOT_ALLOWED = Kind("method-not-allowed", 405, "This address does not take that method")
BODY_TIMEOUT = Kind("body-timeout", 408, "The request's body did not arrive in time")
SCRUB_RUNNING = Kind("scrub-running", 409, "One scrub at a time")
STALE_CURSOR = Kind("stale-cursor", 409, "The document changed between two pages")
PROFILE_MISMATCH = Kind(
    "profile-mismatch", 409, "The namespace is bound to another embedding profile"
)
IDEMPOTENCY_KEY_IN_USE = Kind(
    "idempotency-key-in-use", 409, "A request with this key is still under way"
)
GONE = Kind("gone", 410, "Nothing more is wanted here")
PRECONDITION_FAILED = Kind(
    "precondition-failed", 412, "The document is not what the request asks it to be"
)
TOO_LARGE = Kind("too-large", 413, "Larger than the limit")
UNSUPPORTED_MEDIA_TYPE = Kind("unsupported-media-type", 415, "Not a type this address reads")
EXPECTATION_FAILED = Kind("expectation-failed", 417, "The service does not do what is expected")
INVALID_FIELD = Kind("invalid-field", 422, "A field is not as it has to be")
CONTENT_REFUSED = Kind("content-refused", 422, "The content is not fetched")
UNKNOWN_FIELD = Kind("unknown-field", 422, "There is no such field")
HASH_MISMATCH = Kind("hash-mismatch", 422, "The content is not what its hash says")
RATE_LIMITED = Kind("rate-limited", 429, "More than you may send in that time")
HEAD_TOO_LARGE = Kind("head-too-large", 431, "The request line or the headers are too large")
IDEMPOTENCY_KEY_REUSED = Kind(
    "idempotency-key-reused", 422, "This key was used for another request"
)
INTERNAL = Kind("internal", 500, "Something unexpected went wrong")
DAMAGED = Kind("damaged", 500, "What is stored is not what was written")
UNAVAILABLE = Kind("unavailable", 503, "Not possible just now")
AUDIT_UNAVAILABLE = Kind("audit-unavailable", 503, "The audit trail is out of reach")
EARLIER_CHANGE_FAILED = Kind(
    "earlier-change-failed", 503, "An earlier change of the same document was not accepted"
)
CONTENT_UNAVAILABLE = Kind("content-unavailable", 503, "The content cannot be fetched just now")
STOPPING = Kind("stopping", 503, "The service is stopping")
OVER_CAPACITY = Kind("over-capacity", 503, "No more changes are accepted for now")
NOT_READY = Kind("not-ready", 503, "The service is not ready yet")
SCRUB_UNAVAILABLE = Kind("scrub-unavailable", 503, "This process cannot scrub")
SEARCH_UNAVAILABLE = Kind("search-unavailable", 503, "This process cannot search")
NOT_APPLIED = Kind("not-applied-in-time", 504, "A change did not become visible in time")
ANSWER_TOO_LARGE = Kind("answer-too-large", 500, "The answer is larger than can be sent")
REFUSED = Kind("refused", 400, "The request was refused")

KINDS = tuple(value for value in list(globals().values()) if isinstance(value, Kind))


class Problem(Exception):  # noqa: N818 - RFC 9457's word for it
    """Ends a request with this answer.

    `field` is the path of what is wrong (`changes[17].metadata.tags[2]`), `limit` the number or
    the list that was not met; `more` holds further members, `headers` further headers.
    """

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        field: str | None = None,
        limit: int | float | list[str] | None = None,
        headers: Mapping[str, str] | None = None,
        **more: object,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.field = field
        self.limit = limit
        self.headers = dict(headers or {})
        self.more = more
        self.audited = False
        """Whether the audit trail has been told of it."""

    def within(self, path: str) -> Problem:
        """The same problem, its field named from further outside."""
        field = f"{path}.{self.field}" if self.field else path
        problem = Problem(
            self.kind,
            self.detail,
            field=field,
            limit=self.limit,
            headers=self.headers,
            **self.more,
        )
        problem.audited = self.audited
        return problem

    def body(self) -> dict[str, Any]:
        members = {
            "type": TYPE_PREFIX + self.kind.slug,
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
            "field": self.field,
            "limit": self.limit,
            **self.more,
        }
        return {name: value for name, value in members.items() if value is not None}

    def response(self) -> web.Response:
        headers = dict(self.headers)
        if self.kind.status == 503:
            headers.setdefault("Retry-After", str(RETRY_AFTER_SECONDS))
        return web.Response(
            body=json.dumps(self.body()).encode(),
            status=self.kind.status,
            content_type=CONTENT_TYPE,
            headers=headers,
        )


@asynccontextmanager
async def deadline(seconds: float) -> AsyncIterator[None]:
    """Raises Problem (503) when what is inside takes longer."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise Problem(
            UNAVAILABLE,
            f"no answer within {seconds:g} s; it may have taken effect, sending it again is safe",
            limit=seconds,
        ) from None


def problem_of(error: Exception) -> Problem:
    """What the client is told of an error. What nobody expected is logged and not told."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, web.HTTPException):
        return _of_http(error)
    for kinds, translate in _TRANSLATIONS:
        if isinstance(error, kinds):
            return translate(error)
    log.error("request.failed", exc_info=error)
    return Problem(INTERNAL, "the service's log has the reason, under the answer's X-Request-Id")


def _of_filter(error: Exception) -> Problem:
    path = getattr(error, "path", "")
    return Problem(INVALID_FIELD, str(error), field=f"filter.{path}" if path else "filter")


def _of_precondition(error: Exception) -> Problem:
    version = error.version if isinstance(error, PreconditionFailedError) else 0
    return Problem(PRECONDITION_FAILED, str(error), version=version)


def _of_namespaces(error: Exception) -> Problem:
    used, limit = (error.used, error.limit) if isinstance(error, TooManyNamespacesError) else (0, 0)
    telemetry.QUOTA_REFUSED.labels("namespaces").inc()
    return Problem(
        QUOTA_EXCEEDED, str(error), field="namespace", limit=limit, reason="namespaces", used=used
    )


def _of_transient(error: Exception) -> Problem:
    log.warning("request.unavailable", error=str(error))
    return Problem(
        UNAVAILABLE, "something the service needs is out of reach or busy; send it again"
    )


def _of_permanent(error: Exception) -> Problem:
    log.error("request.impossible", error=str(error))
    return Problem(UNAVAILABLE, "something the service needs has to be mended first; see its log")


def _of_http(error: web.HTTPException) -> Problem:
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = sorted(error.allowed_methods)
        return Problem(
            METHOD_NOT_ALLOWED,
            f"this address takes {', '.join(allowed)}, not {error.method}",
            limit=allowed,
            headers={"Allow": ", ".join(allowed)},
        )
    if error.status == 404:
        return Problem(NOT_FOUND, "there is no such address; /openapi.json lists them all")
    if error.status == 413:
        return Problem(TOO_LARGE, "the body is larger than the limit")
    return Problem(Kind(REFUSED.slug, error.status, error.reason), error.reason)


_Translation = tuple[type[Exception] | tuple[type[Exception], ...], Callable[[Exception], Problem]]
_TRANSLATIONS: tuple[_Translation, ...] = (
    (NothingToUpdateError, lambda e: Problem(NOT_FOUND, str(e), field="document_id")),
    (PreconditionFailedError, _of_precondition),
    (ProfileMismatchError, lambda e: Problem(PROFILE_MISMATCH, str(e), field="namespace")),
    (TooManyNamespacesError, _of_namespaces),
    (DimensionMismatchError, lambda e: Problem(PROFILE_MISMATCH, str(e), field="namespace")),
    (NotAppliedInTimeError, lambda e: Problem(NOT_APPLIED, str(e))),
    (FilterError, _of_filter),
    (NoModelError, lambda e: Problem(SEARCH_UNAVAILABLE, f"this process cannot search: {e}")),
    (TransientError, _of_transient),
    (PermanentError, _of_permanent),
    (
        BROKEN_BODY,
        lambda _: Problem(
            MALFORMED_REQUEST, "the body breaks off or is not what its Content-Encoding says"
        ),
    ),
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns every error of a handler, and every wrong address, into a problem document."""
    try:
        return await handler(request)
    except ConnectionError:
        raise  # the client is gone: there is nobody to tell
    except Exception as error:
        response = problem_of(error).response()
        if isinstance(error, BROKEN_BODY):
            give_up_body(request)
            response.force_close()
        return response


def give_up_body(request: web.Request) -> None:
    """Or aiohttp reads the rest of a broken body after the answer, and fails before it is sent."""
    request.content.feed_eof()
