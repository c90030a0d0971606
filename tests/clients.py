"""Both clients behind one face, so that one suite holds for both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from common.client import AsyncClient, Client


@dataclass(frozen=True, slots=True)
class Caller:
    """Calls methods by name. The blocking client is called from a thread, since the service that
    answers it runs in this one."""

    client: AsyncClient | Client

    async def __call__(self, method: str, *arguments: Any, **options: Any) -> Any:
        bound = getattr(self.client, method)
        if isinstance(self.client, Client):
            return await asyncio.to_thread(bound, *arguments, **options)
        return await bound(*arguments, **options)

    async def all(self, method: str, *arguments: Any, **options: Any) -> list[Any]:
        """All that a listing or a feed gives."""
        bound = getattr(self.client, method)
        if isinstance(self.client, Client):
            return await asyncio.to_thread(lambda: list(bound(*arguments, **options)))
        return [item async for item in bound(*arguments, **options)]

    async def first(self, method: str, *arguments: Any, **options: Any) -> Any:
        """The first, and nothing more is asked for."""
        items = getattr(self.client, method)(*arguments, **options)
        if isinstance(self.client, Client):
            item = await asyncio.to_thread(next, items)
            await asyncio.to_thread(items.close)
            return item
        item = await anext(items)
        await items.aclose()
        return item

    def source(self, changes: Iterable[Any]) -> Any:
        """As the client likes its feeds best."""
        return changes if isinstance(self.client, Client) else _later(changes)


async def _later(changes: Iterable[Any]) -> AsyncIterator[Any]:
    for change in changes:
        await asyncio.sleep(0)
        yield change


KINDS: list[type[AsyncClient] | type[Client]] = [AsyncClient, Client]


@asynccontextmanager
async def calling(
    kind: type[AsyncClient] | type[Client], url: str, **options: Any
) -> AsyncIterator[Caller]:
    client = kind(url, **{"api_key": "", **options})
    try:
        yield Caller(client)
    finally:
        if isinstance(client, Client):
            await asyncio.to_thread(client.close)
        else:
            await client.close()
