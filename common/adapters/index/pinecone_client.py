"""The SDK's clients, opened at the first call: importing the SDK takes a third of a second."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from common.adapters.index.pinecone_calls import Ask, Calls
from common.ports.errors import PermanentError

if TYPE_CHECKING:
    from pinecone import AsyncIndex


@dataclass(frozen=True, slots=True)
class Description:
    """What the control plane knows of an index. `host` is empty while it is being made."""

    host: str
    metric: str | None
    ready: bool


class Client:
    """`address` is an index's name or the URL of its host."""

    def __init__(
        self, address: str, *, api_key: str, control_url: str = "", timeout_seconds: float
    ) -> None:
        self.name = address
        self._host = address if "://" in address else ""
        self._api_key = api_key
        self._control_url = control_url
        self._timeout_seconds = timeout_seconds
        self._index: AsyncIndex | None = None
        self._opening = asyncio.Lock()
        self._closed = False

    async def index(self) -> AsyncIndex:
        """Raises what the SDK raises; PermanentError for an address that is none."""
        if self._index is not None:
            return self._index
        async with self._opening:
            if self._closed:
                raise RuntimeError("closed")
            if self._index is None:
                await asyncio.to_thread(_import)
                host = self._host or (await self._describe()).host
                self._index = self._open(host)
        return self._index

    async def description(self, calls: Calls, until: float) -> Description | None:
        """None where the address is a host: nothing tells its index's name."""
        if self._host:
            return None
        await asyncio.to_thread(_import)
        ask = Ask("describe", f"look up the Pinecone index {self.name}")
        return await calls.run(ask, self._describe, until)

    async def close(self) -> None:
        """Calls raise RuntimeError from now on."""
        self._closed = True
        index, self._index = self._index, None
        if index is not None:
            await index.close()

    def _open(self, host: str) -> AsyncIndex:
        from pinecone import AsyncIndex
        from pinecone.errors import PineconeValueError

        try:
            index = AsyncIndex(
                host=host,
                api_key=self._api_key,
                timeout=self._timeout_seconds,
                connection_pool_maxsize=CONNECTIONS,
            )
        except PineconeValueError as error:
            raise PermanentError(
                f"BLOOMWEAVER_INDEX_URL=pinecone:{self.name}: {error.message}"
            ) from error
        _end_retries(index)
        return index

    async def _describe(self) -> Description:
        from pinecone import AsyncPinecone, RetryConfig

        async with AsyncPinecone(
            api_key=self._api_key,
            host=self._control_url or None,
            timeout=self._timeout_seconds,
            retry_config=RetryConfig(max_retries=0),
        ) as control:
            found = await control.indexes.describe(self.name)
        metric = getattr(found, "metric", None)
        return Description(found.host or "", metric, found.status.ready and bool(found.host))


CONNECTIONS = 32


def _import() -> None:
    import pinecone.async_client.async_index
    import pinecone.async_client.pinecone  # noqa: F401


def _end_retries(index: Any) -> None:
    """Have each request sent once: when to try again is decided in `pinecone_calls`.

    The SDK has no public way (`AsyncPinecone(retry_config=)` does not reach an index). Where this
    finds its fields renamed it does nothing: calls still end by their deadline, only the SDK then
    tries by itself four times, uncounted.
    """
    http = getattr(index, "_http", None)
    config = getattr(http, "_config", None)
    retry = getattr(config, "retry_config", None)
    if http is not None and config is not None and retry is not None:
        http._config = replace(config, retry_config=replace(retry, max_retries=0))
