"""The OpenAPI 3.1 description. What bodies and answers look like comes from their models; a test
holds the paths against the app's routes, and the models against what the routes answer.

Answers are not made by models: that would cost more than the JSON itself. They are described by
them, and tests read real answers with them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from common.api.base import Version
from common.api.changes import (
    ChangeResult,
    ChangeResults,
    Delivered,
    DocHash,
    LineResult,
)
from common.api.dead_letters import DeadLetter, DeadLetterPage, Discarded, Redriven
from common.api.documents import ChunkPage, Document, DocumentPage, EventPage
from common.api.problems import Problem
from common.api.scrubs import LastScrub, ScrubLine
from common.api.search import DEFAULT_WAIT_SECONDS, SearchAnswer, WaitSeconds
from common.api.service import AuditPage, Health, Stats
from common.model import Status
from common.settings import Settings
from webhook.dead_letters import FILTERS
from webhook.documents import DEFAULT_PAGE, MAX_PAGE
from webhook.feed import NDJSON_TYPES
from webhook.models.limited import CONTENT_TYPES, bodies_of
from webhook.models.schemas import Schema, Schemas, schema_of
from webhook.openapi_access import (
    HEADERS,
    SECURITY_SCHEMES,
    changed,
    changing,
    found,
    reading,
    responses,
    security,
    with_access,
)
from webhook.problems import CONTENT_TYPE as PROBLEM_TYPE
from webhook.problems import KINDS, TYPE_PREFIX
from webhook.status import program_version

STRING: Schema = {"type": "string"}
ANYTHING: Schema = {"*/*": {}}

ProblemType = StrEnum(  # type: ignore[misc]  # of what there is
    "ProblemType", {kind.slug: TYPE_PREFIX + kind.slug for kind in KINDS}
)


def document(settings: Settings) -> Schema:
    """The description, with the limits that this service is set to."""
    models = _Models(settings)
    paths = {
        **_change_paths(models),
        **_source_paths(models),
        **_document_paths(models),
        **_search_paths(models),
        **_dead_letter_paths(models),
        **_service_paths(models),
        **_audit_paths(models),
        **_own_paths(),
    }
    shared = responses(models.ref(Problem), PROBLEM_TYPE)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "BloomWeaver",
            "version": program_version(),
            "description": "Keeps a vector index true to documents that change. "
            "Errors are RFC 9457 problem documents that name the field and the limit.",
        },
        "security": security(settings),
        "paths": with_access(paths),
        "components": {
            "schemas": _with_problem_types(models),
            "headers": HEADERS,
            "responses": shared,
            "securitySchemes": SECURITY_SCHEMES,
        },
    }


class _Models(Schemas):
    """With the bodies that this service takes."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.bodies = bodies_of(settings)

    def answer(self, description: str, model: Any, media_type: str = "application/json") -> Schema:
        return _content(description, self.ref(model), media_type)

    def body(self, model: Any) -> Schema:
        return {"required": True, "content": {"application/json": {"schema": self.ref(model)}}}


def _with_problem_types(models: Schemas) -> dict[str, Schema]:
    """Clients know kinds of problems of other releases, too; this one has these."""
    named = models.ref(ProblemType)
    schemas = models.components()
    told = schemas["Problem"]["properties"]["type"]["description"]
    schemas["Problem"]["properties"]["type"] = {**named, "description": told}
    return schemas


# --- paths ---------------------------------------------------------------------------------------


def _change_paths(models: _Models) -> Schema:
    change = models.ref(models.bodies.change.type)
    listed = models.ref(models.bodies.changes.type)
    taken: Schema = {"application/json": {"schema": {"oneOf": [change, listed]}}}
    taken |= {name: {"schema": change} for name in NDJSON_TYPES}
    told = {"oneOf": [models.ref(ChangeResult), models.ref(ChangeResults)]}
    line = models.answer("A result for each line, in order", LineResult, NDJSON_TYPES[0])
    operation = _operation(
        "acceptChanges",
        "Accept changes",
        {"200": line, **changed(_content("Every change is durable", told))},
        changing(conditional=False),
        body={"required": True, "content": taken},
    )
    return {"/v1/changes": {"post": operation}}


def _source_paths(models: _Models) -> Schema:
    """Of any content: each source says what it sends."""
    operation = _operation(
        "deliver",
        "A delivery of another system's webhook, as the settings of its source say",
        {"200": models.answer("Every change that is not among the errors is durable", Delivered)},
        [_in_path("name")],
        body={"required": True, "content": ANYTHING},
    )
    return {"/v1/sources/{name}": {"post": operation}}


def _document_paths(models: _Models) -> Schema:
    root = "/v1/namespaces/{namespace}/documents"
    return {
        root: {"get": _document_list(models)},
        root + "/{document_id}": {
            "get": _document_status(models),
            "put": _document_upload(models),
            "delete": _operation(
                "deleteDocument",
                "Delete",
                changed(models.answer("Durable", ChangeResult)),
                [*_document_names(), _in_query("source_version", Version), *changing()],
            ),
        },
        **_parts_of_documents(models, root + "/{document_id}"),
    }


def _document_list(models: _Models) -> Schema:
    parameters = [
        _in_path("namespace"),
        {"name": "status", "in": "query", "schema": models.ref(Status)},
        _in_query("prefix", str),
        *_paging(),
    ]
    ends = {"200": models.answer("A page", DocumentPage)}
    return _operation("listDocuments", "List", ends, parameters)


def _document_status(models: _Models) -> Schema:
    told = f"Seconds; {DEFAULT_WAIT_SECONDS:g} when only min_version is given."
    wait = Annotated[WaitSeconds, Field(description=told)]
    waiting = [_in_query("min_version", Version), _in_query("wait", wait)]
    return _operation(
        "getDocument",
        "Status; may wait until a version is visible",
        found(models.answer("Where it stands", Document)),
        [*_document_names(), *waiting, *reading()],
    )


def _document_upload(models: _Models) -> Schema:
    metadata = Annotated[str, Field(description="A JSON object, as a change's metadata.")]
    told = {"source_version": Version, "metadata": metadata, "doc_hash": DocHash}
    queries = [_in_query(name, kind) for name, kind in told.items()]
    return _operation(
        "putDocument",
        "Upload: insert or replace",
        changed(models.answer("Durable", ChangeResult)),
        [*_document_names(), *queries, *changing()],
        body={"required": True, "content": {name: {} for name in CONTENT_TYPES}},
    )


def _parts_of_documents(models: _Models, one: str) -> Schema:
    names = _document_names()
    chunks = {"200": models.answer("A page", ChunkPage)}
    history = {"200": models.answer("A page, the newest first", EventPage)}
    raw = found({"description": "The bytes as they were sent", "content": ANYTHING})
    return {
        one + "/chunks": {
            "get": _operation("getChunks", "The applied chunks", chunks, [*names, *_paging()])
        },
        one + "/content": {
            "get": _operation("getContent", "The accepted content", raw, [*names, *reading()])
        },
        one + "/history": {
            "get": _operation("getHistory", "What happened to it", history, [*names, *_paging()])
        },
    }


def _search_paths(models: _Models) -> Schema:
    operation = _operation(
        "search",
        "Search",
        {"200": models.answer("Best first", SearchAnswer)},
        [_in_path("namespace")],
        body=models.body(models.bodies.search.type),
    )
    return {"/v1/namespaces/{namespace}/search": {"post": operation}}


def _dead_letter_paths(models: _Models) -> Schema:
    page = {"200": models.answer("A page", DeadLetterPage)}
    letter = {"200": models.answer("It", DeadLetter)}
    redriven = {"200": models.answer("How many moved", Redriven)}
    discarded = {"200": models.answer("How many are gone", Discarded)}
    which = models.body(models.bodies.dead_letters.type)
    filters = [_in_query(name, str) for name in FILTERS]
    path, one = "/v1/dead-letters", [_in_path("message_id")]
    return {
        path: {"get": _operation("listDeadLetters", "List", page, [*filters, *_paging()])},
        path + "/redrive": {
            "post": _operation("redriveDeadLetters", "Try again", redriven, body=which)
        },
        path + "/discard": {
            "post": _operation("discardDeadLetters", "Remove", discarded, body=which)
        },
        path + "/{message_id}": {
            "get": _operation("getDeadLetter", "One", letter, one),
            "delete": _operation("deleteDeadLetter", "Remove it", discarded, one),
        },
    }


def _service_paths(models: _Models) -> Schema:
    stats = {"200": models.answer("Now", Stats)}
    last = {"200": models.answer("It", LastScrub)}
    lines = {"200": models.answer("Progress, then the report", ScrubLine, NDJSON_TYPES[0])}
    health = {"200": models.answer("Yes", Health)}
    metrics = {"200": _content("Prometheus text format", STRING, "text/plain")}
    wanted = models.body(models.bodies.scrub.type)
    return {
        "/v1/stats": {"get": _operation("getStats", "Counts", stats)},
        "/v1/scrub": {
            "get": _operation("getLastScrub", "The last scrub's report", last),
            "post": _operation("scrub", "Compare index, registry and packs", lines, body=wanted),
        },
        "/healthz": {"get": _operation("getHealth", "Does the process run?", health)},
        "/readyz": {"get": _operation("getReadiness", "May it be sent traffic?", health)},
        "/metrics": {"get": _operation("getMetrics", "Metrics", metrics)},
    }


def _audit_paths(models: _Models) -> Schema:
    filters = [_in_query(name, str) for name in (*FILTERS, "since")]
    page = {"200": models.answer("A page, the newest first", AuditPage)}
    operation = _operation("listAuditEntries", "Who did what", page, [*filters, *_paging()])
    return {"/v1/audit": {"get": operation}}


def _own_paths() -> Schema:
    described = {"200": _content("This document", {"type": "object"})}
    page = {"200": _content("It works without a network", STRING, "text/html")}
    asset = {"200": {"description": "Of this release, to be kept", "content": ANYTHING}}
    names = [_in_path("digest"), _in_path("name")]
    return {
        "/openapi.json": {"get": _operation("getOpenapi", "This description", described)},
        "/docs": {"get": _operation("getDocs", "This description as a page", page)},
        "/docs/{digest}/{name}": {
            "get": _operation("getDocsAsset", "What the page loads", asset, names)
        },
    }


# --- words ---------------------------------------------------------------------------------------


def _content(description: str, schema: Schema, media_type: str = "application/json") -> Schema:
    return {"description": description, "content": {media_type: {"schema": schema}}}


def _operation(
    name: str, summary: str, responses: Schema, parameters: list[Schema] | None = None, *,
    body: Schema | None = None,
) -> Schema:  # fmt: skip
    """`name`: what generated clients call it."""
    operation: Schema = {
        "operationId": name,
        "summary": summary,
        "parameters": parameters or [],
        "responses": {**responses, "default": {"$ref": "#/components/responses/Problem"}},
    }
    return operation if body is None else {**operation, "requestBody": body}


def _in_path(name: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": STRING}


def _document_names() -> list[Schema]:
    return [_in_path("namespace"), _in_path("document_id")]


def _in_query(name: str, kind: Any) -> Schema:
    return {"name": name, "in": "query", "schema": schema_of(kind)}


def _paging() -> list[Schema]:
    limit = Annotated[int, Field(ge=1, le=MAX_PAGE)]
    schema = {**schema_of(limit), "default": DEFAULT_PAGE}
    return [_in_query("cursor", str), {"name": "limit", "in": "query", "schema": schema}]
