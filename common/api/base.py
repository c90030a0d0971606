"""What all models of the API have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypeAliasType

MAX_INTEGER = 2**63 - 1
"""Of versions: what every registry can hold."""

Version = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
MetadataValue = str | int | float | bool | list[str]
Metadata = TypeAliasType("Metadata", dict[str, MetadataValue])
"""Flat: what an index can filter by."""


class Body(BaseModel):
    """What a client sends: without unknown fields, and nothing is converted ("5" is no number)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)


class Answer(BaseModel):
    """What the service answers. Clients pass over members that a newer service adds."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)
