"""The audit port: who did what to which document, from where, with which result.

Entries form a hash chain: each entry's hash is of its own content and of the hash before it, so
that an entry that was edited, removed or put in between is noticed (`common.audit`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from common.ports.errors import PermanentError, TransientError

__all__ = [
    "AuditEntry",
    "AuditEvent",
    "AuditPlace",
    "AuditQuery",
    "AuditTrail",
    "ChainEnd",
    "NoAuditTrailError",
    "TransientError",
]


class NoAuditTrailError(PermanentError):
    """None is kept, so that there is nothing to read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """No content and no secret is in it, and no text with a NUL in it."""

    at: float
    """Seconds since the epoch; kept to the millisecond."""
    principal: str
    """`Principal.id`; empty for who was refused without being known."""
    action: str
    """`insert`, `update`, `delete`, `redrive`, `key.create`, `refused`, …"""
    namespace: str = ""
    document_id: str = ""
    subject: str = ""
    """What was acted on where that is no document: a key's id; for who was refused, what was asked
    for: `GET /v1/stats`."""
    result: str = ""
    """`accepted`, `unchanged`, `superseded`, `uncertain`, or a problem's slug."""
    version: int = 0
    count: int = 1
    """How often, where like events are told together; of a repair, how many findings."""
    address: str = ""
    """The peer's, without port."""
    request_id: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class ChainEnd:
    """An entry by its place in the chain; (0, "") is the place before the first."""

    sequence: int = 0
    hash: str = ""

    def __str__(self) -> str:
        return f"{self.sequence}:{self.hash}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    sequence: int
    """1, 2, 3 … without gaps."""
    event: AuditEvent
    previous_hash: str
    hash: str

    @property
    def end(self) -> ChainEnd:
        return ChainEnd(self.sequence, self.hash)


@dataclass(frozen=True, slots=True)
class AuditPlace:
    """Where a page ended. It names an entry without telling how many others there are, so that
    who is bound to namespaces learns nothing of the rest."""

    at_ms: int
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditQuery:
    """Which entries; all conditions hold together."""

    reach: tuple[str, ...] = ("*",)
    """As `Principal.namespaces`: names, or beginnings of names that end in an asterisk."""
    namespace: str | None = None
    document_id: str | None = None
    since: float | None = None
    """Seconds since the epoch."""


class AuditTrail(Protocol):
    """Raises TransientError when out of reach."""

    async def append(self, events: Sequence[AuditEvent]) -> None:
        """In this order, durable when it returns. Concurrent appends share transactions.

        After an error the events may have been appended all the same.
        """

    def entries(self, *, after: int = 0) -> AsyncIterator[AuditEntry]:
        """All in order of their sequence, those after `after`; in constant memory. Raises
        NoAuditTrailError."""

    async def page(
        self, wanted: AuditQuery, *, limit: int, before: AuditPlace | None = None
    ) -> list[AuditEntry]:
        """The newest first. Raises ValueError when there is no entry at `before`, and
        NoAuditTrailError."""

    async def head(self) -> ChainEnd:
        """The last entry, be it dropped for its age by now. Raises NoAuditTrailError."""

    async def anchor(self) -> ChainEnd:
        """The last entry that was dropped for its age. The chain begins there."""

    async def drop(self, *, before: float, now: float, limit: int = 10_000) -> int:
        """Forget the oldest entries up to the first that is not older, at most `limit`; how many.

        The same transaction moves the anchor and appends an entry that names it, so that nobody
        who cannot write the chain can make the loss of entries look like this.
        """

    async def close(self) -> None: ...
