"""Errors, as RFC 9457 has them."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from common.api.base import Answer


class Problem(Answer):
    """What is wrong, where, and which limit was not met. Some kinds have more members."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:bloomweaver:problem:invalid-field",
                    "title": "A field is not as it has to be",
                    "status": 422,
                    "detail": "document_id is missing",
                    "field": "document_id",
                }
            ]
        },
    )

    type: str = Field(description="Which kind of problem: what programs tell problems apart by.")
    title: str
    status: int = Field(description="The HTTP status; of a line, what it would be by itself.")
    detail: str = Field(description="For people: what is wrong here, and how to mend it.")
    field: str | None = Field(
        None, description="The path of what is wrong: `changes[17].metadata.tags[2]`."
    )
    limit: int | float | list[str] | None = Field(
        None, description="The number that was not met, or what there is to choose from."
    )
    version: int | None = Field(
        None, description="Of a failed precondition: the last accepted version; 0: there is none."
    )
    missing: list[str] | None = Field(None, description="Of a service that is not ready.")
    reason: str | None = Field(None, description="Of a service that takes no more for now.")
    retry_after_seconds: float | None = Field(None, description="As in the header Retry-After.")
