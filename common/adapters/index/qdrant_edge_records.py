"""How a record is kept as a point of Qdrant Edge, and how it is read back."""

from __future__ import annotations

import hashlib
import math
import uuid
from array import array
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import qdrant_edge as qdrant

from common.identity import DOCUMENT_KEY_LENGTH
from common.model import Match, MetadataValue, Record
from common.ports.errors import PermanentError
from common.ports.index import DimensionMismatchError


def common_dimension(namespace: str, records: Sequence[Record]) -> int:
    dimension = len(records[0].vector)
    for record in records:
        if len(record.vector) != dimension:
            raise mismatch(namespace, dimension, len(record.vector))
        if not math.isfinite(sum(record.vector)):
            raise PermanentError(f"the vector of record {record.id} is not finite")
    return dimension


def mismatch(namespace: str, held: int, given: int) -> DimensionMismatchError:
    return DimensionMismatchError(
        f"namespace {namespace!r} holds vectors of {held} dimensions, this one has {given}"
    )


def point_id(record_id: str) -> uuid.UUID:
    """The engine takes integers and UUIDs; the same id always gives the same one."""
    return uuid.UUID(bytes=hashlib.sha256(record_id.encode()).digest()[:16])


def copied_point(stored: qdrant.Record) -> qdrant.Point:
    """The same point, for another shard. Floats are taken from their exact text, or they drift."""
    payload = payload_of(stored)
    for name, text in payload.get("floats", {}).items():
        payload["metadata"][stored_name(name)] = float(text)
    return qdrant.Point(stored.id, stored.vector, payload)  # type: ignore[arg-type]


def point(record: Record) -> qdrant.Point:
    payload = {
        "id": record.id,
        "dk": record.id[:DOCUMENT_KEY_LENGTH],
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
        payload["floats"] = exact
    return qdrant.Point(point_id(record.id), record.vector.tolist(), payload)


def match(point: qdrant.ScoredPoint) -> Match:
    # Rounding takes the cosine of equal vectors a little over 1.
    return Match(score=max(-1.0, min(1.0, point.score)), **_fields(payload_of(point)))


def record(point: qdrant.Record) -> Record:
    vector = np.asarray(point.vector, dtype=np.float32)
    return Record(vector=array("f", vector.tobytes()), **_fields(payload_of(point)))


def _fields(payload: dict[str, Any]) -> dict[str, Any]:
    """What a match and a record have in common."""
    metadata = payload["metadata"].items()
    return {
        "id": payload["id"],
        "document_id": payload["document_id"],
        "generation": payload["generation"],
        "number": payload["number"],
        "doc_hash": payload["doc_hash"],
        "heading_path": tuple(payload["heading_path"]),
        "text": payload["text"],
        "metadata": {
            **{_user_name(k): v if v != {} else [] for k, v in metadata},
            **{k: float(v) for k, v in payload.get("floats", {}).items()},
        },
    }


def payload_of(point: qdrant.ScoredPoint | qdrant.Record) -> dict[str, Any]:
    if point.payload is None:
        raise PermanentError(f"point {point.id} in the index has no payload")
    return point.payload


# A quoted path takes any character but these two, and knows no escape for them.
_ESCAPES: Final = (("%", "%25"), ('"', "%22"), ("\\", "%5C"))


def stored_name(name: str) -> str:
    for character, escape in _ESCAPES:
        name = name.replace(character, escape)
    return name


def _user_name(name: str) -> str:
    for character, escape in reversed(_ESCAPES):
        name = name.replace(escape, character)
    return name


def _stored(name: str, value: MetadataValue) -> object:
    """The engine takes an empty list for no value; an empty object, never a user's, exists."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise PermanentError(f"metadata field {name!r}: integers must fit 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise PermanentError(f"metadata field {name!r}: numbers must be finite")
    return {} if value == [] else value
