"""Accept: the bytes, one conditional write, the wake-up, and only then the answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import structlog

from common import identity, telemetry
from common.clock import Clock, system_clock
from common.model import Desired, DocumentKey, EmbeddingProfile, MetadataValue, Row, WakeUp
from common.ports.blobs import BlobStore
from common.ports.errors import TransientError
from common.ports.queue import Queue
from common.ports.registry import Registry
from common.transitions import Outcome, Timers, accept

log = structlog.get_logger(__name__)

RACES_BEFORE_GIVING_UP = 50
"""Every lost race is another writer's success; so many in a row mean a storm on one document."""


class ChangeType(StrEnum):
    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A validated change. For an insert, None means empty; for an update, 'as it is now'."""

    key: DocumentKey
    change_type: ChangeType
    content: bytes | None = None
    content_hash: str | None = None
    """SHA-256 of `content`, hex, where it is known already: large content is hashed in a thread."""
    content_type: str | None = None
    metadata: dict[str, MetadataValue] | None = None
    source_version: int | None = None
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


@dataclass(slots=True)
class Acceptor:
    """Accepts changes; safe to call concurrently, also for the same document."""

    registry: Registry
    blobs: BlobStore
    queue: Queue
    profile: EmbeddingProfile
    timers: Timers
    clock: Clock = system_clock
    _bound: set[str] = field(default_factory=set)

    async def accept(self, change: Change) -> Accepted:
        """Returns once the change survives any crash and its wake-up is queued.

        Raises NothingToUpdateError, ProfileMismatchError, and TransientError when something
        could not be reached; posting the same change again is harmless.
        """
        await self.bind(change.key.namespace)
        for _ in range(RACES_BEFORE_GIVING_UP):
            now = self.clock()
            row = await self.registry.get(change.key)
            desired = _desired(change, row, now)
            decision = accept(row, change.key, desired, now, self.timers)
            if decision.row is not None:
                reused = await self._keep_bytes(change, decision.row)
                if await self.registry.put_if(decision.row) is None:
                    continue
                if reused:
                    await self._heal_bytes(change, decision.row)
            elif row is not None and decision.outcome is Outcome.UNCHANGED:
                # "Send the document again" must mend a blob that was damaged since.
                await self._keep_bytes(change, row)
            if decision.wake is not None:
                wake_up = _wake_up(change, decision.version)
                await self.queue.send(decision.wake, [wake_up])
            return self._report(change, decision.outcome, decision.version)
        raise TransientError(
            f"document {change.key.document_id!r} is being changed by too many writers at once"
        )

    def is_bound(self, namespace: str) -> bool:
        """Whether this process knows that the namespace is bound to its profile."""
        return namespace in self._bound

    async def bind(self, namespace: str) -> None:
        """Bind the namespace to this service's profile at its first use, or refuse."""
        if namespace in self._bound:
            return
        bound = await self.registry.bind_namespace(namespace, self.profile)
        if bound.id != self.profile.id:
            raise ProfileMismatchError(namespace, bound, self.profile)
        self._bound.add(namespace)

    async def _keep_bytes(self, change: Change, row: Row) -> bool:
        """Whether equal bytes were there before: such a blob may be an old one."""
        if change.content is None or not row.desired.blob_key:
            return False
        return not await self.blobs.put(row.desired.blob_key, change.content)

    async def _heal_bytes(self, change: Change, row: Row) -> None:
        """An old blob that nothing referred to may have been collected in between."""
        if change.content is not None and not await self.blobs.exists(row.desired.blob_key):
            await self.blobs.put(row.desired.blob_key, change.content)

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
