"""The OpenAPI 3.1 description, as data. A test holds it against the app's routes."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from common.model import EventKind, QueueName, Status
from common.scrubbing import FINDINGS_KEPT, FindingKind
from common.settings import Settings
from common.transitions import Outcome
from webhook.accept import ChangeType
from webhook.admission import REASONS
from webhook.dead_letters import FILTERS, MAX_LETTER_IDS
from webhook.documents import DEFAULT_PAGE, DEFAULT_WAIT_SECONDS, MAX_PAGE, MAX_WAIT_SECONDS
from webhook.feed import NDJSON_TYPES
from webhook.problems import CONTENT_TYPE as PROBLEM_TYPE
from webhook.problems import KINDS, TYPE_PREFIX
from webhook.search_route import DEFAULT_TOP_K, MAX_QUERY_BYTES
from webhook.services import SERVICES
from webhook.status import program_version
from webhook.validation import CONTENT_ENCODINGS, CONTENT_TYPES, DEFAULT_NAMESPACE, MAX_INTEGER

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
BOOLEAN: Schema = {"type": "boolean"}
NUMBER: Schema = {"type": "number"}
TIME: Schema = {"type": ["string", "null"], "format": "date-time"}
OPTIONAL_STRING: Schema = {"type": ["string", "null"]}
SHA256: Schema = {"type": "string", "pattern": "^(sha256:)?[0-9a-fA-F]{64}$"}
SOURCE_VERSION: Schema = {"type": "integer", "minimum": 0, "maximum": MAX_INTEGER}


async def get_openapi(request: web.Request) -> web.Response:
    return web.json_response(document(request.app[SERVICES].settings))


def document(settings: Settings) -> Schema:
    """The description, with the limits that this service is set to."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "BloomWeaver",
            "version": program_version(),
            "description": "Keeps a vector index true to documents that change. "
            "Errors are RFC 9457 problem documents that name the field and the limit.",
        },
        "paths": {**_change_paths(), **_document_paths(), **_search_paths(settings), **_status()},
        "components": {
            "schemas": _schemas(settings),
            "responses": {"Problem": _content("What is wrong", _ref("Problem"), PROBLEM_TYPE)},
        },
    }


# --- paths ---------------------------------------------------------------------------------------


def _change_paths() -> Schema:
    change = {"oneOf": [_ref("Change"), _object(changes=_list_of(_ref("Change")))]}
    result = {"oneOf": [_ref("Result"), _object(results=_list_of(_ref("ListResult")))]}
    accepted = _content("Every change is durable", result)
    lines = {"description": "A result for each line, in order", "content": {}}
    lines["content"] = {NDJSON_TYPES[0]: {"schema": _ref("LineResult")}}
    body: Schema = {"required": True, "content": {"application/json": {"schema": change}}}
    body["content"] |= {name: {"schema": _ref("Change")} for name in NDJSON_TYPES}
    operation = _operation("Accept changes", {"202": accepted, "200": lines}, body=body)
    return {"/v1/changes": {"post": operation}}


def _document_paths() -> Schema:
    root = "/v1/namespaces/{namespace}/documents"
    one = root + "/{document_id}"
    names = [_in_path("namespace"), _in_path("document_id")]
    paging = [_in_query("cursor", STRING), _page_limit()]
    version = _in_query("source_version", SOURCE_VERSION)
    listing = [
        _in_path("namespace"),
        _in_query("status", {"enum": [status.value for status in Status]}),
        _in_query("prefix", STRING),
        *paging,
    ]
    uploads = {"required": True, "content": {name: {} for name in CONTENT_TYPES}}
    upload = [*names, version, _in_query("metadata", STRING), _in_query("doc_hash", SHA256)]
    waiting = [*names, _in_query("min_version", INTEGER), _in_query("wait", _wait())]
    accepted = {"202": _content("Durable", _ref("Result"))}
    status = {"200": _content("Where it stands", _ref("Document"))}
    page = _object(documents=_list_of(_ref("Summary")), cursor=OPTIONAL_STRING)
    chunks = _object(version=INTEGER, chunks=_list_of(_ref("Chunk")), cursor=OPTIONAL_STRING)
    events = _object(events=_list_of(_ref("Event")), cursor=OPTIONAL_STRING)
    history = {"200": _content("A page, the newest first", events)}
    raw = {"200": {"description": "The bytes as they were sent", "content": {"*/*": {}}}}
    return {
        root: {"get": _operation("List", {"200": _content("A page", page)}, listing)},
        one: {
            "get": _operation("Status; may wait until a version is visible", status, waiting),
            "put": _operation("Upload: insert or replace", accepted, upload, body=uploads),
            "delete": _operation("Delete", accepted, [*names, version]),
        },
        one + "/chunks": {
            "get": _operation(
                "The applied chunks", {"200": _content("A page", chunks)}, [*names, *paging]
            )
        },
        one + "/content": {"get": _operation("The accepted content", raw, names)},
        one + "/history": {"get": _operation("What happened to it", history, [*names, *paging])},
    }


def _search_paths(settings: Settings) -> Schema:
    request = _object(
        ["query"],
        query={**STRING, "minLength": 1, "description": f"At most {MAX_QUERY_BYTES} bytes."},
        top_k={
            "type": "integer",
            "minimum": 1,
            "maximum": settings.max_top_k,
            "default": DEFAULT_TOP_K,
        },
        filter={"type": "object", "description": "A condition on metadata."},
        min_version={"type": "object", "additionalProperties": INTEGER},
        wait=_wait(),
    )
    answer = _object(hits=_list_of(_ref("Hit")), took_ms=NUMBER)
    operation = _operation(
        "Search",
        {"200": _content("Best first", answer)},
        [_in_path("namespace")],
        body=_json_body(request),
    )
    return {"/v1/namespaces/{namespace}/search": {"post": operation}}


def _status() -> Schema:
    letters = _object(dead_letters=_list_of(_ref("DeadLetter")), cursor=OPTIONAL_STRING)
    filters = [_in_query(name, STRING) for name in FILTERS]
    listing = [*filters, _in_query("cursor", STRING), _page_limit()]
    redriven = {"200": _content("How many moved", _object(redriven=INTEGER))}
    discarded = {"200": _content("How many are gone", _object(discarded=INTEGER))}
    which = _object(
        [],
        message_ids={"type": "array", "items": STRING, "maxItems": MAX_LETTER_IDS},
        all={"const": True},
        **{name: {**STRING, "description": "With all: only its letters."} for name in FILTERS},
    )
    health = {"200": _content("Yes", _object(status=STRING))}
    scrubs = {"200": _content("It", _object(running=BOOLEAN, report=_or_null(_ref("ScrubReport"))))}
    scrubbed = {"200": _content("Progress, then the report", _ref("ScrubLine"), NDJSON_TYPES[0])}
    scrub = _json_body(_object([], namespace=STRING, repair=BOOLEAN))
    described = {"200": _content("This document", {"type": "object"})}
    metrics = {"200": _content("Prometheus text format", STRING, "text/plain")}
    letter = {"200": _content("It", _ref("DeadLetter"))}
    path, one = "/v1/dead-letters", [_in_path("message_id")]
    return {
        "/v1/stats": {"get": _operation("Counts", {"200": _content("Now", _ref("Stats"))})},
        path: {"get": _operation("List", {"200": _content("A page", letters)}, listing)},
        path + "/redrive": {
            "post": _operation("Try again", redriven, body=_json_body(which)),
        },
        path + "/discard": {"post": _operation("Remove", discarded, body=_json_body(which))},
        path + "/{message_id}": {
            "get": _operation("One", letter, one),
            "delete": _operation("Remove it", discarded, one),
        },
        "/v1/scrub": {
            "get": _operation("The last scrub's report", scrubs),
            "post": _operation("Compare index, registry and packs", scrubbed, body=scrub),
        },
        "/healthz": {"get": _operation("Does the process run?", health)},
        "/readyz": {"get": _operation("May it be sent traffic?", health)},
        "/metrics": {"get": _operation("Metrics", metrics)},
        "/openapi.json": {"get": _operation("This description", described)},
    }


# --- schemas -------------------------------------------------------------------------------------


def _schemas(settings: Settings) -> Schema:
    return {
        **_accept_schemas(settings),
        **_read_schemas(),
        **_service_schemas(),
        **_scrub_schemas(),
    }


def _accept_schemas(settings: Settings) -> Schema:
    change = _object(
        ["change_type", "document_id"],
        change_type={"enum": [change_type.value for change_type in ChangeType]},
        namespace={
            "type": "string",
            "default": DEFAULT_NAMESPACE,
            "maxLength": settings.max_namespace_bytes,
            "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
        },
        document_id={
            "type": "string",
            "minLength": 1,
            "description": f"At most {settings.max_document_id_bytes} bytes of UTF-8.",
        },
        content={
            **STRING,
            "description": f"At most {settings.max_document_bytes} bytes once decoded.",
        },
        content_encoding={"enum": list(CONTENT_ENCODINGS), "default": CONTENT_ENCODINGS[0]},
        content_type={**STRING, "description": f"One of {', '.join(CONTENT_TYPES)}."},
        metadata={**_ref("Metadata"), "maxProperties": settings.max_metadata_keys},
        source_version=SOURCE_VERSION,
        doc_hash=SHA256,
    )
    names: Schema = {"namespace": STRING, "document_id": STRING}
    answer: Schema = {
        **names,
        "outcome": {"enum": [outcome.value for outcome in Outcome]},
        "version": INTEGER,
    }
    line = {"line": INTEGER}
    error: Schema = {"error": _ref("Problem")}
    ends: Schema = {"feed_ended": {"const": True}}
    return {
        "Change": {**change, "additionalProperties": False},
        "Metadata": {
            "type": "object",
            "additionalProperties": {
                "type": ["string", "number", "boolean", "array"],
                "items": STRING,
            },
        },
        "Result": _object(**answer),
        "ListResult": {"oneOf": [_object(**answer), _object(**names, **error)]},
        "LineResult": {
            "oneOf": [
                _object(**line, **answer),
                _object(["line", "error"], **line, **error, **ends),
            ]
        },
        "Problem": _object(
            ["type", "title", "status", "detail"],
            type={"enum": sorted(TYPE_PREFIX + kind.slug for kind in KINDS)},
            title=STRING,
            status=INTEGER,
            detail=STRING,
            field=STRING,
            limit={},
        ),
    }


def _read_schemas() -> Schema:
    status: Schema = {"enum": [status.value for status in Status]}
    content: Schema = {
        "tombstone": {"type": "boolean"},
        "content_hash": STRING,
        "content_type": STRING,
        "metadata": _ref("Metadata"),
        "source_version": {"type": ["integer", "null"]},
        "size_bytes": INTEGER,
        "accepted_at": TIME,
    }
    desired = _object(version=INTEGER, **content)
    applied = _object(
        version=INTEGER,
        doc_hash=STRING,
        embedding_profile=STRING,
        chunk_count=INTEGER,
        applied_at=TIME,
    )
    headings = _list_of(STRING)
    return {
        "Document": _object(
            namespace=STRING,
            document_id=STRING,
            status=status,
            desired=desired,
            applied=applied,
            attempts=INTEGER,
            error=OPTIONAL_STRING,
        ),
        "Summary": _object(
            document_id=STRING,
            status=status,
            version=INTEGER,
            applied_version=INTEGER,
            chunk_count=INTEGER,
            error=OPTIONAL_STRING,
            **content,
        ),
        "Chunk": _object(
            number=INTEGER,
            text=STRING,
            heading_path=headings,
            start=INTEGER,
            end=INTEGER,
            token_count=INTEGER,
            hash=STRING,
        ),
        "Event": _object(
            at=TIME,
            event={"enum": [kind.value for kind in EventKind]},
            version=INTEGER,
            detail=STRING,
        ),
        "Hit": _object(
            document_id=STRING,
            version=INTEGER,
            chunk=INTEGER,
            score=NUMBER,
            text=STRING,
            heading_path=headings,
            metadata=_ref("Metadata"),
        ),
    }


def _service_schemas() -> Schema:
    depth = _object(waiting=INTEGER, in_flight=INTEGER, delayed=INTEGER, oldest_age_seconds=NUMBER)
    workers = _object(running=INTEGER, peak=INTEGER, maximum=INTEGER, started_total=INTEGER)
    namespace = _object(
        namespace=STRING,
        documents={"type": "object", "additionalProperties": INTEGER},
        chunks=INTEGER,
    )
    return {
        "DeadLetter": _object(
            message_id=STRING,
            source={"enum": [queue.value for queue in QueueName]},
            namespace=STRING,
            document_id=STRING,
            version=INTEGER,
            traceparent=STRING,
            reason=STRING,
            receive_count=INTEGER,
            sent_at=TIME,
            died_at=TIME,
        ),
        "Stats": _object(
            namespaces=_list_of(namespace),
            queues=_object(**{queue.value: depth for queue in QueueName}),
            dead_letters=INTEGER,
            admission=_admission(),
            workers={"oneOf": [workers, {"type": "null"}]},
            totals={"type": "object", "additionalProperties": NUMBER},
            embedding_profile=STRING,
            version=STRING,
        ),
    }


def _admission() -> Schema:
    unknown: Schema = {"type": ["integer", "null"]}
    return _object(
        refusing={"enum": [*REASONS, None]},
        why=OPTIONAL_STRING,
        backlog_messages=unknown,
        max_backlog_messages=INTEGER,
        free_disk_bytes=unknown,
        min_free_disk_bytes=INTEGER,
    )


def _scrub_schemas() -> Schema:
    finding = _object(
        namespace=STRING,
        document_id=STRING,
        kind={"enum": [kind.value for kind in FindingKind]},
        detail=STRING,
        record_count=INTEGER,
        repairable=BOOLEAN,
        repaired=BOOLEAN,
    )
    counts: Schema = {"type": "object", "additionalProperties": INTEGER}
    progress = _object(
        namespace=STRING,
        documents_checked=INTEGER,
        documents_total=INTEGER,
        findings_total=INTEGER,
    )
    return {
        "Finding": finding,
        "ScrubReport": _object(
            started_at=NUMBER,
            took_seconds=NUMBER,
            repair=BOOLEAN,
            namespaces=_list_of(STRING),
            documents_checked=INTEGER,
            documents_in_motion=INTEGER,
            records_checked=INTEGER,
            findings={**_list_of(_ref("Finding")), "maxItems": FINDINGS_KEPT},
            findings_total=INTEGER,
            repaired_total=INTEGER,
            counts=counts,
            remaining=counts,
            clean=BOOLEAN,
        ),
        "ScrubLine": {
            "oneOf": [
                _object(progress=progress),
                _object(report=_ref("ScrubReport")),
                _object(error=_ref("Problem")),
            ]
        },
    }


# --- words ---------------------------------------------------------------------------------------


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: list[str] | None = None, /, **properties: Schema) -> Schema:
    """All properties are required unless told otherwise."""
    names = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": names}


def _or_null(schema: Schema) -> Schema:
    return {"oneOf": [schema, {"type": "null"}]}


def _list_of(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _content(description: str, schema: Schema, media_type: str = "application/json") -> Schema:
    return {"description": description, "content": {media_type: {"schema": schema}}}


def _json_body(schema: Schema) -> Schema:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _operation(
    summary: str, responses: Schema, parameters: list[Schema] | None = None, *,
    body: Schema | None = None,
) -> Schema:  # fmt: skip
    operation: Schema = {
        "summary": summary,
        "parameters": parameters or [],
        "responses": {**responses, "default": {"$ref": "#/components/responses/Problem"}},
    }
    return operation if body is None else {**operation, "requestBody": body}


def _in_path(name: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": STRING}


def _in_query(name: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "schema": schema}


def _page_limit() -> Schema:
    schema = {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": DEFAULT_PAGE}
    return _in_query("limit", schema)


def _wait() -> Schema:
    return {
        "type": "number",
        "minimum": 0,
        "maximum": MAX_WAIT_SECONDS,
        "description": f"Seconds; {DEFAULT_WAIT_SECONDS:g} when only min_version is given.",
    }
