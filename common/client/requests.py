"""Requests as values, and where each goes. Pure: nothing is sent here."""

from __future__ import annotations

import gzip
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from common.client.changes import AnyChange, change_json, encoded

COMPRESSED_FROM_BYTES = 64 * 1024
"""Smaller bodies cost more time to compress than to send."""
CHANGES = "/v1/changes"
DEAD_LETTERS = "/v1/dead-letters"
SCRUB = "/v1/scrub"


@dataclass(frozen=True, slots=True)
class Request:
    """`path` is percent-encoded as it is to be sent. `wait_seconds`: how much longer than others
    its answer may take."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    wait_seconds: float = 0.0


def get(path: str, *, wait_seconds: float = 0.0, etag: str | None = None, **query: Any) -> Request:
    """What is None is left out of the query."""
    given = {name: str(value) for name, value in query.items() if value is not None}
    headers = {} if etag is None else {"If-None-Match": etag}
    return Request("GET", path, given, headers, wait_seconds=wait_seconds)


def post(path: str, value: Mapping[str, Any], *, wait_seconds: float = 0.0) -> Request:
    body, headers = packed(encoded(value))
    headers["Content-Type"] = "application/json"
    return Request("POST", path, headers=headers, body=body, wait_seconds=wait_seconds)


def packed(body: bytes) -> tuple[bytes, dict[str, str]]:
    """The body as it travels, and its headers."""
    if len(body) < COMPRESSED_FROM_BYTES:
        return body, {}
    # Level 1: texts shrink to a third at a speed that no network outruns.
    return gzip.compress(body, compresslevel=1, mtime=0), {"Content-Encoding": "gzip"}


def change(value: AnyChange) -> Request:
    return keyed(post(CHANGES, change_json(value)))


def changes(values: Iterable[AnyChange]) -> Request:
    """A list, checked as a whole."""
    return keyed(post(CHANGES, {"changes": [change_json(value) for value in values]}))


def keyed(request: Request) -> Request:
    """With a name of its own: sent again it is answered as it was, and done once."""
    headers = {**request.headers, "Idempotency-Key": str(uuid.uuid4())}
    return Request(request.method, request.path, request.query, headers, request.body)


def search(
    namespace: str,
    query: str,
    *,
    top_k: int | None,
    filter: Mapping[str, Any] | None,  # noqa: A002 - the API's word
    min_version: Mapping[str, int] | None,
    wait_seconds: float | None,
) -> Request:
    members = {"top_k": top_k, "filter": filter, "min_version": min_version, "wait": wait_seconds}
    body = {"query": query} | {name: v for name, v in members.items() if v is not None}
    return post(namespace_path(namespace, "search"), body, wait_seconds=wait_seconds or 0.0)


def letters(
    message_ids: Iterable[str] | None,
    *,
    everything: bool,
    namespace: str | None,
    document_id: str | None,
) -> dict[str, Any]:
    """Which dead letters are meant. Raises ValueError unless it is said in one way."""
    of = {"namespace": namespace, "document_id": document_id}
    given = {name: value for name, value in of.items() if value is not None}
    matching = everything or bool(given)
    if matching == (message_ids is not None):
        raise ValueError("name message_ids, or give everything=True, namespace or document_id")
    return {"message_ids": list(message_ids)} if message_ids is not None else {"all": True, **given}


def namespace_path(namespace: str, what: str) -> str:
    return f"/v1/namespaces/{quoted(namespace)}/{what}"


def document_path(namespace: str, document_id: str, view: str = "") -> str:
    return namespace_path(namespace, f"documents/{quoted(document_id)}{view}")


def quoted(name: str) -> str:
    """Wholly percent-encoded; a name of dots only would else be read as a step in the path."""
    return name.replace(".", "%2E") if name.strip(".") == "" else quote(name, safe="")
