"""Who asks for a change: what limits, quotas and the audit trail are told."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from common.access import Principal
from webhook.addresses import address_of
from webhook.authentication import principal_of
from webhook.request_ids import request_id_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    principal: Principal
    address: str = ""
    """The peer's, without port; empty where there is none."""
    request_id: str = ""
    source: str = ""
    """The named source, for its deliveries."""


def caller_of(request: web.Request, *, source: str = "") -> Caller:
    return Caller(
        principal=principal_of(request),
        address=address_of(request),
        request_id=request_id_of(),
        source=source,
    )
