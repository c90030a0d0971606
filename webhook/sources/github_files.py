"""The content of changes that name a file of a repository: fetched before they are validated."""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from common.clock import Clock, system_clock
from common.github_contents import (
    fetch_github_file,
    fetch_github_head,
    fetch_github_standing,
    require_github_commit,
)
from common.outbound import CONCURRENT_FETCHES, OutboundClient
from common.outbound_rules import RefusedError, TooLargeError
from common.ports.errors import TransientError
from common.settings import Settings
from webhook.problems import (
    CONTENT_REFUSED,
    CONTENT_UNAVAILABLE,
    RETRY_AFTER_SECONDS,
    TOO_LARGE,
    Problem,
    deadline,
)
from webhook.sources.mapping import JSON, FileOfGitHub, Mapped

PAUSE_SECONDS = 1.0
"""GitHub sends a webhook before all of its API shows what it tells of."""
LOOKS = 4
"""At a branch that is still said to be where it was before the push."""
_MICROSECONDS = 1_000_000
SETTLED_MICROSECONDS = 60 * _MICROSECONDS
"""After a push GitHub shows it everywhere: a branch that is elsewhere then was pushed there."""
_NOT_THERE = (404, 422)
"""What GitHub answers for a commit that it does not know."""

Pause = Callable[[float], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a file is looked for; `version`: when that was asked for, None where nobody asked."""

    commit: str
    version: int | None = None


async def with_files(
    mapped: Mapped,
    token: str,
    client: OutboundClient | None,
    settings: Settings,
    *,
    clock: Clock = system_clock,
    pause: Pause = asyncio.sleep,
) -> dict[int, Problem]:
    """Puts the content into the changes; a change whose file is not there becomes a delete. What
    is wrong with a file is its change's own Problem, by its index: of status 503 where it may be
    had later, since GitHub is away or has a limit.

    All that one delivery brings is in memory together, no more than a request's body may be.
    Raises Problem: 413 for more, 503 where nothing can be told of a branch.
    """
    if not mapped.files:
        return {}
    if client is None:
        raise Problem(CONTENT_REFUSED, "this process fetches nothing from GitHub")
    work = _Work(mapped, token, client, settings.max_body_bytes, clock, pause)
    async with deadline(settings.request_timeout_seconds):
        await work.look_at_branches()
    await work.look_at_files(settings.request_timeout_seconds)
    return work.refused


@dataclass(slots=True)
class _Work:
    mapped: Mapped
    token: str
    client: OutboundClient
    limit: int
    clock: Clock
    pause: Pause
    refused: dict[int, Problem] = field(default_factory=dict)
    _places: dict[tuple[str, str, str, str], _Place | RefusedError] = field(default_factory=dict)
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CONCURRENT_FETCHES))
    _limited: TransientError | None = None
    """GitHub's: nothing more is asked for."""
    _bytes: int = 0
    _missing: dict[int, FileOfGitHub] = field(default_factory=dict)
    """Those that are to be asked for again."""

    async def look_at_branches(self) -> None:
        """Each once. Raises Problem (503)."""
        for index, file in self.mapped.files.items():
            if file.branch and _branch_of(file) not in self._places:
                self._places[_branch_of(file)] = await self._looked_at(file, _where(index))

    async def _looked_at(self, file: FileOfGitHub, where: str) -> _Place | RefusedError:
        try:
            for _ in range(LOOKS):
                version = int(self.clock() * _MICROSECONDS)
                head = await fetch_github_head(
                    self.client, file.repository, file.branch, self.token
                )
                if self._is_settled(file, version) or await self._holds(file, head):
                    return _Place(head, version)
                await self.pause(PAUSE_SECONDS)
        except RefusedError as error:
            return RefusedError(f"the branch {file.branch[:200]!r} cannot be looked at: {error}")
        except TransientError as error:
            raise unavailable(error, where) from None
        late = f"GitHub still shows {file.branch[:200]!r} as it was before this push"
        raise unavailable(TransientError(late), where)

    def _is_settled(self, file: FileOfGitHub, now: int) -> bool:
        return file.pushed_at is not None and now - file.pushed_at > SETTLED_MICROSECONDS

    async def _holds(self, file: FileOfGitHub, head: str) -> bool:
        """Whether the head is no older than the push: at it, after it, or on another line that was
        pushed over it. Raises RefusedError and TransientError."""
        if head in (file.ref, file.before):
            return head == file.ref
        try:
            standing = await fetch_github_standing(
                self.client, file.repository, file.ref, head, self.token
            )
        except RefusedError as error:
            if error.status not in _NOT_THERE:
                raise
            return False  # whoever answers does not know the pushed commit yet
        return standing in ("ahead", "identical", "diverged")

    async def look_at_files(self, seconds: float) -> None:
        """Those that take longer may be had later. What is missing is asked for again, all of it
        after one pause: whoever answers may not know the commit yet. Raises Problem that ends the
        delivery."""
        await self._ask_for(self.mapped.files, seconds)
        if not self._missing:
            return
        await self.pause(PAUSE_SECONDS)
        async with deadline(seconds):
            again = await self._of_known_commits(self._missing)
        await self._ask_for(again, seconds, last=True)

    async def _of_known_commits(self, files: Mapping[int, FileOfGitHub]) -> dict[int, FileOfGitHub]:
        """Without the others, which may be had later."""
        unknown: dict[tuple[str, str], Problem | None] = {}
        for index, file in files.items():
            place = file.repository, self._place_of(file).commit
            if place not in unknown:
                unknown[place] = await self._unknown(*place, _where(index))
            if (problem := unknown[place]) is not None:
                self.refused[index] = problem
        return {index: file for index, file in files.items() if index not in self.refused}

    async def _unknown(self, repository: str, commit: str, where: str) -> Problem | None:
        try:
            await require_github_commit(self.client, repository, commit, self.token)
        except RefusedError as error:
            late = TransientError(f"GitHub does not show the commit {commit} yet: {error}")
            return unavailable(late, where)
        except TransientError as error:
            return unavailable(error, where)
        return None

    async def _ask_for(
        self, files: Mapping[int, FileOfGitHub], seconds: float, *, last: bool = False
    ) -> None:
        tasks = {
            asyncio.create_task(self._one(index, file, last=last)): index
            for index, file in files.items()
        }
        if not tasks:
            return
        try:
            done, late = await asyncio.wait(
                tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION
            )
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in late:
            error = TransientError(f"the files did not all come within {seconds:g} s")
            self.refused[tasks[task]] = unavailable(error, _where(tasks[task]))

    async def _one(self, index: int, file: FileOfGitHub, *, last: bool) -> None:
        """What the push does not remove and is missing is for the last look to say. Raises Problem
        that ends the delivery."""
        try:
            place = self._place_of(file)
            async with self._slots:
                content = await self._content(file, place)
        except RefusedError as error:
            kind = TOO_LARGE if isinstance(error, TooLargeError) else CONTENT_REFUSED
            detail = f"{file.path[:200]}: {error}"
            self.refused[index] = Problem(kind, detail, field=_where(index))
        except TransientError as error:
            if error.retry_after_seconds is not None:
                self._limited = self._limited or error
            self.refused[index] = unavailable(error, _where(index))
        else:
            if content is None and not file.gone and not last:
                self._missing[index] = file
                return
            self._count(content or b"")
            _complete(self.mapped.changes[index], file, place, content)

    def _place_of(self, file: FileOfGitHub) -> _Place:
        """Raises RefusedError."""
        place = self._places[_branch_of(file)] if file.branch else _Place(file.ref)
        if isinstance(place, RefusedError):
            raise place
        return place

    def _count(self, content: bytes) -> None:
        self._bytes += len(content)
        if self._bytes > self.limit:
            detail = f"the files of this push have more than {self.limit} bytes together"
            raise Problem(TOO_LARGE, detail, limit=self.limit)

    async def _content(self, file: FileOfGitHub, place: _Place) -> bytes | None:
        """None where there is no such file. Raises RefusedError and TransientError."""
        if self._limited is not None:
            raise self._limited
        try:
            return await fetch_github_file(
                self.client, file.repository, file.path, place.commit, self.token
            )
        except RefusedError as error:
            # Without a look at the branch it may also be that the token may not see it.
            if error.status == 404 and file.branch:
                return None
            raise


def _branch_of(file: FileOfGitHub) -> tuple[str, str, str, str]:
    return file.repository, file.branch, file.before, file.ref


def _where(index: int) -> str:
    return f"changes[{index}].content"


def _complete(change: JSON, file: FileOfGitHub, place: _Place, content: bytes | None) -> None:
    """Makes a whole change of it: with the content, or a delete."""
    if content is None:
        kept = ("namespace", "document_id", "source_version")
        found = {name: change[name] for name in kept if name in change}
        change.clear()
        change.update(found, change_type="delete")
    else:
        change["content"] = base64.b64encode(content).decode()
        change["content_encoding"] = "base64"
        if file.commit_as:
            change["metadata"] = {**change.get("metadata", {}), file.commit_as: place.commit}
    if place.version is not None:
        change.setdefault("source_version", place.version)


def unavailable(error: TransientError, field: str) -> Problem:
    """503, with what GitHub says of when to come again."""
    seconds = math.ceil(error.retry_after_seconds or RETRY_AFTER_SECONDS)
    headers = {"Retry-After": str(seconds)}
    return Problem(CONTENT_UNAVAILABLE, str(error), field=field, headers=headers)
