"""How a record is kept as a point of Qdrant Edge, and how it is read back."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import qdrant_edge as qdrant

from common.adapters.index.qdrant_payload import fields, payload, point_id, stored_name
from common.adapters.index.scores import cosine
from common.model import Match, Record
from common.ports.errors import PermanentError


def copied_point(stored: qdrant.Record) -> qdrant.Point:
    """The same point, for another shard. Floats are taken from their exact text, or they drift."""
    kept = payload_of(stored)
    for name, text in kept.get("floats", {}).items():
        kept["metadata"][stored_name(name)] = float(text)
    return qdrant.Point(stored.id, stored.vector, kept)  # type: ignore[arg-type]


def point(record: Record) -> qdrant.Point:
    return qdrant.Point(point_id(record.id), record.vector.tolist(), payload(record))


def match(point: qdrant.ScoredPoint) -> Match:
    return Match(score=cosine(point.score), **fields(payload_of(point)))


def record(point: qdrant.Record) -> Record:
    vector = np.asarray(point.vector, dtype=np.float32)
    return Record(vector=array("f", vector.tobytes()), **fields(payload_of(point)))


def payload_of(point: qdrant.ScoredPoint | qdrant.Record) -> dict[str, Any]:
    if point.payload is None:
        raise PermanentError(f"point {point.id} in the index has no payload")
    return point.payload
