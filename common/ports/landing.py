"""The landing port: files that people put somewhere become documents.

An object's name is NAMESPACE/DOCUMENT-ID; it lies in one of three areas under that name, or in
several. What is to be done with the document follows from where it lies (`common.landing`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from common.ports.errors import PermanentError, PortError, TransientError

__all__ = [
    "Area",
    "LandedObject",
    "Landing",
    "MovedOnError",
    "Notice",
    "PermanentError",
    "Places",
    "TooLargeToMoveError",
    "TransientError",
]


class MovedOnError(PortError):
    """What lies there is not what was looked at: look again."""


class TooLargeToMoveError(PortError):
    """It has to stay where it is."""


class Area(StrEnum):
    INCOMING = "incoming"
    PROCESSED = "processed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class LandedObject:
    """An object as a look found it."""

    etag: str
    version_id: str | None
    """None where the store keeps one version only."""
    size_bytes: int
    content_type: str = ""
    content_encoding: str = ""
    metadata: Mapping[str, str]
    """The user's, as the store keeps it: names in lower case, values perhaps encoded."""

    @property
    def revision(self) -> str:
        """Another one after every put, where there are versions; else of other bytes."""
        return self.version_id or self.etag


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the objects of one name lie; what was seen may have moved since."""

    incoming: LandedObject | None = None
    processed: LandedObject | None = None
    failed: LandedObject | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """What a notification says of one name."""

    name: str
    removed: bool = False
    """Someone removed the processed object. One that a lifecycle rule expired is not meant: the
    store was tidied up, and the document stays."""


class Landing(Protocol):
    """Raises TransientError when out of reach."""

    @property
    def longest_name_bytes(self) -> int:
        """Longer ones (as UTF-8) can be put into incoming, and moved to failed only."""

    async def look(self, name: str) -> Places:
        """What is being moved from incoming meanwhile is seen in one area or in both."""

    async def read(self, name: str, area: Area, seen: LandedObject) -> bytes:
        """Raises MovedOnError when it is not that object any more."""

    async def move(
        self, name: str, seen: LandedObject, to: Area, *, replacing: LandedObject | None
    ) -> str | None:
        """From incoming to another area, where `replacing` lay when it was looked at.

        The revision it has there. None: something else lies in one of the two by now, and nothing
        was moved. What comes to incoming while it is being moved stays there. Raises
        TooLargeToMoveError.
        """

    async def explain(self, name: str, reason: bytes) -> None:
        """Put `reason`, as JSON, beside the failed object of this name."""

    async def forget_failure(self, name: str, seen: LandedObject) -> None:
        """Remove the failed object and its reason, unless it is another one by now."""

    def waiting(self, *, before: float) -> AsyncIterator[list[str]]:
        """The names of what was put into incoming before `before` (seconds since the epoch, by the
        store's clock) and lies there still, a page at a time, in any order.

        Only of what stands for a document. What can never be moved is left out once its reason
        lies beside it. What comes and goes meanwhile may be named or not.
        """

    def notices_in(self, message: str) -> list[Notice]:
        """Of the objects that a notification is about, each name once.

        Raises NotANotificationError (`common.landing`).
        """

    async def close(self) -> None: ...
