"""A document's history: the newest events lie in the row's item, so that row and history are
written at once; the others in pages of their own. Pure.

Events are numbered from 0 in the order of the writes that told them. Page n holds the events from
n × PAGE_EVENTS on, always that many. A write that finds a page full in the item first stores it as
a page and then leaves it out of the item. What a page holds was stored before, so whoever writes it
writes the same, and a write that comes late or whose row lost its race does no harm.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from common.adapters.registry.dynamodb_item import Stored, pack, unpack
from common.model import Event, EventKind
from common.ports.registry import KEPT_EVENTS
from common.wire import DamagedDataError

PAGE_EVENTS = 32
"""They are paid with every write of the row until they make a page, which costs one more write."""
KEPT_PAGES = -(-KEPT_EVENTS // PAGE_EVENTS) + 1
_CURSOR_DIGITS = 18

Line = list[Any]
"""An event as stored: when, kind, version, detail. A newer program's is passed on as it is."""


@dataclass(frozen=True, slots=True)
class Told:
    """The events of an item from number `first` on."""

    first: int
    lines: list[Line]

    @property
    def end(self) -> int:
        return self.first + len(self.lines)


def told_of(stored: Stored | None) -> Told:
    """What the item holds, pending changes included. Raises DamagedDataError."""
    if stored is None:
        return Told(0, [])
    return Told(stored.told, unpack_events(stored.events) + lines_of(stored.pending))


def lines_of(events: Sequence[Event]) -> list[Line]:
    return [[event.at, event.kind.value, event.version, event.detail] for event in events]


def full_pages(told: Told) -> dict[int, list[Line]]:
    """By number: the pages to be stored before the item is written without them."""
    count = len(told.lines) // PAGE_EVENTS
    first = told.first // PAGE_EVENTS
    starts = range(0, count * PAGE_EVENTS, PAGE_EVENTS)
    return {
        first + n: told.lines[start : start + PAGE_EVENTS]
        for n, start in zip(range(count), starts, strict=True)
    }


def rest_of(told: Told, news: Sequence[Event]) -> Told:
    """What stays in the item, and what is new."""
    paged = len(told.lines) // PAGE_EVENTS * PAGE_EVENTS
    return Told(told.first + paged, told.lines[paged:] + lines_of(news))


def oldest_kept(first: int) -> int:
    """The number of the oldest event that is still told when the item's first is `first`."""
    return max(0, first - KEPT_PAGES * PAGE_EVENTS)


def page_sort_key(life: str, page: int) -> str:
    return f"{life}h{page:016d}"


def page_of(sort_key: str) -> int:
    return int(sort_key[-16:])


def pack_events(lines: Sequence[Line]) -> bytes:
    """b"" for none. Raises ValueError for what could not be read again."""
    if not lines:
        return b""
    text = json.dumps(list(lines), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return pack(text.encode())


def unpack_events(data: bytes) -> list[Line]:
    """Raises DamagedDataError."""
    if not data:
        return []
    try:
        lines: list[Line] = json.loads(unpack(data))
    except (ValueError, zlib.error) as error:
        raise DamagedDataError(f"not a page of history: {error}") from error
    return lines


def event_of(line: Line) -> Event:
    """Raises DamagedDataError."""
    try:
        at, kind, version, detail = line
        return Event(at, EventKind(kind), version, detail)
    except (ValueError, TypeError) as error:
        raise DamagedDataError(f"not an event that this program knows: {line!r}") from error


def number_of(cursor: str) -> int:
    """Raises ValueError for a cursor that no earlier page gave."""
    if not (cursor.isascii() and cursor.isdecimal() and len(cursor) <= _CURSOR_DIGITS):
        raise ValueError(f"{cursor!r} is not a cursor that an earlier page gave")
    return int(cursor)
