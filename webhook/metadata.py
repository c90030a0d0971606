"""Metadata, looked through by hand: of a megabyte of wrong values the first is told, where a model
would make a list of all. Pure."""

from __future__ import annotations

import math
from typing import Any

from common import identity
from common.api.base import MAX_INTEGER
from common.model import RESERVED_METADATA_KEYS, MetadataValue
from common.settings import Settings
from webhook.json_text import parse_json
from webhook.problems import Problem
from webhook.refusals import CONTROL, encoded, name_of, refuse

MIN_INTEGER = -(2**63)
MAX_METADATA_KEY_BYTES = 128


def metadata_of(text: str, limits: Settings) -> dict[str, MetadataValue] | None:
    """Metadata given as JSON text. Raises Problem."""
    try:
        value = parse_json(text.encode(errors="surrogatepass"))
    except Problem as problem:
        raise problem.within("metadata") from None
    return checked_metadata(value, limits)


def checked_metadata(value: Any, limits: Settings) -> dict[str, MetadataValue] | None:
    """As it is. Raises Problem for the first thing that is wrong with it."""
    if value is None:
        return None
    if not isinstance(value, dict):
        refuse("metadata", f"must be an object, not {name_of(value)}")
    if len(value) > limits.max_metadata_keys:
        limit = limits.max_metadata_keys
        refuse("metadata", f"has {len(value)} fields, the limit is {limit}", limit=limit)
    for name, item in value.items():
        _check_key(name)
        _check_value(f"metadata.{name}", item)
    size, limit = len(identity.canonical_json(value)), limits.max_metadata_bytes
    if size > limit:
        refuse("metadata", f"is {size} bytes of JSON, the limit is {limit}", limit=limit)
    return value


def _check_key(name: str) -> None:
    field, limit = "metadata", MAX_METADATA_KEY_BYTES
    size = len(encoded(name, field))
    if not 1 <= size <= limit:
        refuse(field, f"a name has {size} bytes; it must have 1 to {limit}", limit=limit)
    field = f"metadata.{name}"
    if name.startswith("$"):
        refuse(field, "a name must not begin with $: filters use it")
    if name in RESERVED_METADATA_KEYS:
        reserved = sorted(RESERVED_METADATA_KEYS)
        refuse(field, f"is reserved, as are {', '.join(reserved)}", limit=reserved)
    if CONTROL.search(name):
        refuse("metadata", f"the name {name!r} has a control character")


def _check_value(field: str, value: Any) -> None:
    if isinstance(value, str):
        encoded(value, field)
    elif isinstance(value, bool):
        pass
    elif isinstance(value, int):
        if not MIN_INTEGER <= value <= MAX_INTEGER:
            refuse(field, "is beyond 64 bit; send it as a string", limit=MAX_INTEGER)
    elif isinstance(value, float):
        if not math.isfinite(value):
            refuse(field, "must be a finite number")
    elif isinstance(value, list):
        _check_list(field, value)
    else:
        refuse(
            field,
            f"must be a string, a number, true, false or a list of strings, "
            f"not {name_of(value)}: metadata is flat",
        )


def _check_list(field: str, values: list[Any]) -> None:
    for index, item in enumerate(values):
        if not isinstance(item, str):
            detail = f"must be a string, not {name_of(item)}: lists hold strings only"
            refuse(f"{field}[{index}]", detail)
        encoded(item, f"{field}[{index}]")
