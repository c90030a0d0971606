"""Tells the audit trail of every request that was refused for who it came from."""

from __future__ import annotations

from aiohttp import web

from common.ports.audit import AuditEvent
from webhook.addresses import address_of
from webhook.auditing import REFUSED, Auditing
from webhook.authentication import known_principal_of
from webhook.problems import FORBIDDEN, UNAUTHENTICATED, Handler, Problem
from webhook.request_ids import request_id_of
from webhook.services import SERVICES


@web.middleware
async def tell_refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Problem as problem:
        if problem.kind in (UNAUTHENTICATED, FORBIDDEN) and not problem.audited:
            auditing = request.app[SERVICES].auditing
            auditing.refuse(_event_of(auditing, request, problem))
        raise


def _event_of(auditing: Auditing, request: web.Request, problem: Problem) -> AuditEvent:
    principal = known_principal_of(request)
    named = request.match_info
    return AuditEvent(
        at=auditing.clock(),
        principal=principal.id if principal else "",
        action=REFUSED,
        namespace=named.get("namespace", ""),
        document_id=named.get("document_id", ""),
        subject=_asked_for(request),
        result=problem.kind.slug,
        address=address_of(request),
        request_id=request_id_of(),
        source=named.get("name", ""),
    )


def _asked_for(request: web.Request) -> str:
    """`GET /v1/namespaces/{namespace}/documents`."""
    resource = request.match_info.route.resource
    return f"{request.method} {resource.canonical if resource else ''}"
