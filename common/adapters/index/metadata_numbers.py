"""Numbers in metadata and in filters: 64-bit integers and finite floats."""

from __future__ import annotations

import math
from typing import Final, TypeGuard

from common.model import MetadataValue
from common.ports.errors import PermanentError

EXACT_FLOAT: Final = 2**53
"""From here on not every integer has an exact float, and ranges compare floats."""


def is_number(value: object) -> TypeGuard[int | float]:
    """A boolean is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def require_storable(name: str, value: MetadataValue) -> None:
    """Raises PermanentError for a number that index servers do not take."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise PermanentError(f"metadata field {name!r}: integers must fit 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise PermanentError(f"metadata field {name!r}: numbers must be finite")
