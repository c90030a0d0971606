"""The registry port: one row a document, compare-and-set only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from common.model import Desired, DocumentKey, EmbeddingProfile, Event, Row, Status
from common.ports.errors import TransientError

__all__ = [
    "KEPT_EVENTS",
    "AcceptingRegistry",
    "Found",
    "History",
    "IdListingRegistry",
    "NamespaceCounts",
    "Page",
    "Registry",
    "TransientError",
]

KEPT_EVENTS = 2000
"""At least so many of a document's newest events are kept, and at most twice as many."""


@dataclass(frozen=True, slots=True)
class Page:
    """Rows in order of document id, and the cursor of the next page (None: this is the last)."""

    rows: list[Row]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class History:
    """Events of one document, the newest first, and the cursor of the next, older page (None:
    this is the last)."""

    events: list[Event]
    cursor: str | None


@runtime_checkable
class IdListingRegistry(Protocol):
    """A registry that can name documents whose rows cannot be read."""

    async def document_ids(self, namespace: str, *, after: str, limit: int) -> list[str]:
        """Ids greater than `after`, in their order; "" begins with the first."""


@dataclass(frozen=True, slots=True)
class Found:
    """A change that was not accepted unread, and the row as it is (None: there is none)."""

    row: Row | None


@runtime_checkable
class AcceptingRegistry(Protocol):
    """A registry that can accept a change in one write, without reading the row first."""

    async def accept_blind(
        self, key: DocumentKey, change: Desired, *, now: float, stale_after_seconds: float
    ) -> int | Found:
        """The new version, once it is stored as durably as `put_if` does it; or nothing is stored.

        It accepts only where `common.transitions.accept` answers ACCEPTED, and the row is then what
        that function makes of it, history included; `sweep_at` may be earlier. It may leave any
        change to the caller, who goes on with `Found.row` as if it had been read. `change` must not
        keep anything of the version before; its `version` is ignored.
        """


@dataclass(frozen=True, slots=True)
class NamespaceCounts:
    namespace: str
    documents: dict[Status, int] = field(default_factory=dict)
    chunks: int = 0
    """Sum of the applied versions' chunks."""
    size_bytes: int = 0
    """Sum of the last accepted versions' content; deleted documents have none."""


class Registry(Protocol):
    """Raises TransientError when it cannot be reached or is busy for too long."""

    async def get(self, key: DocumentKey) -> Row | None:
        """A strongly consistent read."""

    async def get_many(self, keys: Sequence[DocumentKey]) -> dict[DocumentKey, Row]:
        """Strongly consistent; missing keys are absent from the answer."""

    async def put_if(self, row: Row) -> Row | None:
        """Store `row` if the stored revision equals `row.revision` (0: if there is none).

        Returns the row as stored, its revision one higher, or None if the race was lost.
        When it returns, the row survives the death of any process and a loss of power.
        `row.news` is added to the document's history in the same atomic write; the row that is
        stored and returned has none.
        """

    async def delete_if(self, row: Row) -> bool:
        """Remove the row, and its history with it, if its revision is still `row.revision`."""

    async def history(
        self, key: DocumentKey, *, limit: int = 100, cursor: str | None = None
    ) -> History:
        """What happened to the document; empty for an unknown one, or an unknown past.

        Raises ValueError for a cursor that no earlier page gave.
        """

    async def scan(
        self,
        namespace: str,
        *,
        status: Status | None = None,
        prefix: str = "",
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page:
        """The namespace's rows whose document id begins with `prefix`, a page at a time."""

    async def due(self, *, before: float, limit: int) -> list[Row]:
        """Rows of any namespace with `sweep_at <= before`, the longest due first."""

    async def bind_namespace(self, namespace: str, profile: EmbeddingProfile) -> EmbeddingProfile:
        """Bind the namespace to `profile` if it is not bound; returns what it is bound to."""

    async def binding(self, namespace: str) -> EmbeddingProfile | None:
        """What the namespace is bound to; None: to nothing yet. A strongly consistent read."""

    async def namespaces(self) -> dict[str, EmbeddingProfile]:
        """All bound namespaces."""

    async def counts(self) -> list[NamespaceCounts]:
        """How many documents stand where, by namespace, in order of name."""

    async def close(self) -> None: ...
