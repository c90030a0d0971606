"""Documents as the service knows them: where they stand, their chunks and their history."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from common.api.base import Answer, Metadata
from common.model import EventKind, Status


class DesiredVersion(Answer):
    """The last accepted change: what the index should show."""

    version: int
    tombstone: bool = Field(description="The document was deleted.")
    content_hash: str = Field(description="SHA-256, hex; empty for a tombstone.")
    content_type: str
    metadata: Metadata
    source_version: int | None
    size_bytes: int
    accepted_at: datetime | None


class AppliedVersion(Answer):
    """What the index shows; version 0: nothing yet."""

    version: int
    doc_hash: str = Field(description="Of content, content type, metadata and profiles.")
    embedding_profile: str
    chunk_count: int
    applied_at: datetime | None


class Document(Answer):
    """Where a document stands."""

    namespace: str
    document_id: str
    status: Status
    desired: DesiredVersion
    applied: AppliedVersion
    attempts: int = Field(description="How often embedding the desired version has begun.")
    error: str | None


class Summary(Answer):
    """A document in a list."""

    document_id: str
    status: Status
    version: int = Field(description="The last accepted one.")
    applied_version: int
    tombstone: bool
    content_hash: str
    content_type: str
    metadata: Metadata
    source_version: int | None
    size_bytes: int
    chunk_count: int
    accepted_at: datetime | None
    error: str | None


class DocumentPage(Answer):
    """In order of id, deleted documents included."""

    documents: list[Summary]
    cursor: str | None = Field(description="Of the next page; null: there is none.")


class Chunk(Answer):
    """A chunk of the applied version. `start` and `end` are places in the extracted text."""

    number: int
    text: str
    heading_path: list[str]
    start: int
    end: int
    token_count: int
    hash: str


class ChunkPage(Answer):
    """In document order."""

    version: int = Field(description="The applied one.")
    chunks: list[Chunk]
    cursor: str | None = Field(description="Of the next page; null: there is none.")


class Event(Answer):
    """Something that happened to a document."""

    at: datetime | None
    event: EventKind
    version: int
    detail: str


class EventPage(Answer):
    """The newest first."""

    events: list[Event]
    cursor: str | None = Field(description="Of the next page; null: there is none.")
