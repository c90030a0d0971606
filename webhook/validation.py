"""A JSON value becomes a Change, or the first thing wrong with it is named. Pure: no I/O."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from common import identity
from common.api import changes as api
from common.api.base import MAX_INTEGER
from common.api.changes import DEFAULT_NAMESPACE, ContentEncoding
from common.extraction.content_types import (
    SUPPORTED,
    charset,
    guess_content_type,
    is_text,
    media_type,
)
from common.model import ChangeType, DocumentKey
from common.outbound_rules import HostList, RefusedError, target_of
from common.settings import Settings
from webhook.accept import Change
from webhook.json_text import MAX_JSON_DEPTH, parse_json
from webhook.metadata import checked_metadata, metadata_of
from webhook.models.limited import CONTENT_TYPES, bodies_of
from webhook.models.reading import Refusals
from webhook.preconditions import Precondition
from webhook.problems import (
    HASH_MISMATCH,
    INVALID_FIELD,
    TOO_LARGE,
    UNSUPPORTED_MEDIA_TYPE,
    Problem,
)
from webhook.refusals import CONTROL, encoded, refuse, require_string, short

__all__ = [
    "CONTENT_URL",
    "FIELDS",
    "MAX_JSON_DEPTH",
    "change_of",
    "changes_of",
    "check_content",
    "check_doc_hash",
    "check_size",
    "document_key_of",
    "metadata_of",
    "namespace_of",
    "parse_json",
    "says_nothing",
    "supported_type",
    "upload_type",
]

DEFAULT_CONTENT_TYPE = "text/plain"
FIELDS = tuple(api.Change.model_fields)

CONTENT_URL = "content_url"
_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_OF_A_DOCUMENT = (
    "content", "content_encoding", CONTENT_URL, "content_type", "metadata", "doc_hash",
)  # fmt: skip
_OF_A_DOCUMENT_SET = frozenset(_OF_A_DOCUMENT)
_SHA256 = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64})")
_OTHER_TEXT = re.compile(r"text/[a-z0-9][a-z0-9.+_-]{0,63}")
_TYPES_THAT_SAY_NOTHING = frozenset({"", "application/octet-stream", "binary/octet-stream"})
_UTF8_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})


# --- changes -------------------------------------------------------------------------------------


def changes_of(value: Any, limits: Settings, *, traceparent: str = "") -> list[Change]:
    """The changes of `{"changes": […]}`. Raises the first Problem, its index in the field."""
    items: list[Any] = bodies_of(limits).changes.read(value, limits, _LIST_REFUSALS).changes
    changes = []
    for index, item in enumerate(items):
        try:
            changes.append(change_of(item, limits, traceparent=traceparent))
        except Problem as problem:
            raise problem.within(f"changes[{index}]") from None
    return changes


def change_of(value: Any, limits: Settings, *, traceparent: str = "") -> Change:
    """One change. null means the same as leaving a field out. Raises the first Problem."""
    body = bodies_of(limits).change.read(value, limits, _REFUSALS)
    change_type = body.change_type
    namespace = body.namespace
    key = DocumentKey(
        DEFAULT_NAMESPACE if namespace is None else namespace,
        _document_id(body.document_id, limits),
    )
    _refuse_misplaced(change_type, value)
    content_type = _content_type(body.content_type)
    content = _content(body, content_type, limits)
    if content is not None and content_type is None and change_type == ChangeType.INSERT:
        content_type = DEFAULT_CONTENT_TYPE
    content_url = _content_url(body.content_url, limits)
    return Change(
        key=key,
        change_type=change_type,
        content=content,
        content_hash=_content_hash(content, body.doc_hash),
        content_url=content_url,
        content_type=content_type,
        metadata=checked_metadata(body.metadata, limits),
        source_version=body.source_version,
        precondition=_precondition(body.if_version),
        traceparent=traceparent,
    )


def _refuse_misplaced(change_type: ChangeType, value: Mapping[str, Any]) -> None:
    """Fields that say something about nothing are mistakes, not wishes."""
    if change_type == ChangeType.DELETE:
        _refuse_any_of_a_document(value)
        return
    content, url = value.get("content"), value.get(CONTENT_URL)
    if url is not None:
        for field in ("content", "content_encoding"):
            if value.get(field) is not None:
                refuse(field, f"is not for a change with {CONTENT_URL}")
        return
    if content is not None:
        return
    if change_type == ChangeType.INSERT:
        refuse("content", "an insert needs content (an empty string is an empty document)")
    for field in ("content_encoding", "content_type", "doc_hash"):
        if value.get(field) is not None:
            refuse(field, "describes the content: send that too")
    if value.get("metadata") is None:
        refuse("content", "an update needs content or metadata")


def _refuse_any_of_a_document(value: Mapping[str, Any]) -> None:
    if _OF_A_DOCUMENT_SET.isdisjoint(value):
        return
    for field in _OF_A_DOCUMENT:
        if value.get(field) is not None:
            refuse(field, "a delete names a document and carries nothing of it")


# --- names ---------------------------------------------------------------------------------------


def document_key_of(namespace: str, document_id: str, limits: Settings) -> DocumentKey:
    """Raises Problem that names the rule the namespace or the id breaks."""
    return DocumentKey(namespace_of(namespace, limits), _document_id(document_id, limits))


def namespace_of(value: Any, limits: Settings) -> str:
    """Raises Problem: letters, digits and ._- after a letter or digit, of limited length."""
    field, limit = "namespace", limits.max_namespace_bytes
    name = require_string(field, value)
    if not _NAMESPACE.fullmatch(name):
        rule = "must be ASCII letters, digits, dots, dashes and underscores after a letter or digit"
        refuse(field, rule)
    if len(name) > limit:
        refuse(field, f"is {len(name)} bytes long, the limit is {limit}", limit=limit)
    return name


def _document_id(value: str, limits: Settings) -> str:
    field, limit = "document_id", limits.max_document_id_bytes
    if 0 < len(value) <= limit and value.isascii() and value.isprintable():
        return value
    if not value:
        refuse(field, "must not be empty")
    size = len(encoded(value, field))
    if size > limit:
        refuse(field, f"is {size} bytes long as UTF-8, the limit is {limit}", limit=limit)
    if found := CONTROL.search(value):
        character = f"U+{ord(found.group()):04X}"
        refuse(field, f"has the control character {character} at position {found.start()}")
    return value


def _precondition(if_version: int | None) -> Precondition | None:
    """0: there is no such document."""
    if if_version is None:
        return None
    if if_version == 0:
        return Precondition(exists=False)
    return Precondition(versions=frozenset({if_version}))


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
        refuse("content", f"{detail}, but {content_type} is text")
    _refuse_nul(content)


def _content_hash(content: bytes | None, claimed: Any) -> str | None:
    """Of content that is elsewhere what it is said to be. Raises Problem."""
    if content is None:
        return claimed_hash(claimed)
    content_hash = identity.sha256_hex(content)
    if claimed is not None:
        check_doc_hash(claimed, content_hash)
    return content_hash


def check_doc_hash(value: Any, content_hash: str | None) -> None:
    """Raises Problem unless it is absent or the SHA-256 of the content's bytes."""
    claimed = claimed_hash(value)
    if claimed is not None and claimed != content_hash:
        detail = f"says {claimed}, but the content's SHA-256 is {content_hash}"
        refuse("doc_hash", detail, kind=HASH_MISMATCH)


def claimed_hash(value: Any) -> str | None:
    """The hex digits of a `doc_hash`, if there is one. Raises Problem."""
    if value is None:
        return None
    found = _SHA256.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        refuse("doc_hash", 'must be a SHA-256 as 64 hex digits, with or without "sha256:"')
    return found[1].lower()


def _content_url(value: str | None, limits: Settings) -> str | None:
    """Raises Problem for what is refused without asking for it."""
    if value is None:
        return None
    try:
        target = target_of(value)
        _hosts(tuple(limits.fetch_allowed_hosts)).require(target)
    except RefusedError as error:
        refuse(CONTENT_URL, str(error))
    return str(target.url)


@lru_cache(maxsize=8)
def _hosts(entries: tuple[str, ...]) -> HostList:
    return HostList(entries)


def says_nothing(content_type: str) -> bool:
    """Of what bytes are: servers send it where they do not know."""
    return media_type(content_type) in _TYPES_THAT_SAY_NOTHING


def supported_type(value: str) -> str:
    """The bare content type. Raises Problem (415) with the list of those there are."""
    name = media_type(value)
    if name not in SUPPORTED and not _OTHER_TEXT.fullmatch(name):
        detail = f"{short(name)!r} is not supported; supported are {', '.join(CONTENT_TYPES)}"
        refuse("content_type", detail, kind=UNSUPPORTED_MEDIA_TYPE, limit=list(CONTENT_TYPES))
    given = charset(value)
    if given is not None and given.lower() not in _UTF8_CHARSETS:
        detail = f"charset {short(given)!r} is not supported: send UTF-8"
        refuse("content_type", detail, kind=UNSUPPORTED_MEDIA_TYPE, limit=["utf-8"])
    return name


def upload_type(given: str | None, document_id: str) -> str:
    """The bare content type of bytes that came with the type `given`; where that says nothing, the
    one that the id's suffix stands for. Raises Problem (415)."""
    if given is not None and not says_nothing(given):
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


def _content_type(value: str | None) -> str | None:
    if value is None:
        return None
    try:
        return supported_type(value)
    except Problem as problem:
        # The request's own type is fine: it is a field of the change that is not.
        raise Problem(
            INVALID_FIELD, problem.detail, field=problem.field, limit=problem.limit
        ) from None


def _content(body: api.Change, content_type: str | None, limits: Settings) -> bytes | None:
    encoding, content = body.content_encoding, body.content
    if content is None:
        return None
    if encoding == ContentEncoding.BASE64:
        return _decoded(content, content_type, body.change_type, limits)
    if content_type is not None and not is_text(content_type):
        refuse("content", f'{content_type} is binary: send it with "content_encoding": "base64"')
    check_size(len(content), limits)
    data = encoded(content, "content")
    if len(data) != len(content):
        check_size(len(data), limits)
    _refuse_nul(data)
    return data


def _decoded(
    content: str, content_type: str | None, change_type: ChangeType, limits: Settings
) -> bytes:
    if content_type is None and change_type == ChangeType.UPDATE:
        refuse("content_type", "say of which type the base64 content is")
    check_size(len(content) // 4 * 3 - 2, limits)
    try:
        data = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        refuse("content", f"is not base64: {error}")
    check_content(data, content_type or DEFAULT_CONTENT_TYPE, limits)
    return data


def check_size(size: int, limits: Settings) -> None:
    """Of content, in bytes. Raises Problem: too large."""
    limit = limits.max_document_bytes
    if size > limit:
        refuse("content", f"is larger than the limit of {limit} bytes", kind=TOO_LARGE, limit=limit)


def _refuse_nul(data: bytes) -> None:
    offset = data.find(b"\0")
    if offset >= 0:
        refuse("content", f"has a NUL byte at byte {offset} (counted from 0)")


# --- what the models refuse ----------------------------------------------------------------------


def _refuse_choice(field: str, names: Iterable[str]) -> None:
    known = [str(name) for name in names]
    refuse(field, f"must be one of {', '.join(known)}", limit=known)


def _refuse_version(field: str) -> None:
    refuse(field, f"must be an integer from 0 to {MAX_INTEGER}", limit=MAX_INTEGER)


def _refuse_document_id(value: Mapping[str, Any], limits: Settings) -> None:
    if "document_id" not in value:
        refuse("document_id", "is missing")
    _document_id(require_string("document_id", value["document_id"]), limits)


def _refuse_content_url(value: Mapping[str, Any], limits: Settings) -> None:
    _content_url(require_string(CONTENT_URL, value[CONTENT_URL]), limits)


def _refuse_list(value: Mapping[str, Any], limits: Settings) -> None:
    items, limit = value.get("changes"), limits.max_changes_per_request
    if not isinstance(items, list) or not items:
        refuse("changes", "must be a list with at least one change")
    detail = f"{len(items)} changes in one list; send them as NDJSON, which has no such limit"
    refuse("changes", detail, kind=TOO_LARGE, limit=limit)


_REFUSALS: Refusals = {
    "change_type": lambda _, __: _refuse_choice("change_type", ChangeType),
    "namespace": lambda value, limits: namespace_of(value["namespace"], limits),
    "document_id": _refuse_document_id,
    "content": lambda value, _: require_string("content", value["content"]),
    "content_encoding": lambda _, __: _refuse_choice("content_encoding", ContentEncoding),
    "content_type": lambda value, _: require_string("content_type", value["content_type"]),
    "content_url": _refuse_content_url,
    "doc_hash": lambda value, _: claimed_hash(value["doc_hash"]),
    "source_version": lambda _, __: _refuse_version("source_version"),
    "if_version": lambda _, __: _refuse_version("if_version"),
}
_LIST_REFUSALS: Refusals = {"changes": _refuse_list}
