"""The connection to a Chroma server: chromadb's asynchronous client, with our errors and counts.

chromadb takes one and a half seconds to import: this module is imported in a thread, when the first
call is made. Its ready-made `AsyncHttpClient` shares its HTTP client, and with that its token,
among all servers, waits without end, and loses status codes and `Retry-After`. So the parts that it
is made of are put together here, with an HTTP client of our own.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any, Final, TypeVar

import httpx
from chromadb.api import AsyncServerAPI
from chromadb.api.models.AsyncCollection import AsyncCollection
from chromadb.config import DEFAULT_DATABASE, DEFAULT_TENANT, Settings, System
from chromadb.errors import ChromaError, NotFoundError
from yarl import URL

from common.adapters.index.server_calls import answered, count_request, if_there
from common.adapters.index.server_errors import NotThereError, refusal
from common.ports.errors import PermanentError, TransientError

HNSW: Final = {"space": "cosine", "ef_construction": 200, "max_neighbors": 32, "ef_search": 200}
"""Finds 10 of the 10 nearest, and 98 of 100 of the 1,000 nearest, of 20,000 clustered vectors."""
DIMENSION_FIELD: Final = "bloomweaver_dimension"

_COLLECTIONS_A_PAGE: Final = 500

T = TypeVar("T")


class ChromaConnection:
    """Every call is bounded by `timeout_seconds`; what fails leaves as one of the port's errors."""

    def __init__(
        self,
        base: URL,
        *,
        token: str | None,
        tenant: str | None,
        database: str | None,
        timeout_seconds: float,
    ) -> None:
        self._base = base
        self._tenant = tenant or DEFAULT_TENANT
        self._database = database or DEFAULT_DATABASE
        self._timeout_seconds = timeout_seconds
        interface: Any = AsyncServerAPI  # the settings say which class implements it
        self._server: Any = System(_settings(base, token)).instance(interface)
        self._server._clients = {}  # its own, not those of the class
        self._http: httpx.AsyncClient = self._server._get_client()
        self._http.timeout = httpx.Timeout(timeout_seconds)
        self._http.event_hooks = {"request": [_count], "response": [_raise_refusal]}

    async def close(self) -> None:
        with suppress(httpx.HTTPError):
            await self._http.aclose()

    async def version(self) -> str:
        return str(await self.call("read the version", self._server.get_version))

    async def require_database(self) -> None:
        """Raises NotThereError, KeyRefusedError."""
        await self.call(
            f"read database {self._database}",
            lambda: self._server.get_database(self._database, tenant=self._tenant),
        )

    async def most_records(self) -> int:
        """That the server takes in one write."""
        return int(await self.call("read the limits", self._server.get_max_batch_size))

    async def collection(self, name: str) -> AsyncCollection | None:
        """None: there is none."""
        read = self.call(
            f"read collection {name}",
            lambda: self._server.get_collection(name, tenant=self._tenant, database=self._database),
        )
        found = await if_there(read)
        return None if found is None else self._opened(found)

    async def created(self, name: str, dimension: int) -> AsyncCollection:
        """The one that exists, if there is one, whatever it is like."""
        return self._opened(
            await self.call(
                f"create collection {name}",
                lambda: self._server.create_collection(
                    name,
                    configuration={"hnsw": HNSW},
                    metadata={DIMENSION_FIELD: dimension},
                    get_or_create=True,
                    tenant=self._tenant,
                    database=self._database,
                ),
            )
        )

    async def collections(self) -> list[AsyncCollection]:
        """Of the whole database."""
        found: list[AsyncCollection] = []
        for offset in count(step=_COLLECTIONS_A_PAGE):
            page = await self.call("list the collections", partial(self._page, offset))
            found += [self._opened(model) for model in page]
            if len(page) < _COLLECTIONS_A_PAGE:
                break
        return found

    def _page(self, offset: int) -> Awaitable[list[Any]]:
        pending: Awaitable[list[Any]] = self._server.list_collections(
            limit=_COLLECTIONS_A_PAGE, offset=offset, tenant=self._tenant, database=self._database
        )
        return pending

    def _opened(self, model: Any) -> AsyncCollection:
        return AsyncCollection(client=self._server, model=model, embedding_function=None)

    async def call(self, doing: str, make: Callable[[], Awaitable[T]]) -> T:
        try:
            return await answered("Chroma", doing, make, timeout_seconds=self._timeout_seconds)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            what = f"{type(error).__name__}: {error}"
            raise TransientError(f"Chroma at {self._base}: cannot {doing}: {what}") from error
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            line = f"Chroma at {self._base}: cannot {doing}: the answer is not Chroma's"
            raise TransientError(line) from error
        except NotFoundError as error:
            raise NotThereError(f"Chroma: cannot {doing}: {error}") from error
        except (ChromaError, ValueError) as error:  # refused by the client itself
            raise PermanentError(f"Chroma: cannot {doing}: {error}") from error


def dimension_of(collection: AsyncCollection) -> int | None:
    """None: not known before the first write to it."""
    held = (collection.metadata or {}).get(DIMENSION_FIELD)
    return held if isinstance(held, int) else collection._model.dimension


def is_cosine(collection: AsyncCollection) -> bool:
    configuration = collection._model.configuration_json
    index = configuration.get("hnsw") or configuration.get("spann") or {}
    return bool(index.get("space") == "cosine")


def _settings(base: URL, token: str | None) -> Settings:
    """None of the environment's: `CHROMA_…` variables are for Chroma's own programs."""
    return Settings(
        _env_file=None,
        chroma_api_impl="chromadb.api.async_fastapi.AsyncFastAPI",
        chroma_server_host=f"{base.scheme}://{base.raw_authority}{base.raw_path.rstrip('/')}",
        chroma_server_http_port=base.port,
        chroma_server_ssl_enabled=base.scheme == "https",
        chroma_server_headers={"Authorization": f"Bearer {token}"} if token else None,
        chroma_server_ssl_verify=base.scheme == "https",  # reading the certificates takes a while
        anonymized_telemetry=False,
    )


async def _count(request: httpx.Request) -> None:
    """`/api/v2/tenants/…/collections/ID/upsert`."""
    count_request("chroma", request, _OPERATIONS)


_OPERATIONS: Final = frozenset(
    {"count", "delete", "get", "pre-flight-checks", "query", "upsert", "version"}
)


async def _raise_refusal(response: httpx.Response) -> None:
    """Instead of chromadb, which keeps neither the status nor the headers."""
    if response.status_code < 300:
        return
    said = (await response.aread()).decode(errors="replace")
    raise refusal("Chroma", response.status_code, said, response.headers.get("retry-after"))
