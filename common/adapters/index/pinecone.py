"""The index in Pinecone's service, on its asynchronous SDK.

One Pinecone index holds all namespaces, so that all have its dimension; the metric must be cosine.
Reads lag writes without a stated bound: `upsert` returns the number of its write (LSN), and
`wait_visible` asks until queries tell of it. A delete's number is not known (the SDK drops it), and
need not be: what is deleted is in no manifest any more, so that readers pass over it meanwhile.

An answer to a query is at most 4 MB: where `top_k` matches with all their metadata are more, it is
asked for half as many until they fit.

A record's metadata is at most 40 KB. Where the chunk's text does not fit beside the user's, text
and heading path stay in the pack (`Record.text` is None).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

from common.adapters.index import pinecone_limits as limits
from common.adapters.index import pinecone_records as records_
from common.adapters.index.pinecone_calls import Ask, Calls
from common.adapters.index.pinecone_client import Client
from common.adapters.index.pinecone_errors import NotThereError, TooLargeAnswerError, explain
from common.adapters.index.pinecone_filters import condition
from common.adapters.index.pinecone_freshness import Freshness
from common.adapters.index.pinecone_limits import packed
from common.adapters.index.pinecone_namespaces import decoded, encoded
from common.adapters.index.pinecone_rates import Pacer
from common.model import Match, Record, Vector
from common.ports.errors import PermanentError, TransientError
from common.ports.index import (
    DimensionMismatchError,
    FreshnessToken,
    Index,
    MetadataFilter,
)
from common.settings import Settings

if TYPE_CHECKING:
    from pinecone.models.vectors.responses import DescribeIndexStatsResponse

T = TypeVar("T")

__all__ = ["PineconeIndex", "connect"]

METRIC: Final = "cosine"


class PineconeIndex:
    """Belongs to one event loop. `call_seconds` bounds each call, with all its requests and tries.

    An upsert or a delete may take effect after its call failed: ids are never used again, so that
    repeating either is harmless, and whatever lands late is in no manifest.
    """

    lag_seconds = 60.0
    """Pinecone names no bound; usually it takes seconds."""

    def __init__(
        self,
        client: Client,
        *,
        call_seconds: float,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._calls = Calls(Pacer(time.monotonic), call_seconds=call_seconds, pause=pause)
        self._freshness = Freshness(self._look, pause)
        self._dimension: int | None = None

    @property
    def call_seconds(self) -> float:
        """No call takes longer."""
        return self._calls.call_seconds

    async def upsert(self, namespace: str, records: Sequence[Record]) -> FreshnessToken:
        if not records:
            return ""
        until = self._calls.deadline()
        dimension = await self._index_dimension(until)
        ready = await asyncio.to_thread(records_.encode, namespace, records, dimension)
        parts = packed(
            ready,
            lambda one: one.size,
            max_count=limits.UPSERT_RECORDS,
            max_bytes=limits.UPSERT_BYTES,
        )
        numbers = await _together(self._upsert(_name(namespace), part, until) for part in parts)
        return str(max(numbers))

    async def _upsert(self, name: str, part: Sequence[records_.Encoded], until: float) -> int:
        amounts = {"upsert": 1.0, "upserted_bytes": float(sum(one.size for one in part))}
        ask = Ask("upsert", "write to the Pinecone index", name, amounts)
        bodies = [one.body for one in part]

        async def write() -> Any:
            index = await self._client.index()
            return await index.upsert(vectors=bodies, namespace=name)

        answer = await self._calls.run(ask, write, until)
        lsn = answer.response_info.lsn_committed if answer.response_info else None
        if lsn is None:
            raise TransientError(
                "Pinecone did not number a write, so nobody can tell when it shows: is this a "
                "serverless index?"
            )
        return int(lsn)

    async def wait_visible(
        self, namespace: str, token: FreshnessToken, *, timeout_seconds: float
    ) -> None:
        if token:
            await self._freshness.wait(_name(namespace), int(token), timeout_seconds)

    async def _look(self, name: str) -> int | None:
        """How far queries of the namespace show its writes."""
        until = self._calls.deadline()
        vector = [1.0, *[0.0] * (await self._index_dimension(until) - 1)]
        ask = Ask("wait_visible", "ask how fresh the Pinecone index is", name, {"query": 1.0})

        async def look() -> Any:
            index = await self._client.index()
            return await index.query(vector=vector, top_k=1, namespace=name)

        answer = await self._in_namespace(ask, look, until)
        return answer.response_info.lsn_reconciled if answer and answer.response_info else None

    async def delete(self, namespace: str, ids: Sequence[str]) -> None:
        name, until = _name(namespace), self._calls.deadline()
        unique = list(dict.fromkeys(ids))
        parts = packed(unique, len, max_count=limits.DELETE_IDS, max_bytes=limits.UPSERT_BYTES // 2)
        await _together(self._delete(name, part, until) for part in parts)

    async def _delete(self, name: str, ids: list[str], until: float) -> None:
        amounts = {"delete": 1.0, "deleted_records": float(len(ids))}
        ask = Ask("delete", "delete from the Pinecone index", name, amounts)

        async def delete() -> None:
            index = await self._client.index()
            await index.delete(ids=ids, namespace=name)

        await self._in_namespace(ask, delete, until)

    async def query(
        self,
        namespace: str,
        vector: Vector[float],
        *,
        top_k: int,
        where: MetadataFilter | None = None,
    ) -> list[Match]:
        name, until = _name(namespace), self._calls.deadline()
        dimension = await self._index_dimension(until)
        if len(vector) != dimension:
            raise records_.mismatch(namespace, dimension, len(vector))
        filter_ = condition(where) if where is not None else None
        wanted = min(top_k, limits.TOP_K)
        answer = await self._queried(name, vector.tolist(), wanted, filter_, until)
        if answer is None:
            return []
        if answer.response_info:
            self._freshness.seen(name, answer.response_info.lsn_reconciled)
        found = [records_.match(one.id, one.score, one.metadata) for one in answer.matches]
        # Pinecone promises no order; ties must not change places between two equal queries.
        return sorted(filter(None, found), key=lambda one: (-one.score, one.id))

    async def _queried(
        self, name: str, values: list[float], wanted: int, filter_: Any, until: float
    ) -> Any:
        """The answer with the `wanted` nearest, or with as many of them as fit into one."""
        ask = Ask("query", "query the Pinecone index", name, {"query": 1.0})

        async def query() -> Any:
            index = await self._client.index()
            return await index.query(
                vector=values, top_k=wanted, namespace=name, filter=filter_, include_metadata=True
            )

        while True:
            try:
                return await self._in_namespace(ask, query, until)
            except TooLargeAnswerError:
                if wanted == 1:
                    raise
                wanted //= 2

    async def fetch(self, namespace: str, ids: Sequence[str]) -> list[Record]:
        name, until = _name(namespace), self._calls.deadline()
        parts = packed(
            list(dict.fromkeys(ids)),
            lambda record_id: len(quote(record_id, safe="")) + len("&ids="),
            max_count=limits.FETCH_IDS,
            max_bytes=limits.FETCH_URL_BYTES,
        )
        found = await _together(self._fetch(name, part, until) for part in parts)
        return [record for part in found for record in part]

    async def _fetch(self, name: str, ids: list[str], until: float) -> list[Record]:
        ask = Ask("fetch", "read from the Pinecone index", name, {"fetch": 1.0})

        async def fetch() -> Any:
            index = await self._client.index()
            return await index.fetch(ids=ids, namespace=name)

        answer = await self._in_namespace(ask, fetch, until)
        held = answer.vectors.values() if answer is not None else []
        found = [records_.record(one.id, one.values, one.metadata) for one in held]
        return [record for record in found if record is not None]

    async def list_ids(self, namespace: str, prefix: str = "") -> AsyncIterator[str]:
        name = _name(namespace)
        cursor: str | None = None
        while True:
            ids, cursor = await self._page(name, prefix, cursor)
            for record_id in ids:
                yield record_id
            if cursor is None:
                return

    async def _page(
        self, name: str, prefix: str, cursor: str | None
    ) -> tuple[list[str], str | None]:
        ask = Ask("list", "list the Pinecone index", name, {"list": 1.0})

        async def page() -> Any:
            index = await self._client.index()
            return await index.list_paginated(
                prefix=prefix or None,
                limit=limits.LIST_IDS,
                pagination_token=cursor,
                namespace=name,
            )

        answer = await self._in_namespace(ask, page, self._calls.deadline())
        if answer is None:
            return [], None
        following = answer.pagination.next if answer.pagination else None
        return [item.id for item in answer.vectors if item.id], following or None

    async def count(self, namespace: str) -> int:
        stats = await self._stats(self._calls.deadline())
        held = stats.namespaces.get(_name(namespace))
        return held.vector_count if held else 0

    async def namespaces(self) -> list[str]:
        stats = await self._stats(self._calls.deadline())
        held = [decoded(name) for name, space in stats.namespaces.items() if space.vector_count]
        return sorted(name for name in held if name is not None)

    async def check(self) -> str:
        """As `ports.check` says. A line such as 'documents: 384 dimensions, cosine, …'."""
        try:
            return await self._check()
        except NotThereError as error:
            raise PermanentError(str(error)) from error
        except TransientError as error:
            # The same failure that may pass at run time is told at once at the start.
            cause = error.__cause__
            raise (explain(cause, _CHECKING).at_start() if cause else error) from cause

    async def _check(self) -> str:
        until = self._calls.deadline()
        described = await self._client.description(self._calls, until)
        stats = await self._stats(until)
        metric = described.metric if described else stats.metric
        name = self._client.name
        if metric not in (None, METRIC):
            raise PermanentError(
                f"the Pinecone index {name} has the metric {metric}, BloomWeaver needs {METRIC}: "
                "create another, the metric of an index cannot be changed"
            )
        if described and not described.ready:
            raise TransientError(f"the Pinecone index {name} is not ready yet")
        if stats.dimension is None:
            raise PermanentError(f"the Pinecone index {name} is not for dense vectors")
        return (
            f"{name}: {stats.dimension} dimensions, {metric or 'unknown metric'}, "
            f"{stats.total_vector_count} records in {len(stats.namespaces)} namespaces"
        )

    async def dimension(self) -> int:
        """Of all vectors in the index."""
        return await self._index_dimension(self._calls.deadline())

    async def check_dimension(self, dimension: int) -> None:
        """Raises DimensionMismatchError, with the mend, unless the index takes such vectors."""
        held = await self.dimension()
        if held != dimension:
            raise DimensionMismatchError(
                f"the Pinecone index {self._client.name} has {held} dimensions and the embedding "
                f"model makes {dimension}: create an index with {dimension} dimensions and metric "
                f"{METRIC} and set BLOOMWEAVER_INDEX_URL to it, or set BLOOMWEAVER_EMBEDDER_URL to "
                f"a model of {held} dimensions"
            )

    async def close(self) -> None:
        await self._client.close()

    async def _index_dimension(self, until: float) -> int:
        if self._dimension is None:
            self._dimension = (await self._stats(until)).dimension
        if self._dimension is None:
            raise PermanentError(f"the Pinecone index {self._client.name} has no dense vectors")
        return self._dimension

    async def _stats(self, until: float) -> DescribeIndexStatsResponse:
        ask = Ask("stats", f"reach the Pinecone index {self._client.name}")

        async def stats() -> DescribeIndexStatsResponse:
            return await (await self._client.index()).describe_index_stats()

        return await self._calls.run(ask, stats, until)

    async def _in_namespace(
        self, ask: Ask, call: Callable[[], Awaitable[T]], until: float
    ) -> T | None:
        """None for a namespace that was never written: Pinecone may answer 404.

        A host without such an index answers the same, and must not pass for an empty namespace.
        """
        try:
            return await self._calls.run(ask, call, until)
        except NotThereError:
            await self._stats(until)
            return None


_CHECKING: Final = "use the Pinecone index"


def _name(namespace: str) -> str:
    name = encoded(namespace)
    if len(name) > limits.NAMESPACE_CHARACTERS:
        raise PermanentError(f"the namespace {namespace[:40]!r}… is too long for Pinecone")
    return name


async def _together(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order. The first failure ends the others, and is raised once they ended."""
    tasks: list[asyncio.Task[T]] = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


def connect(url: str, settings: Settings, receiver: str) -> Index:
    """`pinecone:NAME` asks the control plane for the host; `pinecone:https://HOST` names it.

    Raises PermanentError for settings that cannot work.
    """
    address = url.partition(":")[2]
    if not address:
        raise PermanentError(
            "BLOOMWEAVER_INDEX_URL=pinecone: names no index: pinecone:NAME or pinecone:https://HOST"
        )
    if "@" in address or "@" in settings.pinecone_control_url:
        raise PermanentError(
            "BLOOMWEAVER_INDEX_URL and BLOOMWEAVER_PINECONE_CONTROL_URL must hold no user or "
            "password, they are logged: set BLOOMWEAVER_PINECONE_API_KEY"
        )
    if settings.max_metadata_bytes > limits.USER_METADATA_BYTES:
        raise PermanentError(
            f"BLOOMWEAVER_MAX_METADATA_BYTES={settings.max_metadata_bytes} is more than Pinecone "
            f"keeps with a record: at most {limits.USER_METADATA_BYTES}"
        )
    call_seconds = min(settings.request_timeout_seconds, settings.attempt_lease_seconds / 2)
    client = Client(
        address,
        api_key=_api_key(settings),
        control_url=settings.pinecone_control_url,
        timeout_seconds=call_seconds,
    )
    return PineconeIndex(client, call_seconds=call_seconds)


def _api_key(settings: Settings) -> str:
    given = settings.pinecone_api_key
    key = given.get_secret_value() if given else os.environ.get("PINECONE_API_KEY", "")
    if not key.strip():
        raise PermanentError("Pinecone needs a key: set BLOOMWEAVER_PINECONE_API_KEY")
    return key.strip()
