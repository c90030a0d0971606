"""Rows, wake-ups and profiles to JSON and back. What is read is validated: it may be damaged.

The field names of the model are the stored format: renaming one needs a migration.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from common.model import EmbeddingProfile, Row, WakeUp
from common.ports.errors import PermanentError

__all__ = [
    "DamagedDataError",
    "profile_from_json",
    "profile_to_json",
    "row_from_json",
    "row_to_json",
    "wake_up_from_json",
    "wake_up_to_json",
]

T = TypeVar("T")

_ROW = TypeAdapter(Row)
_WAKE_UP = TypeAdapter(WakeUp)
_PROFILE = TypeAdapter(EmbeddingProfile)


class DamagedDataError(PermanentError):
    """What was stored is not what this program writes."""


def row_to_json(row: Row) -> str:
    """Without its news. Raises ValueError for a number or a text that JSON cannot carry."""
    # pydantic writes NaN and infinity as null, which would be refused when the row is read.
    if not all(map(math.isfinite, _floats(row))):
        raise ValueError(f"{row.key}: NaN and infinity cannot be stored")
    return _ROW.dump_json(row, exclude={"news"}).decode()


def row_from_json(text: str | bytes) -> Row:
    """Raises DamagedDataError."""
    return _read(_ROW, text, "a registry row")


def wake_up_to_json(wake_up: WakeUp) -> str:
    """Raises ValueError for a text with lone surrogates."""
    return _WAKE_UP.dump_json(wake_up).decode()


def wake_up_from_json(text: str | bytes) -> WakeUp:
    """Raises DamagedDataError."""
    return _read(_WAKE_UP, text, "a wake-up")


def profile_to_json(profile: EmbeddingProfile) -> str:
    return _PROFILE.dump_json(profile).decode()


def profile_from_json(text: str | bytes) -> EmbeddingProfile:
    """Raises DamagedDataError."""
    return _read(_PROFILE, text, "an embedding profile")


def _read(adapter: TypeAdapter[T], text: str | bytes, what: str) -> T:
    try:
        return adapter.validate_json(text, strict=True)
    except ValidationError as error:
        reason = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, reason["loc"])) or "JSON"
        raise DamagedDataError(f"not {what}: {where}: {reason['msg']}") from error


def _floats(row: Row) -> Iterator[float]:
    yield from (row.updated_at, row.applied.applied_at, row.desired.accepted_at)
    yield from (garbage.not_before for garbage in row.garbage)
    yield row.sweep_at or 0.0
    yield row.claim.until if row.claim else 0.0
    yield from (value for value in row.desired.metadata.values() if isinstance(value, float))
