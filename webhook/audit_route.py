"""GET /v1/audit: the audit trail's entries, the newest first."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from common.audit import millis, moment_of
from common.ports.audit import AuditEntry, AuditPlace, AuditQuery, NoAuditTrailError
from webhook.authentication import principal_of
from webhook.bodies import query_integer, refuse_unknown_parameters
from webhook.documents import DEFAULT_PAGE, MAX_PAGE, time_of
from webhook.problems import INVALID_FIELD, NOT_FOUND, Problem, deadline
from webhook.services import SERVICES

_PARAMETERS = frozenset({"namespace", "document_id", "since", "cursor", "limit"})
_BAD_CURSOR = "cursor is not one that an earlier page gave, or its entry was dropped for its age"


async def get_audit(request: web.Request) -> web.Response:
    """A page of the entries of the namespaces that the principal reaches. What belongs to no
    namespace, and where an entry stands in the chain, is told to who reaches all of them."""
    refuse_unknown_parameters(request, _PARAMETERS)
    services, principal = request.app[SERVICES], principal_of(request)
    limit = query_integer(request, "limit", default=DEFAULT_PAGE, lowest=1, highest=MAX_PAGE)
    wanted = AuditQuery(
        reach=principal.namespaces,
        namespace=request.query.get("namespace"),
        document_id=request.query.get("document_id"),
        since=_since(request.query.get("since")),
    )
    before = _place(request.query.get("cursor"))
    if (trail := services.auditing.trail) is None:
        raise _none_kept()
    try:
        async with deadline(services.settings.request_timeout_seconds):
            found = await trail.page(wanted, limit=limit + 1, before=before)
    except NoAuditTrailError:
        raise _none_kept() from None
    except ValueError:
        raise Problem(INVALID_FIELD, _BAD_CURSOR, field="cursor") from None
    page = found[:limit]
    cursor = _cursor_of(page[-1]) if len(found) > limit else None
    entries = [entry_json(entry, chain=principal.reaches_all) for entry in page]
    return web.json_response({"entries": entries, "cursor": cursor})


def entry_json(entry: AuditEntry, *, chain: bool) -> dict[str, Any]:
    """`chain`: with its place in the chain, which tells how many entries others have."""
    event = entry.event
    told: dict[str, Any] = {
        "at": time_of(event.at),
        "principal": event.principal,
        "action": event.action,
        "namespace": event.namespace,
        "document_id": event.document_id,
        "subject": event.subject,
        "result": event.result,
        "version": event.version,
        "count": event.count,
        "address": event.address,
        "request_id": event.request_id,
        "source": event.source,
        "hash": entry.hash,
    }
    if chain:
        told |= {"sequence": entry.sequence, "previous_hash": entry.previous_hash}
    return told


def _none_kept() -> Problem:
    return Problem(NOT_FOUND, "no audit trail is kept here")


def _since(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return moment_of(text)
    except (ValueError, OverflowError):
        detail = "since must be a time with its zone, as 2026-01-31T09:05:00Z"
        raise Problem(INVALID_FIELD, detail, field="since") from None


def _cursor_of(entry: AuditEntry) -> str:
    return f"{millis(entry.event.at)}.{entry.hash}"


def _place(cursor: str | None) -> AuditPlace | None:
    if cursor is None:
        return None
    at_ms, _, digest = cursor.partition(".")
    if not (at_ms.isascii() and at_ms.isdecimal() and len(at_ms) < 16 and len(digest) == 64):
        raise Problem(INVALID_FIELD, _BAD_CURSOR, field="cursor")
    return AuditPlace(int(at_ms), digest)
