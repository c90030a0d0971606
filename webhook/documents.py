"""One document by its address: upload, status, deletion, chunks, content, history; the list."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import unquote_to_bytes

import structlog
from aiohttp import web

from common import identity, pack
from common.api.base import MAX_INTEGER
from common.api.search import DEFAULT_WAIT_SECONDS, MAX_WAIT_SECONDS
from common.extraction.content_types import is_text
from common.model import Applied, Desired, DocumentKey, Event, Row, Status
from common.pack import PackedChunk
from common.ports.blobs import BlobNotFoundError
from webhook.accept import Change, ChangeType
from webhook.acceptance import accept_change, result_of
from webhook.authentication import principal_of
from webhook.bodies import (
    beside,
    query_integer,
    query_seconds,
    read_body,
    refuse_unknown_parameters,
    traceparent_of,
)
from webhook.callers import caller_of
from webhook.entity_tags import (
    CACHING,
    is_known,
    not_modified,
    precondition_of,
    tag_of_content,
    tag_of_status,
)
from webhook.problems import (
    DAMAGED,
    INVALID_FIELD,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    STALE_CURSOR,
    UNAVAILABLE,
    Problem,
    deadline,
)
from webhook.search import ApplyFailedError, wait_applied
from webhook.services import SERVICES, Services
from webhook.validation import (
    check_content,
    check_doc_hash,
    document_key_of,
    metadata_of,
    namespace_of,
    upload_type,
)

log = structlog.get_logger(__name__)

MAX_PAGE = 1000
DEFAULT_PAGE = 100
READS_OF_A_MOVING_DOCUMENT = 3
_SUB_RESOURCES = ("/chunks", "/content", "/history")
_INLINE_TYPES = ("text/plain", "text/markdown", "application/pdf")


# --- addresses -----------------------------------------------------------------------------------


def key_of(request: web.Request, suffix: str = "") -> DocumentKey:
    """The document that the path names; `suffix` is the sub-resource's. Raises Problem.

    Read from the path as it was sent: a percent-encoded slash belongs to the id, so that
    `a%2Fchunks` is a document and `a/chunks` the chunks of one.
    """
    raw = request.rel_url.raw_path.split("/", 5)[5]
    if not suffix and raw.endswith(_SUB_RESOURCES):
        name = raw.rpartition("/")[2]
        detail = f"{name} is read with GET; an id that ends so is written %2F{name}"
        raise Problem(METHOD_NOT_ALLOWED, detail, limit=["GET"], headers={"Allow": "GET, HEAD"})
    try:
        document_id = unquote_to_bytes(raw.removesuffix(suffix)).decode()
    except UnicodeDecodeError as error:
        detail = f"document_id is not UTF-8 at byte {error.start}"
        raise Problem(INVALID_FIELD, detail, field="document_id") from None
    limits = request.app[SERVICES].settings
    return document_key_of(request.match_info["namespace"], document_id, limits)


async def _row_of(services: Services, key: DocumentKey) -> Row:
    async with deadline(services.settings.request_timeout_seconds):
        row = await services.registry.get(key)
    if row is None:
        raise _no_such_document(key)
    return row


def _no_such_document(key: DocumentKey) -> Problem:
    detail = f"there is no document {key.document_id!r} in namespace {key.namespace!r}"
    return Problem(NOT_FOUND, detail, field="document_id")


# --- writing -------------------------------------------------------------------------------------


async def put_document(request: web.Request) -> web.Response:
    """202: the body's bytes are the document now, with the metadata given or none."""
    refuse_unknown_parameters(request, frozenset({"metadata", "source_version", "doc_hash"}))
    services = request.app[SERVICES]
    settings = services.settings
    key = key_of(request)
    content_type = upload_type(request.headers.get("Content-Type"), key.document_id)
    source_version = _source_version(request)
    precondition = precondition_of(request)
    metadata = metadata_of(request.query.get("metadata", "null"), settings)
    stall_seconds = settings.request_timeout_seconds
    content = await read_body(request, settings.max_document_bytes, stall_seconds=stall_seconds)

    def check() -> str:
        check_content(content, content_type, settings)
        content_hash = identity.sha256_hex(content)
        check_doc_hash(request.query.get("doc_hash"), content_hash)
        return content_hash

    change = Change(
        key=key,
        change_type=ChangeType.INSERT,
        content=content,
        content_hash=await beside(len(content), check),
        content_type=content_type,
        metadata=metadata,
        source_version=source_version,
        precondition=precondition,
        traceparent=traceparent_of(request),
    )
    return web.json_response(
        result_of(await accept_change(services, change, caller_of(request))), status=202
    )


async def delete_document(request: web.Request) -> web.Response:
    """202, also for a document that was never there."""
    refuse_unknown_parameters(request, frozenset({"source_version"}))
    change = Change(
        key=key_of(request),
        change_type=ChangeType.DELETE,
        source_version=_source_version(request),
        precondition=precondition_of(request),
        traceparent=traceparent_of(request),
    )
    accepted = await accept_change(request.app[SERVICES], change, caller_of(request))
    return web.json_response(result_of(accepted), status=202)


def _source_version(request: web.Request) -> int | None:
    if "source_version" not in request.query:
        return None
    return query_integer(request, "source_version", default=0, lowest=0, highest=MAX_INTEGER)


# --- reading -------------------------------------------------------------------------------------


async def get_document(request: web.Request) -> web.Response:
    """Where the document stands; with `min_version` or `wait`, once it shows that version. 304 when
    that is what the client has."""
    refuse_unknown_parameters(request, frozenset({"min_version", "wait"}))
    services = request.app[SERVICES]
    key = key_of(request)
    wait_seconds = query_seconds(request, "wait", MAX_WAIT_SECONDS)
    version = query_integer(request, "min_version", default=0, lowest=0, highest=MAX_INTEGER)
    row = await _row_of(services, key)
    if wait_seconds is not None or version:
        seconds = DEFAULT_WAIT_SECONDS if wait_seconds is None else wait_seconds
        with services.limits.waiting(principal_of(request)):
            row = await _wait(services, row, version or row.desired.version, seconds)
    tag = tag_of_status(row)
    if is_known(request, tag):
        return not_modified(tag)
    headers = {"ETag": tag, "Cache-Control": CACHING}
    return web.json_response(_status_of(row), headers=headers)


async def _wait(services: Services, row: Row, version: int, seconds: float) -> Row:
    """The row once it shows the version, or FAILED. Raises NotAppliedInTimeError."""
    if row.applied.version >= version:
        return row
    seconds = min(seconds, services.most_wait_seconds())
    with contextlib.suppress(ApplyFailedError):  # the status says so, with the reason
        await wait_applied(services.registry, {row.key: version}, timeout_seconds=seconds)
    return await _row_of(services, row.key)


async def list_documents(request: web.Request) -> web.Response:
    """A page of the namespace's documents in order of id, deleted ones included."""
    known = frozenset({"status", "prefix", "cursor", "limit"})
    refuse_unknown_parameters(request, known)
    services = request.app[SERVICES]
    namespace = namespace_of(request.match_info["namespace"], services.settings)
    limit = query_integer(request, "limit", default=DEFAULT_PAGE, lowest=1, highest=MAX_PAGE)
    status = _status_parameter(request)
    try:
        async with deadline(services.settings.request_timeout_seconds):
            page = await services.registry.scan(
                namespace,
                status=status,
                prefix=request.query.get("prefix", ""),
                cursor=request.query.get("cursor"),
                limit=limit,
            )
    except ValueError:
        raise _bad_cursor() from None
    documents = [_summary_of(row) for row in page.rows]
    return web.json_response({"documents": documents, "cursor": page.cursor})


def _status_parameter(request: web.Request) -> Status | None:
    text = request.query.get("status")
    if text is None:
        return None
    try:
        return Status(text.upper())
    except ValueError:
        names = [status.value for status in Status]
        detail = f"status must be one of {', '.join(names)}"
        raise Problem(INVALID_FIELD, detail, field="status", limit=names) from None


def _bad_cursor() -> Problem:
    return Problem(INVALID_FIELD, "cursor is not one that an earlier page gave", field="cursor")


async def get_chunks(request: web.Request) -> web.Response:
    """A page of the applied version's chunks, in document order; none for a deleted one."""
    refuse_unknown_parameters(request, frozenset({"cursor", "limit"}))
    services = request.app[SERVICES]
    key = key_of(request, "/chunks")
    limit = query_integer(request, "limit", default=DEFAULT_PAGE, lowest=1, highest=MAX_PAGE)
    version, start = _chunk_cursor(request.query.get("cursor"))
    applied, chunks = await _applied_chunks(services, key)
    if version is not None and version != applied.version:
        detail = f"version {applied.version} is applied now, not {version}: begin again"
        raise Problem(STALE_CURSOR, detail, field="cursor")
    end = start + limit
    page = [_chunk_of(number, chunks[number]) for number in range(start, min(end, len(chunks)))]
    cursor = f"{applied.version}.{end}" if end < len(chunks) else None
    return web.json_response({"version": applied.version, "chunks": page, "cursor": cursor})


def _chunk_cursor(text: str | None) -> tuple[int | None, int]:
    if text is None:
        return None, 0
    version, _, start = text.partition(".")
    if not (version.isdecimal() and start.isdecimal() and len(text) <= 40 and text.isascii()):
        raise _bad_cursor()
    return int(version), int(start)


async def _applied_chunks(
    services: Services, key: DocumentKey
) -> tuple[Applied, Sequence[PackedChunk]]:
    """Reads the row again when its pack was replaced and collected in between."""
    for _ in range(READS_OF_A_MOVING_DOCUMENT):
        row = await _row_of(services, key)
        applied = row.applied
        if not applied.doc_hash:
            return applied, ()
        try:
            async with deadline(services.settings.request_timeout_seconds):
                name = identity.pack_key(key, applied.version, applied.doc_hash)
                data = await services.blobs.get(name)
        except BlobNotFoundError:
            continue
        return applied, (await _decoded(name, data)).chunks
    raise Problem(UNAVAILABLE, "the chunks of the applied version cannot be found just now")


async def _decoded(name: str, data: bytes) -> pack.Pack:
    try:
        return await asyncio.to_thread(pack.decode, data)
    except pack.CorruptPackError as error:
        log.error("pack.corrupt", blob=name, error=str(error))
        raise Problem(
            DAMAGED, "the stored chunks are damaged; `bloomweaver scrub --repair` makes them again"
        ) from None


async def get_content(request: web.Request) -> web.Response:
    """The bytes of the last accepted version, as they were sent; 304 when the client has them."""
    services = request.app[SERVICES]
    key = key_of(request, "/content")
    row = await _row_of(services, key)
    desired = row.desired
    if desired.tombstone:
        raise Problem(NOT_FOUND, f"document {key.document_id!r} is deleted", field="document_id")
    tag = tag_of_content(desired)
    if is_known(request, tag):
        return not_modified(tag)
    try:
        async with deadline(services.settings.request_timeout_seconds):
            content = await services.blobs.get(desired.blob_key)
    except BlobNotFoundError:
        raise Problem(UNAVAILABLE, "the content cannot be found just now") from None
    content_hash = await beside(len(content), partial(identity.sha256_hex, content))
    if content_hash != desired.content_hash:
        log.error("content.damaged", blob=desired.blob_key)
        raise Problem(DAMAGED, "the stored content is damaged; send the document again")
    return web.Response(body=content, headers=_content_headers(desired))


async def get_history(request: web.Request) -> web.Response:
    """A page of what happened to the document, the newest first."""
    refuse_unknown_parameters(request, frozenset({"cursor", "limit"}))
    services = request.app[SERVICES]
    key = key_of(request, "/history")
    limit = query_integer(request, "limit", default=DEFAULT_PAGE, lowest=1, highest=MAX_PAGE)
    await _row_of(services, key)
    try:
        async with deadline(services.settings.request_timeout_seconds):
            cursor = request.query.get("cursor")
            page = await services.registry.history(key, limit=limit, cursor=cursor)
    except ValueError:
        raise _bad_cursor() from None
    events = [_event_of(event) for event in page.events]
    return web.json_response({"events": events, "cursor": page.cursor})


def _content_headers(desired: Desired) -> dict[str, str]:
    """A document is somebody else's: no browser may run it as a page of this service."""
    content_type = desired.content_type
    inline = content_type in _INLINE_TYPES
    return {
        "Content-Type": f"{content_type}; charset=utf-8" if is_text(content_type) else content_type,
        "Content-Disposition": "inline" if inline else "attachment",
        "Content-Security-Policy": "sandbox",
        "Cache-Control": CACHING,
        "ETag": tag_of_content(desired),
        "X-Document-Version": str(desired.version),
    }


# --- as JSON -------------------------------------------------------------------------------------


def time_of(seconds: float) -> str | None:
    """ISO 8601 in UTC; None for a time that never was."""
    return datetime.fromtimestamp(seconds, UTC).isoformat() if seconds else None


def _status_of(row: Row) -> dict[str, Any]:
    desired, applied = row.desired, row.applied
    return {
        "namespace": row.key.namespace,
        "document_id": row.key.document_id,
        "status": row.status.value,
        "desired": {
            "version": desired.version,
            "tombstone": desired.tombstone,
            "content_hash": desired.content_hash,
            "content_type": desired.content_type,
            "metadata": desired.metadata,
            "source_version": desired.source_version,
            "size_bytes": desired.size_bytes,
            "accepted_at": time_of(desired.accepted_at),
        },
        "applied": {
            "version": applied.version,
            "doc_hash": applied.doc_hash,
            "embedding_profile": applied.embedding_profile,
            "chunk_count": applied.chunk_count,
            "applied_at": time_of(applied.applied_at),
        },
        "attempts": row.attempts,
        "error": row.error,
    }


def _summary_of(row: Row) -> dict[str, Any]:
    desired, applied = row.desired, row.applied
    return {
        "document_id": row.key.document_id,
        "status": row.status.value,
        "version": desired.version,
        "applied_version": applied.version,
        "tombstone": desired.tombstone,
        "content_hash": desired.content_hash,
        "content_type": desired.content_type,
        "metadata": desired.metadata,
        "source_version": desired.source_version,
        "size_bytes": desired.size_bytes,
        "chunk_count": applied.chunk_count,
        "accepted_at": time_of(desired.accepted_at),
        "error": row.error,
    }


def _event_of(event: Event) -> dict[str, Any]:
    return {
        "at": time_of(event.at),
        "event": event.kind.value,
        "version": event.version,
        "detail": event.detail,
    }


def _chunk_of(number: int, chunk: PackedChunk) -> dict[str, Any]:
    return {
        "number": number,
        "text": chunk.text,
        "heading_path": list(chunk.heading_path),
        "start": chunk.start,
        "end": chunk.end,
        "token_count": chunk.token_count,
        "hash": chunk.hash,
    }
