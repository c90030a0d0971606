"""The registry on DynamoDB: `BLOOMWEAVER_REGISTRY_URL=dynamodb:TABLE`.

One table for everything: rows, history, large parts, namespaces (dynamodb_item tells the layout,
dynamodb_table the keys, the indexes and what they bear). A row is read strongly consistently and
written by one conditional write; a change is accepted by one UpdateItem that reads nothing before
(dynamodb_accept).

What it costs, in requests: get 1, put_if 1 and delete_if 2 (one more where this process has not
read the row), accept 1. `due` asks each shard of the sweep index once and reads the rows it finds.
`counts` reads the whole status index, about 1 MB for 8,000 documents, one call each; so it is asked
once for all who ask at a time, and its answer is kept for ten seconds, or for ten times as long as
it took.

moto and ministack decide all conditions as DynamoDB does. They differ from it, and no test rests on
that: both read their indexes consistently, where DynamoDB is behind by some milliseconds; neither
throttles nor leaves keys of a batch unprocessed; both end a page by its count, while only ministack
ends it with a cursor when nothing follows, as DynamoDB does; moto answers an UpdateItem that made
the item with its key, too.
"""

from __future__ import annotations

from collections.abc import Sequence

from common.adapters.registry.dynamodb_accept import accept_request
from common.adapters.registry.dynamodb_events import (
    PAGE_EVENTS,
    Line,
    event_of,
    number_of,
    oldest_kept,
    page_of,
    page_sort_key,
    told_of,
    unpack_events,
)
from common.adapters.registry.dynamodb_item import Stored, check_fits, new_id, version_of
from common.adapters.registry.dynamodb_listing import Listing
from common.adapters.registry.dynamodb_pieces import items_beside
from common.adapters.registry.dynamodb_reader import RowReader
from common.adapters.registry.dynamodb_table import faults_of
from common.adapters.registry.dynamodb_writer import RowWriter
from common.aws.errors import AwsSetupError
from common.aws.table_calls import PARTITION, SORT, ConditionFailedError, Item, TableCalls
from common.model import Desired, DocumentKey, EmbeddingProfile, Row, Status
from common.ports.registry import Found, History, NamespaceCounts, Page
from common.settings import Settings
from common.wire import profile_from_json, profile_to_json

__all__ = ["DynamoDbRegistry"]

_NAMESPACES = {"S": "N"}
_NAMESPACE_MARK = "n"
"""A sort key cannot be empty, and a namespace may."""


class DynamoDbRegistry:
    """Implements Registry, IdListingRegistry, AcceptingRegistry and Checkable."""

    def __init__(self, table: str, *, deadline_seconds: float) -> None:
        self._calls = TableCalls(table, deadline_seconds)
        self._reader = RowReader(self._calls)
        self._writer = RowWriter(self._calls, self._reader)
        self._listing = Listing(self._calls, self._reader)

    async def close(self) -> None:
        await self._calls.close()

    async def check(self) -> str:
        """Raises AwsSetupError for a table that is missing or of another shape."""
        described = await self._calls.describe()
        if faults := faults_of(described):
            raise AwsSetupError(
                f"the table {self._calls.name} cannot hold the registry: {'; '.join(faults)}: "
                "make it anew as deployed with this version"
            )
        return f"{self._calls.name}: {described.get('ItemCount', 0):,} items when last counted"

    async def get(self, key: DocumentKey) -> Row | None:
        stored = await self._reader.read(key)
        return stored.row if stored else None

    async def get_many(self, keys: Sequence[DocumentKey]) -> dict[DocumentKey, Row]:
        items = await self._reader.items(keys)
        rows = [row for item in items if (row := await self._reader.row(item)) is not None]
        return {row.key: row for row in rows}

    async def put_if(self, row: Row) -> Row | None:
        return await self._writer.put_if(row)

    async def delete_if(self, row: Row) -> bool:
        return await self._writer.delete_if(row)

    async def accept_blind(
        self, key: DocumentKey, change: Desired, *, now: float, stale_after_seconds: float
    ) -> int | Found:
        check_fits(key)
        write = new_id()
        stale_at = now + stale_after_seconds
        request = accept_request(key, change, write=write, now=now, stale_at=stale_at)
        if request is None:
            return Found(await self.get(key))
        name = self._calls.name
        try:
            answer = await self._calls.call(
                "accept a change", lambda db: db.update_item(TableName=name, **request)
            )
        except ConditionFailedError as failed:
            if failed.item is None:
                return Found(None)
            version = version_of(failed.item, write)
            return Found(await self._reader.row(failed.item)) if version is None else version
        return int(answer["Attributes"]["version"]["N"])

    async def history(
        self, key: DocumentKey, *, limit: int = 100, cursor: str | None = None
    ) -> History:
        """Raises ValueError for a cursor that no earlier page gave."""
        before = None if cursor is None else number_of(cursor)
        stored = await self._reader.read(key)
        if stored is None:
            return History([], None)
        told = told_of(stored)
        end = told.end if before is None else min(before, told.end)
        oldest = oldest_kept(told.first)
        first = max(oldest, end - limit)
        numbered = dict(enumerate(told.lines, told.first))
        if first < told.first:
            numbered |= await self._paged(key, stored, first, min(end, told.first))
        newest_first = range(end - 1, first - 1, -1)
        shown = [event_of(numbered[n]) for n in newest_first if n in numbered]
        return History(shown, str(first) if first > oldest and end > first else None)

    async def _paged(
        self, key: DocumentKey, stored: Stored, first: int, end: int
    ) -> dict[int, Line]:
        """The events by number, of all pages that hold some from `first` to before `end`."""
        low = page_sort_key(stored.life, first // PAGE_EVENTS)
        high = page_sort_key(stored.life, max(first, end - 1) // PAGE_EVENTS)
        numbered: dict[int, Line] = {}
        for item in await items_beside(self._calls, key, low, high):
            start = page_of(item[SORT]["S"]) * PAGE_EVENTS
            numbered |= enumerate(unpack_events(bytes(item["events"]["B"])), start)
        return numbered

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
        return await self._listing.scan(namespace, status, prefix, cursor, limit)

    async def document_ids(self, namespace: str, *, after: str, limit: int) -> list[str]:
        return await self._listing.document_ids(namespace, after, limit)

    async def due(self, *, before: float, limit: int) -> list[Row]:
        return await self._listing.due(before, limit)

    async def counts(self) -> list[NamespaceCounts]:
        return await self._listing.counts()

    async def bind_namespace(self, namespace: str, profile: EmbeddingProfile) -> EmbeddingProfile:
        binding = {**_name_of(namespace), "profile": {"S": profile_to_json(profile)}}
        try:
            await self._calls.put(
                binding,
                ConditionExpression=f"attribute_not_exists({PARTITION})",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except ConditionFailedError as failed:
            # Never unbound: what made the condition fail is there.
            bound = failed.item or {}
            return profile_from_json(bound["profile"]["S"])
        return profile

    async def binding(self, namespace: str) -> EmbeddingProfile | None:
        item = await self._calls.get(_name_of(namespace))
        return profile_from_json(item["profile"]["S"]) if item else None

    async def namespaces(self) -> dict[str, EmbeddingProfile]:
        pages = self._calls.query(
            "list namespaces",
            KeyConditionExpression=f"{PARTITION} = :namespaces",
            ExpressionAttributeValues={":namespaces": _NAMESPACES},
            ConsistentRead=True,
        )
        bound = [item async for page in pages for item in page]
        return {item[SORT]["S"][1:]: profile_from_json(item["profile"]["S"]) for item in bound}


def _name_of(namespace: str) -> Item:
    return {PARTITION: _NAMESPACES, SORT: {"S": _NAMESPACE_MARK + namespace}}


def connect(url: str, settings: Settings, receiver: str) -> DynamoDbRegistry:
    """`dynamodb:TABLE`; region and credentials as for every AWS program."""
    table = url.partition(":")[2]
    if not table:
        raise AwsSetupError(
            f"BLOOMWEAVER_REGISTRY_URL={url!r} names no table: set it to dynamodb:TABLE"
        )
    return DynamoDbRegistry(table, deadline_seconds=settings.request_timeout_seconds)
