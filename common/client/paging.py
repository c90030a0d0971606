"""Listings as one stream, however many pages they are."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

from common.client.answers import json_of, model_of, not_ours
from common.client.connection import Connection, Reply
from common.client.errors import NotFoundError
from common.client.requests import Request, document_path, get, namespace_path
from common.client.results import Answer, Document, Summary

PAGE_SIZE = 500

A = TypeVar("A", bound=Answer)
Send = Callable[[Request], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Pages:
    """Reads listings of one service, each page with `send`."""

    url: str
    send: Send

    async def of(
        self, kind: type[A], path: str, member: str, **query: Any
    ) -> AsyncGenerator[A, None]:
        """Raises what `send` raises, and ApiError for what is no page."""
        cursor: str | None = None
        while True:
            reply = await self.send(get(path, limit=PAGE_SIZE, cursor=cursor, **query))
            page = json_of(reply.body, reply.status, self.url)
            items = page.get(member)
            if not isinstance(items, list):
                raise not_ours(self.url, reply.status)
            for item in items:
                yield model_of(kind, item, reply.status, self.url)
            cursor = page.get("cursor")
            if not cursor:
                return


@dataclass(frozen=True, slots=True)
class Looks:
    """The registry for who waits: one request a look, tried again by nobody but the waiter."""

    connection: Connection

    async def look(self, namespace: str, document_id: str) -> Document | None:
        try:
            reply = await self.connection.send(get(document_path(namespace, document_id)))
        except NotFoundError:
            return None
        url = self.connection.url
        return model_of(Document, json_of(reply.body, reply.status, url), HTTPStatus.OK, url)

    def look_through(self, namespace: str, prefix: str) -> AsyncGenerator[Summary, None]:
        pages = Pages(self.connection.url, self.connection.send)
        path = namespace_path(namespace, "documents")
        return pages.of(Summary, path, "documents", prefix=prefix or None)
