"""Messages that were given up, and what is to be done with them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import ConfigDict, Field

from common.api.base import Answer, Body
from common.model import QueueName

MAX_LETTER_IDS = 10_000


class DeadLetterSelection(Body):
    """Either `message_ids`, or `all`, which a namespace or a document may narrow."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"message_ids": ["01J8"]}, {"all": True}]}
    )

    all: bool | None = None
    namespace: str | None = Field(None, description="With `all`: only its letters.")
    document_id: str | None = Field(None, description="With `all`: only its letters.")
    message_ids: Annotated[list[str], Field(max_length=MAX_LETTER_IDS)] | None = None


class DeadLetter(Answer):
    """A message that was given up, with the reason."""

    message_id: str
    source: QueueName
    namespace: str
    document_id: str
    version: int
    traceparent: str
    reason: str
    receive_count: int
    sent_at: datetime | None
    died_at: datetime | None


class DeadLetterPage(Answer):
    """In order of message id."""

    dead_letters: list[DeadLetter]
    cursor: str | None = Field(description="Of the next page; null: there is none.")


class Redriven(Answer):
    redriven: int = Field(description="How many went back to the queues they came from.")


class Discarded(Answer):
    discarded: int = Field(description="How many are gone.")
