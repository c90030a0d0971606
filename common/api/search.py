"""A search, and what it found."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from common.api.base import Answer, Body, Metadata, Version

DEFAULT_TOP_K = 10
MAX_WAIT_SECONDS = 300.0
DEFAULT_WAIT_SECONDS = 10.0
MAX_QUERY_BYTES = 64 * 1024

WaitSeconds = Annotated[float, Field(ge=0, le=MAX_WAIT_SECONDS)]


class SearchRequest(Body):
    """A question for one namespace."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"query": "How long may I wait with receipts?", "top_k": 5},
                {"query": "receipts", "filter": {"lang": "en"}, "min_version": {"a.md": 3}},
            ]
        },
    )

    query: Annotated[str, Field(min_length=1)] = Field(
        description=f"At most {MAX_QUERY_BYTES} bytes of UTF-8, and not blank."
    )
    top_k: Annotated[int, Field(ge=1)] | None = Field(
        None, description=f"How many hits at most; {DEFAULT_TOP_K} if left out."
    )
    filter: dict[str, Any] | None = Field(
        None, description='A condition on metadata: `{"lang": "en", "year": {"$gte": 2020}}`.'
    )
    min_version: dict[str, Version] | None = Field(
        None, description="Documents, and the version of each that the answer has to know of."
    )
    wait: WaitSeconds | None = Field(
        None,
        description="Seconds to wait for that, or without `min_version` for all that was accepted; "
        f"{DEFAULT_WAIT_SECONDS:g} when only `min_version` is given.",
    )


class Hit(Answer):
    """A chunk of a document's applied version."""

    document_id: str
    version: int
    chunk: int = Field(description="Its number within the document, from 0.")
    score: float = Field(description="Cosine similarity: higher is nearer.")
    text: str
    heading_path: list[str]
    metadata: Metadata


class SearchAnswer(Answer):
    """Best first."""

    hits: list[Hit]
    took_ms: float
