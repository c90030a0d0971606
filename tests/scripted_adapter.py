"""An adapter under the URL `scripted:` whose check ends as a test says."""

from __future__ import annotations

import asyncio
import sys
import types
from dataclasses import dataclass, field
from typing import Any

import pytest

from common.ports.index import DimensionMismatchError


@dataclass
class Scripted:
    """Knows nothing but to be checked and closed: whatever else is asked of it fails the test."""

    error: Exception | None = None
    hangs: bool = False
    meets: asyncio.Barrier | None = None
    calls: list[str] = field(default_factory=list)
    closed: bool = False

    async def check(self) -> str:
        self.calls.append("check")
        if self.hangs:
            await asyncio.Event().wait()
        if self.meets:
            await self.meets.wait()
        if self.error:
            raise self.error
        return "as scripted"

    async def close(self) -> None:
        self.closed = True


@dataclass
class ScriptedIndex(Scripted):
    """Holds vectors of so many dimensions, in some namespace."""

    held: int = 0

    async def check_dimension(self, dimension: int) -> None:
        self.calls.append("check_dimension")
        if dimension != self.held:
            raise DimensionMismatchError(f"it holds {self.held} dimensions, the model {dimension}")


class OneDimensionalIndex(ScriptedIndex):
    """Of so many dimensions in all namespaces."""

    async def dimension(self) -> int:
        return self.held


def install(
    monkeypatch: pytest.MonkeyPatch,
    port: str,
    adapter: Scripted,
    *,
    dimension: int | None = None,
    one_dimension: bool = True,
) -> Scripted:
    """What `connect` finds for `scripted:`; returns it."""
    if dimension is not None:
        kind = OneDimensionalIndex if one_dimension else ScriptedIndex
        adapter = kind(adapter.error, held=dimension)
    module: Any = types.ModuleType(f"common.adapters.{port}.scripted")
    module.connect = lambda *_: adapter
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return adapter
