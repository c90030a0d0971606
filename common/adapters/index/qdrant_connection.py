"""The connection to a Qdrant server: qdrant-client over REST, with our errors and counts.

qdrant-client takes a second or two to import (it brings fastembed and grpc, and uses neither here):
this module is imported in a thread, when the first call is made.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import httpx
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import (
    ApiException,
    ResponseHandlingException,
    UnexpectedResponse,
)
from yarl import URL

from common.adapters.index.qdrant_filters import Condition
from common.adapters.index.qdrant_payload import DOCUMENT_KEY_FIELD, payload, point_id
from common.adapters.index.server_calls import answered, count_request, if_there
from common.adapters.index.server_errors import refusal
from common.model import Record
from common.ports.errors import PermanentError, PortError, TransientError

DEFAULT_PORT: Final = 6333
MIN_EF: Final = 128
"""Candidates that a search of the graph keeps at least; twice what is asked for if that is more."""
_OPERATIONS: Final = {"query", "scroll", "count", "delete", "points", "index"}

T = TypeVar("T")


class QdrantConnection:
    """Every call is bounded by `timeout_seconds`; what fails leaves as one of the port's errors."""

    def __init__(self, base: URL, *, api_key: str | None, timeout_seconds: float) -> None:
        port = base.explicit_port or DEFAULT_PORT
        self._base = base.with_port(port)
        self._timeout_seconds = timeout_seconds
        self._client = AsyncQdrantClient(
            url=str(self._base).rstrip("/"),
            # As `api_key` it would warn whoever runs the server beside, without TLS.
            headers={"api-key": api_key} if api_key else None,
            timeout=math.ceil(timeout_seconds),
            check_compatibility=False,  # a thread and a warning; `check` looks at the version
            verify=base.scheme == "https",  # reading the certificates takes a while
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=16),
        )
        self._client.http.client.add_middleware(_counted)

    async def close(self) -> None:
        await self._client.close()

    async def version(self) -> str:
        return (await self._call("read the version", self._client.info)).version

    async def collections(self) -> list[str]:
        found = await self._call("list the collections", self._client.get_collections)
        return [collection.name for collection in found.collections]

    async def dimension(self, name: str) -> int | None:
        """None: there is no such collection. Raises PermanentError for one that is not ours."""
        read = self._call(f"read collection {name}", lambda: self._client.get_collection(name))
        info = await if_there(read)
        if info is None:
            return None
        vectors = info.config.params.vectors
        if not isinstance(vectors, models.VectorParams) or vectors.distance != _COSINE:
            raise PermanentError(
                f"Qdrant's collection {name} does not hold one cosine vector a point: it was not "
                "made by BloomWeaver; delete it, or set another prefix in BLOOMWEAVER_INDEX_URL"
            )
        return vectors.size

    async def create(self, name: str, dimension: int) -> None:
        """Nothing if it exists, whatever it is like."""
        vectors = models.VectorParams(size=dimension, distance=_COSINE)
        try:
            await self._call(
                f"create collection {name}",
                lambda: self._client.create_collection(name, vectors_config=vectors),
            )
        except PortError as error:
            if "already exists" not in str(error):
                raise

    async def index_document_keys(self, name: str) -> None:
        """Again does no harm: whoever created the collection may have died before this."""
        await self._call(
            f"index the document keys of {name}",
            lambda: self._client.create_payload_index(
                name, DOCUMENT_KEY_FIELD, field_schema=models.PayloadSchemaType.KEYWORD, wait=True
            ),
        )

    async def upsert(self, name: str, records: Sequence[Record]) -> None:
        points = [
            models.PointStruct(
                id=str(point_id(record.id)), vector=record.vector.tolist(), payload=payload(record)
            )
            for record in records
        ]
        await self._call("upsert", lambda: self._client.upsert(name, points, wait=True))

    async def delete(self, name: str, ids: Sequence[str]) -> None:
        points: list[Any] = [str(point_id(record_id)) for record_id in ids]
        selector = models.PointIdsList(points=points)
        await self._call("delete", lambda: self._client.delete(name, selector, wait=True))

    async def nearest(
        self, name: str, vector: list[float], count: int, where: Condition | None
    ) -> list[models.ScoredPoint]:
        """With a filter all points that pass are compared: under a filter on a field without an
        index of its own Qdrant's graph finds a fifth of what it should."""
        params = models.SearchParams(hnsw_ef=max(MIN_EF, 2 * count), exact=where is not None)
        response = await self._call(
            "query",
            lambda: self._client.query_points(
                name,
                query=vector,
                limit=count,
                query_filter=None if where is None else models.Filter(**where),
                search_params=params,
                with_payload=True,
            ),
        )
        return response.points

    async def fetch(self, name: str, ids: Sequence[str]) -> list[models.Record]:
        points = [str(point_id(record_id)) for record_id in ids]
        return await self._call(
            "fetch",
            lambda: self._client.retrieve(name, points, with_payload=True, with_vectors=True),
        )

    async def page_of_ids(
        self, name: str, where: Condition | None, offset: Any, size: int
    ) -> tuple[list[str], Any]:
        """In order of point id, so that what is deleted meanwhile moves nothing out of sight."""
        points, following = await self._call(
            "list ids",
            lambda: self._client.scroll(
                name,
                scroll_filter=None if where is None else models.Filter(**where),
                limit=size,
                offset=offset,
                with_payload=["id"],
                with_vectors=False,
            ),
        )
        return [str((point.payload or {}).get("id", "")) for point in points], following

    async def count(self, name: str) -> int:
        return (await self._call("count", lambda: self._client.count(name, exact=True))).count

    async def _call(self, doing: str, make: Callable[[], Awaitable[T]]) -> T:
        try:
            return await answered(
                "Qdrant", doing, make, timeout_seconds=self._timeout_seconds, cause=_cause
            )
        except (ApiException, QdrantException) as error:
            raise self._translated(error, doing) from error
        except ValueError as error:  # refused by the client itself
            raise PermanentError(f"Qdrant: cannot {doing}: {error}") from error

    def _translated(self, error: Exception, doing: str) -> PortError:
        if isinstance(error, UnexpectedResponse):
            said = error.content.decode(errors="replace")
            retry_after = error.headers.get("retry-after")
            return refusal("Qdrant", error.status_code or 0, said, retry_after)
        if isinstance(error, ResourceExhaustedResponse):
            return refusal("Qdrant", 429, error.message, str(error.retry_after_s))
        cause = _cause(error)
        what = f"{type(cause).__name__}: {cause}"
        return TransientError(f"Qdrant at {self._base}: cannot {doing}: {what}")


_COSINE: Final = models.Distance.COSINE


def _cause(error: Exception) -> Exception:
    return error.source if isinstance(error, ResponseHandlingException) else error


async def _counted(
    request: httpx.Request, send: Callable[[httpx.Request], Awaitable[httpx.Response]]
) -> httpx.Response:
    count_request("qdrant", request, _OPERATIONS)
    return await send(request)
