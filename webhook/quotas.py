"""How much a namespace may hold: documents, chunks, and bytes of content.

What is there is counted by the registry, now and then; what was accepted since is added. Deletes,
and changes that add nothing, are always let through. Chunks are counted once they are applied, so
that what waits to be embedded goes beyond their number.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field

from common import identity, telemetry
from common.model import Row, Status
from common.ports.registry import NamespaceCounts, Registry
from common.settings import NamespaceQuota, Settings
from webhook.accept import Change, ChangeType
from webhook.problems import QUOTA_EXCEEDED, Problem, deadline
from webhook.shared_counts import COUNTING_SHARE

LOOK_SECONDS = 5.0
"""So long a count is good for."""
FRESH_SECONDS = 1.0
"""Nobody is refused by an older one, unless counting takes longer than a share of that."""

DOCUMENTS, CHUNKS, BYTES = "documents", "chunks", "bytes"
_Place = tuple[str, str]
"""A namespace, and what of it."""
Clock = Callable[[], float]
"""Seconds that only ever grow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    documents: int = 0
    chunks: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """What a change may add; `size_bytes` of stored content, 0 where it becomes no larger."""

    document: bool = False
    content: bool = False
    size_bytes: int = 0


def growth_of(change: Change, row: Row | None) -> Growth:
    """`row` is the document's, None where there is none."""
    desired = row.desired if row is not None and not row.desired.tombstone else None
    if change.content is None or change.change_type is ChangeType.DELETE:
        return Growth()
    size = len(change.content)
    if desired is None:
        return Growth(document=True, content=True, size_bytes=size)
    if desired.content_hash == _hash_of(change):
        return Growth()
    return Growth(content=True, size_bytes=max(0, size - desired.size_bytes))


def refusal_of(
    quota: NamespaceQuota, used: Usage, growth: Growth, namespace: str
) -> Problem | None:
    for what, limit, has, adds in (
        (DOCUMENTS, quota.documents, used.documents, int(growth.document)),
        (CHUNKS, quota.chunks, used.chunks, int(growth.content)),
        (BYTES, quota.bytes, used.size_bytes, growth.size_bytes),
    ):
        if adds and limit is not None and has + adds > limit:
            more = f", and this would add {adds:,}" if what == BYTES else ""
            return Problem(
                QUOTA_EXCEEDED,
                f"namespace {namespace!r} holds {has:,} {what}, and may hold {limit:,}{more}",
                field="namespace",
                limit=limit,
                reason=what,
                used=has,
            )
    return None


def usage_of(counts: NamespaceCounts) -> Usage:
    """Deleted documents are kept for a while, and not counted."""
    documents = sum(n for status, n in counts.documents.items() if status is not Status.DELETED)
    return Usage(documents=documents, chunks=counts.chunks, size_bytes=counts.size_bytes)


@dataclass(slots=True)
class Quotas:
    """`patterns`: names of namespaces, or their beginnings and an asterisk; the first that fits is
    the one that counts. A change of a namespace that none fits costs nothing here."""

    registry: Registry
    patterns: dict[str, NamespaceQuota]
    timeout_seconds: float
    clock: Clock = time.monotonic
    _counted: dict[str, Usage] = field(default_factory=dict)
    _counted_at: float = float("-inf")
    _took: float = 0.0
    """Seconds, the last count."""
    _look: asyncio.Lock = field(default_factory=asyncio.Lock)
    _under_way: Counter[_Place] = field(default_factory=Counter)
    """What may be added by changes that are being accepted; no place of nothing."""
    _accepted: Counter[_Place] = field(default_factory=Counter)
    """What may have been added since the last count."""

    @asynccontextmanager
    async def room_for(self, change: Change) -> AsyncIterator[None]:
        """What is inside accepts the change. Raises Problem (403)."""
        namespace = change.key.namespace
        quota = quota_of(self.patterns, namespace)
        if quota is None or change.change_type is ChangeType.DELETE:
            yield
            return
        async with deadline(self.timeout_seconds):
            growth = growth_of(change, await self.registry.get(change.key))
            await self._require_room(quota, growth, namespace)
        adds = _added(namespace, growth)
        # No await since the look: two changes never find the same last place.
        self._under_way.update(adds)
        try:
            yield
            self._accepted.update(adds)
        finally:
            self._under_way -= adds

    async def _require_room(self, quota: NamespaceQuota, growth: Growth, namespace: str) -> None:
        await self._count(LOOK_SECONDS)
        if refusal_of(quota, self._used(namespace), growth, namespace) is None:
            return
        await self._count(FRESH_SECONDS)
        if refusal := refusal_of(quota, self._used(namespace), growth, namespace):
            telemetry.QUOTA_REFUSED.labels(str(refusal.more["reason"])).inc()
            raise refusal

    def _used(self, namespace: str) -> Usage:
        counted = self._counted.get(namespace, Usage())
        documents, size_bytes = (
            self._under_way[namespace, what] + self._accepted[namespace, what]
            for what in (DOCUMENTS, BYTES)
        )
        return Usage(
            documents=counted.documents + documents,
            chunks=counted.chunks,
            size_bytes=counted.size_bytes + size_bytes,
        )

    async def _count(self, seconds: float) -> None:
        """Unless it was counted in the last so many seconds. One count at a time; whom the last one
        will do does not wait for the next."""
        if self._is_good_for(seconds):
            return
        async with self._look:
            if self._is_good_for(seconds):
                return
            began = self.clock()
            before = self._accepted.copy()
            counts = await self.registry.counts()
            self._counted = {one.namespace: usage_of(one) for one in counts}
            self._counted_at, self._took = began, self.clock() - began
            self._accepted -= before

    def _is_good_for(self, seconds: float) -> bool:
        """A count that took long is good for longer: at most a share of the time is counted."""
        return self.clock() - self._counted_at < max(seconds, self._took / COUNTING_SHARE)


def quota_of(patterns: dict[str, NamespaceQuota], namespace: str) -> NamespaceQuota | None:
    for pattern, quota in patterns.items():
        if pattern == namespace or (pattern.endswith("*") and namespace.startswith(pattern[:-1])):
            return quota
    return None


def quotas_of(settings: Settings, registry: Registry) -> Quotas:
    return Quotas(
        registry=registry,
        patterns=settings.namespace_quotas,
        timeout_seconds=settings.request_timeout_seconds,
    )


def room_for(quotas: Quotas | None, change: Change) -> AbstractAsyncContextManager[None]:
    """As `Quotas.room_for`; None: there is room for everything."""
    return nullcontext() if quotas is None else quotas.room_for(change)


def _added(namespace: str, growth: Growth) -> Counter[_Place]:
    adds = {DOCUMENTS: int(growth.document), BYTES: growth.size_bytes}
    return Counter({(namespace, what): count for what, count in adds.items() if count})


def _hash_of(change: Change) -> str:
    return change.content_hash or identity.sha256_hex(change.content or b"")
