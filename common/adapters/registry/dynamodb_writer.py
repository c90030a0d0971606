"""Writes and removes rows: what lies beside a row is written before it, and removed after it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import structlog

from common.adapters.registry.dynamodb_events import (
    KEPT_PAGES,
    Line,
    full_pages,
    lines_of,
    pack_events,
    page_sort_key,
    rest_of,
    told_of,
)
from common.adapters.registry.dynamodb_item import (
    KEPT_WRITES,
    Part,
    Spilled,
    Stored,
    beside,
    check_fits,
    digest_of,
    fits,
    item_of,
    new_id,
    parts_of_row,
    revision_of,
    row_key,
    too_large,
    writes_of,
)
from common.adapters.registry.dynamodb_pieces import remove_all_beside, remove_parts, write_part
from common.adapters.registry.dynamodb_reader import RowReader
from common.aws.table_calls import PARTITION, ConditionFailedError, Item, TableCalls
from common.model import DocumentKey, Row
from common.ports.errors import TransientError

log = structlog.get_logger(__name__)

_MANY_RANGES = 2000
"""More are packed in a thread."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A write that has not been made: `write` names it, whatever its tries."""

    asked: Row
    stored: Row
    parts: Mapping[str, bytes]
    write: str


class RowWriter:
    def __init__(self, calls: TableCalls, reader: RowReader) -> None:
        self._calls = calls
        self._reader = reader

    async def put_if(self, row: Row) -> Row | None:
        draft = await _draft_of(row)
        known = await self._reader.known(row)
        while known is not None or row.revision == 0:
            written = await self._prepare(draft, known)
            try:
                await self._calls.put(written.item, **_condition(row, known))
            except ConditionFailedError as failed:
                if not _has(failed.item, draft.write):
                    await self._undo(draft, written, failed)
                    known = await self._of_another_life(row, failed.item)
                    if known is None:
                        return None
                    continue
            self._reader.remember(written.stored)
            await self._tidy(draft, written)
            return draft.stored
        return None

    async def delete_if(self, row: Row) -> bool:
        if not fits(row.key):
            return False
        known = await self._reader.known(row)
        self._reader.forget(row.key)
        if known is None or known.row != replace(row, news=()):
            return False
        try:
            answer = await self._calls.call(
                "delete a row",
                lambda db: db.delete_item(
                    TableName=self._calls.name,
                    Key=row_key(row.key),
                    ReturnValues="ALL_OLD",
                    **_condition(row, known),
                ),
            )
        except ConditionFailedError as failed:
            # Gone after a try that may have done it. Whoever did it was entitled to, as we were.
            gone = failed.item is None and failed.repeated
            if gone:
                await self._remove_beside(row.key, known.life)
            return gone
        await self._remove_beside(row.key, str(answer["Attributes"]["life"]["S"]))
        return True

    async def _prepare(self, draft: Draft, known: Stored | None) -> _Written:
        """Everything but the row itself is stored when this returns."""
        life = known.life if known else draft.write
        told = told_of(known)
        rest = rest_of(told, draft.asked.news)
        events = pack_events(rest.lines)
        pages = full_pages(told)
        for page, lines in pages.items():
            await self._put_page(draft.asked.key, life, page, lines)
        parts = await self._spill(draft, life, known)
        writes = (*(known.writes if known else ()), draft.write)[-KEPT_WRITES:]
        spilled = {name: part for name, part in parts.items() if isinstance(part, Spilled)}
        stored = Stored(
            row=draft.stored,
            life=life,
            told=rest.first,
            events=events,
            spilled=spilled,
            writes=writes,
        )
        item = item_of(
            draft.stored, life=life, parts=parts, told=rest.first, events=events, writes=writes
        )
        return _Written(item, stored, known, tuple(pages))

    async def _put_page(self, key: DocumentKey, life: str, page: int, lines: list[Line]) -> None:
        name = beside(key, page_sort_key(life, page))
        await self._calls.put(name | {"events": {"B": pack_events(lines)}})

    async def _spill(self, draft: Draft, life: str, known: Stored | None) -> dict[str, Part]:
        parts: dict[str, Part] = dict(draft.parts)
        before = known.spilled if known else {}
        for name in too_large(draft.parts):
            part, same = draft.parts[name], before.get(name)
            if same is None or same.digest != digest_of(part):
                same = await write_part(self._calls, draft.asked.key, life, part)
            parts[name] = same
        return parts

    async def _of_another_life(self, row: Row, item: Item | None) -> Stored | None:
        """A document that was forgotten and began anew may have come to the same revision."""
        if item is None or row.revision == 0 or revision_of(item) != row.revision:
            return None
        self._reader.forget(row.key)
        return await self._reader.known(row)

    async def _undo(self, draft: Draft, written: _Written, failed: ConditionFailedError) -> None:
        """Pages stay: they hold what was stored before.

        So do all parts when an earlier try may have stored the row: so many writes may have
        followed that it does not know this one any more, and theirs may name the same parts.
        What nobody names goes with the row.
        """
        if not failed.repeated:
            await self._remove_parts(draft.asked.key, written.stored.life, written.new_parts())

    async def _tidy(self, draft: Draft, written: _Written) -> None:
        key, life = draft.asked.key, written.stored.life
        await self._remove_parts(key, life, written.replaced_parts())
        old = [page - KEPT_PAGES for page in written.pages if page >= KEPT_PAGES]
        if old:
            names = [beside(key, page_sort_key(life, page)) for page in old]
            await _best_effort(self._calls.delete_many(names))

    async def _remove_parts(self, key: DocumentKey, life: str, parts: list[Spilled]) -> None:
        if parts:
            await _best_effort(remove_parts(self._calls, key, life, parts))

    async def _remove_beside(self, key: DocumentKey, life: str) -> None:
        await _best_effort(remove_all_beside(self._calls, key, life))


@dataclass(frozen=True, slots=True)
class _Written:
    item: Item
    stored: Stored
    before: Stored | None
    pages: tuple[int, ...]

    def new_parts(self) -> list[Spilled]:
        before = self.before.spilled if self.before else {}
        return [part for name, part in self.stored.spilled.items() if part != before.get(name)]

    def replaced_parts(self) -> list[Spilled]:
        before = self.before.spilled if self.before else {}
        return [part for name, part in before.items() if part != self.stored.spilled.get(name)]


async def _draft_of(row: Row) -> Draft:
    """Raises ValueError for what could not be read again, before anything is written."""
    check_fits(row.key)
    pack_events(lines_of(row.news))
    stored = replace(row, revision=row.revision + 1, news=())
    if len(row.applied.manifest) + len(row.garbage) > _MANY_RANGES:
        parts = await asyncio.to_thread(parts_of_row, stored)
    else:
        parts = parts_of_row(stored)
    return Draft(row, stored, parts, new_id())


def _condition(row: Row, known: Stored | None) -> dict[str, Any]:
    if known is None:
        return {
            "ConditionExpression": f"attribute_not_exists({PARTITION})",
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }
    return {
        "ConditionExpression": "#revision = :revision AND #life = :life",
        "ExpressionAttributeNames": {"#revision": "revision", "#life": "life"},
        "ExpressionAttributeValues": {
            ":revision": {"N": str(row.revision)},
            ":life": {"S": known.life},
        },
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }


def _has(item: Item | None, write: str) -> bool:
    """Whether a write is stored whose answer was lost: the SDK tried again, and met itself."""
    return item is not None and write in writes_of(item)


async def _best_effort(removal: Any) -> None:
    """What is left over costs a little and is never read; it goes with its row at the latest."""
    try:
        await removal
    except TransientError as error:
        log.warning("registry.not_tidied", error=str(error))
