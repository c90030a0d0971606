"""A record as the payload of a Qdrant point, embedded or on a server, and how it is read back."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any, Final

from common.adapters.index.metadata_numbers import require_storable
from common.identity import DOCUMENT_KEY_LENGTH
from common.model import MetadataValue, Record

DOCUMENT_KEY_FIELD: Final = "dk"
"""Indexed: all records of a document are found by it."""


def point_id(record_id: str) -> uuid.UUID:
    """The engine takes integers and UUIDs; the same id always gives the same one."""
    return uuid.UUID(bytes=hashlib.sha256(record_id.encode()).digest()[:16])


def payload(record: Record) -> dict[str, Any]:
    """Raises PermanentError for numbers that Qdrant does not take."""
    kept: dict[str, Any] = {
        "id": record.id,
        DOCUMENT_KEY_FIELD: record.id[:DOCUMENT_KEY_LENGTH],
        "document_id": record.document_id,
        "generation": record.generation,
        "number": record.number,
        "doc_hash": record.doc_hash,
        "heading_path": list(record.heading_path),
        "text": record.text,
        "metadata": {stored_name(k): _stored(k, v) for k, v in record.metadata.items()},
    }
    # The engine reads some floats back with another last digit: filters can live with that.
    if exact := {k: repr(v) for k, v in record.metadata.items() if isinstance(v, float)}:
        kept["floats"] = exact
    return kept


def fields(kept: dict[str, Any]) -> dict[str, Any]:
    """What a match and a record have in common."""
    metadata = kept["metadata"].items()
    return {
        "id": kept["id"],
        "document_id": kept["document_id"],
        "generation": kept["generation"],
        "number": kept["number"],
        "doc_hash": kept["doc_hash"],
        "heading_path": tuple(kept["heading_path"]),
        "text": kept["text"],
        "metadata": {
            **{_user_name(k): v if v != {} else [] for k, v in metadata},
            **{k: float(v) for k, v in kept.get("floats", {}).items()},
        },
    }


# A quoted path takes any character but these two, and knows no escape for them.
_ESCAPES: Final = (("%", "%25"), ('"', "%22"), ("\\", "%5C"))


def stored_name(name: str) -> str:
    for character, escape in _ESCAPES:
        name = name.replace(character, escape)
    return name


def metadata_path(name: str) -> str:
    """The path of a user's field, for a filter."""
    return f'metadata."{stored_name(name)}"'


def _user_name(name: str) -> str:
    for character, escape in reversed(_ESCAPES):
        name = name.replace(escape, character)
    return name


def _stored(name: str, value: MetadataValue) -> object:
    """The engine takes an empty list for no value; an empty object, never a user's, exists."""
    require_storable(name, value)
    return {} if value == [] else value
