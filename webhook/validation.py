"""A JSON value becomes a Change, or the first thing wrong with it is named. Pure: no I/O."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from common import identity
from common.extraction.content_types import (
    SUPPORTED,
    charset,
    guess_content_type,
    is_text,
    media_type,
)
from common.model import RESERVED_METADATA_KEYS, DocumentKey, MetadataValue
from common.settings import Settings
from webhook.accept import Change, ChangeType
from webhook.problems import (
    HASH_MISMATCH,
    INVALID_FIELD,
    MALFORMED_JSON,
    TOO_LARGE,
    UNKNOWN_FIELD,
    UNSUPPORTED_MEDIA_TYPE,
    Kind,
    Problem,
)

DEFAULT_NAMESPACE = "default"
DEFAULT_CONTENT_TYPE = "text/plain"
CONTENT_ENCODINGS = ("utf-8", "base64")
MAX_INTEGER = 2**63 - 1
MIN_INTEGER = -(2**63)
MAX_METADATA_KEY_BYTES = 128
CONTENT_TYPES = (*SUPPORTED, "text/*")
"""What documents may be; any other text is read as plain text."""
FIELDS = (
    "change_type", "namespace", "document_id", "content", "content_encoding", "content_type",
    "metadata", "source_version", "doc_hash",
)  # fmt: skip

_FIELD_SET = frozenset(FIELDS)
_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SHA256 = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64})")
_OTHER_TEXT = re.compile(r"text/[a-z0-9][a-z0-9.+_-]{0,63}")
_TYPES_THAT_SAY_NOTHING = frozenset({"", "application/octet-stream", "binary/octet-stream"})
_UTF8_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})


# --- JSON ----------------------------------------------------------------------------------------


def parse_json(data: bytes) -> Any:
    """The value. Raises Problem (400) that says where it stops being UTF-8 or JSON."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise Problem(MALFORMED_JSON, f"not UTF-8 at byte {error.start} (counted from 0)") from None
    try:
        return _DECODER.decode(text.removeprefix("\ufeff"))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise Problem(MALFORMED_JSON, f"not JSON at {where}: {error.msg}") from None
    except RecursionError:
        raise Problem(MALFORMED_JSON, "nested too deep to be read") from None
    except ValueError:
        raise Problem(MALFORMED_JSON, "a number has too many digits to be read") from None


def _refuse_constant(name: str) -> NoReturn:
    raise Problem(MALFORMED_JSON, f"{name} is not JSON; numbers are finite")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


# --- changes -------------------------------------------------------------------------------------


def changes_of(value: Any, limits: Settings, *, traceparent: str = "") -> list[Change]:
    """The changes of `{"changes": […]}`. Raises the first Problem, its index in the field."""
    refuse_unknown(value, frozenset({"changes"}))
    items = value["changes"]
    if not isinstance(items, list) or not items:
        _refuse("changes", "must be a list with at least one change")
    if len(items) > limits.max_changes_per_request:
        limit = limits.max_changes_per_request
        detail = f"{len(items)} changes in one list; send them as NDJSON, which has no such limit"
        _refuse("changes", detail, kind=TOO_LARGE, limit=limit)
    changes = []
    for index, item in enumerate(items):
        try:
            changes.append(change_of(item, limits, traceparent=traceparent))
        except Problem as problem:
            raise problem.within(f"changes[{index}]") from None
    return changes


def change_of(value: Any, limits: Settings, *, traceparent: str = "") -> Change:
    """One change. null means the same as leaving a field out. Raises the first Problem."""
    refuse_unknown(value, _FIELD_SET)
    change_type = _change_type(value.get("change_type"))
    key = document_key_of(
        value.get("namespace"), value.get("document_id"), limits, given="document_id" in value
    )
    _refuse_misplaced(change_type, value)
    content_type = _content_type(value.get("content_type"))
    content = _content(value, content_type, limits)
    if content is not None and content_type is None and change_type is ChangeType.INSERT:
        content_type = DEFAULT_CONTENT_TYPE
    content_hash = None if content is None else identity.sha256_hex(content)
    check_doc_hash(value.get("doc_hash"), content_hash)
    return Change(
        key=key,
        change_type=change_type,
        content=content,
        content_hash=content_hash,
        content_type=content_type,
        metadata=_metadata(value.get("metadata"), limits),
        source_version=source_version_of(value.get("source_version")),
        traceparent=traceparent,
    )


def refuse_unknown(value: Any, known: frozenset[str]) -> None:
    """Raises Problem unless the value is an object with known fields only."""
    if not isinstance(value, dict):
        raise Problem(MALFORMED_JSON, f"must be a JSON object, not {_name_of(value)}")
    if value.keys() <= known:
        return
    field = _short(next(name for name in value if name not in known))
    raise Problem(
        UNKNOWN_FIELD,
        f"there is no field {field!r}; known are {', '.join(sorted(known))}",
        field=field,
        limit=sorted(known),
    )


def _change_type(value: Any) -> ChangeType:
    try:
        return ChangeType(value)
    except ValueError:
        names = [change_type.value for change_type in ChangeType]
        _refuse("change_type", f"must be one of {', '.join(names)}", limit=names)


def _refuse_misplaced(change_type: ChangeType, value: Mapping[str, Any]) -> None:
    """Fields that say something about nothing are mistakes, not wishes."""
    content = value.get("content")
    if change_type is ChangeType.DELETE:
        for field in ("content", "content_encoding", "content_type", "metadata", "doc_hash"):
            if value.get(field) is not None:
                _refuse(field, "a delete names a document and carries nothing of it")
        return
    if content is not None:
        return
    if change_type is ChangeType.INSERT:
        _refuse("content", "an insert needs content (an empty string is an empty document)")
    for field in ("content_encoding", "content_type", "doc_hash"):
        if value.get(field) is not None:
            _refuse(field, "describes the content: send that too")
    if value.get("metadata") is None:
        _refuse("content", "an update needs content or metadata")


# --- names ---------------------------------------------------------------------------------------


def document_key_of(
    namespace: Any, document_id: Any, limits: Settings, *, given: bool = True
) -> DocumentKey:
    """Raises Problem that names the rule the namespace or the id breaks."""
    return DocumentKey(
        namespace_of(DEFAULT_NAMESPACE if namespace is None else namespace, limits),
        _document_id(document_id, limits, given=given),
    )


def namespace_of(value: Any, limits: Settings) -> str:
    """Raises Problem: letters, digits and ._- after a letter or digit, of limited length."""
    field, limit = "namespace", limits.max_namespace_bytes
    if not isinstance(value, str):
        _refuse(field, f"must be a string, not {_name_of(value)}")
    if not _NAMESPACE.fullmatch(value):
        rule = "must be ASCII letters, digits, dots, dashes and underscores after a letter or digit"
        _refuse(field, rule)
    if len(value) > limit:
        _refuse(field, f"is {len(value)} bytes long, the limit is {limit}", limit=limit)
    return value


def _document_id(value: Any, limits: Settings, *, given: bool) -> str:
    field, limit = "document_id", limits.max_document_id_bytes
    if not given:
        _refuse(field, "is missing")
    if not isinstance(value, str):
        _refuse(field, f"must be a string, not {_name_of(value)}")
    if not value:
        _refuse(field, "must not be empty")
    size = len(_encode(value, field))
    if size > limit:
        _refuse(field, f"is {size} bytes long as UTF-8, the limit is {limit}", limit=limit)
    if found := _CONTROL.search(value):
        character = f"U+{ord(found.group()):04X}"
        _refuse(field, f"has the control character {character} at position {found.start()}")
    return value


def source_version_of(value: Any) -> int | None:
    """Raises Problem unless it is absent or an integer from 0 to 2^63-1."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_INTEGER:
        _refuse("source_version", f"must be an integer from 0 to {MAX_INTEGER}", limit=MAX_INTEGER)
    return value


# --- content -------------------------------------------------------------------------------------


def check_content(content: bytes, content_type: str | None, limits: Settings) -> None:
    """Raises Problem: too large, or for a text type not UTF-8 or with a NUL byte."""
    check_size(len(content), limits)
    if content_type is not None and not is_text(content_type):
        return
    try:
        content.decode()
    except UnicodeDecodeError as error:
        detail = f"is not UTF-8 at byte {error.start} (counted from 0)"
        _refuse("content", f"{detail}, but {content_type} is text")
    _refuse_nul(content)


def check_doc_hash(value: Any, content_hash: str | None) -> None:
    """Raises Problem unless it is absent or the SHA-256 of the content's bytes."""
    if value is None:
        return
    found = _SHA256.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        _refuse("doc_hash", 'must be a SHA-256 as 64 hex digits, with or without "sha256:"')
    claimed = found[1].lower()
    if claimed != content_hash:
        detail = f"says {claimed}, but the content's SHA-256 is {content_hash}"
        _refuse("doc_hash", detail, kind=HASH_MISMATCH)


def supported_type(value: str) -> str:
    """The bare content type. Raises Problem (415) with the list of those there are."""
    name = media_type(value)
    if name not in SUPPORTED and not _OTHER_TEXT.fullmatch(name):
        detail = f"{_short(name)!r} is not supported; supported are {', '.join(CONTENT_TYPES)}"
        _refuse("content_type", detail, kind=UNSUPPORTED_MEDIA_TYPE, limit=list(CONTENT_TYPES))
    given = charset(value)
    if given is not None and given.lower() not in _UTF8_CHARSETS:
        detail = f"charset {_short(given)!r} is not supported: send UTF-8"
        _refuse("content_type", detail, kind=UNSUPPORTED_MEDIA_TYPE, limit=["utf-8"])
    return name


def upload_type(given: str | None, document_id: str) -> str:
    """The bare content type of bytes that came with the type `given`; where that says nothing, the
    one that the id's suffix stands for. Raises Problem (415)."""
    if given is not None and media_type(given) not in _TYPES_THAT_SAY_NOTHING:
        return supported_type(given)
    guessed = guess_content_type(document_id)
    if guessed is None and given is not None:
        raise Problem(
            UNSUPPORTED_MEDIA_TYPE,
            f"{media_type(given) or 'an empty content type'} says nothing and neither does the "
            f"id's suffix; supported are {', '.join(CONTENT_TYPES)}",
            field="content_type",
            limit=list(CONTENT_TYPES),
        )
    return guessed or DEFAULT_CONTENT_TYPE


def _content_type(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        _refuse("content_type", f"must be a string, not {_name_of(value)}")
    try:
        return supported_type(value)
    except Problem as problem:
        # The request's own type is fine: it is a field of the change that is not.
        raise Problem(
            INVALID_FIELD, problem.detail, field=problem.field, limit=problem.limit
        ) from None


def _content(value: Mapping[str, Any], content_type: str | None, limits: Settings) -> bytes | None:
    content, encoding = value.get("content"), value.get("content_encoding")
    if encoding is not None and encoding not in CONTENT_ENCODINGS:
        names = list(CONTENT_ENCODINGS)
        _refuse("content_encoding", f"must be one of {', '.join(names)}", limit=names)
    if content is None:
        return None
    if not isinstance(content, str):
        _refuse("content", f"must be a string, not {_name_of(content)}")
    if encoding == "base64":
        return _decoded(content, content_type, value["change_type"], limits)
    if content_type is not None and not is_text(content_type):
        _refuse("content", f'{content_type} is binary: send it with "content_encoding": "base64"')
    check_size(len(content), limits)
    data = _encode(content, "content")
    check_size(len(data), limits)
    _refuse_nul(data)
    return data


def _decoded(content: str, content_type: str | None, change_type: str, limits: Settings) -> bytes:
    if content_type is None and change_type == ChangeType.UPDATE.value:
        _refuse("content_type", "say of which type the base64 content is")
    check_size(len(content) // 4 * 3 - 2, limits)
    try:
        data = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        _refuse("content", f"is not base64: {error}")
    check_content(data, content_type or DEFAULT_CONTENT_TYPE, limits)
    return data


def check_size(size: int, limits: Settings) -> None:
    """Of content, in bytes. Raises Problem: too large."""
    limit = limits.max_document_bytes
    if size > limit:
        _refuse(
            "content", f"is larger than the limit of {limit} bytes", kind=TOO_LARGE, limit=limit
        )


def _refuse_nul(data: bytes) -> None:
    offset = data.find(b"\0")
    if offset >= 0:
        _refuse("content", f"has a NUL byte at byte {offset} (counted from 0)")


# --- metadata ------------------------------------------------------------------------------------


def metadata_of(text: str, limits: Settings) -> dict[str, MetadataValue] | None:
    """Metadata given as JSON text. Raises Problem."""
    try:
        value = parse_json(text.encode(errors="surrogatepass"))
    except Problem as problem:
        raise problem.within("metadata") from None
    return _metadata(value, limits)


def _metadata(value: Any, limits: Settings) -> dict[str, MetadataValue] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        _refuse("metadata", f"must be an object, not {_name_of(value)}")
    if len(value) > limits.max_metadata_keys:
        limit = limits.max_metadata_keys
        _refuse("metadata", f"has {len(value)} fields, the limit is {limit}", limit=limit)
    for name, item in value.items():
        _check_key(name)
        _check_value(f"metadata.{name}", item)
    size, limit = len(identity.canonical_json(value)), limits.max_metadata_bytes
    if size > limit:
        _refuse("metadata", f"is {size} bytes of JSON, the limit is {limit}", limit=limit)
    return value


def _check_key(name: str) -> None:
    field, limit = "metadata", MAX_METADATA_KEY_BYTES
    size = len(_encode(name, field))
    if not 1 <= size <= limit:
        _refuse(field, f"a name has {size} bytes; it must have 1 to {limit}", limit=limit)
    field = f"metadata.{name}"
    if name.startswith("$"):
        _refuse(field, "a name must not begin with $: filters use it")
    if name in RESERVED_METADATA_KEYS:
        reserved = sorted(RESERVED_METADATA_KEYS)
        _refuse(field, f"is reserved, as are {', '.join(reserved)}", limit=reserved)
    if _CONTROL.search(name):
        _refuse("metadata", f"the name {name!r} has a control character")


def _check_value(field: str, value: Any) -> None:
    if isinstance(value, str):
        _encode(value, field)
    elif isinstance(value, bool):
        pass
    elif isinstance(value, int):
        if not MIN_INTEGER <= value <= MAX_INTEGER:
            _refuse(field, "is beyond 64 bit; send it as a string", limit=MAX_INTEGER)
    elif isinstance(value, float):
        if not math.isfinite(value):
            _refuse(field, "must be a finite number")
    elif isinstance(value, list):
        _check_list(field, value)
    else:
        _refuse(
            field,
            f"must be a string, a number, true, false or a list of strings, "
            f"not {_name_of(value)}: metadata is flat",
        )


def _check_list(field: str, values: list[Any]) -> None:
    for index, item in enumerate(values):
        if not isinstance(item, str):
            detail = f"must be a string, not {_name_of(item)}: lists hold strings only"
            _refuse(f"{field}[{index}]", detail)
        _encode(item, f"{field}[{index}]")


# --- words ---------------------------------------------------------------------------------------


def _encode(text: str, field: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        surrogate = f"U+{ord(text[error.start]):04X}"
        _refuse(field, f"has the lone surrogate {surrogate} at position {error.start}")


def _refuse(
    field: str,
    detail: str,
    *,
    kind: Kind = INVALID_FIELD,
    limit: int | float | list[str] | None = None,
) -> NoReturn:
    raise Problem(kind, f"{field} {detail}", field=field, limit=limit)


def _short(text: str) -> str:
    """Enough to recognise it by: an answer does not repeat a megabyte."""
    return text if len(text) <= 80 else text[:79] + "…"


def _name_of(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string"}
    return names.get(type(value), "a list" if isinstance(value, list) else "an object")
