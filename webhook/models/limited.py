"""The models of bodies with the limits that a service is set to: what its validation knows, its
description tells."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

from pydantic import Field, SkipValidation, create_model

from common.api.base import Metadata, Version
from common.api.changes import Change, ChangeList, DocumentId, Namespace
from common.api.dead_letters import DeadLetterSelection
from common.api.scrubs import ScrubRequest
from common.api.search import SearchRequest
from common.extraction.content_types import SUPPORTED
from common.settings import Settings
from webhook.models.kept import PerSettings
from webhook.models.reading import Model

CONTENT_TYPES = (*SUPPORTED, "text/*")
"""What documents may be; any other text is read as plain text."""


@dataclass(frozen=True, slots=True)
class Bodies:
    """Each JSON body that this service takes."""

    change: Model[Change]
    changes: Model[ChangeList]
    search: Model[SearchRequest]
    scrub: Model[ScrubRequest]
    dead_letters: Model[DeadLetterSelection]


def _bodies_of(settings: Settings) -> Bodies:
    return _bodies(
        namespace_bytes=settings.max_namespace_bytes,
        document_id_bytes=settings.max_document_id_bytes,
        document_bytes=settings.max_document_bytes,
        metadata_keys=settings.max_metadata_keys,
        changes=settings.max_changes_per_request,
        top_k=settings.max_top_k,
    )


bodies_of = PerSettings(_bodies_of)
"""A feed asks for every line."""


@lru_cache(maxsize=8)
def _bodies(
    *,
    namespace_bytes: int,
    document_id_bytes: int,
    document_bytes: int,
    metadata_keys: int,
    changes: int,
    top_k: int,
) -> Bodies:
    change = _change(namespace_bytes, document_id_bytes, document_bytes, metadata_keys)
    return Bodies(
        change=Model(change),
        changes=_change_list(change, changes),
        search=Model(_search(top_k)),
        scrub=Model(ScrubRequest),
        dead_letters=Model(DeadLetterSelection),
    )


def _change(namespace: int, document_id: int, content: int, metadata_keys: int) -> type[Change]:
    """Metadata is only described here: see `webhook.metadata`."""
    fields: dict[str, Any] = {
        "namespace": (
            Annotated[Namespace, Field(max_length=namespace)] | None,
            Change.model_fields["namespace"],
        ),
        "document_id": (
            DocumentId,
            Field(description=f"At most {document_id} bytes of UTF-8."),
        ),
        "content": (
            str | None,
            Field(None, description=f"At most {content} bytes once decoded."),
        ),
        "content_type": (
            str | None,
            Field(None, description=f"One of {', '.join(CONTENT_TYPES)}."),
        ),
        "metadata": (
            SkipValidation[Metadata | None],  # type: ignore[misc]  # a form of its own
            Field(None, json_schema_extra={"maxProperties": metadata_keys}),
        ),
    }
    return create_model("Change", __base__=Change, __doc__=Change.__doc__, **fields)


def _change_list(change: type[Change], most: int) -> Model[ChangeList]:
    """Its changes are read one by one, each with its place in the list."""

    def listed(item: Any) -> type[ChangeList]:
        changes: Any = (Annotated[list[item], Field(min_length=1, max_length=most)], ...)
        doc = ChangeList.__doc__
        return create_model("ChangeList", __base__=ChangeList, __doc__=doc, changes=changes)

    return Model(listed(change), read_by=listed(Any))


def _search(most: int) -> type[SearchRequest]:
    fields: dict[str, Any] = {
        "top_k": (
            Annotated[int, Field(ge=1, le=most)] | None,
            SearchRequest.model_fields["top_k"],
        ),
        "min_version": (
            SkipValidation[dict[str, Version] | None],  # type: ignore[misc]
            SearchRequest.model_fields["min_version"],
        ),
    }
    doc = SearchRequest.__doc__
    return create_model("SearchRequest", __base__=SearchRequest, __doc__=doc, **fields)
