"""What the description says of every operation: who may ask, the headers, and the ways it ends."""

from __future__ import annotations

from typing import Any

from common.access import Scope
from common.settings import Settings
from webhook.idempotency import MAX_KEY_CHARACTERS

Schema = dict[str, Any]

OPEN = ("/healthz", "/readyz", "/openapi.json", "/docs", "/docs/{digest}/{name}")
"""Anybody may ask these."""
SIGNED = ("/v1/sources/{name}",)
"""Verified in the source's own way."""
_DOCUMENTS = "/v1/namespaces/{namespace}/documents"
_SEARCH = "/v1/namespaces/{namespace}/search"

_STRING: Schema = {"type": "string"}
_INTEGER: Schema = {"type": "integer"}
_ENDS = {
    "401": "Unauthenticated",
    "403": "Forbidden",
    "429": "RateLimited",
}


def scope_of(path: str, method: str) -> Scope | None:
    """That the operation needs; None: it asks for no key."""
    if path in OPEN or path in SIGNED:
        return None
    if path == _SEARCH:
        return Scope.SEARCH
    if path == "/v1/changes" or (path.startswith(_DOCUMENTS) and method != "get"):
        return Scope.WRITE
    reads = path.startswith(_DOCUMENTS) or path == "/v1/stats"
    return Scope.READ if reads else Scope.ADMIN


def tag_of(path: str) -> str:
    """The heading that pages show the operation under."""
    if path in ("/v1/changes", *SIGNED):
        return "Changes"
    if path == _SEARCH:
        return "Search"
    return "Documents" if path.startswith(_DOCUMENTS) else "The service"


def with_access(paths: Schema) -> Schema:
    """The paths, each operation with the scope it needs and how it is refused without."""
    return {
        path: {method: _guarded(operation, scope_of(path, method), path)
               for method, operation in item.items()}
        for path, item in paths.items()
    }  # fmt: skip


def _guarded(operation: Schema, scope: Scope | None, path: str) -> Schema:
    operation = {"tags": [tag_of(path)], **operation}
    if path in OPEN:
        return {**operation, "security": []}
    ends = {status: {"$ref": f"#/components/responses/{name}"} for status, name in _ENDS.items()}
    guarded = {**operation, "responses": {**ends, **operation["responses"]}}
    if scope is None:
        return {**guarded, "security": []}
    told = [operation.get("description", ""), f"Needs the scope `{scope}`."]
    return {**guarded, "description": " ".join(filter(None, told))}


def security(settings: Settings) -> list[Schema]:
    """By default of all operations. `{}`: without any, where the service asks nobody."""
    known: list[Schema] = [{"bearer": []}, {"key": []}]
    return known if settings.auth == "required" else [*known, {}]


SECURITY_SCHEMES: Schema = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key (`bloomweaver keys create`), or a token of an issuer that the "
        "service knows.",
    },
    "key": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "An API key, for senders that can set nothing else.",
    },
}


# --- headers -------------------------------------------------------------------------------------

PARAMETERS: Schema = {
    "IfMatch": {
        "name": "If-Match",
        "in": "header",
        "schema": _STRING,
        "description": 'The versions the change is of, as ETags told them: `"v7"`, or `*`: '
        "whichever it is, as long as the document exists. Otherwise 412.",
    },
    "IfNoneMatchAny": {
        "name": "If-None-Match",
        "in": "header",
        "schema": {"const": "*"},
        "description": "Create and never replace: 412 when the document exists.",
    },
    "IfNoneMatch": {
        "name": "If-None-Match",
        "in": "header",
        "schema": _STRING,
        "description": "ETags of what the client has: 304 when nothing else is there.",
    },
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "schema": {**_STRING, "minLength": 1, "maxLength": MAX_KEY_CHARACTERS},
        "description": "A name that the client gives to this request, unlike that of any other of "
        "its requests. Sent again it is answered as it was, and nothing is done. Not for feeds.",
    },
}
HEADERS: Schema = {
    "ETag": {
        "schema": _STRING,
        "description": 'Begins with the document\'s version: `"v7.12"`. For If-Match and '
        "If-None-Match.",
    },
    "RetryAfter": {"schema": _INTEGER, "description": "Seconds to wait before the next try."},
    "IdempotencyReplayed": {
        "schema": {"const": "true"},
        "description": "This was answered before, to the same key.",
    },
    "RequestId": {
        "schema": _STRING,
        "description": "As in the service's log and its audit trail; the request's own, if it had "
        "one.",
    },
}


def header(name: str) -> Schema:
    return {"$ref": f"#/components/headers/{name}"}


def changing(*, conditional: bool = True) -> list[Schema]:
    """Headers that a change may have."""
    conditions = ["IfMatch", "IfNoneMatchAny"] if conditional else []
    return [PARAMETERS[name] for name in [*conditions, "IdempotencyKey"]]


def reading() -> list[Schema]:
    """Headers that a question for a document may have."""
    return [PARAMETERS["IfNoneMatch"]]


def changed(answer: Schema) -> Schema:
    """The ends of a change; `answer`: the 202."""
    headers = {"Idempotency-Replayed": header("IdempotencyReplayed")}
    return {
        "202": {**answer, "headers": headers},
        "409": {"$ref": "#/components/responses/Conflict"},
        "412": {"$ref": "#/components/responses/PreconditionFailed"},
    }


def found(answer: Schema) -> Schema:
    """The ends of a question for a document; `answer`: the 200."""
    return {
        "200": {**answer, "headers": {"ETag": header("ETag")}},
        "304": {"$ref": "#/components/responses/NotModified"},
    }


def responses(problem: Schema, problem_type: str) -> Schema:
    """That operations share. `problem`: a problem document's schema."""

    def end(description: str, **headers: str) -> Schema:
        named = {"X-Request-Id": "RequestId", **headers}
        return {
            "description": description,
            "headers": {name: header(ref) for name, ref in named.items()},
            "content": {problem_type: {"schema": problem}},
        }

    return {
        "Problem": end("What is wrong", **{"Retry-After": "RetryAfter"}),
        "Unauthenticated": end("No key or token, or one that is not known here"),
        "Forbidden": end("The scope is missing, or the namespace is out of reach"),
        "PreconditionFailed": end("The document is not of the version the request names"),
        "RateLimited": end("More than the caller may send", **{"Retry-After": "RetryAfter"}),
        "Conflict": end(
            "A request with this Idempotency-Key is still under way, or the namespace is bound to "
            "another embedding profile",
            **{"Retry-After": "RetryAfter"},
        ),
        "NotModified": {
            "description": "The client has it: its If-None-Match names what is there",
            "headers": {"ETag": header("ETag")},
        },
    }
