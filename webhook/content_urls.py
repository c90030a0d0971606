"""A change that names where its content is: fetched before the change is accepted."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import structlog
from yarl import URL

from common import identity
from common.extraction.content_types import guess_content_type
from common.outbound import CONCURRENT_FETCHES, Fetched, OutboundClient
from common.outbound_rules import RefusedError, TooLargeError
from common.ports.errors import TransientError
from common.settings import Settings
from webhook.accept import Change
from webhook.bodies import beside
from webhook.problems import (
    CONTENT_REFUSED,
    CONTENT_UNAVAILABLE,
    RETRY_AFTER_SECONDS,
    TOO_LARGE,
    UNSUPPORTED_MEDIA_TYPE,
    Kind,
    Problem,
)
from webhook.validation import (
    CONTENT_URL,
    check_content,
    check_doc_hash,
    says_nothing,
    supported_type,
    upload_type,
)

log = structlog.get_logger(__name__)


class ContentRefusedError(Problem):
    """What the URL of one change leads to cannot be its content: no fault of its neighbours."""


@dataclass(slots=True, kw_only=True)
class ContentUrls:
    client: OutboundClient
    settings: Settings
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CONCURRENT_FETCHES))

    @asynccontextmanager
    async def fetched(self, change: Change) -> AsyncIterator[Change]:
        """The change with its content. What is fetched is in memory within the block, in which it
        is to be accepted; so many are at once.

        Raises ContentRefusedError (422, and what content of a request is refused with), and Problem
        (503) when it may be fetched later.
        """
        if change.content_url is None:
            yield change
            return
        async with self._slot():
            yield await self._with_content(change, change.content_url)

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        seconds = self.settings.request_timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                await self._slots.acquire()
        except TimeoutError:
            raise _unavailable("too much is being fetched just now", None) from None
        try:
            yield
        finally:
            self._slots.release()

    async def _with_content(self, change: Change, url: str) -> Change:
        answer = await self._answer(change, url)
        try:
            return await beside(
                len(answer.content), lambda: with_content(change, url, answer, self.settings)
            )
        except Problem as problem:
            raise _as_of_url(problem) from None

    async def _answer(self, change: Change, url: str) -> Fetched:
        try:
            return await self.client.fetch(url)
        except TooLargeError as error:
            limit = self.settings.max_document_bytes
            raise _refused(str(error), TOO_LARGE, limit) from None
        except RefusedError as error:
            namespace, document = change.key.namespace, change.key.document_id
            why = str(error)
            log.warning("content_url.refused", namespace=namespace, document=document, why=why)
            raise _refused(why) from None
        except TransientError as error:
            raise _unavailable(str(error), error.retry_after_seconds) from None


def with_content(change: Change, url: str, answer: Fetched, limits: Settings) -> Change:
    """Raises Problem as if the content had come with the change. Pure."""
    content_type = change.content_type or type_of(answer.content_type, url, change.key.document_id)
    check_content(answer.content, content_type, limits)
    content_hash = identity.sha256_hex(answer.content)
    check_doc_hash(change.content_hash, content_hash)
    return replace(
        change,
        content=answer.content,
        content_hash=content_hash,
        content_type=content_type,
        content_url=None,
    )


def type_of(given: str | None, url: str, document_id: str) -> str:
    """What the answer says; else what the suffix of the URL's path, or the id's, stands for. Raises
    Problem (415)."""
    if given is not None and not says_nothing(given):
        return supported_type(given)
    return guess_content_type(URL(url).path) or upload_type(given, document_id)


def _refused(
    detail: str, kind: Kind = CONTENT_REFUSED, limit: int | None = None
) -> ContentRefusedError:
    return ContentRefusedError(kind, f"{CONTENT_URL}: {detail}", field=CONTENT_URL, limit=limit)


def _as_of_url(problem: Problem) -> ContentRefusedError:
    """Of the change's field: the request's own type and size are fine."""
    kind = CONTENT_REFUSED if problem.kind is UNSUPPORTED_MEDIA_TYPE else problem.kind
    field_name = problem.field if problem.field == "doc_hash" else CONTENT_URL
    detail = f"what is at {CONTENT_URL}: {problem.detail}"
    return ContentRefusedError(kind, detail, field=field_name, limit=problem.limit)


def _unavailable(detail: str, retry_after_seconds: float | None) -> Problem:
    seconds = math.ceil(retry_after_seconds or RETRY_AFTER_SECONDS)
    return Problem(
        CONTENT_UNAVAILABLE,
        f"{CONTENT_URL}: {detail}",
        field=CONTENT_URL,
        headers={"Retry-After": str(seconds)},
        retry_after_seconds=seconds,
    )
