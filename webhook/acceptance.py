"""Accepting a change on behalf of a request: within its deadline, measured, told as JSON."""

from __future__ import annotations

import time
from typing import Any

from common import telemetry
from webhook.accept import Accepted, Change
from webhook.problems import deadline
from webhook.services import Services


async def accept_change(services: Services, change: Change) -> Accepted:
    """Raises what accept raises, and Problem (503) when it outlasts the request timeout, or when
    no more can be taken in for now."""
    await services.admission.admit(change)
    began = time.perf_counter()
    async with deadline(services.settings.request_timeout_seconds):
        accepted = await services.acceptor.accept(change)
    telemetry.ACCEPT_SECONDS.observe(time.perf_counter() - began)
    return accepted


def result_of(accepted: Accepted) -> dict[str, Any]:
    return {
        "namespace": accepted.key.namespace,
        "document_id": accepted.key.document_id,
        "outcome": accepted.outcome.value,
        "version": accepted.version,
    }
