"""What the HTTP handlers are given: built once by the role's composition root."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web

from common.access import Principal
from common.model import EmbeddingProfile
from common.outbound import OutboundClient
from common.parts import FleetStatus
from common.ports.blobs import BlobStore
from common.ports.queue import Queue
from common.ports.receipts import Receipts
from common.ports.registry import Registry
from common.scrubbing import ScrubService
from common.settings import Settings
from webhook.accept import Acceptor
from webhook.admission import Admission
from webhook.auditing import Auditing
from webhook.content_urls import ContentUrls
from webhook.limits import Limits
from webhook.quotas import Quotas
from webhook.search import Searcher
from webhook.sources.directory import SourceDirectory


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """`searcher` is None where this process cannot reach the index; `why_no_search` tells why.

    `fleet` is None where no fleet runs in this process. `unready` returns what is still missing,
    one line each; empty: the service is ready.
    """

    settings: Settings
    authenticate: Callable[[web.Request], Awaitable[Principal]]
    """Who a request speaks for (`webhook.authentication`)."""
    registry: Registry
    blobs: BlobStore
    queue: Queue
    profile: EmbeddingProfile
    acceptor: Acceptor
    admission: Admission
    searcher: Searcher | None
    why_no_search: str
    fleet: Callable[[], FleetStatus] | None
    unready: Callable[[], list[str]]
    scrub: ScrubService | None = None
    """None where this process cannot reach the index, as for `searcher`."""
    most_wait_seconds: Callable[[], float] = lambda: math.inf
    """How long a request may wait for a document just now: a function's time may end before."""
    sources: SourceDirectory | None = None
    """None: there are none."""
    receipts: Receipts | None = None
    """None: nothing is remembered of deliveries."""
    content_urls: ContentUrls | None = None
    """None: nothing is fetched."""
    github: OutboundClient | None = None
    """Fetches files of repositories (`common.github_contents`). None: it does not."""
    limits: Limits = field(default_factory=Limits)
    """How much each principal may ask for in a time."""
    quotas: Quotas | None = None
    """None: a namespace may hold what it likes."""
    auditing: Auditing = field(default_factory=Auditing)
    """What the audit trail is told."""


SERVICES: web.AppKey[Services] = web.AppKey("services", Services)
