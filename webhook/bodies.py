"""Requests as bytes and values: bodies within their limit, query parameters, trace contexts."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from aiohttp import web
from aiohttp.streams import EmptyStreamReader

from common.settings import Settings
from webhook.problems import (
    BODY_TIMEOUT,
    INVALID_FIELD,
    MALFORMED_REQUEST,
    TOO_LARGE,
    UNSUPPORTED_MEDIA_TYPE,
    Problem,
)
from webhook.validation import parse_json

T = TypeVar("T")

INLINE_BYTES = 64 * 1024
"""What is parsed at once; larger inputs are parsed in a thread, beside other requests."""
LEAST_BYTES_PER_SECOND = 1024
"""A body that comes slower is given up; feeds, which go on for as long as they like, excepted."""
ENCODINGS = ("gzip", "deflate", "identity")

_BODY = web.RequestKey("body", bytes)

_names = random.Random()  # noqa: S311 - names, not secrets
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)


def given_traceparent(request: web.Request) -> str:
    """The client's W3C trace context, or an empty string if it sent none that is valid."""
    given = request.headers.get("traceparent", "")
    return given if _TRACEPARENT.fullmatch(given) else ""


def traceparent_of(request: web.Request) -> str:
    """The client's, or a new one. Not from the system's randomness: that is a call a change."""
    given = given_traceparent(request)
    return given or f"00-{_names.getrandbits(128):032x}-{_names.getrandbits(64):016x}-01"


def new_request_id() -> str:
    return f"{_names.getrandbits(64):016x}"


def check_content_encoding(request: web.Request) -> None:
    """Raises Problem (415) for an encoding that would leave the body unreadable."""
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ENCODINGS:
        raise unsupported_encoding()


def unsupported_encoding() -> Problem:
    detail = f"Content-Encoding must be one of {', '.join(ENCODINGS)}"
    return Problem(UNSUPPORTED_MEDIA_TYPE, detail, limit=list(ENCODINGS))


def _nothing_told(size: int) -> None:
    del size


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How slow a body may come: nothing for `stall_seconds`, or so long in all behind
    `least_bytes_per_second`."""

    stall_seconds: float
    least_bytes_per_second: int = LEAST_BYTES_PER_SECOND


async def read_body(
    request: web.Request, limit: int, *, stall_seconds: float, keep: bool = False
) -> bytes:
    """The body, decompressed; kept for who reads it next where `keep` says so.

    Raises Problem: larger than `limit` bytes, or it stopped coming. Nothing for `stall_seconds`, or
    so long in all behind LEAST_BYTES_PER_SECOND as it was sent: a byte a second would never stop
    coming, and a few that unfold to megabytes would keep these for hours.
    """
    kept: bytes | None = request.get(_BODY)
    if kept is not None:
        return kept
    body = await read_body_at(request, limit, Pace(stall_seconds=stall_seconds))
    if keep:
        request[_BODY] = body
    return body


async def read_body_at(
    request: web.Request, limit: int, pace: Pace, told: Callable[[int], None] = _nothing_told
) -> bytes:
    """`told`: how many bytes it has at least, as soon as that is known and as it grows; what it
    raises ends the reading. Raises Problem as `read_body`."""
    check_content_encoding(request)
    length = request.content_length
    if length is not None and length > limit:
        raise too_large(limit)
    told(length or 0)
    if isinstance(request.content, EmptyStreamReader):
        return b""  # it counts nothing
    parts: list[bytes] = []
    size = 0
    loop = asyncio.get_running_loop()
    began = loop.time()
    while True:
        sent = request.content.total_raw_bytes
        late_at = began + pace.stall_seconds + sent / pace.least_bytes_per_second
        try:
            async with asyncio.timeout_at(min(loop.time() + pace.stall_seconds, late_at)):
                part = await request.content.readany()
        except TimeoutError:
            raise _too_slow(pace) from None
        if not part:
            return b"".join(parts)
        size += len(part)
        if size > limit:
            raise too_large(limit)
        told(size)
        parts.append(part)


def _too_slow(pace: Pace) -> Problem:
    least = pace.least_bytes_per_second
    detail = f"nothing came for {pace.stall_seconds:g} s, or less than {least} bytes a second"
    headers = {"Connection": "close"}
    return Problem(BODY_TIMEOUT, detail, limit=pace.stall_seconds, headers=headers)


def too_large(limit: int) -> Problem:
    headers = {"Connection": "close"}
    return Problem(
        TOO_LARGE, f"the body is larger than the limit of {limit} bytes",
        limit=limit, headers=headers,
    )  # fmt: skip


async def read_json(request: web.Request, settings: Settings) -> Any:
    """The body as a JSON value. Raises Problem."""
    if media_type_of(request) not in ("", "application/json"):
        detail = "the body must be application/json"
        raise Problem(UNSUPPORTED_MEDIA_TYPE, detail, limit=["application/json"])
    body = await read_body(
        request, settings.max_body_bytes, stall_seconds=settings.request_timeout_seconds
    )
    return await beside(len(body), lambda: parse_json(body))


async def beside(size_bytes: int, work: Callable[[], T]) -> T:
    """Do it here if it is small, else in a thread, so that other requests go on meanwhile."""
    return work() if size_bytes <= INLINE_BYTES else await asyncio.to_thread(work)


def media_type_of(request: web.Request) -> str:
    """The Content-Type without parameters, in lower case; empty if there is none."""
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


# --- query parameters ----------------------------------------------------------------------------


def query_integer(
    request: web.Request, name: str, *, default: int, lowest: int, highest: int
) -> int:
    """Raises Problem (422) unless it is an integer within both bounds."""
    text = request.query.get(name)
    if text is None:
        return default
    digits = re.fullmatch(r"[0-9]{1,19}", text)
    if digits is None or not lowest <= int(text) <= highest:
        detail = f"{name} must be an integer from {lowest} to {highest}"
        raise Problem(INVALID_FIELD, detail, field=name, limit=highest)
    return int(text)


def query_seconds(request: web.Request, name: str, highest: float) -> float | None:
    text = request.query.get(name)
    if text is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) is None or float(text) > highest:
        detail = f"{name} must be seconds from 0 to {highest:g}"
        raise Problem(INVALID_FIELD, detail, field=name, limit=highest)
    return float(text)


def refuse_unknown_parameters(request: web.Request, known: frozenset[str]) -> None:
    """A misspelt parameter must not be a wish that is silently not granted."""
    for name in request.query:
        if name not in known:
            detail = f"there is no query parameter {name[:80]!r}"
            raise Problem(MALFORMED_REQUEST, detail, field=name[:80], limit=sorted(known))


# --- lines ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """`number` counts from 1, blank lines included. `data` is None for a line over the limit."""

    number: int
    data: bytes | None


class LineSplitter:
    """Cuts a stream into lines. Of a line over the limit nothing is kept but its number."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._parts: list[bytes] = []
        self._size = 0
        self._number = 1

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """The lines that end in this chunk; blank ones are counted and passed over."""
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            self._keep(chunk[start:end])
            yield from self.end()
            start = end + 1
        self._keep(chunk[start:])

    def end(self) -> Iterator[Line]:
        """What is left as a line, whether or not a newline ended it."""
        too_long = self._size > self._limit
        data = b"".join(self._parts)
        number, self._number = self._number, self._number + 1
        self._parts, self._size = [], 0
        if too_long:
            yield Line(number, None)
        elif not data.isspace() and data:
            yield Line(number, data)

    def _keep(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._limit:
            self._parts.clear()
        elif piece:
            self._parts.append(piece)
