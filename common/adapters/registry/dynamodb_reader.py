"""Reads rows, large parts included, and remembers what was read: a write needs the history and the
parts that lie beside the row, and an equal revision of an equal life is an equal row."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import structlog

from common.adapters.registry.dynamodb_item import Stored, fits, key_of, row_key, stored_of
from common.adapters.registry.dynamodb_pieces import PiecesGoneError, read_parts
from common.aws.table_calls import Item, TableCalls
from common.bounded_map import BoundedMap
from common.model import DocumentKey, Row
from common.wire import DamagedDataError

log = structlog.get_logger(__name__)

_ROWS_KEPT, _ROW_BYTES_KEPT = 8192, 64 * 1024 * 1024
_ROW_BYTES, _RANGE_BYTES = 3000, 150
_LARGE_BYTES = 16 * 1024
"""Of a packed part; unpacking more blocks the loop for milliseconds, so a thread does it."""
_READS_BEFORE_GIVING_UP = 10


class RowReader:
    def __init__(self, calls: TableCalls) -> None:
        self._calls = calls
        self._lately: BoundedMap[DocumentKey, Stored] = BoundedMap(_ROWS_KEPT, _ROW_BYTES_KEPT)

    async def read(self, key: DocumentKey) -> Stored | None:
        """Raises DamagedDataError, also when a part of the row is missing for good."""
        if not fits(key):
            return None
        for _ in range(_READS_BEFORE_GIVING_UP):
            item = await self._calls.get(row_key(key))
            if item is None:
                return None
            try:
                return await self.stored(item)
            except PiecesGoneError:
                continue
        raise DamagedDataError(f"{key}: a part of the row is missing")

    async def stored(self, item: Mapping[str, Any]) -> Stored:
        """Raises DamagedDataError, and PiecesGoneError for a row that was replaced since."""
        key = key_of(item)
        lately = self._lately.get(key)
        if lately is not None and _is_same(lately, item):
            return lately
        parts = await read_parts(self._calls, key, item)
        if max(map(len, parts.values()), default=0) > _LARGE_BYTES:
            stored = await asyncio.to_thread(stored_of, item, parts)
        else:
            stored = stored_of(item, parts)
        self.remember(stored)
        return stored

    async def row(self, item: Item) -> Row | None:
        """The row of an item that was just read; None: it is gone by now."""
        try:
            return (await self.stored(item)).row
        except PiecesGoneError:
            again = await self.read(key_of(item))
            return again.row if again else None

    async def items(self, keys: Iterable[DocumentKey]) -> list[Item]:
        """Those that exist, in any order."""
        return await self._calls.get_many([row_key(key) for key in set(keys) if fits(key)])

    async def readable_rows(self, keys: Sequence[DocumentKey]) -> list[Row]:
        """A row that a newer program wrote, or that is damaged, must not hide the others."""
        rows = []
        for item in await self.items(keys):
            try:
                row = await self.row(item)
            except DamagedDataError as error:
                log.error("row.unreadable", error=str(error))
                continue
            if row is not None:
                rows.append(row)
        return rows

    async def known(self, row: Row) -> Stored | None:
        """What lies beside the stored row that `row` was made from; None: it is another by now."""
        if row.revision == 0:
            return None
        stored = self._lately.get(row.key)
        if stored is None or stored.row.revision != row.revision:
            stored = await self.read(row.key)
        return stored if stored and stored.row.revision == row.revision else None

    def remember(self, stored: Stored) -> None:
        ranges = len(stored.row.applied.manifest) + len(stored.row.garbage)
        self._lately.put(stored.row.key, stored, _ROW_BYTES + _RANGE_BYTES * ranges)

    def forget(self, key: DocumentKey) -> Stored | None:
        return self._lately.pop(key)


def _is_same(stored: Stored, item: Mapping[str, Any]) -> bool:
    named = item.get("life", {}).get("S"), item.get("revision", {}).get("N")
    return named == (stored.life, str(stored.row.revision))
