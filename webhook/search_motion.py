"""Since when searches know the version that a document shows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from common.bounded_map import BoundedMap
from common.model import Applied, DocumentKey, Row

ENTRIES: Final = 16_384
MAX_BYTES: Final = 8 * 1024 * 1024
_ENTRY_BYTES: Final = 600
"""Of a key and the version; a range of its manifest takes more."""
_RANGE_BYTES: Final = 100


class KnownVersions:
    """Spares a second look at a document that an earlier search saw as it is now.

    Queries are counted, no clock is asked. A version is known since the query that had begun last
    when a row with it had been read, so it was committed before each query that began after. A
    version that was replaced never comes back, since its record ids do not: whoever finds the same
    one before and after a query knows that it stood still in between. What is forgotten costs a
    second look. Belongs to one event loop.
    """

    def __init__(self) -> None:
        self._begun = 0
        self._known: BoundedMap[DocumentKey, tuple[Applied, int]] = BoundedMap(ENTRIES, MAX_BYTES)

    def begin(self) -> int:
        """The number of a query that begins now."""
        self._begun += 1
        return self._begun

    def still_since(self, began: int, rows: Iterable[Row]) -> set[str]:
        """Ids of the documents that stood still since that query began; the rows, read after it
        and of one namespace, are remembered for later ones."""
        return {row.key.document_id for row in rows if self._stood_still(began, row)}

    def _stood_still(self, began: int, row: Row) -> bool:
        known = self._known.get(row.key)
        if known is not None and known[0] == row.applied:
            return known[1] < began
        size = _ENTRY_BYTES + _RANGE_BYTES * len(row.applied.manifest)
        self._known.put(row.key, (row.applied, self._begun), size)
        return False
