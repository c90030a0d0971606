"""Accept: the bytes, one conditional write, the wake-up, and only then the answer.

A registry that can do so accepts a change unread (`AcceptingRegistry`): the bytes go first then,
too, since their key depends on nothing but them. What it does not accept comes back with the row,
and is decided as with every other registry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from common import identity, telemetry
from common.clock import Clock, system_clock
from common.model import (
    ChangeType,
    Desired,
    DocumentKey,
    EmbeddingProfile,
    MetadataValue,
    Row,
    WakeUp,
)
from common.ports.blobs import BlobStore
from common.ports.errors import TransientError
from common.ports.queue import Queue
from common.ports.registry import AcceptingRegistry, Found, Registry
from common.transitions import AcceptDecision, Outcome, Timers, accept, queue_of
from webhook.namespaces import Namespaces, TooManyNamespacesError
from webhook.preconditions import Precondition, PreconditionFailedError

__all__ = [
    "Accepted",
    "Acceptor",
    "Change",
    "ChangeType",
    "NothingToUpdateError",
    "ProfileMismatchError",
]

log = structlog.get_logger(__name__)

RACES_BEFORE_GIVING_UP = 50
"""Every lost race is another writer's success; so many in a row mean a storm on one document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A validated change. For an insert, None means empty; for an update, 'as it is now'."""

    key: DocumentKey
    change_type: ChangeType
    content: bytes | None = None
    content_hash: str | None = None
    """SHA-256 of `content`, hex, where it is known already: large content is hashed in a thread. Of
    what is at `content_url`: what it is said to be."""
    content_url: str | None = None
    """Where `content` is; it is None until it was fetched from there."""
    content_type: str | None = None
    metadata: dict[str, MetadataValue] | None = None
    source_version: int | None = None
    precondition: Precondition | None = None
    """None: whatever the document is."""
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    """`version` is 0 for a delete of a document that was never seen."""

    key: DocumentKey
    outcome: Outcome
    version: int


class NothingToUpdateError(Exception):
    """An update without content names a document that does not exist."""


class ProfileMismatchError(Exception):
    """The namespace is bound to another embedding profile than this process writes with."""

    def __init__(self, namespace: str, bound: EmbeddingProfile, ours: EmbeddingProfile) -> None:
        super().__init__(
            f"namespace {namespace!r} is bound to the embedding profile {bound.id} "
            f"({bound.dimension} dimensions), this service embeds with {ours.id} "
            f"({ours.dimension} dimensions); set BLOOMWEAVER_EMBEDDER_URL to the model the "
            "namespace was made with, or write to another namespace"
        )


NOTHING_WAS_CHANGED = (
    NothingToUpdateError,
    PreconditionFailedError,
    ProfileMismatchError,
    TooManyNamespacesError,
)
"""What the change itself is refused for."""


@dataclass(slots=True)
class Acceptor:
    """Accepts changes; safe to call concurrently, also for the same document."""

    registry: Registry
    blobs: BlobStore
    queue: Queue
    profile: EmbeddingProfile
    timers: Timers
    clock: Clock = system_clock
    profile_of: Callable[[str], EmbeddingProfile] | None = None
    """Of a namespace, where embedding variants differ; None: `profile` is everyone's."""
    max_namespaces: int = 0
    """0: any number."""
    _namespaces: Namespaces = field(init=False)

    def __post_init__(self) -> None:
        self._namespaces = Namespaces(self.registry, self.max_namespaces)

    async def accept(self, change: Change) -> Accepted:
        """Returns once the change survives any crash and its wake-up is queued.

        Raises NOTHING_WAS_CHANGED, and TransientError when something could not be reached; posting
        the same change again is harmless.
        """
        idle = await self._bind_for(change)
        if idle is not None:
            return self._report(change, idle.outcome, idle.version)
        read: Found | None = None
        if isinstance(self.registry, AcceptingRegistry) and _keeps_nothing(change):
            version_or_row = await self._accept_unread(self.registry, change)
            if isinstance(version_or_row, int):
                return self._report(change, Outcome.ACCEPTED, version_or_row)
            read = version_or_row
        for _ in range(RACES_BEFORE_GIVING_UP):
            now = self.clock()
            row = read.row if read else await self.registry.get(change.key)
            read = None
            decision = self._decided(change, row, now)
            if not await self._store(change, row, decision):
                continue
            if decision.wake is not None:
                wake_up = _wake_up(change, decision.version)
                await self.queue.send(decision.wake, [wake_up])
            return self._report(change, decision.outcome, decision.version)
        raise TransientError(
            f"document {change.key.document_id!r} is being changed by too many writers at once"
        )

    async def _bind_for(self, change: Change) -> AcceptDecision | None:
        """Bind the namespace, unless the change would write nothing there: then what comes of it.

        Namespaces are never unbound: one bound for nothing takes the place of another for good.
        """
        namespace = change.key.namespace
        if not _writes_anywhere(change) and not await self.is_bound(namespace):
            # Nothing was ever written there, so there is no row to read.
            decision = self._decided(change, None, self.clock())
            if decision.row is None:
                return decision
        await self.bind(namespace)
        return None

    def _decided(self, change: Change, row: Row | None, now: float) -> AcceptDecision:
        """Raises NothingToUpdateError and PreconditionFailedError."""
        decision = accept(row, change.key, _desired(change, row, now), now, self.timers)
        if change.precondition and not change.precondition.lets(row, decision.outcome):
            raise PreconditionFailedError(row)
        return decision

    async def _accept_unread(self, registry: AcceptingRegistry, change: Change) -> int | Found:
        """The new version, its wake-up sent; or the row, and nothing was changed."""
        now = self.clock()
        desired = _desired(change, None, now)
        reused = await self._keep_bytes(change, desired)
        stale = self.timers.stale_after_seconds
        version = await registry.accept_blind(
            change.key, desired, now=now, stale_after_seconds=stale
        )
        if isinstance(version, Found):
            return version
        if reused:
            await self._heal_bytes(change, desired)
        await self.queue.send(queue_of(desired), [_wake_up(change, version)])
        return version

    async def _store(self, change: Change, row: Row | None, decision: AcceptDecision) -> bool:
        """Whether the decision holds; False: the race was lost."""
        if decision.row is not None:
            desired = decision.row.desired
            reused = await self._keep_bytes(change, desired)
            if await self.registry.put_if(decision.row) is None:
                return False
            if reused:
                await self._heal_bytes(change, desired)
        elif row is not None and decision.outcome is Outcome.UNCHANGED:
            # "Send the document again" must mend a blob that was damaged since.
            await self._keep_bytes(change, row.desired)
        return True

    async def is_bound(self, namespace: str) -> bool:
        """Whether anything was ever written there. Raises ProfileMismatchError."""
        bound = await self._namespaces.binding(namespace)
        if bound is not None:
            _require_same(namespace, bound, self.profile_for(namespace))
        return bound is not None

    def profile_for(self, namespace: str) -> EmbeddingProfile:
        """What this service embeds the namespace with."""
        return self.profile_of(namespace) if self.profile_of else self.profile

    async def bind(self, namespace: str) -> None:
        """Bind the namespace to this service's profile at its first use. Raises
        ProfileMismatchError and TooManyNamespacesError."""
        ours = self.profile_for(namespace)
        bound = await self._namespaces.bind(namespace, ours)
        _require_same(namespace, bound, ours)

    async def _keep_bytes(self, change: Change, desired: Desired) -> bool:
        """Whether equal bytes were there before: such a blob may be an old one."""
        if change.content is None or not desired.blob_key:
            return False
        return not await self.blobs.put(desired.blob_key, change.content)

    async def _heal_bytes(self, change: Change, desired: Desired) -> None:
        """An old blob that nothing referred to may have been collected in between."""
        if change.content is not None and not await self.blobs.exists(desired.blob_key):
            await self.blobs.put(desired.blob_key, change.content)

    def _report(self, change: Change, outcome: Outcome, version: int) -> Accepted:
        telemetry.ACCEPTED.labels(change.change_type.value, outcome.value).inc()
        # A feed's thousands of lines at info would cost as much as accepting them.
        log.debug(
            "change.accepted",
            namespace=change.key.namespace,
            document=change.key.document_id,
            version=version,
            change_type=change.change_type.value,
            outcome=outcome.value,
            trace=change.traceparent,
        )
        return Accepted(change.key, outcome, version)


def _require_same(namespace: str, bound: EmbeddingProfile, ours: EmbeddingProfile) -> None:
    if bound.id != ours.id:
        raise ProfileMismatchError(namespace, bound, ours)


def _writes_anywhere(change: Change) -> bool:
    """Whether the change is made of a document that never was, too, whatever else it says."""
    if change.precondition is not None or change.change_type is ChangeType.DELETE:
        return False
    return change.content is not None


def _keeps_nothing(change: Change) -> bool:
    """Whether what the change asks for does not depend on what the document is now."""
    if change.precondition is not None:
        return False
    if change.change_type is ChangeType.UPDATE:
        return None not in (change.content, change.metadata, change.content_type)
    return change.change_type is ChangeType.DELETE or change.content is not None


def _wake_up(change: Change, version: int) -> WakeUp:
    return WakeUp(
        namespace=change.key.namespace,
        document_id=change.key.document_id,
        version=version,
        traceparent=change.traceparent,
    )


def _desired(change: Change, row: Row | None, now: float) -> Desired:
    """What the change asks for; an update keeps what it does not name."""
    if change.change_type is ChangeType.DELETE:
        return _tombstone(change, now)
    current = row.desired if row and not row.desired.tombstone else None
    keep = current if change.change_type is ChangeType.UPDATE else None
    if change.content is None and keep is None:
        raise NothingToUpdateError(
            f"document {change.key.document_id!r} does not exist in namespace "
            f"{change.key.namespace!r}: send its content"
        )
    metadata = change.metadata
    if metadata is None:
        metadata = keep.metadata if keep else {}
    content_type = change.content_type or (keep.content_type if keep else "text/plain")
    if change.content is None and keep is not None:
        content_hash, blob_key, size = keep.content_hash, keep.blob_key, keep.size_bytes
        content_type = keep.content_type
    else:
        content = change.content or b""
        content_hash, size = change.content_hash or identity.sha256_hex(content), len(content)
        blob_key = identity.raw_blob_key(change.key.namespace, content_hash)
    return Desired(
        version=0,
        content_hash=content_hash,
        metadata_hash=identity.metadata_hash(metadata),
        blob_key=blob_key,
        content_type=content_type,
        metadata=metadata,
        source_version=change.source_version,
        tombstone=False,
        accepted_at=now,
        size_bytes=size,
        traceparent=change.traceparent,
    )


def _tombstone(change: Change, now: float) -> Desired:
    return Desired(
        version=0,
        content_hash="",
        metadata_hash=identity.metadata_hash({}),
        blob_key="",
        content_type="",
        metadata={},
        source_version=change.source_version,
        tombstone=True,
        accepted_at=now,
        size_bytes=0,
        traceparent=change.traceparent,
    )
