"""The one place that speaks HTTP: a request out, an answer in, what breaks as a client's error."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp
from yarl import URL

from common.client.answers import json_of, refusal
from common.client.errors import (
    JSON,
    ConfigurationError,
    NoAnswerInTimeError,
    UnreachableError,
)
from common.client.requests import CHANGES, Request

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 120.0
"""A stream of results has no deadline; it is given up when nothing arrives for so long."""
NDJSON = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Reply:
    """A response that says yes, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """To one service. The sockets belong to the event loop of the first request."""

    def __init__(self, url: str, key: str, *, timeout_seconds: float) -> None:
        """`key` empty: none is sent. Raises ConfigurationError."""
        self.url = checked_url(url)
        self._headers = {"Authorization": f"Bearer {checked_key(key)}"} if key else {}
        self._timeout_seconds = timeout_seconds
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(self, request: Request) -> Reply:
        """Raises ApiError, UnreachableError."""
        seconds = self._timeout_seconds + request.wait_seconds
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)
        async with self._responding(request, timeout, request.body) as response:
            return Reply(response.status, response.headers, await response.read())

    async def lines(self, request: Request) -> AsyncGenerator[JSON, None]:
        """The lines of an NDJSON answer as they arrive. Raises ApiError, UnreachableError."""
        async with self._responding(request, _stream_timeout(), request.body) as response:
            async for line in _lines(response):
                yield json_of(line, response.status, self.url)

    async def feed(self, lines: AsyncIterator[bytes]) -> AsyncGenerator[JSON, None]:
        """Stream NDJSON lines up and their results down, both at once: neither side waits
        for the other to finish, so a feed of any length needs constant memory."""
        request = Request("POST", CHANGES, headers={"Content-Type": NDJSON})
        async with self._responding(request, _stream_timeout(), lines) as response:
            async for line in _lines(response):
                yield json_of(line, response.status, self.url)

    @asynccontextmanager
    async def _responding(
        self,
        request: Request,
        timeout: aiohttp.ClientTimeout,
        data: bytes | AsyncIterator[bytes] | None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response that says yes. Whatever breaks, also later in the body, is translated."""
        url = URL(self.url + request.path, encoded=True).extend_query(request.query)
        try:
            async with self._opened().request(
                request.method, url, data=data, headers=request.headers, timeout=timeout,
                allow_redirects=False,
            ) as response:  # fmt: skip
                await _raise_for(response)
                yield response
        except aiohttp.InvalidURL as error:
            raise ConfigurationError(f"not an address of a service: {self.url}") from error
        except TimeoutError as error:
            raise NoAnswerInTimeError(self.url) from error
        except aiohttp.ClientConnectorError as error:
            raise UnreachableError(self.url, _reason(error), sent=False) from error
        except (aiohttp.ClientError, OSError) as error:
            raise UnreachableError(self.url, _reason(error)) from error

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(headers=self._headers)
        return self._session


def checked_url(url: str) -> str:
    """Without a slash at its end. Raises ConfigurationError, which repeats no secret."""
    if any(mark in url for mark in "@?#"):
        raise ConfigurationError(
            "the address of the service holds a user, a password, a query or a fragment (@, ? or "
            "#): write it as http://127.0.0.1:8080, and give a key in BLOOMWEAVER_API_KEY"
        )
    try:
        parts = URL(url)
        known = parts.scheme in ("http", "https") and bool(parts.host)
    except ValueError:
        known = False
    if not known:
        raise ConfigurationError(f"not an address of a service, as http://127.0.0.1:8080: {url!r}")
    return url.rstrip("/")


def checked_key(key: str) -> str:
    """Raises ConfigurationError, which does not repeat it."""
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError(
            "BLOOMWEAVER_API_KEY holds characters that no key has: set it to what "
            "`bloomweaver keys create` printed"
        )
    return key


async def _raise_for(response: aiohttp.ClientResponse) -> None:
    known = response.status in (HTTPStatus.NOT_MODIFIED,)
    if response.status >= HTTPStatus.MULTIPLE_CHOICES and not known:
        body = await response.read()
        raise refusal(body, response.status, response.reason or "", response.headers)


def _stream_timeout() -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS,
                                 sock_read=SILENCE_SECONDS)  # fmt: skip


async def _lines(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    """Of any length; the response's own iterator refuses long ones."""
    held: list[bytes] = []
    async for chunk in response.content.iter_any():
        first, *more = chunk.split(b"\n")
        held.append(first)
        for part in more:
            if line := b"".join(held).strip():
                yield line
            held = [part]
    if line := b"".join(held).strip():
        yield line


def _reason(error: Exception) -> str:
    """The system's word for it, where there is one: `Connection refused`."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    number = cause.errno if isinstance(cause, OSError) else None
    return os.strerror(number) if number else str(error) or type(error).__name__
