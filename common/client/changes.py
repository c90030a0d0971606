"""What is to become of documents, as values: `Insert`, `Update` and `Delete`."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal

MetadataIn = Mapping[str, str | int | float | bool | Sequence[str]]


@dataclass(frozen=True, slots=True)
class Insert:
    """The document is this from now on, whether or not it existed: an upsert. Give `content`, or
    `content_url` for the service to fetch it from. Without `content_type` it is plain text;
    without `metadata` it has none."""

    document_id: str
    content: str | bytes | None = None
    _: KW_ONLY
    namespace: str = "default"
    content_type: str | None = None
    content_url: str | None = None
    metadata: MetadataIn | None = None
    source_version: int | None = None
    doc_hash: str | None = None
    if_version: int | None = None
    change_type: Literal["insert"] = field(default="insert", init=False)


@dataclass(frozen=True, slots=True)
class Update:
    """As `Insert` for what is given; what is not given stays as it is."""

    document_id: str
    content: str | bytes | None = None
    _: KW_ONLY
    namespace: str = "default"
    content_type: str | None = None
    content_url: str | None = None
    metadata: MetadataIn | None = None
    source_version: int | None = None
    doc_hash: str | None = None
    if_version: int | None = None
    change_type: Literal["update"] = field(default="update", init=False)


@dataclass(frozen=True, slots=True)
class Delete:
    """The document is gone from now on."""

    document_id: str
    _: KW_ONLY
    namespace: str = "default"
    source_version: int | None = None
    if_version: int | None = None
    change_type: Literal["delete"] = field(default="delete", init=False)


Change = Insert | Update | Delete
AnyChange = Change | Mapping[str, Any]
"""Or a mapping of the fields that docs/api.md names."""

_FIELDS = ("change_type", "namespace", "document_id", "content_type", "content_url", "metadata",
           "source_version", "doc_hash", "if_version")  # fmt: skip


def change_json(change: AnyChange) -> dict[str, Any]:
    """As the API takes it. What is None is left out; bytes travel as base64, unaltered."""
    if isinstance(change, Mapping):
        return dict(change)
    value = {name: getattr(change, name, None) for name in _FIELDS}
    value = {name: given for name, given in value.items() if given is not None}
    content = getattr(change, "content", None)
    if isinstance(content, bytes):
        encoded = base64.b64encode(content).decode("ascii")
        return {**value, "content": encoded, "content_encoding": "base64"}
    return value if content is None else {**value, "content": content}


def encoded(value: Mapping[str, Any]) -> bytes:
    """JSON on one line, without a line feed. Raises ValueError for text that UTF-8 cannot hold."""
    try:
        return _dumped(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        lone = f"U+{ord(error.object[error.start]):04X}"
        raise ValueError(
            f"the text holds half a character ({lone}, a lone surrogate), which UTF-8 cannot: "
            "replace it, say with text.encode(errors='replace').decode()"
        ) from None


def line_of(change: AnyChange | bytes) -> bytes:
    """As a feed takes it; empty for a blank line. Raises ValueError for bytes of several lines."""
    if not isinstance(change, bytes):
        try:
            return encoded(change_json(change))
        except ValueError:
            # Escaped it can be sent; the service refuses it, and the changes after it go on.
            return _dumped(change_json(change), ensure_ascii=True).encode()
    line = change.strip()
    if b"\n" in line:
        raise ValueError("a change as bytes must be one line of JSON: this one holds a line feed")
    return line


def _dumped(value: Mapping[str, Any], *, ensure_ascii: bool) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, separators=(",", ":"), default=_plain)


def _plain(value: object) -> object:
    """Mappings and sequences of other kinds. Raises TypeError."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError(f"{type(value).__name__} is no JSON")
