"""How a record is kept as a vector of Pinecone's, and how it is read back.

Pinecone keeps strings, booleans, 64-bit floats and lists of strings. The user's fields are kept
under their own names, so that other programs can filter on them too; ours begin with an underscore.
What Pinecone cannot tell apart (1 and 1.0, an empty list and none) is told beside the values.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from common.adapters.index.dimensions import require_finite
from common.adapters.index.metadata_numbers import is_number, require_storable
from common.adapters.index.pinecone_limits import METADATA_BYTES
from common.adapters.index.scores import cosine
from common.model import Match, Metadata, MetadataValue, Record
from common.ports.errors import PermanentError
from common.ports.index import DimensionMismatchError

DOCUMENT: Final = "_document"
EMPTY: Final = "_empty"
"""Names of the user's fields that hold an empty list."""
_NUMBERS: Final = "_numbers"
"""The user's numbers in the order of their names, as exact JSON."""
_GENERATION: Final = "_generation"
_NUMBER: Final = "_number"
_DOC_HASH: Final = "_doc_hash"
_HEADINGS: Final = "_headings"
_TEXT: Final = "_text"
_ESCAPE: Final = "_u"
"""Before a user's name that begins with _ or $, or is empty. None of ours begins so."""

LONGER_DIGITS: Final = 2
"""Bytes that a number between 1e-5 and 1e-4 may take more on the wire than here."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """`body` as the SDK takes it; `size` is at least what it takes on the wire."""

    body: dict[str, Any]
    size: int


def encode(namespace: str, records: Sequence[Record], dimension: int) -> list[Encoded]:
    """CPU-bound: call it in a thread. Raises DimensionMismatchError and PermanentError."""
    return [_encoded(namespace, record, dimension) for record in records]


def _encoded(namespace: str, record: Record, dimension: int) -> Encoded:
    if len(record.vector) != dimension:
        raise mismatch(namespace, dimension, len(record.vector))
    require_finite(record)
    # Nine digits name a float32 exactly, in half the bytes that its float64 takes.
    values = [float(f"{component:.9g}") for component in record.vector]
    body = {"id": record.id, "values": values, "metadata": stored(record)}
    return Encoded(body, _json_bytes(body) + LONGER_DIGITS * dimension + 1)


def mismatch(namespace: str, held: int, given: int) -> DimensionMismatchError:
    return DimensionMismatchError(
        f"the Pinecone index holds vectors of {held} dimensions, this one for namespace "
        f"{namespace!r} has {given}"
    )


def stored(record: Record) -> dict[str, Any]:
    """The metadata to send. Text and headings are left out where they would not fit."""
    least = {
        DOCUMENT: record.document_id,
        _GENERATION: record.generation,
        _NUMBER: record.number,
        _DOC_HASH: record.doc_hash,
        **_stored_metadata(record.metadata),
    }
    if record.text is not None:
        headings = {_HEADINGS: list(record.heading_path)} if record.heading_path else {}
        whole = {**least, **headings, _TEXT: record.text}
        if _json_bytes(whole) <= METADATA_BYTES:
            return whole
    if (size := _json_bytes(least)) > METADATA_BYTES:
        raise PermanentError(
            f"the metadata of document {record.document_id!r} takes {size} bytes in the index, "
            f"and Pinecone keeps {METADATA_BYTES}: send less metadata"
        )
    return least


def _stored_metadata(metadata: Metadata) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    empty: list[str] = []
    for name, value in metadata.items():
        if value == []:
            empty.append(stored_name(name))
        else:
            require_storable(name, value)
            fields[stored_name(name)] = value
    numbers = [fields[name] for name in _numeric(fields)]
    if numbers:
        fields[_NUMBERS] = json.dumps(numbers, separators=(",", ":"))
    if empty:
        fields[EMPTY] = empty
    return fields


def _numeric(fields: Mapping[str, Any]) -> list[str]:
    """Names of the user's fields that hold numbers, sorted."""
    return sorted(name for name, value in fields.items() if is_number(value) and _is_users(name))


def match(record_id: str, score: float, metadata: Mapping[str, Any] | None) -> Match | None:
    """None for a record that somebody else wrote, or changed beyond reading."""
    fields = _fields(record_id, metadata or {})
    return Match(score=cosine(score), **fields) if fields else None


def record(
    record_id: str, values: Sequence[float], metadata: Mapping[str, Any] | None
) -> Record | None:
    """None as for `match`."""
    fields = _fields(record_id, metadata or {})
    return Record(vector=array("f", values), **fields) if fields else None


def _fields(record_id: str, held: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a match and a record have in common."""
    try:
        return {
            "id": record_id,
            "document_id": held[DOCUMENT],
            "generation": int(held[_GENERATION]),
            "number": int(held[_NUMBER]),
            "doc_hash": held[_DOC_HASH],
            "heading_path": tuple(held.get(_HEADINGS, ())),
            "text": held.get(_TEXT),
            "metadata": _user_metadata(held),
        }
    except (KeyError, ValueError, TypeError):
        return None


def _user_metadata(held: Mapping[str, Any]) -> dict[str, MetadataValue]:
    fields = {name: value for name, value in held.items() if _is_users(name)}
    numbers = json.loads(held.get(_NUMBERS, "[]"))
    fields.update(zip(_numeric(fields), numbers, strict=True))
    fields.update({name: [] for name in held.get(EMPTY, ())})
    return {_user_name(name): value for name, value in fields.items()}


def stored_name(name: str) -> str:
    return _ESCAPE + name if not name or name[0] in "_$" else name


def _is_users(name: str) -> bool:
    return name.startswith(_ESCAPE) or not name.startswith("_")


def _user_name(name: str) -> str:
    return name[len(_ESCAPE) :] if name.startswith(_ESCAPE) else name


def _json_bytes(value: object) -> int:
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
