"""The metadata fields that a record has in Chroma, beside its text, which is Chroma's document.

Chroma tells no empty list, compares whole numbers with fractions after cutting these off, and
reserves some names. So the exact values are in one JSON field, and fields of one type each are
there to be filtered by: NAME's value is in `s:NAME` (text), `n:NAME` (numbers, as floats), `i:NAME`
(integers that have no exact float, beside `n:NAME`), `b:NAME` (booleans) or `l:NAME` (lists).
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from common.adapters.index.metadata_numbers import EXACT_FLOAT, require_storable
from common.adapters.index.scores import cosine
from common.identity import DOCUMENT_KEY_LENGTH
from common.model import Match, MetadataValue, Record
from common.ports.errors import PermanentError

DOCUMENT_KEY: Final = "key"
PLACE: Final = "place"
"""A number in [0, 1) that follows from the id: ids are listed by ranges of it."""
NAMES: Final = "names"
"""Of all the user's fields."""
WHOLE: Final = "whole"
TEXT, NUMBER, INTEGER, BOOLEAN, LIST = "s:", "n:", "i:", "b:", "l:"

Stored = str | int | float | bool | list[str]


def place(record_id: str) -> float:
    """53 bits of a hash: any float of JSON, and of SQLite, holds them exactly."""
    return int.from_bytes(hashlib.sha256(record_id.encode()).digest()[:7]) / 2**56


def fields(record: Record) -> Mapping[str, Any]:
    """Raises PermanentError for numbers that Chroma does not take."""
    stored: dict[str, Stored] = {
        DOCUMENT_KEY: record.id[:DOCUMENT_KEY_LENGTH],
        PLACE: place(record.id),
        WHOLE: _whole(record),
    }
    if record.metadata:
        stored[NAMES] = list(record.metadata)
    for name, value in record.metadata.items():
        stored.update(_typed(name, value))
    return stored


def match(record_id: str, distance: float, stored: dict[str, Any], text: str | None) -> Match:
    """`distance`: 1 - cosine."""
    described = _described(record_id, stored)
    return Match(id=record_id, score=cosine(1.0 - distance), text=text or "", **described)


def record(
    record_id: str, vector: Sequence[float], stored: dict[str, Any], text: str | None
) -> Record:
    described = _described(record_id, stored)
    return Record(id=record_id, vector=array("f", vector), text=text or "", **described)


def _whole(record: Record) -> str:
    kept = {
        "document_id": record.document_id,
        "generation": record.generation,
        "number": record.number,
        "doc_hash": record.doc_hash,
        "heading_path": list(record.heading_path),
        "metadata": dict(record.metadata),
    }
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":"))


def _described(record_id: str, stored: dict[str, Any]) -> dict[str, Any]:
    try:
        kept: dict[str, Any] = json.loads(stored[WHOLE])
        return {**kept, "heading_path": tuple(kept["heading_path"])}
    except (KeyError, TypeError, ValueError) as error:
        raise PermanentError(f"record {record_id} in the index is not one of ours") from error


def _typed(name: str, value: MetadataValue) -> Iterator[tuple[str, Stored]]:
    require_storable(name, value)
    if isinstance(value, str):
        yield TEXT + name, value
    elif isinstance(value, bool):
        yield BOOLEAN + name, value
    elif isinstance(value, list):
        if value:
            yield LIST + name, value
    else:
        yield from _number(name, value)


def _number(name: str, value: int | float) -> Iterator[tuple[str, Stored]]:
    yield NUMBER + name, float(value)
    if isinstance(value, int) and abs(value) >= EXACT_FLOAT:
        yield INTEGER + name, value
