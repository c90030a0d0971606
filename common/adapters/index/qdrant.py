"""The index on a Qdrant server. A namespace is a collection; `qdrant_payload` says what is in it.

Durability and visibility. Writes ask the server to wait until they are applied: its log holds them
then, and queries see them.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from common.adapters.index.batches import batches, id_batches
from common.adapters.index.dimensions import common_dimension, require_dimension
from common.adapters.index.qdrant_filters import Condition, of_document, whole_filter
from common.adapters.index.qdrant_payload import fields
from common.adapters.index.scores import cosine
from common.adapters.index.server_connection import LateConnection
from common.adapters.index.server_errors import NotThereError, at_start
from common.adapters.index.server_url import ServerUrl, parse_server_url, require_library
from common.model import Match, Record, Vector
from common.ports.errors import PermanentError
from common.ports.index import FreshnessToken, Index, MetadataFilter
from common.settings import Settings

if TYPE_CHECKING:
    from qdrant_client import models

    from common.adapters.index.qdrant_connection import QdrantConnection

__all__ = ["QdrantIndex", "connect"]

RECORDS_A_CALL: Final = 64
"""Put into JSON, or taken out of it, in 15 to 30 ms, which stops the event loop for as long."""
IDS_A_CALL: Final = 500
OLDEST_VERSION: Final = (1, 10)
"""It brought the query API."""

T = TypeVar("T")


class QdrantIndex:
    """Implements the index port, Checkable and DimensionChecking. Connects at the first call."""

    def __init__(self, server: ServerUrl, *, api_key: str | None, timeout_seconds: float) -> None:
        self._where = server
        self._connection: LateConnection[QdrantConnection] = LateConnection(
            "common.adapters.index.qdrant_connection",
            lambda module: module.QdrantConnection(
                server.base, api_key=api_key, timeout_seconds=timeout_seconds
            ),
        )
        self._dimensions: dict[str, int] = {}
        self._indexed: set[str] = set()
        """Namespaces whose document keys have an index for certain."""

    async def upsert(self, namespace: str, records: Sequence[Record]) -> FreshnessToken:
        if records:
            dimension = common_dimension(namespace, records)
            for part in batches(records, RECORDS_A_CALL):
                await self._write(namespace, dimension, part)
        return ""

    async def wait_visible(
        self, namespace: str, token: FreshnessToken, *, timeout_seconds: float
    ) -> None:
        """Writes are visible when they return."""

    async def delete(self, namespace: str, ids: Sequence[str]) -> None:
        for part in id_batches(ids, IDS_A_CALL):
            await self._on(namespace, partial(_delete, part))

    async def query(
        self,
        namespace: str,
        vector: Vector[float],
        *,
        top_k: int,
        where: MetadataFilter | None = None,
    ) -> list[Match]:
        """Raises DimensionMismatchError when `vector` has another dimension.

        Exact with a filter, nearly so without.
        """
        held = await self._dimension(namespace)
        if held is None or top_k < 1:
            return []
        require_dimension(namespace, held, len(vector))
        wanted = None if where is None else whole_filter(where)
        nearest = vector.tolist()
        found = await self._on(namespace, lambda c, name: c.nearest(name, nearest, top_k, wanted))
        return [_match(point) for point in found or []]

    async def fetch(self, namespace: str, ids: Sequence[str]) -> list[Record]:
        """Vectors come back normalised."""
        found: list[models.Record] = []
        for part in id_batches(ids, RECORDS_A_CALL):
            found += await self._on(namespace, partial(_fetch, part)) or []
        return [_record(point) for point in found]

    async def list_ids(self, namespace: str, prefix: str = "") -> AsyncIterator[str]:
        """In pages; a prefix that holds a document key reads that document only."""
        where = of_document(prefix)
        page = await self._on(namespace, partial(_page, where, None))
        while page is not None:
            ids, following = page
            for record_id in ids:
                if record_id.startswith(prefix):
                    yield record_id
            if following is None:
                return
            page = await self._on(namespace, partial(_page, where, following))

    async def count(self, namespace: str) -> int:
        return await self._on(namespace, lambda c, name: c.count(name)) or 0

    async def namespaces(self) -> list[str]:
        """In order of name, those whose records were all deleted included."""
        connection = await self._connection.opened()
        found = [self._where.names.namespace_of(name) for name in await connection.collections()]
        return sorted(namespace for namespace in found if namespace is not None)

    async def close(self) -> None:
        await self._connection.close()

    async def check(self) -> str:
        """Reached, let in, and new enough."""
        connection = await self._connection.opened()
        address = "the address in BLOOMWEAVER_INDEX_URL"
        with at_start(key="BLOOMWEAVER_QDRANT_API_KEY", address=address):
            version = await connection.version()
            namespaces = await self.namespaces()
        if _numbers(version) < OLDEST_VERSION:
            needed = ".".join(map(str, OLDEST_VERSION))
            raise PermanentError(f"Qdrant {version} is too old: {needed} or newer is needed")
        return f"Qdrant {version} at {self._where.base}: {len(namespaces)} namespaces"

    async def check_dimension(self, dimension: int) -> None:
        """Raises DimensionMismatchError if a namespace of ours has another."""
        connection = await self._connection.opened()
        for namespace in await self.namespaces():
            held = await connection.dimension(self._where.names.of(namespace))
            require_dimension(namespace, held, dimension)

    # A namespace's collection.

    async def _dimension(self, namespace: str) -> int | None:
        """None: nothing was ever written to the namespace."""
        if namespace not in self._dimensions:
            connection = await self._connection.opened()
            held = await connection.dimension(self._where.names.of(namespace))
            if held is None:
                return None
            self._dimensions[namespace] = held
        return self._dimensions[namespace]

    async def _write(self, namespace: str, dimension: int, records: Sequence[Record]) -> None:
        connection = await self._connection.opened()
        name = self._where.names.of(namespace)
        await self._prepare(namespace, dimension)
        try:
            await connection.upsert(name, records)
        except NotThereError:  # someone deleted the collection since
            self._forget(namespace)
            await self._prepare(namespace, dimension)
            await connection.upsert(name, records)

    async def _prepare(self, namespace: str, dimension: int) -> None:
        """The collection and its index are there. A rival that creates the collection too, and
        first, gave it the dimension that counts."""
        connection = await self._connection.opened()
        name = self._where.names.of(namespace)
        held = await self._dimension(namespace)
        if held is None:
            await connection.create(name, dimension)
            held = await self._dimension(namespace)
        require_dimension(namespace, held, dimension)
        if namespace not in self._indexed:
            await connection.index_document_keys(name)
            self._indexed.add(namespace)

    def _forget(self, namespace: str) -> None:
        self._dimensions.pop(namespace, None)
        self._indexed.discard(namespace)

    async def _on(
        self, namespace: str, call: Callable[[QdrantConnection, str], Awaitable[T]]
    ) -> T | None:
        """None when there is no such collection, or no longer."""
        connection = await self._connection.opened()
        if await self._dimension(namespace) is None:
            return None
        try:
            return await call(connection, self._where.names.of(namespace))
        except NotThereError:
            self._forget(namespace)
            if await self._dimension(namespace) is None:
                return None
            raise


async def _delete(ids: list[str], connection: QdrantConnection, name: str) -> None:
    await connection.delete(name, ids)


async def _fetch(ids: list[str], connection: QdrantConnection, name: str) -> list[models.Record]:
    return await connection.fetch(name, ids)


async def _page(
    where: Condition | None, offset: object, connection: QdrantConnection, name: str
) -> tuple[list[str], object]:
    return await connection.page_of_ids(name, where, offset, IDS_A_CALL)


def _match(point: models.ScoredPoint) -> Match:
    return Match(score=cosine(point.score), **fields(_payload(point)))


def _record(point: models.Record) -> Record:
    vector: Any = point.vector
    return Record(vector=array("f", vector), **fields(_payload(point)))


def _payload(point: models.ScoredPoint | models.Record) -> dict[str, Any]:
    if point.payload is None or "id" not in point.payload:
        raise PermanentError(f"point {point.id} in the index is not one of ours")
    return point.payload


def _numbers(version: str) -> tuple[int, ...]:
    """(1, 16, 3) of 1.16.3-dev."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def connect(url: str, settings: Settings, receiver: str) -> Index:
    """`qdrant:http://HOST:6333?prefix=…`. Raises PermanentError."""
    require_library("qdrant_client", "qdrant")
    key = settings.qdrant_api_key.get_secret_value() if settings.qdrant_api_key else None
    return QdrantIndex(
        parse_server_url(url), api_key=key, timeout_seconds=settings.request_timeout_seconds
    )
