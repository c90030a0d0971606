"""A canary's flight: a document of its own is put, found, replaced, found again, deleted and gone.

Every step is one that a user's document takes, through the API alone. Whatever happens, the
document is deleted at the end.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from common.cli.canary_search import Search
from common.cli.problems import JSON
from common.client.async_client import AsyncClient
from common.client.changes import AnyChange, Delete, Insert
from common.client.errors import (
    ApiError,
    BloomWeaverError,
    DocumentFailedError,
    NotFoundError,
    UnreachableError,
    WaitTimeoutError,
)
from common.client.results import ChangeResult
from common.model import Status

LOOK_AGAIN_SECONDS = 0.5
CLEANUP_SECONDS = 20.0
"""For deleting the document when the flight ended early; on top of the deadline."""
LEAST_SCORE = 0.5
"""Of a search for the very text of a document: a cosine, which is 1 but for what a model puts
before a query. Vectors of other texts are below it with most models."""
LEFTOVER_HOURS = 1.0
"""After which no flight is under way any more, so that its document is one that was left behind."""
LEFTOVERS_SECONDS = 20.0
"""For deleting such documents, out of the flight's time."""
CANNOT_SEARCH = "search-unavailable"
"""What a webhook without the model, or without the index, answers a search with."""


_PREFIX = "canary-"
_NAME = re.compile(_PREFIX + "[0-9a-f]{16}")


class Step(StrEnum):
    REACH = "reach"
    INSERT = "insert"
    FOUND = "found"
    REPLACE = "replace"
    REPLACED = "replaced"
    DELETE = "delete"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Taken:
    """A step that was taken, and how long it took."""

    step: Step
    seconds: float
    detail: str


@dataclass(frozen=True, slots=True)
class Looks:
    """What is to be seen: not the text `absent`, and the text `present` if there is one."""

    version: int
    present: str | None
    absent: str | None


@dataclass(frozen=True, slots=True)
class Seen:
    """A text that is to be found, and how near it was to the query: 1 where nothing was asked."""

    text: str
    score: float = 1.0


def shows(looks: Looks, seen: Sequence[Seen]) -> bool:
    """The metadata filter alone finds a document whose vector is wrong: so the whole text must be
    there, and near to itself. What has to be gone must be gone however far it is."""
    present = looks.present is None or any(
        one.text.strip() == looks.present and one.score >= LEAST_SCORE for one in seen
    )
    return present and not any(looks.absent in one.text for one in seen if looks.absent)


@dataclass(slots=True)
class Flight:
    """What a canary saw. `error` None: every step was taken."""

    namespace: str
    document_id: str
    taken: list[Taken] = field(default_factory=list)
    searched: bool = True
    """False: the service cannot search, so that it was asked what searches would see."""
    step: Step = Step.REACH
    """The one that was begun last."""
    error: BaseException | None = None
    """Why that one was not taken."""
    refused: str = ""
    """What the last search was answered that had to be asked again; empty: it was answered well."""
    standing: str = ""
    """Where the document stood when a step failed."""
    cleaned_up: bool = False
    """Whether its document was deleted out of turn."""
    left_behind: str = ""
    """Why the document could not be deleted; empty: it was, or never was there."""
    seconds: float = 0.0

    def as_json(self) -> JSON:
        return {
            "ok": self.error is None and not self.left_behind,
            "namespace": self.namespace,
            "document_id": self.document_id,
            "searched": self.searched,
            "steps": [asdict(taken) for taken in self.taken],
            "failed_step": None if self.error is None else self.step,
            "error": None if self.error is None else reason_of(self.error),
            "standing": self.standing,
            "left_behind": self.left_behind,
            "seconds": round(self.seconds, 3),
        }


def reason_of(error: BaseException) -> str:
    """A TimeoutError of the whole flight says nothing by itself."""
    if isinstance(error, asyncio.CancelledError | KeyboardInterrupt):
        return "interrupted"
    return str(error) or "the time was up"


class Canary:
    """One flight through one service.

    `writer` may try again what passes; `looker` must not (`retry_seconds=0`), because a service
    that cannot search answers with a status that would be tried again.
    """

    def __init__(
        self,
        writer: AsyncClient,
        looker: AsyncClient,
        namespace: str,
        on_step: Callable[[Taken], None] = lambda _taken: None,
        search: Search = Search.AUTO,
    ) -> None:
        self._search = search
        self._nonce = secrets.token_hex(8)
        self.flight = Flight(namespace, f"{_PREFIX}{self._nonce}")
        self._writer = writer
        self._looker = looker
        self._on_step = on_step
        self._writing: asyncio.Task[ChangeResult] | None = None
        self._touched = False

    async def fly(self, timeout_seconds: float) -> Flight:
        """Never raises but for an interruption, and for what nobody foresaw: both are raised again
        once the document is deleted."""
        flight, began = self.flight, time.monotonic()
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._all_steps()
        except (BloomWeaverError, TimeoutError, asyncio.CancelledError) as error:
            flight.error = error
            flight.standing = await self._clean_up()
            if isinstance(error, asyncio.CancelledError):
                raise
        except BaseException:
            await self._clean_up()
            raise
        finally:
            flight.seconds = time.monotonic() - began
        return flight

    async def _all_steps(self) -> None:
        first, second = (self._text(marker) for marker in ("first", "second"))
        await self._take(Step.REACH, self._reach)
        made = await self._put(Step.INSERT, first)
        await self._see(Step.FOUND, Looks(made.version, first, None))
        made = await self._put(Step.REPLACE, second)
        await self._see(Step.REPLACED, Looks(made.version, second, first))
        gone = await self._remove()
        await self._see(Step.GONE, Looks(gone.version, None, second))

    def _text(self, marker: str) -> str:
        return f"A canary sings, and its song is {marker}-{self._nonce}."

    async def _take(self, step: Step, action: Callable[[], Awaitable[str]]) -> None:
        self.flight.step, began = step, time.monotonic()
        detail = await action()
        taken = Taken(step, round(time.monotonic() - began, 3), detail)
        self.flight.taken.append(taken)
        self._on_step(taken)

    async def _reach(self) -> str:
        await self._writer.ping()
        answers = f"the service answers at {self._writer.url}"
        return f"{answers}{await self._without_leftovers()}"

    async def _without_leftovers(self) -> str:
        """Deletes what earlier flights left that were killed. Says which, and why not: it is no
        reason to end this one."""
        deleted: list[str] = []
        why = ""
        try:
            async with asyncio.timeout(LEFTOVERS_SECONDS):
                async for name in self._leftovers():
                    await self._looker.delete(name, namespace=self.flight.namespace)
                    deleted.append(name)
        except (BloomWeaverError, TimeoutError) as error:
            why = f"; what earlier canaries left could not be deleted: {reason_of(error)}"
        told = f"; deleted what earlier canaries left: {', '.join(deleted)}" if deleted else ""
        return told + why

    async def _leftovers(self) -> AsyncGenerator[str, None]:
        before = datetime.now(UTC) - timedelta(hours=LEFTOVER_HOURS)
        listed = self._looker.documents(namespace=self.flight.namespace, prefix=_PREFIX)
        async with aclosing(listed):
            async for found in listed:
                old = found.accepted_at is not None and found.accepted_at < before
                if old and not found.tombstone and _NAME.fullmatch(found.document_id):
                    yield found.document_id

    # --- writing ---------------------------------------------------------------------------------

    async def _put(self, step: Step, text: str) -> ChangeResult:
        flight = self.flight
        change = Insert(
            flight.document_id, text,
            namespace=flight.namespace, content_type="text/plain",
            metadata={"canary": self._nonce},
        )  # fmt: skip
        return await self._write(step, change)

    async def _remove(self) -> ChangeResult:
        flight = self.flight
        return await self._write(
            Step.DELETE, Delete(flight.document_id, namespace=flight.namespace)
        )

    async def _write(self, step: Step, change: AnyChange) -> ChangeResult:
        made: list[ChangeResult] = []

        async def write() -> str:
            # In a task of its own: an interruption must not leave open whether it was accepted.
            self._touched = True
            self._writing = asyncio.create_task(self._writer.change(change))
            try:
                made.append(await asyncio.shield(self._writing))
            except ApiError as error:
                self._touched = step is not Step.INSERT or error.problem.passing
                raise
            return f"{made[0].outcome} as version {made[0].version}"

        await self._take(step, write)
        return made[0]

    # --- looking ---------------------------------------------------------------------------------

    async def _see(self, step: Step, looks: Looks) -> None:
        async def see() -> str:
            await self._settled(looks.version)
            while True:
                if await self._seen(looks):
                    return self._how(looks)
                await asyncio.sleep(LOOK_AGAIN_SECONDS)

        await self._take(step, see)

    async def _settled(self, version: int) -> None:
        """Until the registry says that the version is applied. Raises DocumentFailedError."""
        key = (self.flight.namespace, self.flight.document_id)
        while True:
            with suppress(WaitTimeoutError):
                return await self._writer.wait_searchable({key: version})

    async def _seen(self, looks: Looks) -> bool:
        """Whether it is all to be seen now; False also for what passes, so that it is asked
        again. Raises ApiError for any other answer."""
        try:
            seen = await (self._found(looks) if self.flight.searched else self._applied(looks))
        except UnreachableError as error:
            self.flight.refused = str(error)
            return False
        except ApiError as error:
            self.flight.refused = str(error)
            return self._passes(error)
        self.flight.refused = ""
        return shows(looks, seen)

    def _passes(self, error: ApiError) -> bool:
        """False: ask again, after a search that this service cannot make by other means."""
        if error.kind == CANNOT_SEARCH and self._search is Search.AUTO and self.flight.searched:
            self.flight.searched = False
        elif not error.problem.passing and error.kind != "stale-cursor":
            raise error
        return False

    async def _found(self, looks: Looks) -> list[Seen]:
        """The texts a search finds of this document, asked for the one that should be there."""
        flight = self.flight
        answer = await self._looker.search(
            looks.present or looks.absent or "", namespace=flight.namespace,
            filter={"canary": self._nonce},
        )  # fmt: skip
        hits = [hit for hit in answer.hits if hit.document_id == flight.document_id]
        return [Seen(hit.text, hit.score) for hit in hits]

    async def _applied(self, looks: Looks) -> list[Seen]:
        """The texts a search would find, told by what was applied."""
        flight = self.flight
        try:
            row = await self._looker.document(flight.document_id, namespace=flight.namespace)
            if row.status == Status.DELETED:
                return []
            if row.status == Status.FAILED and row.applied_version < looks.version:
                failure = row.error or "no reason given"
                raise DocumentFailedError(
                    flight.namespace, flight.document_id, looks.version, failure
                )
            chunks = self._looker.chunks(flight.document_id, namespace=flight.namespace)
            return [Seen(chunk.text) async for chunk in chunks]
        except NotFoundError:
            return []

    def _how(self, looks: Looks) -> str:
        seen = "no text of it" if looks.present is None else "its text"
        if looks.present and looks.absent:
            seen = "the new text and not the old"
        if self.flight.searched:
            return f"a search finds {seen}"
        return f"what was applied shows {seen} (this service cannot search)"

    # --- ending ----------------------------------------------------------------------------------

    async def _clean_up(self) -> str:
        """Deletes the document. Returns where it stood before; empty: nobody could tell."""
        if not self._touched:
            return ""
        try:
            async with asyncio.timeout(CLEANUP_SECONDS):
                await self._write_to_its_end()
                standing = await self._where_it_stands()
                # Accepted is enough: a delete that was accepted is done, however late.
                await self._writer.delete(self.flight.document_id, namespace=self.flight.namespace)
                self.flight.cleaned_up = True
        except (BloomWeaverError, TimeoutError) as error:
            self.flight.left_behind = reason_of(error)
            return ""
        return standing

    async def _write_to_its_end(self) -> None:
        """A write that is still under way must not come after the delete."""
        if self._writing is not None and not self._writing.done():
            with suppress(BloomWeaverError, TimeoutError):
                await asyncio.wait_for(self._writing, CLEANUP_SECONDS / 2)

    async def _where_it_stands(self) -> str:
        with suppress(BloomWeaverError, TimeoutError):
            async with asyncio.timeout(CLEANUP_SECONDS / 4):
                row = await self._looker.document(
                    self.flight.document_id, namespace=self.flight.namespace
                )
            told = f"{row.status}, version {row.version} accepted, {row.applied_version} applied"
            return f"{told}: {row.error}" if row.error else told
        return ""
