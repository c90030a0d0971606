"""ETag, If-Match and If-None-Match (RFC 9110): which version a client has seen.

A tag begins with the document's version, `"v7"`, and that alone is what If-Match compares. Behind
it is what else decides the bytes of an answer: a status changes while its document does not.
"""

from __future__ import annotations

import re

from aiohttp import web

from common.model import Desired, Row
from webhook.preconditions import Precondition
from webhook.problems import MALFORMED_REQUEST, Problem

GZIPPED = "-gzip"
"""Ends the tag of an answer that was compressed: other bytes, another tag."""

_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_LIST = re.compile(rf"[\s,]*{_TAG.pattern}(?:[ \t]*,[\s,]*{_TAG.pattern})*[\s,]*")
_VERSION = re.compile(r"v([0-9]{1,19})(?:[.-].*)?")
_ANY = "*"
CACHING = "private, no-cache"
"""For whoever asked, and only after asking again."""


def tag_of_status(row: Row) -> str:
    return f'"v{row.desired.version}.{row.revision}"'


def tag_of_content(desired: Desired) -> str:
    return f'"v{desired.version}-{desired.content_hash[:16]}"'


def is_known(request: web.Request, tag: str) -> bool:
    """Whether If-None-Match says that the client has just that."""
    given = _given(request, "If-None-Match")
    if given is None:
        return False
    return given == _ANY or tag.strip('"') in {
        opaque.removesuffix(GZIPPED) for _, opaque in _tags(given, "If-None-Match")
    }


def not_modified(tag: str) -> web.Response:
    return web.Response(status=304, headers={"ETag": tag, "Cache-Control": CACHING})


def precondition_of(request: web.Request) -> Precondition | None:
    """Of a change. Raises Problem (400) for what cannot be read: a guard must not be lost."""
    match, none_match = _given(request, "If-Match"), _given(request, "If-None-Match")
    if none_match not in (None, _ANY):
        detail = "If-None-Match goes with a change as `*` only: create, never replace"
        raise Problem(MALFORMED_REQUEST, detail, field="If-None-Match")
    if match is None and none_match is None:
        return None
    if match == _ANY:
        # With both there is nothing that holds.
        return Precondition(exists=True, versions=None if none_match is None else frozenset())
    versions = None if match is None else _versions(match)
    return Precondition(versions=versions, exists=None if none_match is None else False)


def _versions(given: str) -> frozenset[int]:
    """Of the strong tags: a weak one never matches (RFC 9110, 13.1.1)."""
    found = (_VERSION.fullmatch(tag) for weak, tag in _tags(given, "If-Match") if not weak)
    return frozenset(int(version[1]) for version in found if version)


def _given(request: web.Request, name: str) -> str | None:
    values = request.headers.getall(name, [])
    return ", ".join(values).strip() if values else None


def _tags(given: str, name: str) -> list[tuple[str, str]]:
    """`(W/ or nothing, what is between the quotes)`."""
    if not _LIST.fullmatch(given):
        detail = f'{name} must be `*`, or tags as an ETag gives them: "v7", "v8"'
        raise Problem(MALFORMED_REQUEST, detail, field=name)
    return _TAG.findall(given)
