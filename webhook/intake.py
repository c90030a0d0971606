"""Intake: makes a document what the landing zone says it is, and moves the file that said it.

Level-triggered: a notification names an object, and tells whether someone removed a processed one.
Each step looks where the objects of that name lie, acts, and looks again; it ends when what was
acted on last is what is there. So whoever accepts bytes that were replaced meanwhile (a second
intake of the same name, a user who is quick) sees it and accepts what is there now, and the last
accept of all is of the bytes that stay. Whoever finds nothing to take leaves the document as it is:
the API may have changed it since.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import structlog

from common import identity, telemetry
from common.access import EVERYWHERE, Principal, PrincipalKind, Scope
from common.landing import Action, Cause, Step, decoded_metadata, next_step
from common.model import DocumentKey
from common.ports.errors import TransientError
from common.ports.landing import (
    Area,
    LandedObject,
    Landing,
    MovedOnError,
    Places,
    TooLargeToMoveError,
)
from common.settings import Settings
from webhook.accept import Accepted, Acceptor, Change, ChangeType, ProfileMismatchError
from webhook.admission import Admission
from webhook.auditing import Auditing, accept_and_tell
from webhook.bodies import beside
from webhook.callers import Caller
from webhook.namespaces import TooManyNamespacesError
from webhook.problems import INVALID_FIELD, UNSUPPORTED_MEDIA_TYPE, Problem, deadline, problem_of
from webhook.quotas import Quotas, room_for
from webhook.validation import (
    check_content,
    check_size,
    document_key_of,
    metadata_of,
    upload_type,
)

log = structlog.get_logger(__name__)

LOOKS = 20
"""A name that changes as often while it is worked on is left to its next notification's turn."""
LANDING = Caller(
    principal=Principal(
        id="landing",
        kind=PrincipalKind.SOURCE,
        scopes=frozenset({Scope.WRITE}),
        namespaces=(EVERYWHERE,),
    ),
    source="landing",
)
"""Who puts files into the landing zone is known to the bucket only."""
_AS_IT_IS = ("", "identity", "aws-chunked")


class Settled(StrEnum):
    """What came of a step."""

    ACCEPTED = "accepted"
    FAILED = "failed"
    DELETED = "deleted"
    MOVED_ON = "moved on"
    """Something else was there by then."""
    REFUSED = "refused"
    """What was processed before, or a delete, cannot be accepted any more; the log says why."""


_REFUSED = (Problem, ProfileMismatchError, TooManyNamespacesError)
_UNTOUCHED = frozenset({Settled.FAILED, Settled.REFUSED})
"""Steps that leave the document as it was."""


@dataclass(slots=True, kw_only=True)
class IntakeHandler:
    """Any number may work on the same name at once. `admission` None: nothing is too much;
    `quotas` None: a namespace may hold what it likes."""

    landing: Landing
    acceptor: Acceptor
    settings: Settings
    admission: Admission | None = None
    quotas: Quotas | None = None
    auditing: Auditing = field(default_factory=Auditing)

    async def take_event(self, message: str) -> None:
        """Work off one notification, as S3 or EventBridge sent it.

        Raises TransientError, or PermanentError when something has to be mended first: the message
        must come back. NotANotificationError: it never can be worked off.
        """
        for notice in self.landing.notices_in(message):
            await self.reconcile(notice.name, removed=notice.removed)

    async def reconcile(self, name: str, *, removed: bool = False) -> list[Settled]:
        """What came of each step; `name` is NAMESPACE/DOCUMENT-ID.

        `removed`: someone is known to have removed its processed object. Raises TransientError and
        what the ports raise.
        """
        told: list[Settled] = []
        acted: Step | None = None
        for _ in range(LOOKS):
            places = await self.landing.look(name)
            step = next_step(name, places, _cause(removed, told))
            if step == acted or step.action is Action.LEAVE:
                log.info("intake.done", name=name, steps=[settled.value for settled in told])
                return told
            settled, acted = await self._act(name, step, places)
            telemetry.INTAKE.labels(settled.value).inc()
            told.append(settled)
        raise TransientError(f"{name!r} is being changed faster than it can be taken in")

    async def _act(self, name: str, step: Step, places: Places) -> tuple[Settled, Step | None]:
        """What came of it, and which step need not be taken again; None: any."""
        if step.action is Action.TAKE and places.incoming is not None:
            return await self._take(name, places, places.incoming)
        if step.action is Action.CONFIRM and places.processed is not None:
            return await self._confirm(name, places.processed), step
        return await self._delete(name), step

    # --- what to do ------------------------------------------------------------------------------

    async def _take(
        self, name: str, places: Places, incoming: LandedObject
    ) -> tuple[Settled, Step | None]:
        try:
            await self._accept(await self._change(name, Area.INCOMING, incoming))
        except MovedOnError:
            return Settled.MOVED_ON, None
        except _REFUSED as error:
            return Settled.FAILED, await self._fail(name, places, incoming, _refusal(error))
        if places.failed is not None:
            # Before the move: whoever dies in between comes back, and finds both as they were.
            await self.landing.forget_failure(name, places.failed)
        moved_to = await self.landing.move(
            name, incoming, Area.PROCESSED, replacing=places.processed
        )
        return Settled.ACCEPTED, None if moved_to is None else Step(Action.CONFIRM, moved_to)

    async def _confirm(self, name: str, processed: LandedObject) -> Settled:
        """It was accepted before, or by someone else just now; accepting it again is harmless."""
        try:
            await self._accept(await self._change(name, Area.PROCESSED, processed))
        except MovedOnError:
            return Settled.MOVED_ON
        except _REFUSED as error:
            return _told(name, _refusal(error))
        return Settled.ACCEPTED

    async def _delete(self, name: str) -> Settled:
        try:
            change = Change(key=self._key(name), change_type=ChangeType.DELETE)
            await self._accept(change)
        except _REFUSED as error:
            return _told(name, _refusal(error))
        return Settled.DELETED

    async def _fail(
        self, name: str, places: Places, incoming: LandedObject, problem: Problem
    ) -> Step | None:
        """The reason first: a failed object always has one beside it."""
        log.warning("intake.refused", name=name, why=problem.detail)
        await self.landing.explain(name, reason_of(name, incoming, problem))
        try:
            await self.landing.move(name, incoming, Area.FAILED, replacing=places.failed)
        except TooLargeToMoveError:
            return Step(Action.TAKE, incoming.revision)
        return None

    # --- the change ------------------------------------------------------------------------------

    def _key(self, name: str) -> DocumentKey:
        """Raises Problem."""
        namespace, _, document_id = name.partition("/")
        return document_key_of(namespace, document_id, self.settings)

    async def _change(self, name: str, area: Area, seen: LandedObject) -> Change:
        """Raises Problem, MovedOnError. What can be refused by its looks is not read."""
        key = self._key(name)
        _check_name(name, self.landing.longest_name_bytes)
        check_size(seen.size_bytes, self.settings)
        _check_encoding(seen.content_encoding)
        content_type = upload_type(seen.content_type, key.document_id)
        metadata = metadata_of(json.dumps(decoded_metadata(seen.metadata)), self.settings)
        content = await self.landing.read(name, area, seen)

        def check() -> str:
            check_content(content, content_type, self.settings)
            return identity.sha256_hex(content)

        return Change(
            key=key,
            change_type=ChangeType.INSERT,
            content=content,
            content_hash=await beside(len(content), check),
            content_type=content_type,
            metadata=metadata,
        )

    async def _accept(self, change: Change) -> None:
        """Raises what accept raises, and Problem (503) when it is too slow or too much."""
        self.auditing.require_open()
        if self.admission is not None:
            await self.admission.admit(change)

        async def accept(change: Change) -> Accepted:
            async with deadline(self.settings.request_timeout_seconds):
                return await self.acceptor.accept(change)

        async with room_for(self.quotas, change):
            await accept_and_tell(self.auditing, change, LANDING, accept)


def reason_of(name: str, seen: LandedObject, problem: Problem) -> bytes:
    """What lies beside a failed object: the problem as the HTTP API would tell it, and of what."""
    told = {
        **problem.body(),
        "name": name,
        "revision": seen.revision,
        "size_bytes": seen.size_bytes,
        "mend": "put a better file under incoming/, or remove this one from failed/",
    }
    return json.dumps(told, ensure_ascii=False, indent=2).encode(errors="backslashreplace")


def _cause(removed: bool, told: Sequence[Settled]) -> Cause:
    return Cause(
        removed=removed,
        overlapped=not _UNTOUCHED.issuperset(told),
        accepted=Settled.ACCEPTED in told,
    )


def _refusal(error: Problem | ProfileMismatchError | TooManyNamespacesError) -> Problem:
    """What a person must mend. Raises TransientError for what passes by itself."""
    problem = problem_of(error)
    if problem.kind.status >= 500:
        raise TransientError(problem.detail) from error
    return problem


def _told(name: str, problem: Problem) -> Settled:
    log.error("intake.not_accepted", name=name, why=problem.detail)
    return Settled.REFUSED


def _check_name(name: str, limit: int) -> None:
    size = len(name.encode())
    if size > limit:
        detail = f"name is {size} bytes long, and there is room for {limit} in a key"
        raise Problem(INVALID_FIELD, detail, field="document_id", limit=limit)


def _check_encoding(content_encoding: str) -> None:
    if content_encoding.strip().lower() not in _AS_IT_IS:
        detail = f"stored with Content-Encoding {content_encoding!r}: put the file as it is"
        raise Problem(UNSUPPORTED_MEDIA_TYPE, detail, field="content_encoding")
