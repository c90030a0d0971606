"""What is asked of many rows: pages in order of document id, what is due, and counts."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from common.adapters.registry.document_order import cursor_of, document_id_of, end_of_prefix
from common.adapters.registry.dynamodb_item import key_of, number, row_partition
from common.adapters.registry.dynamodb_reader import RowReader
from common.adapters.registry.dynamodb_table import (
    STATUS_INDEX,
    SWEEP_INDEX,
    SWEEP_SHARDS,
)
from common.aws.table_calls import PARTITION, SORT, Item, TableCalls
from common.model import DocumentKey, Row, Status
from common.ports.registry import NamespaceCounts, Page
from common.single_flight import SingleFlight

COUNTS_KEPT_SECONDS, COUNTS_KEPT_TIMES = 10.0, 10.0
_MAX_SORT_KEY_BYTES = 1024
_DOCUMENTS = "documents"
_SUMMED = ("chunk_count", "size_bytes")
_NOTHING = {"N": "0"}


@dataclass(frozen=True, slots=True)
class Span:
    """Document ids of a namespace that begin with `prefix` and come after `after`."""

    namespace: str
    prefix: str = ""
    after: str | None = None

    def has(self, document_id: str) -> bool:
        return document_id.startswith(self.prefix) and (
            self.after is None or document_id > self.after
        )

    def condition(self) -> dict[str, Any] | None:
        """What Query takes; it finds a little more than the span. None: nothing is in it."""
        low, high = max(self.prefix, self.after or ""), end_of_prefix(self.prefix)
        values: Item = {":partition": {"S": row_partition(self.namespace)}}
        if len(low.encode()) > _MAX_SORT_KEY_BYTES or (high is not None and low > high):
            return None
        if high is not None and len(high.encode()) > _MAX_SORT_KEY_BYTES:
            high = low  # The prefix is as long as an id can be.
        names = f"{PARTITION} = :partition"
        if high is not None:
            names += f" AND {SORT} BETWEEN :low AND :high"
            values |= {":low": {"S": low}, ":high": {"S": high}}
        elif low:
            names += f" AND {SORT} >= :low"
            values[":low"] = {"S": low}
        return {"KeyConditionExpression": names, "ExpressionAttributeValues": values}


class Listing:
    def __init__(self, calls: TableCalls, reader: RowReader) -> None:
        self._calls = calls
        self._reader = reader
        self._counting: SingleFlight[str, list[NamespaceCounts]] = SingleFlight()
        self._counted: list[NamespaceCounts] = []
        self._counted_until = 0.0

    async def scan(
        self, namespace: str, status: Status | None, prefix: str, cursor: str | None, limit: int
    ) -> Page:
        span = Span(namespace, prefix, None if cursor is None else _place_of(cursor))
        few = None if status is None else await self._few_with(status, span)
        if few is not None:
            return await self._page_of(few, status, limit)
        rows: list[Row] = []
        async for item in self._items(span, limit + 2, status):
            row = await self._reader.row(item)
            if row is not None and status in (None, row.status):
                rows.append(row)
            if len(rows) > limit:
                break
        return _page(rows, limit)

    async def document_ids(self, namespace: str, after: str, limit: int) -> list[str]:
        span = Span(namespace, after=after or None)
        found: list[str] = []
        async for item in self._items(span, limit + 1, names_only=True):
            found.append(item[SORT]["S"])
            if len(found) == limit:
                break
        return found

    async def due(self, before: float, limit: int) -> list[Row]:
        """The index may be behind: what it names is read, and left out when it is due no more."""
        shards = range(SWEEP_SHARDS)
        found = await _together([self._due_in(shard, before, limit) for shard in shards])
        ripe = sorted(
            (float(item["sweep_at"]["N"]), key_of(item)) for shard in found for item in shard
        )
        rows = await self._reader.readable_rows([key for _, key in ripe[:limit]])
        due = [(r.sweep_at, r.key, r) for r in rows if r.sweep_at is not None]
        return [row for at, _, row in sorted(due, key=lambda d: d[:2]) if at <= before]

    async def counts(self) -> list[NamespaceCounts]:
        if time.monotonic() < self._counted_until:
            return self._counted
        counted, _ = await self._counting.run("counts", self._count)
        return counted

    async def _count(self) -> list[NamespaceCounts]:
        began = time.monotonic()
        found = await _together([self._count_of(status) for status in Status])
        self._counted = _summed(dict(zip(Status, found, strict=True)))
        took = time.monotonic() - began
        kept = max(COUNTS_KEPT_SECONDS, COUNTS_KEPT_TIMES * took)
        self._counted_until = time.monotonic() + kept
        return self._counted

    async def _count_of(self, status: Status) -> dict[str, Counter[str]]:
        """DOCUMENTS, and the sums of _SUMMED, by namespace."""
        sums: dict[str, Counter[str]] = {}
        projection = ", ".join((PARTITION, *_SUMMED))
        pages = self._calls.query("count documents", ProjectionExpression=projection, **_by(status))
        async for page in pages:
            for item in page:
                counted = sums.setdefault(item[PARTITION]["S"][1:], Counter())
                counted[_DOCUMENTS] += 1
                for name in _SUMMED:
                    # Of an earlier release there may be no size yet.
                    counted[name] += int(item.get(name, _NOTHING)["N"])
        return sums

    async def _due_in(self, shard: int, before: float, limit: int) -> list[Item]:
        found: list[Item] = []
        pages = self._calls.query(
            "find what is due",
            IndexName=SWEEP_INDEX,
            KeyConditionExpression="sweep_shard = :shard AND sweep_at <= :before",
            ExpressionAttributeValues={":shard": {"N": str(shard)}, ":before": number(before)},
            Limit=limit,
        )
        async for page in pages:
            found += page
            if len(found) >= limit:
                break
        return found

    async def _few_with(self, status: Status, span: Span) -> list[DocumentKey] | None:
        """Those of one page of the status index, in order; None: there are more.

        Where few have a status, the index names them; where many have it, most rows of the
        namespace do, and reading them in order wastes little.
        """
        found, following = await self._calls.query_page("find documents by status", **_by(status))
        if following:
            return None
        keys = (key_of(item) for item in found)
        return sorted(k for k in keys if k.namespace == span.namespace and span.has(k.document_id))

    async def _page_of(
        self, keys: Sequence[DocumentKey], status: Status | None, limit: int
    ) -> Page:
        rows: list[Row] = []
        for start in range(0, len(keys), limit + 1):
            items = await self._reader.items(keys[start : start + limit + 1])
            found = [row for item in items if (row := await self._reader.row(item)) is not None]
            rows += sorted((r for r in found if r.status is status), key=lambda row: row.key)
            if len(rows) > limit:
                break
        return _page(rows, limit)

    async def _items(
        self, span: Span, limit: int, status: Status | None = None, *, names_only: bool = False
    ) -> AsyncIterator[Item]:
        """In order of document id; strongly consistent."""
        query = span.condition()
        if query is None:
            return
        if names_only:
            query["ProjectionExpression"] = SORT
        if status is None:
            query["Limit"] = limit
        else:
            query["FilterExpression"] = "#status = :status"
            query["ExpressionAttributeNames"] = {"#status": "status"}
            query["ExpressionAttributeValues"][":status"] = {"S": status.value}
        async for page in self._calls.query("list documents", ConsistentRead=True, **query):
            for item in page:
                if span.has(item[SORT]["S"]):
                    yield item


def _page(rows: list[Row], limit: int) -> Page:
    """`rows`: one more than `limit` where others follow."""
    shown = rows[:limit]
    more = len(rows) > limit
    return Page(shown, cursor_of(shown[-1].key.document_id) if more else None)


def _place_of(cursor: str) -> str:
    after = document_id_of(cursor)
    if len(after.encode()) > _MAX_SORT_KEY_BYTES:
        raise ValueError(f"{cursor!r} is not a cursor that an earlier page gave")
    return after


def _by(status: Status) -> dict[str, Any]:
    return {
        "IndexName": STATUS_INDEX,
        "KeyConditionExpression": "#status = :status",
        "ExpressionAttributeNames": {"#status": "status"},
        "ExpressionAttributeValues": {":status": {"S": status.value}},
    }


def _summed(found: dict[Status, dict[str, Counter[str]]]) -> list[NamespaceCounts]:
    counted = []
    for name in sorted({name for sums in found.values() for name in sums}):
        sums = {status: of_all[name] for status, of_all in found.items() if name in of_all}
        documents = {status: of_one[_DOCUMENTS] for status, of_one in sums.items()}
        chunks, sizes = (sum(of_one[what] for of_one in sums.values()) for what in _SUMMED)
        counted.append(NamespaceCounts(name, documents, chunks, sizes))
    return counted


async def _together(asked: Sequence[Any]) -> list[Any]:
    """All answers, in order; the first error ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in asked]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
