"""The HTTP API as methods. Every answer is the API's own JSON; every failure is one of
`ApiError` (the service said no) and `UnreachableError` (it said nothing)."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from types import TracebackType
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from common.cli.problems import JSON, ApiError, Problem, UnreachableError, WrongUsageError

PAGE_SIZE = 500
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0
SILENCE_SECONDS = 120.0
"""A stream of results has no deadline; it is given up when nothing arrives for so long."""


class Client:
    """Speaks to one service. Use as an async context manager."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        self._session = aiohttp.ClientSession(headers=self._headers)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def ready(self) -> bool:
        """Whether the service can do its work now; False also when nothing answers."""
        try:
            await self._json("GET", "/readyz")
        except (ApiError, UnreachableError):
            return False
        return True

    async def stats(self) -> JSON:
        return await self._json("GET", "/v1/stats")

    async def document(self, namespace: str, document_id: str) -> JSON | None:
        """The document's row; None if the service knows none of this name."""
        try:
            return await self._json("GET", document_path(namespace, document_id))
        except ApiError as error:
            if error.problem.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    def documents(
        self, namespace: str, *, prefix: str = "", status: str = ""
    ) -> AsyncGenerator[JSON, None]:
        """All rows of the namespace that match, page by page."""
        path = f"/v1/namespaces/{_quoted(namespace)}/documents"
        return self._pages(path, "documents", {"prefix": prefix, "status": status})

    async def search(
        self,
        namespace: str,
        query: str,
        *,
        top_k: int,
        where: JSON | None = None,
        wait_seconds: float | None = None,
    ) -> JSON:
        body: JSON = {"query": query, "top_k": top_k}
        if where is not None:
            body["filter"] = where
        if wait_seconds is not None:
            body["wait"] = wait_seconds
        path = f"/v1/namespaces/{_quoted(namespace)}/search"
        return await self._json("POST", path, body=body, patience_seconds=wait_seconds or 0)

    def history(self, namespace: str, document_id: str) -> AsyncGenerator[JSON, None]:
        """What happened to the document, the newest first."""
        return self._pages(document_path(namespace, document_id) + "/history", "events", {})

    async def scrub(self, *, namespace: str | None, repair: bool) -> AsyncGenerator[JSON, None]:
        """Lines of progress, and the report or the error as the last one."""
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS
        )
        body: JSON = {"repair": repair}
        if namespace is not None:
            body["namespace"] = namespace
        async with self._request("POST", "/v1/scrub", json=body, timeout=timeout) as response:
            async for line in _lines(response):
                yield self._parsed(line, response.status)

    def dead_letters(self, which: Mapping[str, str]) -> AsyncGenerator[JSON, None]:
        """All of them, or those of `which` namespace and document_id."""
        return self._pages("/v1/dead-letters", "dead_letters", which)

    async def dead_letter(self, message_id: str) -> JSON:
        return await self._json("GET", f"/v1/dead-letters/{_quoted(message_id)}")

    async def redrive(self, letters: JSON) -> int:
        """Send dead letters round again. `letters`: `message_ids`, or `all` and what they are of.

        Returns how many.
        """
        answer = await self._json("POST", "/v1/dead-letters/redrive", body=letters)
        return int(answer["redriven"])

    async def discard(self, letters: JSON) -> int:
        """Remove dead letters for good; as `redrive`."""
        answer = await self._json("POST", "/v1/dead-letters/discard", body=letters)
        return int(answer["discarded"])

    async def changes(self, lines: AsyncIterator[bytes]) -> AsyncGenerator[JSON, None]:
        """Stream NDJSON lines up and their results down, both at once: neither side waits
        for the other to finish, so a feed of any length needs constant memory."""
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS
        )
        headers = {"Content-Type": "application/x-ndjson"}
        async with self._request(
            "POST", "/v1/changes", data=lines, headers=headers, timeout=timeout
        ) as response:
            async for line in response.content:
                if line.strip():
                    yield self._parsed(line, response.status)

    async def _pages(
        self, path: str, member: str, params: Mapping[str, str]
    ) -> AsyncGenerator[JSON, None]:
        query = {name: value for name, value in params.items() if value}
        query["limit"] = str(PAGE_SIZE)
        while True:
            page = await self._json("GET", path, params=query)
            for item in page[member]:
                yield item
            if not page.get("cursor"):
                return
            query["cursor"] = page["cursor"]

    async def _json(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: JSON | None = None,
        patience_seconds: float = 0,
    ) -> JSON:
        timeout = aiohttp.ClientTimeout(
            total=ANSWER_SECONDS + patience_seconds, sock_connect=CONNECT_SECONDS
        )
        async with self._request(
            method, path, params=params, json=body, timeout=timeout
        ) as response:
            return self._parsed(await response.read(), response.status)

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, **options: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response that says yes. Whatever breaks, also later in the body, is translated."""
        if self._session is None:
            raise RuntimeError("use the client as a context manager: async with Client(url)")
        try:
            url = URL(self.url + path, encoded=True)
            async with self._session.request(method, url, **options) as response:
                if response.status >= HTTPStatus.BAD_REQUEST:
                    raise ApiError(await _problem(response))
                yield response
        except (aiohttp.InvalidURL, ValueError) as error:
            raise WrongUsageError(f"not an address of a service: {self.url}") from error
        except TimeoutError as error:
            raise UnreachableError(self.url, "no answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UnreachableError(self.url, _reason(error)) from error

    def _parsed(self, raw: bytes, status: int) -> JSON:
        try:
            value = json.loads(raw)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise ApiError(
                Problem(
                    status=status,
                    title=f"what answers at {self.url} does not speak BloomWeaver's API",
                )
            )
        return value


async def _lines(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    """Of any length; the response's own iterator refuses long ones."""
    held = b""
    async for chunk in response.content.iter_any():
        *lines, held = (held + chunk).split(b"\n")
        for line in lines:
            yield line
    if held:
        yield held


def document_path(namespace: str, document_id: str) -> str:
    return f"/v1/namespaces/{_quoted(namespace)}/documents/{_quoted(document_id)}"


def _quoted(name: str) -> str:
    """Wholly percent-encoded; a name of dots only would else be read as a step in the path."""
    return name.replace(".", "%2E") if name.strip(".") == "" else quote(name, safe="")


def _reason(error: Exception) -> str:
    """The system's word for it, where there is one: `Connection refused`."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    number = cause.errno if isinstance(cause, OSError) else None
    return os.strerror(number) if number else str(error) or type(error).__name__


async def _problem(response: aiohttp.ClientResponse) -> Problem:
    """The problem+json of an error answer, or what can be said without one."""
    try:
        value = json.loads(await response.read())
    except ValueError:
        value = None
    if not isinstance(value, dict):
        value = {"title": f"{response.status} {response.reason or ''}".strip()}
    value.setdefault("retry_after_seconds", response.headers.get("Retry-After"))
    return Problem.from_json(value, response.status)
