"""What the webhook alone opens, beside the ports that all roles share: who may call, which
deliveries were answered, and what it fetches with; and the audit trail, which the intake has as
well."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from common import github_contents
from common.checks import require_each_usable, variable_of
from common.composition import connect
from common.outbound import OutboundClient, client_of
from common.ports.audit import AuditTrail
from common.ports.keys import KeyStore
from common.ports.receipts import Receipts
from common.settings import Settings
from webhook.auditing import Auditing, auditing_of
from webhook.authentication import Verifier
from webhook.content_urls import ContentUrls
from webhook.issuers import issuers_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    keys: KeyStore
    issuers: Sequence[Verifier]
    """Of people's tokens."""
    receipts: Receipts
    auditing: Auditing
    content_urls: ContentUrls
    github: OutboundClient
    """For files of repositories that a push tells of; it reaches nothing else."""


@contextlib.asynccontextmanager
async def open_own(settings: Settings, *, receiver: str) -> AsyncIterator[Opened]:
    """Raises ConfigurationError, OutOfReachError and what the adapters raise at opening."""
    async with contextlib.AsyncExitStack() as stack:

        async def opened(port: str, url: str) -> Any:
            adapter = connect(port, url, settings, receiver)
            stack.push_async_callback(adapter.close)
            return adapter

        def fetching(allowed_hosts: Sequence[str]) -> OutboundClient:
            client = client_of(settings, allowed_hosts)
            stack.push_async_callback(client.close)
            return client

        issuers = issuers_of(settings)
        for verifier in issuers:
            stack.push_async_callback(verifier.close)
        own = Opened(
            keys=await opened("keys", settings.keys_url),
            issuers=issuers,
            receipts=await opened("receipts", settings.receipts_url),
            auditing=await stack.enter_async_context(open_auditing(settings, receiver=receiver)),
            content_urls=ContentUrls(
                client=fetching(settings.fetch_allowed_hosts), settings=settings
            ),
            github=fetching(github_contents.ALLOWED_HOSTS),
        )
        stores = {variable_of("keys"): own.keys, variable_of("receipts"): own.receipts}
        await require_each_usable(stores, settings)
        yield own


@contextlib.asynccontextmanager
async def open_auditing(settings: Settings, *, receiver: str) -> AsyncIterator[Auditing]:
    """Raises as `open_own`."""
    trail: AuditTrail = connect("audit", settings.audit_url, settings, receiver)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(trail.close)
        await require_each_usable({variable_of("audit"): trail}, settings)
        auditing = auditing_of(trail, settings)
        auditing.start()
        stack.push_async_callback(auditing.close)
        yield auditing
