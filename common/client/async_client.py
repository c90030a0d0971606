"""The client for asyncio. What it may send is in `requests`, what comes back in `results`; here is
only what goes when, and how often."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from datetime import datetime
from http import HTTPStatus
from types import TracebackType
from typing import Any, TypeVar

from common.client import requests
from common.client.answers import (
    answer_lost,
    json_of,
    model_of,
    not_ours,
    problem_in,
    result_of,
)
from common.client.changes import AnyChange, Delete, Insert, MetadataIn, Update
from common.client.configuration import key_of, url_of
from common.client.connection import Connection, Reply
from common.client.errors import (
    NOT_APPLIED,
    ApiError,
    DocumentFailedError,
    NotFoundError,
    UnreachableError,
    WaitTimeoutError,
    error_of,
    is_passing,
    is_unsent,
)
from common.client.feeding import Feed, Source
from common.client.paging import Looks, Pages
from common.client.patience import Deadline, Patience
from common.client.requests import Request, document_path, namespace_path
from common.client.results import (
    Answer,
    AuditEntry,
    ChangeRefused,
    ChangeResult,
    Chunk,
    Content,
    DeadLetter,
    Document,
    Event,
    ScrubProgress,
    ScrubReport,
    ScrubState,
    SearchAnswer,
    Stats,
    Summary,
)
from common.client.waiting import Key, Waiter, failed, has_ended
from common.model import Status

TIMEOUT_SECONDS = 60.0
RETRY_SECONDS = 60.0
WAIT_SECONDS = 60.0
"""What `wait=True` means."""
LONGEST_LOOK_SECONDS = 30.0
"""One request waits for so long; then the next one does."""
LOOK_AGAIN_SECONDS = 0.05

A = TypeVar("A", bound=Answer)
OnRetry = Callable[[BaseException], None]


class AsyncClient:
    """Speaks to one service.

        async with AsyncClient() as client:
            await client.insert("guide/start.md", "# Start", wait=True)
            answer = await client.search("how do I begin?")

    Every method says what it raises beyond `ApiError` (the service said no) and
    `UnreachableError` (it said nothing). What may pass is tried again by itself for
    `retry_seconds`: lost connections, 408, 429, 502, 503 and 504, no sooner than the service's
    Retry-After asks for. That is harmless: changes carry an Idempotency-Key, so that one whose
    answer was lost is answered as it was, and done once. No other 4xx is tried again.

    One client serves any number of tasks of one event loop at once.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
        on_retry: OnRetry | None = None,
    ) -> None:
        """`url`: else BLOOMWEAVER_URL, else http://127.0.0.1:8080. `api_key`: else
        BLOOMWEAVER_API_KEY; an empty one sends none. `timeout_seconds` is each request's; one that
        is asked to wait has that long on top. `retry_seconds` 0: nothing is tried again.
        `on_retry` is told each interruption. Raises ConfigurationError."""
        self._connection = Connection(url_of(url), key_of(api_key), timeout_seconds=timeout_seconds)
        self._retry_seconds = retry_seconds
        self._on_retry = on_retry

    @property
    def url(self) -> str:
        """Of the service."""
        return self._connection.url

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections. A later request opens new ones."""
        await self._connection.close()

    # --- changes ---------------------------------------------------------------------------------

    async def insert(
        self,
        document_id: str,
        content: str | bytes | None = None,
        *,
        namespace: str = "default",
        content_type: str | None = None,
        content_url: str | None = None,
        metadata: MetadataIn | None = None,
        source_version: int | None = None,
        doc_hash: str | None = None,
        if_version: int | None = None,
        wait: bool | float = False,
    ) -> ChangeResult:
        """The document is this from now on, whether or not it existed (an upsert).

        Bytes (PDF, DOCX, any text) travel unaltered; name their `content_type`. `if_version` is
        the version that you saw: PreconditionFailedError when it is not the last any more; 0: only
        if the document does not exist. `wait`: return once searches find it, within 60 s or as
        many as are given; raises WaitTimeoutError, and DocumentFailedError with the reason when
        the service gives the document up.
        """
        change = Insert(
            document_id, content, namespace=namespace, content_type=content_type,
            content_url=content_url, metadata=metadata, source_version=source_version,
            doc_hash=doc_hash, if_version=if_version,
        )  # fmt: skip
        return await self.change(change, wait=wait)

    upsert = insert

    async def update(
        self,
        document_id: str,
        content: str | bytes | None = None,
        *,
        namespace: str = "default",
        content_type: str | None = None,
        content_url: str | None = None,
        metadata: MetadataIn | None = None,
        source_version: int | None = None,
        doc_hash: str | None = None,
        if_version: int | None = None,
        wait: bool | float = False,
    ) -> ChangeResult:
        """As `insert` for what is given; content, type and metadata that are not given stay.
        Without content the document has to exist: NotFoundError."""
        change = Update(
            document_id, content, namespace=namespace, content_type=content_type,
            content_url=content_url, metadata=metadata, source_version=source_version,
            doc_hash=doc_hash, if_version=if_version,
        )  # fmt: skip
        return await self.change(change, wait=wait)

    async def delete(
        self,
        document_id: str,
        *,
        namespace: str = "default",
        source_version: int | None = None,
        if_version: int | None = None,
        wait: bool | float = False,
    ) -> ChangeResult:
        """The document is gone. One that never was is no error: version 0."""
        change = Delete(
            document_id, namespace=namespace, source_version=source_version, if_version=if_version
        )
        return await self.change(change, wait=wait)

    async def change(self, change: AnyChange, *, wait: bool | float = False) -> ChangeResult:
        """One `Insert`, `Update` or `Delete`, or a mapping of the API's fields."""
        seconds = seconds_to_wait(wait)
        request = await asyncio.to_thread(requests.change, change)
        result = await self._answer(ChangeResult, request)
        if seconds is not None:
            await self._wait_for_one(result, seconds)
        return result

    async def submit(
        self, changes: Iterable[AnyChange], *, wait: bool | float = False
    ) -> list[ChangeResult | ChangeRefused]:
        """A list, at most 10,000, in order. It is checked as a whole: if one change is not valid
        nothing is accepted, and the ApiError's `field` names it. What shows only when its turn
        comes, an update of what does not exist, say, is a `ChangeRefused` among the results.

        An ApiError that says `accepted before` comes of a list whose answer was lost, and that
        was too long for the service to keep it: the changes are accepted all the same."""
        seconds = seconds_to_wait(wait)
        values = list(changes)
        reply = await self._send(await asyncio.to_thread(requests.changes, values))
        answer = json_of(reply.body, reply.status, self.url)
        if answer.get("answer_kept") is False:
            raise answer_lost(reply.status)
        told = answer.get("results")
        if not isinstance(told, list) or len(told) != len(values):
            raise not_ours(self.url, reply.status)
        results = [result_of(value, n, self.url) for n, value in enumerate(told, 1)]
        if seconds is not None:
            await self.wait_searchable(results, wait=seconds)
        return results

    async def feed(
        self, changes: Source, *, wait: bool | float = False, patience: Patience | None = None
    ) -> AsyncGenerator[ChangeResult | ChangeRefused, None]:
        """Any number of changes: an iterable in, each one's result out, in the same order.

            async with aclosing(client.feed(changes())) as results:
                async for result in results: ...

        The source is read as fast as the service answers and you take the results; about a
        thousand changes are in flight. A lost connection is taken up at the first change without
        a result. Those after it may have been accepted before, and are sent again, without an
        Idempotency-Key: such a change is `unchanged`, or makes one more version if a later one of
        its document was accepted too, or, with an `if_version` (0 too), is a `ChangeRefused` of
        412, though it was this feed that wrote.

        `patience` says for how long, counted anew from each result; by default it is the client's
        `retry_seconds`. A bad change costs only itself: `ChangeRefused`. An iterable that is not
        asynchronous is read in the event loop, so it must not block. Bytes are one change as one
        line of JSON, else ValueError; blank ones have no result.
        """
        feed = Feed(self._connection, changes, patience or self._patience())
        versions: dict[Key, int] = {}
        waits = seconds_to_wait(wait)
        async with aclosing(feed.results()) as results:
            async for result in results:
                if waits is not None:
                    _note(versions, result)
                yield result
        if waits is not None:
            await self.wait_searchable(versions, wait=waits)

    async def wait_searchable(
        self,
        changes: Iterable[ChangeResult | ChangeRefused] | Mapping[Key, int],
        *,
        wait: bool | float = True,
        on_progress: Callable[[int], None] = lambda _done: None,
    ) -> None:
        """Until searches find all that these results are of (or a mapping of namespace and
        document id to a version). `on_progress` is told how many do. Raises DocumentFailedError
        for the first that the service gave up once the others have ended, and WaitTimeoutError."""
        versions = dict(changes) if isinstance(changes, Mapping) else _versions(changes)
        seconds = seconds_to_wait(wait) or 0.0
        waiter = self.waiter(versions, self._patience())
        try:
            async with asyncio.timeout(seconds):
                await waiter.wait(on_progress)
        except TimeoutError:
            left = waiter.total - waiter.done
            raise WaitTimeoutError(f"{left} not searchable within {seconds:g} s") from None
        if waiter.failures:
            raise waiter.failures[0].as_error()

    def waiter(self, versions: Mapping[Key, int], patience: Patience) -> Waiter:
        """To wait for many in a way of one's own."""
        return Waiter(Looks(self._connection), versions, patience)

    async def _wait_for_one(self, result: ChangeResult, seconds: float) -> None:
        if not result.version:
            return  # a delete of what never was
        try:
            async with asyncio.timeout(seconds):
                seen = await self._settled(result)
        except TimeoutError:
            name = f"{result.document_id} (version {result.version})"
            raise WaitTimeoutError(f"{name} is not searchable within {seconds:g} s") from None
        if seen is not None and failed(seen, result.version):
            reason = seen.error or "no reason given"
            raise DocumentFailedError(result.namespace, result.document_id, result.version, reason)

    async def _settled(self, result: ChangeResult) -> Document | None:
        """The document once it shows the version, or never will; the service does the waiting."""
        while True:
            try:
                seen = await self.document(
                    result.document_id, namespace=result.namespace,
                    min_version=result.version, wait=LONGEST_LOOK_SECONDS,
                )  # fmt: skip
            except NotFoundError:
                return None
            except WaitTimeoutError:
                seen = None
            if seen is not None and has_ended(seen, result.version):
                return seen
            await asyncio.sleep(LOOK_AGAIN_SECONDS)

    # --- documents -------------------------------------------------------------------------------

    async def document(
        self,
        document_id: str,
        *,
        namespace: str = "default",
        min_version: int | None = None,
        wait: bool | float = False,
    ) -> Document:
        """Where the document stands; a deleted one is DELETED for a while. With `wait`, once it
        shows `min_version`, or the version accepted last. Raises NotFoundError, WaitTimeoutError.
        """
        seconds = seconds_to_wait(wait)
        path = document_path(namespace, document_id)
        asked = requests.get(path, min_version=min_version, wait=seconds, wait_seconds=seconds or 0)
        return self._document_in(await self._send(asked))

    async def document_if_changed(
        self, document_id: str, etag: str | None, *, namespace: str = "default"
    ) -> Document | None:
        """As `document`; None when it stands as it did when it had this `etag`."""
        path = document_path(namespace, document_id)
        reply = await self._send(requests.get(path, etag=etag))
        return None if reply.status == HTTPStatus.NOT_MODIFIED else self._document_in(reply)

    def documents(
        self, *, namespace: str = "default", prefix: str = "", status: Status | str | None = None
    ) -> AsyncGenerator[Summary, None]:
        """All that match, in order of id, page by page as you go; deleted ones too."""
        path = namespace_path(namespace, "documents")
        return self._pages().of(
            Summary, path, "documents", prefix=prefix or None, status=status or None
        )

    async def content(self, document_id: str, *, namespace: str = "default") -> Content:
        """The bytes of the last accepted version. Raises NotFoundError, also for a deleted one."""
        reply = await self._send(requests.get(document_path(namespace, document_id, "/content")))
        headers = reply.headers
        return Content(
            data=reply.body,
            content_type=headers.get("Content-Type", "").partition(";")[0],
            version=int(headers.get("X-Document-Version", "0")),
            etag=headers.get("ETag"),
        )

    def chunks(
        self, document_id: str, *, namespace: str = "default"
    ) -> AsyncGenerator[Chunk, None]:
        """What searches see of it. ApiError (409, `stale-cursor`) when another version is applied
        meanwhile: begin again."""
        path = document_path(namespace, document_id, "/chunks")
        return self._pages().of(Chunk, path, "chunks")

    def history(
        self, document_id: str, *, namespace: str = "default"
    ) -> AsyncGenerator[Event, None]:
        """What happened to it, the newest first."""
        path = document_path(namespace, document_id, "/history")
        return self._pages().of(Event, path, "events")

    async def search(
        self,
        query: str,
        *,
        namespace: str = "default",
        top_k: int | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the API's word
        min_version: Mapping[str, int] | None = None,
        wait: bool | float = False,
    ) -> SearchAnswer:
        """The passages nearest to the query, best first; 10, or `top_k`.

        `filter` is a condition on metadata: `{"year": {"$gte": 2020}, "lang": "en"}`.
        `min_version` maps document ids to versions that must be visible first: read your own
        writes. `wait` alone waits for everything accepted before. Raises WaitTimeoutError.
        """
        request = requests.search(
            namespace, query, top_k=top_k, filter=filter, min_version=min_version,
            wait_seconds=seconds_to_wait(wait),
        )  # fmt: skip
        return await self._answer(SearchAnswer, request)

    # --- the service -----------------------------------------------------------------------------

    async def stats(self) -> Stats:
        """Counts of documents, queues, workers and dead letters."""
        return await self._answer(Stats, requests.get("/v1/stats"))

    async def ready(self) -> bool:
        """Whether it can do its work now; False also when nothing answers. Asked once."""
        try:
            await self._connection.send(requests.get("/readyz"))
        except (ApiError, UnreachableError):
            return False
        return True

    async def ping(self) -> None:
        """Raises UnreachableError at once when nothing answers. Needs no key."""
        try:
            await self._connection.send(requests.get("/readyz"))
        except ApiError:
            return

    def dead_letters(
        self, *, namespace: str | None = None, document_id: str | None = None
    ) -> AsyncGenerator[DeadLetter, None]:
        """What was given up, and why."""
        path = requests.DEAD_LETTERS
        return self._pages().of(
            DeadLetter, path, "dead_letters", namespace=namespace, document_id=document_id
        )

    async def dead_letter(self, message_id: str) -> DeadLetter:
        """Raises NotFoundError."""
        path = f"{requests.DEAD_LETTERS}/{requests.quoted(message_id)}"
        return await self._answer(DeadLetter, requests.get(path))

    async def redrive(
        self,
        message_ids: Iterable[str] | None = None,
        *,
        everything: bool = False,
        namespace: str | None = None,
        document_id: str | None = None,
    ) -> int:
        """Send dead letters round again: those named, or all that match. Returns how many. Not
        tried again once it was sent: a second might meet letters that came since."""
        which = requests.letters(
            message_ids, everything=everything, namespace=namespace, document_id=document_id
        )
        return await self._act("redrive", "redriven", which)

    async def discard(
        self,
        message_ids: Iterable[str] | None = None,
        *,
        everything: bool = False,
        namespace: str | None = None,
        document_id: str | None = None,
    ) -> int:
        """Remove dead letters for good, as `redrive`. Their documents stay FAILED."""
        which = requests.letters(
            message_ids, everything=everything, namespace=namespace, document_id=document_id
        )
        return await self._act("discard", "discarded", which)

    async def scrub(
        self,
        *,
        namespace: str | None = None,
        repair: bool = False,
        on_progress: Callable[[ScrubProgress], None] = lambda _progress: None,
    ) -> ScrubReport:
        """Compare index, registry and contents record by record, and mend what can be mended if
        `repair`. Takes its time, and is not tried again: one that breaks off is begun anew by
        you."""
        body = {"repair": repair} | ({} if namespace is None else {"namespace": namespace})
        async with aclosing(self._connection.lines(requests.post(requests.SCRUB, body))) as lines:
            async for line in lines:
                if "error" in line:
                    raise error_of(problem_in(line["error"]))
                if "report" in line:
                    return model_of(ScrubReport, line["report"], HTTPStatus.OK, self.url)
                progress = line.get("progress") or {}
                on_progress(model_of(ScrubProgress, progress, HTTPStatus.OK, self.url))
        raise UnreachableError(self.url, "the answer ended before the report")

    async def last_scrub(self) -> ScrubState:
        """Its report, and whether one is under way."""
        return await self._answer(ScrubState, requests.get(requests.SCRUB))

    def audit(
        self,
        *,
        namespace: str | None = None,
        document_id: str | None = None,
        since: datetime | str | None = None,
    ) -> AsyncGenerator[AuditEntry, None]:
        """Who did what, the newest first. `since` needs its zone."""
        moment = since.isoformat() if isinstance(since, datetime) else since
        return self._pages().of(
            AuditEntry, "/v1/audit", "entries",
            namespace=namespace, document_id=document_id, since=moment,
        )  # fmt: skip

    # --- how -------------------------------------------------------------------------------------

    async def _answer(self, kind: type[A], request: Request) -> A:
        reply = await self._send(request)
        return model_of(kind, json_of(reply.body, reply.status, self.url), reply.status, self.url)

    async def _send(
        self, request: Request, passes: Callable[[BaseException], bool] = is_passing
    ) -> Reply:
        """Tried again while that makes sense. Raises ApiError, UnreachableError, and
        WaitTimeoutError when the service was asked to wait and did."""
        deadline = Deadline(self._retry_seconds, on_retry=self._on_retry)
        try:
            return await deadline.attempts(passes)(self._connection.send, request)
        except ApiError as error:
            if error.kind == NOT_APPLIED:
                raise WaitTimeoutError(error.detail) from error
            raise

    async def _act(self, action: str, member: str, which: Mapping[str, Any]) -> int:
        path = f"{requests.DEAD_LETTERS}/{action}"
        reply = await self._send(requests.post(path, which), is_unsent)
        count = json_of(reply.body, reply.status, self.url).get(member)
        if not isinstance(count, int):
            raise not_ours(self.url, reply.status)
        return count

    def _document_in(self, reply: Reply) -> Document:
        value = json_of(reply.body, reply.status, self.url)
        found = model_of(Document, value, reply.status, self.url)
        return found.model_copy(update={"etag": reply.headers.get("ETag")})

    def _pages(self) -> Pages:
        return Pages(self.url, self._send)

    def _patience(self) -> Patience:
        return Patience(self._retry_seconds, on_retry=self._on_retry)


def seconds_to_wait(wait: bool | float) -> float | None:
    """None: not at all. 0 is a wait too: for what is there already."""
    if wait is False:
        return None
    # To the millisecond: the service reads no exponents.
    return WAIT_SECONDS if wait is True else round(float(wait), 3)


def _versions(results: Iterable[ChangeResult | ChangeRefused]) -> dict[Key, int]:
    versions: dict[Key, int] = {}
    for result in results:
        _note(versions, result)
    return versions


def _note(versions: dict[Key, int], result: ChangeResult | ChangeRefused) -> None:
    if isinstance(result, ChangeResult):
        key = (result.namespace, result.document_id)
        versions[key] = max(versions.get(key, 0), result.version)
