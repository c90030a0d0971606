"""Accepting a change on behalf of a request: within its deadline, measured, told as JSON."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from common import telemetry
from webhook.accept import Accepted, Change
from webhook.auditing import accept_and_tell, refuse_change
from webhook.authentication import require_reach
from webhook.callers import Caller
from webhook.content_urls import ContentRefusedError, ContentUrls
from webhook.problems import CONTENT_REFUSED, Problem, deadline
from webhook.quotas import room_for
from webhook.services import Services
from webhook.validation import CONTENT_URL


async def accept_change(
    services: Services, change: Change, caller: Caller, *, charged: bool = False
) -> Accepted:
    """Every change that anybody asks for comes through here. Raises what accept raises, and
    Problem: 403 when the namespace is not the caller's or is full, 429 beyond what the caller may
    ask for in a time (unless it was `charged` for before), 503 when it outlasts the request timeout
    or when no more can be taken in for now."""
    require_reach_of_change(services, change, caller)
    if not charged:
        charge_for(services, [change], caller)
    services.auditing.require_open()
    await services.admission.admit(change)
    async with _with_content(services, change, caller) as whole:
        return await _accept(services, whole, caller)


async def _accept(services: Services, change: Change, caller: Caller) -> Accepted:
    began = time.perf_counter()

    async def accept(change: Change) -> Accepted:
        async with deadline(services.settings.request_timeout_seconds):
            return await services.acceptor.accept(change)

    async with room_for(services.quotas, change):
        accepted = await accept_and_tell(services.auditing, change, caller, accept)
    telemetry.ACCEPT_SECONDS.observe(time.perf_counter() - began)
    return accepted


def charge_for(services: Services, changes: Sequence[Change], caller: Caller) -> None:
    """Raises Problem (429), and then nothing was charged."""
    size = sum(len(change.content or b"") for change in changes)
    services.limits.charge_changes(caller.principal, changes=len(changes), size_bytes=size)


@asynccontextmanager
async def _with_content(
    services: Services, change: Change, caller: Caller
) -> AsyncIterator[Change]:
    """The change itself, unless its content is elsewhere. What is refused the audit trail is told
    of: somebody may be looking for what this service reaches."""
    if change.content_url is None:
        yield change
        return
    try:
        async with content_urls_of(services).fetched(change) as whole:
            services.limits.charge_fetched(caller.principal, len(whole.content or b""))
            yield whole
    except ContentRefusedError as problem:
        refuse_change(services.auditing, change, caller, problem)
        raise


def content_urls_of(services: Services) -> ContentUrls:
    if services.content_urls is None:
        raise ContentRefusedError(CONTENT_REFUSED, "nothing is fetched here", field=CONTENT_URL)
    return services.content_urls


def require_reach_of_change(services: Services, change: Change, caller: Caller) -> None:
    """Raises Problem (403), which the audit trail is told of."""
    try:
        require_reach(caller.principal, change.key.namespace)
    except Problem as problem:
        refuse_change(services.auditing, change, caller, problem)
        raise


def result_of(accepted: Accepted) -> dict[str, Any]:
    return {
        "namespace": accepted.key.namespace,
        "document_id": accepted.key.document_id,
        "outcome": accepted.outcome.value,
        "version": accepted.version,
    }
