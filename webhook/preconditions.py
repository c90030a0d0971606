"""What a document has to be for a change of it to be made. Pure.

Decided on the row that the change's write is conditioned on, so that of two editors who have seen
the same version only one is let through.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.model import Row
from common.transitions import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Precondition:
    """All that is given has to hold. A deleted document has a version, and does not exist."""

    versions: frozenset[int] | None = None
    """One of these is the last accepted one; None: whichever it is."""
    exists: bool | None = None

    def lets(self, row: Row | None, outcome: Outcome) -> bool:
        """Whether the change may be made of the row. `outcome`: what would come of it.

        What another version has made true already is no overwriting: it is what a change that is
        sent again finds, whose first answer was lost.
        """
        if self.exists is not None and self.exists != _exists(row):
            return False
        if self.versions is None:
            return True
        if row is None:
            return False
        return row.desired.version in self.versions or outcome is Outcome.UNCHANGED


class PreconditionFailedError(Exception):
    """The document is not what the change asks it to be. Nothing was changed."""

    def __init__(self, row: Row | None) -> None:
        super().__init__(_told(row))
        self.version = row.desired.version if row else 0
        """The last accepted one; 0: there is none."""


def _exists(row: Row | None) -> bool:
    return row is not None and not row.desired.tombstone


def _told(row: Row | None) -> str:
    if row is None:
        return "the document does not exist"
    if row.desired.tombstone:
        return f"the document was deleted, by version {row.desired.version}"
    return f"version {row.desired.version} of the document is the last accepted one"
