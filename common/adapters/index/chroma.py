"""The index on a Chroma server. A namespace is a collection; `chroma_fields` says what is in it.

Durability. The server's log is SQLite's: a write that was answered survives the server's death.
Visibility. The server looks through what it has not indexed yet, so that a write is visible when it
returns.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

from common.adapters.index import chroma_fields, chroma_filters
from common.adapters.index.batches import batches, id_batches
from common.adapters.index.dimensions import common_dimension, require_dimension
from common.adapters.index.filter_matching import matches
from common.adapters.index.server_connection import LateConnection
from common.adapters.index.server_errors import NotThereError, at_start
from common.adapters.index.server_url import ServerUrl, parse_server_url, require_library
from common.model import Match, Record, Vector
from common.ports.errors import PermanentError
from common.ports.index import FreshnessToken, Index, MetadataFilter
from common.settings import Settings

if TYPE_CHECKING:
    from chromadb.api.models.AsyncCollection import AsyncCollection

    from common.adapters.index.chroma_connection import ChromaConnection

__all__ = ["ChromaIndex", "connect"]

RECORDS_A_CALL: Final = 100
"""Put into JSON, or taken out of it, in 20 to 30 ms, which stops the event loop for as long."""
IDS_A_CALL: Final = 500
IDS_A_RANGE: Final = 5000
"""Listed with one call."""
BREADTH: Final = 8
"""How much more is asked for in each round, when the filter is applied on this side."""

T = TypeVar("T")


class ChromaIndex:
    """Implements the index port, Checkable and DimensionChecking. Connects at the first call."""

    def __init__(self, server: ServerUrl, *, token: str | None, timeout_seconds: float) -> None:
        self._where = server
        self._connection: LateConnection[ChromaConnection] = LateConnection(
            "common.adapters.index.chroma_connection",
            lambda module: module.ChromaConnection(
                server.base,
                token=token,
                tenant=server.options.get("tenant"),
                database=server.options.get("database"),
                timeout_seconds=timeout_seconds,
            ),
        )
        self._collections: dict[str, AsyncCollection] = {}

    async def upsert(self, namespace: str, records: Sequence[Record]) -> FreshnessToken:
        if not records:
            return ""
        dimension = common_dimension(namespace, records)
        connection = await self._connection.opened()
        size = min(RECORDS_A_CALL, await connection.most_records())
        unique = list({record.id: record for record in records}.values())
        for part in batches(unique, size):
            await self._write(namespace, dimension, part)
        return ""

    async def wait_visible(
        self, namespace: str, token: FreshnessToken, *, timeout_seconds: float
    ) -> None:
        """Writes are visible when they return."""

    async def delete(self, namespace: str, ids: Sequence[str]) -> None:
        for part in id_batches(ids, IDS_A_CALL):
            await self._on(namespace, "delete", partial(_deleted, part))

    async def query(
        self,
        namespace: str,
        vector: Vector[float],
        *,
        top_k: int,
        where: MetadataFilter | None = None,
    ) -> list[Match]:
        """Raises DimensionMismatchError when `vector` has another dimension. Nearly exact."""
        collection = await self._collection(namespace)
        if collection is None or top_k < 1:
            return []
        _require_dimension(namespace, collection, len(vector))
        condition = None if where is None else chroma_filters.condition(where)
        if where is not None and condition is None:
            return await self._filtered_here(namespace, vector, top_k, where)
        return await self._nearest(namespace, vector, top_k, condition)

    async def fetch(self, namespace: str, ids: Sequence[str]) -> list[Record]:
        found: list[Record] = []
        for part in id_batches(ids, RECORDS_A_CALL):
            found += await self._on(namespace, "fetch", partial(_fetched, part)) or []
        return found

    async def list_ids(self, namespace: str, prefix: str = "") -> AsyncIterator[str]:
        """A prefix that holds a document key reads that document only. Others read all ids, range
        by range, so that what is deleted meanwhile moves nothing else out of sight."""
        for where in await self._ranges(namespace, prefix):
            for record_id in await self._on(namespace, "list ids", partial(_ids, where)) or []:
                if record_id.startswith(prefix):
                    yield record_id

    async def count(self, namespace: str) -> int:
        return await self._on(namespace, "count", lambda collection: collection.count()) or 0

    async def namespaces(self) -> list[str]:
        """In order of name, those whose records were all deleted included."""
        return sorted(namespace for namespace, _ in await self._ours())

    async def close(self) -> None:
        self._collections.clear()
        await self._connection.close()

    async def check(self) -> str:
        """Reached, let in, and the database is there."""
        connection = await self._connection.opened()
        address = "the address, tenant and database in BLOOMWEAVER_INDEX_URL"
        with at_start(key="BLOOMWEAVER_CHROMA_TOKEN", address=address):
            version = await connection.version()
            await connection.require_database()
        return f"Chroma (API {version}) at {self._where.base}: {len(await self._ours())} namespaces"

    async def check_dimension(self, dimension: int) -> None:
        """Raises DimensionMismatchError if a namespace of ours has another."""
        for namespace, collection in await self._ours():
            _require_dimension(namespace, collection, dimension)

    # A namespace's collection.

    async def _collection(self, namespace: str) -> AsyncCollection | None:
        """None: nothing was ever written to the namespace."""
        if namespace not in self._collections:
            connection = await self._connection.opened()
            found = await connection.collection(self._where.names.of(namespace))
            if found is None:
                return None
            self._collections[namespace] = _usable(found)
        return self._collections[namespace]

    async def _created(self, namespace: str, dimension: int) -> AsyncCollection:
        """A rival that creates it too, and first, gave it the dimension that counts."""
        held = await self._collection(namespace)
        if held is None:
            connection = await self._connection.opened()
            held = _usable(await connection.created(self._where.names.of(namespace), dimension))
            self._collections[namespace] = held
        _require_dimension(namespace, held, dimension)
        return held

    async def _write(self, namespace: str, dimension: int, records: list[Record]) -> None:
        try:
            await self._upsert(await self._created(namespace, dimension), records)
        except NotThereError:  # someone deleted the collection since
            self._collections.pop(namespace, None)
            await self._upsert(await self._created(namespace, dimension), records)

    async def _upsert(self, collection: AsyncCollection, records: list[Record]) -> None:
        connection = await self._connection.opened()
        vectors: list[Sequence[float] | Sequence[int]] = [r.vector.tolist() for r in records]
        await connection.call(
            "upsert",
            lambda: collection.upsert(
                ids=[record.id for record in records],
                embeddings=vectors,
                metadatas=[chroma_fields.fields(record) for record in records],
                documents=[record.text or "" for record in records],
            ),
        )

    async def _on(
        self,
        namespace: str,
        doing: str,
        call: Callable[[AsyncCollection], Awaitable[T]],
    ) -> T | None:
        """None when there is no such collection, or no longer."""
        connection = await self._connection.opened()
        collection = await self._collection(namespace)
        if collection is None:
            return None
        try:
            return await connection.call(doing, partial(call, collection))
        except NotThereError:  # deleted, and perhaps made again by another process
            self._collections.pop(namespace, None)
            fresh = await self._collection(namespace)
            return None if fresh is None else await connection.call(doing, partial(call, fresh))

    async def _ours(self) -> list[tuple[str, AsyncCollection]]:
        connection = await self._connection.opened()
        found = [
            (self._where.names.namespace_of(c.name), c) for c in await connection.collections()
        ]
        return [(namespace, c) for namespace, c in found if namespace is not None]

    # Queries and lists.

    async def _nearest(
        self,
        namespace: str,
        vector: Vector[float],
        count: int,
        where: chroma_filters.Where | None,
    ) -> list[Match]:
        query = vector.tolist()
        return await self._on(namespace, "query", lambda c: _nearest(c, query, count, where)) or []

    async def _filtered_here(
        self, namespace: str, vector: Vector[float], top_k: int, where: MetadataFilter
    ) -> list[Match]:
        """In rounds of ever more neighbours, the last of which are all records."""
        wanted = BREADTH * top_k
        while True:
            nearest = await self._nearest(namespace, vector, wanted, None)
            passing = (match for match in nearest if matches(match.metadata, where))
            found = list(islice(passing, top_k))
            if len(found) == top_k or len(nearest) < wanted:
                return found
            wanted *= BREADTH

    async def _ranges(self, namespace: str, prefix: str) -> list[chroma_filters.Where]:
        document = chroma_filters.of_document(prefix)
        if document is not None:
            return [document]
        parts = math.ceil(await self.count(namespace) / IDS_A_RANGE)
        return [chroma_filters.of_range(part, parts) for part in range(parts)]


async def _nearest(
    collection: AsyncCollection,
    vector: list[float],
    count: int,
    where: chroma_filters.Where | None,
) -> list[Match]:
    vectors: list[Sequence[float] | Sequence[int]] = [vector]
    found: Any = await collection.query(
        query_embeddings=vectors,
        n_results=count,
        where=where,
        include=["metadatas", "documents", "distances"],
    )
    columns = (found["ids"], found["distances"], found["metadatas"], found["documents"])
    rows = zip(*(column[0] for column in columns), strict=True)
    return sorted((chroma_fields.match(*row) for row in rows), key=lambda match: -match.score)


async def _deleted(ids: list[str], collection: AsyncCollection) -> None:
    await collection.delete(ids=ids)


async def _fetched(ids: list[str], collection: AsyncCollection) -> list[Record]:
    found: Any = await collection.get(ids=ids, include=["embeddings", "metadatas", "documents"])
    columns = (found["ids"], found["embeddings"], found["metadatas"], found["documents"])
    return [chroma_fields.record(*row) for row in zip(*columns, strict=True)]


async def _ids(where: chroma_filters.Where, collection: AsyncCollection) -> list[str]:
    return list((await collection.get(where=where, include=[]))["ids"])


def _usable(collection: AsyncCollection) -> AsyncCollection:
    from common.adapters.index.chroma_connection import is_cosine

    if not is_cosine(collection):
        raise PermanentError(
            f"Chroma's collection {collection.name} does not measure by cosine: it was not made by "
            "BloomWeaver; delete it, or set another prefix in BLOOMWEAVER_INDEX_URL"
        )
    return collection


def _require_dimension(namespace: str, collection: AsyncCollection, dimension: int) -> None:
    from common.adapters.index.chroma_connection import dimension_of

    require_dimension(namespace, dimension_of(collection), dimension)


def connect(url: str, settings: Settings, receiver: str) -> Index:
    """`chroma:http://HOST:8000?tenant=…&database=…&prefix=…`. Raises PermanentError."""
    require_library("chromadb", "chroma")
    server = parse_server_url(url, options=("tenant", "database"))
    token = settings.chroma_token.get_secret_value() if settings.chroma_token else None
    return ChromaIndex(server, token=token, timeout_seconds=settings.request_timeout_seconds)
