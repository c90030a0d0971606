"""What a filter is made of, for whoever puts it into a server's terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from common.adapters.index.metadata_numbers import is_number
from common.ports.errors import PermanentError
from common.ports.index import FieldFilter, MetadataFilter

C = TypeVar("C")


def folded(
    where: MetadataFilter,
    field: Callable[[FieldFilter], C],
    all_of: Callable[[list[C]], C],
    any_of: Callable[[list[C]], C],
) -> C:
    """Each condition on a field becomes `field` of it, each filter `all_of` or `any_of` its parts.

    Raises PermanentError for a mode that nobody knows.
    """
    if isinstance(where, FieldFilter):
        return field(where)
    modes = {"all": all_of, "any": any_of}
    if where.mode not in modes:
        raise PermanentError(f"unknown filter mode {where.mode!r}: all and any are known")
    return modes[where.mode]([folded(part, field, all_of, any_of) for part in where.parts])


def values_of(where: FieldFilter) -> Sequence[object]:
    """All that the field is compared with."""
    return where.value if isinstance(where.value, tuple) else (where.value,)


def bound_of(where: FieldFilter) -> float:
    """What a range begins or ends with. Raises PermanentError if `where` is no range of numbers."""
    if where.op not in ("gt", "gte", "lt", "lte"):
        raise PermanentError(f"unknown filter operator {where.op!r}")
    if not is_number(where.value):
        raise PermanentError(f"{where.op} compares numbers, not {where.value!r}")
    return float(where.value)
