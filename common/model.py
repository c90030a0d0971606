"""The words of the project as immutable values: documents, versions, rows, wake-ups, records.

Standard library only, so that every port and every adapter can speak it.
Times are seconds since the epoch (UTC); sizes are bytes unless the name says otherwise.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

MetadataValue = str | int | float | bool | list[str]
Metadata = Mapping[str, MetadataValue]

Vector = array
"""float32 components, `array("f", …)`: compact, standard library, zero-copy to numpy."""


class Status(StrEnum):
    """Where a document stands, for people and for the sweeper."""

    PENDING = "PENDING"
    PROCESSING = "PROCESSING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    DELETED = "DELETED"


class QueueName(StrEnum):
    CHANGE = "change"
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


class ChangeType(StrEnum):
    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"


@dataclass(frozen=True, slots=True, order=True)
class DocumentKey:
    """A document's name: unique within its namespace (a knowledge base or a tenant)."""

    namespace: str
    document_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """What the index should hold: the last accepted change."""

    version: int
    """1, 2, 3 … given at accept."""
    content_hash: str
    """SHA-256 of the content's bytes, hex; empty for a tombstone."""
    metadata_hash: str
    blob_key: str
    content_type: str
    metadata: dict[str, MetadataValue]
    source_version: int | None
    tombstone: bool
    accepted_at: float
    size_bytes: int
    traceparent: str


@dataclass(frozen=True, slots=True, order=True)
class IdRange:
    """Record numbers `first` to `last`, both included, of one generation of one document."""

    generation: int
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What the index holds: the last committed version and the records that make it."""

    version: int = 0
    doc_hash: str = ""
    content_hash: str = ""
    metadata_hash: str = ""
    embedding_profile: str = ""
    manifest: tuple[IdRange, ...] = ()
    """The record ids of this version, in document order."""
    applied_at: float = 0.0
    chunk_count: int = 0
    intact: bool = True
    """False: a scrub found it damaged: the next version keeps none of its records."""


class GarbageState(StrEnum):
    OPEN = "open"
    """An attempt in flight: it may still commit, until `not_before`."""
    DOOMED = "doomed"
    """Never to be committed; its records may be deleted from `not_before` on."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """A range of record ids that belongs to no applied version."""

    ids: IdRange
    state: GarbageState
    not_before: float


@dataclass(frozen=True, slots=True)
class Claim:
    """Who embeds which version, so that a burst of wake-ups embeds it once."""

    version: int
    message_id: str
    until: float


class EventKind(StrEnum):
    """What can happen to a document, in the words that people read."""

    ACCEPTED = "accepted"
    RETRIED = "retried"
    """FAILED, and the same content was sent again."""
    EMBEDDING = "embedding"
    ERROR = "error"
    """It will be tried again."""
    FAILED = "failed"
    APPLIED = "applied"
    DELETED = "deleted"
    """Hidden from every search; its records are removed after."""
    REPAIRED = "repaired"
    """A scrub found something wrong and mended it, or had the document written anew."""
    ATTEMPT_LOST = "attempt_lost"
    """The lease of an attempt to apply a version ended before it was committed."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a document, for people."""

    at: float
    kind: EventKind
    version: int
    """The version it happened to; of a lost attempt, the one desired at that time."""
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The registry row: the truth about one document; written by compare-and-set only."""

    key: DocumentKey
    revision: int
    """Bumped by every write; 0 for a row that is not stored yet."""
    desired: Desired
    applied: Applied = field(default_factory=Applied)
    next_generation: int = 1
    garbage: tuple[Garbage, ...] = ()
    status: Status = Status.PENDING
    attempts: int = 0
    """How often embedding the desired version has begun."""
    error: str | None = None
    claim: Claim | None = None
    sweep_at: float | None = None
    """When the sweeper should look at this row next; None: there is nothing left to do."""
    updated_at: float = 0.0
    news: tuple[Event, ...] = ()
    """What this write adds to the document's history; no part of the stored row: () when read."""

    @property
    def behind(self) -> bool:
        """Whether the index does not show the desired version yet."""
        return self.applied.version < self.desired.version


@dataclass(frozen=True, slots=True, kw_only=True)
class WakeUp:
    """A queue message: names a document; what has to be done is read from its row.

    On the create and update queues `version` and `doc_hash` name the pack to apply.
    """

    namespace: str
    document_id: str
    version: int
    doc_hash: str = ""
    traceparent: str = ""

    @property
    def key(self) -> DocumentKey:
        return DocumentKey(self.namespace, self.document_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingProfile:
    """What makes two vectors comparable. A namespace is bound to one at its first use."""

    model: str
    fingerprint: str
    """SHA-256 prefix of the model file, or its revision: another file is another profile."""
    dimension: int
    max_tokens: int
    """The model's window, special tokens included."""
    query_prefix: str = ""
    document_prefix: str = ""

    @property
    def id(self) -> str:
        """The profile as one comparable string; it goes into every doc_hash."""
        prefixes = f"|q={self.query_prefix}|d={self.document_prefix}"
        return f"{self.model}@{self.fingerprint}/{self.dimension}{prefixes}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One chunk in the index. `metadata` is the user's; the other fields' names are reserved.

    `text` None: too large for the index beside the metadata; it and the heading path, which is ()
    then, are in the pack.
    """

    id: str
    vector: Vector[float]
    document_id: str
    generation: int
    number: int
    doc_hash: str
    heading_path: tuple[str, ...]
    text: str | None
    metadata: dict[str, MetadataValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A record found by a query; `score` is cosine similarity, higher is nearer.

    `text` None: as in Record.
    """

    id: str
    score: float
    document_id: str
    generation: int
    number: int
    doc_hash: str
    heading_path: tuple[str, ...]
    text: str | None
    metadata: dict[str, MetadataValue]


RESERVED_METADATA_KEYS = frozenset(
    {"namespace", "document_id", "generation", "number", "doc_hash", "heading_path", "text"}
)


def expand(ranges: Sequence[IdRange]) -> list[tuple[int, int]]:
    """All `(generation, number)` pairs of the ranges, in order."""
    return [(r.generation, n) for r in ranges for n in range(r.first, r.last + 1)]
