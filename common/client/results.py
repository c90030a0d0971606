"""What the service answers, as frozen models named as in its OpenAPI description.

Times are aware datetimes, durations seconds. A field that an older service does not tell has its
default; one that only a newer service tells is kept and can be read all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

from common.client.errors import ApiError, Problem, error_of
from common.model import Status
from common.transitions import Outcome

Time = Annotated[datetime, PlainSerializer(datetime.isoformat, when_used="json")]
Metadata = Mapping[str, str | int | float | bool | Sequence[str]]


class Answer(BaseModel):
    """The base of all of them."""

    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)

    def as_json(self) -> dict[str, Any]:
        """As the service said it, and nothing that it did not say."""
        return self.model_dump(mode="json", exclude_unset=True)


# --- changes -------------------------------------------------------------------------------------


class ChangeResult(Answer):
    """A change that is durable. `outcome`: it made a new version, the document was so already
    (`unchanged`), or a newer `source_version` had been there (`superseded`)."""

    namespace: str
    document_id: str
    outcome: Outcome
    version: int
    """The document's last accepted version; 0: there never was such a document."""
    line: int | None = None
    """In a feed: which of its changes this is, from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRefused:
    """A change of a list or a feed that was not accepted; the others are not touched by it."""

    line: int
    """Which of the changes, from 1."""
    problem: Problem

    @property
    def error(self) -> ApiError:
        """To raise it: `raise refused.error`."""
        return error_of(self.problem)


# --- documents -----------------------------------------------------------------------------------


class DesiredVersion(Answer):
    """The last accepted change."""

    version: int = 0
    tombstone: bool = False
    content_hash: str = ""
    content_type: str = ""
    metadata: Metadata = {}
    source_version: int | None = None
    size_bytes: int = 0
    accepted_at: Time | None = None


class AppliedVersion(Answer):
    """What searches see."""

    version: int = 0
    doc_hash: str = ""
    embedding_profile: str = ""
    chunk_count: int = 0
    applied_at: Time | None = None


class Document(Answer):
    """Where a document stands."""

    namespace: str = ""
    document_id: str
    status: Status
    desired: DesiredVersion = DesiredVersion()
    applied: AppliedVersion = AppliedVersion()
    attempts: int = 0
    error: str | None = None
    etag: str | None = Field(default=None, exclude=True)
    """For `document_if_changed`."""

    @property
    def version(self) -> int:
        """Of the last accepted change: what `if_version` takes."""
        return self.desired.version

    @property
    def applied_version(self) -> int:
        return self.applied.version


class Summary(Answer):
    """A document in a listing."""

    document_id: str
    status: Status
    version: int = 0
    applied_version: int = 0
    tombstone: bool = False
    content_hash: str = ""
    content_type: str = ""
    metadata: Metadata = {}
    source_version: int | None = None
    size_bytes: int = 0
    chunk_count: int = 0
    accepted_at: Time | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """The bytes of the last accepted version, as they were sent."""

    data: bytes
    content_type: str
    version: int
    etag: str | None


class Chunk(Answer):
    """A piece of the applied version. `start`, `end`: characters of the extracted text."""

    number: int
    text: str
    heading_path: Sequence[str] = ()
    start: int = 0
    end: int = 0
    token_count: int = 0
    hash: str = ""


class Event(Answer):
    """Something that happened to a document: accepted, embedding, applied, failed …"""

    at: Time | None = None
    event: str
    version: int = 0
    detail: str = ""


# --- search --------------------------------------------------------------------------------------


class Hit(Answer):
    document_id: str
    version: int
    chunk: int
    """Its number within the document, from 0."""
    score: float
    text: str
    heading_path: Sequence[str] = ()
    metadata: Metadata = {}


class SearchAnswer(Answer):
    """Best first."""

    hits: Sequence[Hit]
    took_ms: float = 0.0


# --- the service ---------------------------------------------------------------------------------


class NamespaceCounts(Answer):
    namespace: str
    documents: Mapping[str, int] = {}
    """By status."""
    chunks: int = 0
    bytes: int | None = None
    """Of the contents; None: the service is of a release that does not tell."""


class QueueDepth(Answer):
    """Of a queue, messages."""

    waiting: int = 0
    in_flight: int = 0
    delayed: int = 0
    oldest_age_seconds: float | None = None


class Workers(Answer):
    running: int = 0
    peak: int = 0
    maximum: int = 0
    started_total: int = 0


class Stats(Answer):
    """A key that does not reach all namespaces is told of its own, and of nothing else."""

    namespaces: Sequence[NamespaceCounts] = ()
    queues: Mapping[str, QueueDepth] | None = None
    dead_letters: int | None = None
    admission: Mapping[str, Any] | None = None
    workers: Workers | None = None
    totals: Mapping[str, float] = {}
    embedding_profile: str = ""
    version: str = ""


class DeadLetter(Answer):
    """A message that was given up."""

    message_id: str
    source: str
    """The queue it came from, and goes back to."""
    namespace: str
    document_id: str
    version: int
    traceparent: str | None = None
    reason: str = ""
    receive_count: int = 0
    sent_at: Time | None = None
    died_at: Time | None = None


class ScrubProgress(Answer):
    namespace: str = ""
    documents_checked: int = 0
    documents_total: int = 0
    findings_total: int = 0


class Finding(Answer):
    namespace: str
    document_id: str | None = None
    kind: str
    detail: str = ""
    record_count: int = 0
    repairable: bool = False
    repaired: bool = False


class ScrubReport(Answer):
    """`clean`: nothing is wrong, or nothing any more."""

    clean: bool
    started_at: float = 0.0
    took_seconds: float = 0.0
    repair: bool = False
    namespaces: Sequence[str] = ()
    documents_checked: int = 0
    documents_in_motion: int = 0
    records_checked: int = 0
    findings: Sequence[Finding] = ()
    findings_total: int = 0
    repaired_total: int = 0
    counts: Mapping[str, int] = {}
    remaining: Mapping[str, int] = {}


class ScrubState(Answer):
    """`report` is the last one's; None: there was none yet."""

    running: bool
    report: ScrubReport | None = None


class AuditEntry(Answer):
    """Who did what to which document, from where, with which result."""

    at: Time | None = None
    principal: str = ""
    action: str
    namespace: str = ""
    document_id: str = ""
    subject: str = ""
    result: str = ""
    version: int = 0
    count: int = 1
    address: str = ""
    request_id: str = ""
    source: str = ""
    hash: str = ""
    sequence: int | None = None
    previous_hash: str | None = None
