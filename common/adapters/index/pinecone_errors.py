"""What the Pinecone SDK raises, in words that say how to mend it, and what to do about it.

At run time what a person must mend is a TransientError: keys are renewed and indexes come back, and
no document must be given up for them. At a role's start it is a PermanentError (`ports.check`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

from pinecone.errors.exceptions import (
    ApiError,
    PineconeConnectionError,
    PineconeError,
    PineconeTimeoutError,
    ResponseParsingError,
)

from common.adapters.index.server_errors import seconds_of
from common.ports.errors import PermanentError, PortError, TransientError
from common.ports.index import DimensionMismatchError

SDK_ERRORS = (PineconeError, TimeoutError, RuntimeError, OSError)
"""What a call may raise; a plain RuntimeError is a client that was closed."""


class NotThereError(TransientError):
    """404: the index, or the namespace, which nothing was ever written to."""


class TooLargeAnswerError(PermanentError):
    """More than Pinecone sends in one answer: ask for less."""


class Kind(Enum):
    AGAIN = auto()
    """The service is busy or out of reach, or its answer was lost: it may have taken effect."""
    SETUP = auto()
    """Key, permission or index: a person must mend it."""
    MISSING = auto()
    CLOSED = auto()
    REFUSED = auto()
    """The request itself: trying again cannot help."""
    DIMENSION = auto()
    TOO_LARGE = auto()
    """The answer, or the request; the service's words do not tell them apart for sure."""


@dataclass(frozen=True, slots=True)
class Explained:
    kind: Kind
    line: str
    retry_after_seconds: float | None = None

    def at_run_time(self) -> PortError:
        if self.kind is Kind.DIMENSION:
            return DimensionMismatchError(self.line)
        if self.kind is Kind.TOO_LARGE:
            return TooLargeAnswerError(self.line)
        if self.kind is Kind.REFUSED:
            return PermanentError(self.line)
        if self.kind is Kind.MISSING:
            return NotThereError(self.line)
        return TransientError(self.line, retry_after_seconds=self.retry_after_seconds)

    def at_start(self) -> PortError:
        if self.kind in (Kind.SETUP, Kind.MISSING):
            return PermanentError(self.line)
        return self.at_run_time()


_MENDS = {
    401: "the API key is refused: check BLOOMWEAVER_PINECONE_API_KEY",
    402: "the project's plan does not allow it: see Pinecone's console",
    403: "the API key may not do this: check BLOOMWEAVER_PINECONE_API_KEY and its roles",
    404: "there is no such index: create it, or check BLOOMWEAVER_INDEX_URL",
}


_ABOUT_SIZE = re.compile(r"\b(size|large|larger|exceed\w*|bytes|\d+ ?[KM]i?B)\b", re.IGNORECASE)


def explain(error: BaseException, doing: str) -> Explained:
    """`doing` completes 'cannot …': `query the Pinecone index`."""
    if isinstance(error, ApiError):
        return _of_service(error, doing)
    line = f"cannot {doing}: {str(error) or 'no answer in time'}"
    if isinstance(error, ResponseParsingError):
        return Explained(Kind.AGAIN, f"cannot {doing}: the answer is not readable")
    if isinstance(error, PineconeConnectionError | PineconeTimeoutError | TimeoutError | OSError):
        return Explained(Kind.AGAIN, f"{line} (check BLOOMWEAVER_INDEX_URL)")
    if isinstance(error, RuntimeError):
        return Explained(Kind.CLOSED, f"cannot {doing}: the index is closed")
    return Explained(Kind.REFUSED, line)


def _of_service(error: ApiError, doing: str) -> Explained:
    status = error.status_code
    line = f"cannot {doing}: {error.message} (HTTP {status})"
    if status >= 500 or status in (408, 429):
        return Explained(Kind.AGAIN, line, _retry_after(error))
    if status in (401, 402, 403, 409, 412):
        mend = _MENDS.get(status)
        return Explained(Kind.SETUP, f"{line}: {mend}" if mend else line)
    if status == 404:
        return Explained(Kind.MISSING, f"{line}: {_MENDS[404]}")
    if status == 400 and "dimension" in error.message.lower():
        return Explained(Kind.DIMENSION, line)
    if status == 413 or (status == 400 and _ABOUT_SIZE.search(error.message)):
        return Explained(Kind.TOO_LARGE, line)
    return Explained(Kind.REFUSED, line)


def _retry_after(error: ApiError) -> float | None:
    """Seconds; None when the service did not say, or said a date."""
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    return seconds_of(headers.get("retry-after"))
