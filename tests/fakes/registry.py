"""A registry in a dictionary. Rows are immutable, so what is stored is what was given."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace

from common.model import DocumentKey, EmbeddingProfile, Event, Row, Status
from common.ports.registry import KEPT_EVENTS, History, NamespaceCounts, Page
from common.wire import row_to_json


class MemoryRegistry:
    """Implements Registry. Nothing survives the process.

    `checked` False spares the check that a row can be stored as JSON: a simulation's hot path.
    """

    def __init__(self, *, checked: bool = True) -> None:
        self._checked = checked
        self.rows: dict[DocumentKey, Row] = {}
        self._events: dict[DocumentKey, list[tuple[int, Event]]] = {}
        self._profiles: dict[str, EmbeddingProfile] = {}

    async def close(self) -> None:
        return None

    async def get(self, key: DocumentKey) -> Row | None:
        return self.rows.get(key)

    async def get_many(self, keys: Sequence[DocumentKey]) -> dict[DocumentKey, Row]:
        return {key: self.rows[key] for key in keys if key in self.rows}

    async def put_if(self, row: Row) -> Row | None:
        stored = self.rows.get(row.key)
        if (stored.revision if stored else 0) != row.revision:
            return None
        if self._checked:
            row_to_json(row)
        written = self.rows[row.key] = replace(row, revision=row.revision + 1, news=())
        told = self._events.setdefault(row.key, [])
        told += enumerate(row.news, told[-1][0] + 1 if told else 1)
        del told[:-KEPT_EVENTS]
        return written

    async def delete_if(self, row: Row) -> bool:
        stored = self.rows.get(row.key)
        if stored is None or stored.revision != row.revision:
            return False
        del self.rows[row.key]
        del self._events[row.key]
        return True

    async def history(
        self, key: DocumentKey, *, limit: int = 100, cursor: str | None = None
    ) -> History:
        if cursor is not None and not (cursor.isascii() and cursor.isdecimal()):
            raise ValueError(f"{cursor!r} is not a cursor that an earlier page gave")
        older = [x for x in self._events.get(key, []) if cursor is None or x[0] < int(cursor)]
        page = older[::-1][:limit]
        more = len(older) > limit
        return History([event for _, event in page], str(page[-1][0]) if more else None)

    async def scan(
        self,
        namespace: str,
        *,
        status: Status | None = None,
        prefix: str = "",
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page:
        """Raises ValueError for a cursor that no earlier page gave."""
        after = None if cursor is None else _document_id_of(cursor)
        found = sorted(
            (row for row in self.rows.values() if _wanted(row, namespace, status, prefix, after)),
            key=lambda row: row.key.document_id,
        )
        rows = found[:limit]
        more = len(found) > limit
        return Page(rows, _cursor_of(rows[-1].key.document_id) if more else None)

    async def due(self, *, before: float, limit: int) -> list[Row]:
        due = [(r.sweep_at, r.key, r) for r in self.rows.values() if r.sweep_at is not None]
        ripe = sorted((at, key) for at, key, _ in due if at <= before)
        return [self.rows[key] for _, key in ripe[:limit]]

    async def bind_namespace(self, namespace: str, profile: EmbeddingProfile) -> EmbeddingProfile:
        return self._profiles.setdefault(namespace, profile)

    async def binding(self, namespace: str) -> EmbeddingProfile | None:
        return self._profiles.get(namespace)

    async def namespaces(self) -> dict[str, EmbeddingProfile]:
        return dict(sorted(self._profiles.items()))

    async def counts(self) -> list[NamespaceCounts]:
        counted: dict[str, NamespaceCounts] = {}
        for row in sorted(self.rows.values(), key=lambda r: (r.key.namespace, r.status)):
            name = row.key.namespace
            before = counted.get(name, NamespaceCounts(name))
            documents = dict(before.documents)
            documents[row.status] = documents.get(row.status, 0) + 1
            chunks = before.chunks + row.applied.chunk_count
            size_bytes = before.size_bytes + row.desired.size_bytes
            counted[name] = NamespaceCounts(name, documents, chunks, size_bytes)
        return list(counted.values())


def _wanted(
    row: Row, namespace: str, status: Status | None, prefix: str, after: str | None
) -> bool:
    return (
        row.key.namespace == namespace
        and status in (None, row.status)
        and row.key.document_id.startswith(prefix)
        and (after is None or row.key.document_id > after)
    )


def _cursor_of(document_id: str) -> str:
    return base64.urlsafe_b64encode(b"after:" + document_id.encode()).decode("ascii")


def _document_id_of(cursor: str) -> str:
    try:
        data = base64.b64decode(cursor, altchars=b"-_", validate=True)
        if data.startswith(b"after:"):
            return data.removeprefix(b"after:").decode()
    except ValueError as error:
        raise ValueError(f"{cursor!r} is not a cursor that an earlier page gave") from error
    raise ValueError(f"{cursor!r} is not a cursor that an earlier page gave")
