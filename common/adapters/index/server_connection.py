"""An adapter's connection to its server: opened by the first call that needs it, and once."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from common.ports.index import IndexUnavailableError


class Closable(Protocol):
    async def close(self) -> None: ...


C = TypeVar("C", bound=Closable)


class LateConnection(Generic[C]):
    """`module` brings the service's library, which takes a second or two to import: that is done in
    a thread. `connect` makes the connection out of the imported module."""

    def __init__(self, module: str, connect: Callable[[Any], C]) -> None:
        self._module = module
        self._connect = connect
        self._opened: C | None = None
        self._opening = asyncio.Lock()
        self._closed = False

    async def opened(self) -> C:
        """Raises IndexUnavailableError once it was closed."""
        async with self._opening:
            if self._closed:
                raise IndexUnavailableError("the index was closed")
            if self._opened is None:
                module = await asyncio.to_thread(importlib.import_module, self._module)
                self._opened = self._connect(module)
            return self._opened

    async def close(self) -> None:
        async with self._opening:
            self._closed = True
            opened, self._opened = self._opened, None
        if opened is not None:
            await opened.close()
