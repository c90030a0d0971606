"""Changes of documents, and what became of them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from typing_extensions import TypeAliasType

from common.api.base import Answer, Body, Metadata, Version
from common.api.problems import Problem
from common.model import ChangeType
from common.outbound_rules import MAX_URL_CHARACTERS
from common.transitions import Outcome

DEFAULT_NAMESPACE = "default"

Namespace = Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$")]
DocumentId = Annotated[str, Field(min_length=1)]
ContentUrl = Annotated[str, Field(max_length=MAX_URL_CHARACTERS)]
DocHash = Annotated[str, Field(pattern="^(sha256:)?[0-9a-fA-F]{64}$")]


class ContentEncoding(StrEnum):
    UTF_8 = "utf-8"
    BASE64 = "base64"


class Change(Body):
    """Insert (or replace), update or delete one document. null means the same as leaving a field
    out. An insert needs `content` or `content_url`, an update one of these or `metadata`; a delete
    has none of what describes a document."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "change_type": "insert",
                    "namespace": "handbook",
                    "document_id": "travel/expenses.md",
                    "content": "# Expenses\n\nSend receipts within 30 days.",
                    "content_type": "text/markdown",
                    "metadata": {"lang": "en", "tags": ["travel"]},
                    "source_version": 12,
                },
                {"change_type": "delete", "namespace": "handbook", "document_id": "travel/old.md"},
            ]
        },
    )

    change_type: Annotated[ChangeType, Field(strict=False)]
    namespace: Namespace | None = Field(
        None, description=f"A knowledge base or a tenant; `{DEFAULT_NAMESPACE}` if left out."
    )
    document_id: DocumentId
    content: str | None = None
    content_encoding: Annotated[ContentEncoding | None, Field(strict=False)] = Field(
        None, description="Of `content`; utf-8 if left out."
    )
    content_type: str | None = None
    content_url: ContentUrl | None = Field(
        None,
        description="Where the content is, instead of `content`: http or https, of a host that the "
        "service may fetch from.",
    )
    doc_hash: DocHash | None = Field(
        None, description="SHA-256 of the content's bytes: refused when they are others."
    )
    metadata: Metadata | None = None
    source_version: Version | None = Field(
        None, description="Of the document where it comes from: what is not newer is superseded."
    )
    if_version: Version | None = Field(
        None,
        description="412 unless this is the last accepted version; 0: unless the document does not "
        "exist.",
    )


class ChangeList(Body):
    """Validated whole before any of it is accepted."""

    changes: Annotated[list[Change], Field(min_length=1)]


# --- results -------------------------------------------------------------------------------------


class ChangeResult(Answer):
    """The change is durable. `version` is 0 for a delete of a document that was never seen."""

    namespace: str
    document_id: str
    outcome: Outcome
    version: int


class ChangeRefused(Answer):
    """The change was not accepted; its neighbours in the list were."""

    namespace: str
    document_id: str
    error: Problem


ListResult = TypeAliasType("ListResult", ChangeResult | ChangeRefused)


class ChangeResults(Answer):
    """One for each change, in their order."""

    results: list[ListResult]


class LineAccepted(ChangeResult):
    """The change in this line of a feed is durable."""

    line: int = Field(description="From 1; empty lines count.")


class LineRefused(Answer):
    """The change in this line of a feed was not accepted."""

    line: int = Field(description="From 1; empty lines count.")
    error: Problem
    feed_ended: Literal[True] | None = Field(
        None, description="Nothing behind this line was read: send it again from here."
    )


LineResult = TypeAliasType("LineResult", LineAccepted | LineRefused)


class Delivered(Answer):
    """Every change that the delivery of another system's webhook stands for is durable, but for
    those that are refused."""

    source: str
    delivery_id: str | None
    changes: int
    ignored: int = Field(description="What the settings of the source pass over.")
    accepted: int
    unchanged: int
    superseded: int
    refused: int | None = Field(None, description="Changes that are not accepted, if any.")
    errors: list[Problem] | None = Field(None, description="Of the first that are refused.")
    warnings: list[str] | None = Field(None, description="What may be missing from the delivery.")
