"""Binding namespaces to embedding profiles, and no more namespaces than the settings allow.

A namespace is never unbound, so what was seen bound stays so. Each costs the embedded index files,
memory maps and a thread, whether or not anything is in it: without a bound, whoever reaches all
namespaces uses up the machine by writing one document into each of many.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from common.bounded_map import BoundedMap
from common.model import EmbeddingProfile
from common.ports.registry import Registry

REMEMBERED_NAMESPACES = 10_000
"""Who was not asked for longest is looked up in the registry again."""
FRESH_SECONDS = 1.0
"""No namespace is refused by an older look."""


class TooManyNamespacesError(Exception):
    """The namespace would be one too many."""

    def __init__(self, namespace: str, *, used: int, limit: int) -> None:
        super().__init__(
            f"namespace {namespace[:128]!r} is new, and there are {used:,} of {limit:,} already: "
            "write to one that is there, or raise BLOOMWEAVER_MAX_NAMESPACES"
        )
        self.used = used
        self.limit = limit


@dataclass(slots=True)
class Namespaces:
    """`at_most` 0: any number. Exact within one process; several processes may exceed it by what
    they bind within a second."""

    registry: Registry
    at_most: int = 0
    clock: Callable[[], float] = time.monotonic
    _bound: BoundedMap[str, EmbeddingProfile] = field(
        default_factory=lambda: BoundedMap(REMEMBERED_NAMESPACES, REMEMBERED_NAMESPACES)
    )
    _used: int = 0
    """How many the last look found, and what was bound since."""
    _looked_at: float = float("-inf")
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def bind(self, namespace: str, ours: EmbeddingProfile) -> EmbeddingProfile:
        """Bind it to `ours` if it is not bound; returns what it is bound to.

        Raises TooManyNamespacesError, and what the registry raises."""
        if (known := self._bound.get(namespace)) is not None:
            return known
        if not self.at_most:
            return self._remember(namespace, await self.registry.bind_namespace(namespace, ours))
        if (bound := await self.binding(namespace)) is not None:
            return bound
        async with self._one_at_a_time:
            return self._bound.get(namespace) or await self._bind_new(namespace, ours)

    async def binding(self, namespace: str) -> EmbeddingProfile | None:
        """What it is bound to; None: nothing was ever written there."""
        if (known := self._bound.get(namespace)) is not None:
            return known
        found = await self.registry.binding(namespace)
        return None if found is None else self._remember(namespace, found)

    async def _bind_new(self, namespace: str, ours: EmbeddingProfile) -> EmbeddingProfile:
        if self.clock() - self._looked_at >= FRESH_SECONDS:
            await self._look()
        if self._used >= self.at_most:
            raise TooManyNamespacesError(namespace, used=self._used, limit=self.at_most)
        # Whoever is cancelled here may have bound it: only another look says what there is.
        looked_at, self._looked_at = self._looked_at, float("-inf")
        bound = await self.registry.bind_namespace(namespace, ours)
        self._used += 1
        self._looked_at = looked_at
        return self._remember(namespace, bound)

    async def _look(self) -> None:
        began = self.clock()
        self._used = len(await self.registry.namespaces())
        self._looked_at = began

    def _remember(self, namespace: str, bound: EmbeddingProfile) -> EmbeddingProfile:
        self._bound.put(namespace, bound, 1)
        return bound
