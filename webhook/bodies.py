"""Requests as bytes and values: bodies within their limit, query parameters, trace contexts."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from aiohttp import web

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
ENCODINGS = ("gzip", "deflate", "identity")

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
        detail = f"Content-Encoding must be one of {', '.join(ENCODINGS)}"
        raise Problem(UNSUPPORTED_MEDIA_TYPE, detail, limit=list(ENCODINGS))


async def read_body(request: web.Request, limit: int, *, stall_seconds: float) -> bytes:
    """The body, decompressed. Raises Problem: larger than `limit` bytes, or it stopped coming."""
    check_content_encoding(request)
    length = request.content_length
    if length is not None and length > limit:
        raise too_large(limit)
    parts: list[bytes] = []
    size = 0
    while True:
        try:
            async with asyncio.timeout(stall_seconds):
                part = await request.content.readany()
        except TimeoutError:
            detail = f"nothing came for {stall_seconds:g} s"
            raise Problem(BODY_TIMEOUT, detail, limit=stall_seconds) from None
        if not part:
            return b"".join(parts)
        size += len(part)
        if size > limit:
            raise too_large(limit)
        parts.append(part)


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
