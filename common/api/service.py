"""What the service says of itself, and its audit trail."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from common.api.base import Answer


class Health(Answer):
    status: str


class NamespaceCounts(Answer):
    """What a namespace holds."""

    namespace: str
    documents: dict[str, int] = Field(description="How many, by status.")
    chunks: int
    bytes: int = Field(description="Of the documents' contents, as they were sent.")


class QueueDepth(Answer):
    """Messages by state."""

    waiting: int
    in_flight: int
    delayed: int
    oldest_age_seconds: float


class QueueDepths(Answer):
    change: QueueDepth
    create: QueueDepth
    update: QueueDepth
    delete: QueueDepth


class RefusalReason(StrEnum):
    """Why inserts and updates are refused for now."""

    BACKLOG = "backlog"
    DISK = "disk"


class Admission(Answer):
    """Whether changes are accepted for now; limits of 0 are none."""

    refusing: RefusalReason | None
    why: str | None
    backlog_messages: int | None
    max_backlog_messages: int
    free_disk_bytes: int | None
    min_free_disk_bytes: int


class Workers(Answer):
    """Embedding workers of this machine."""

    running: int
    peak: int
    maximum: int
    started_total: int


class Stats(Answer):
    """Who is bound to namespaces is told of these and of the version only."""

    namespaces: list[NamespaceCounts]
    queues: QueueDepths | None = None
    dead_letters: int | None = None
    admission: Admission | None = None
    workers: Workers | None = Field(None, description="null: this process starts none.")
    totals: dict[str, float] | None = Field(None, description="Counters since the start, by name.")
    embedding_profile: str | None = None
    version: str


class AuditEntry(Answer):
    """Who did what to which document, from where, with which result. Its place in the chain is told
    to who reaches all namespaces."""

    at: datetime | None
    principal: str = Field(description="Empty for who was refused without being known.")
    action: str = Field(description="`insert`, `update`, `delete`, `key.create`, `refused`, …")
    namespace: str
    document_id: str
    subject: str = Field(description="What was acted on where that is no document.")
    result: str = Field(description="`accepted`, `unchanged`, `uncertain`, a problem's kind, …")
    version: int
    count: int = Field(description="How often, where like events are told together.")
    address: str
    request_id: str
    source: str
    hash: str = Field(description="Of this entry and of the hash before it.")
    sequence: int | None = None
    previous_hash: str | None = None


class AuditPage(Answer):
    """The newest first."""

    entries: list[AuditEntry]
    cursor: str | None = Field(description="Of the next page; null: there is none.")
