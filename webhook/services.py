"""What the HTTP handlers are given: built once by the role's composition root."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from common.model import EmbeddingProfile
from common.parts import FleetStatus
from common.ports.blobs import BlobStore
from common.ports.queue import Queue
from common.ports.registry import Registry
from common.scrubbing import ScrubService
from common.settings import Settings
from webhook.accept import Acceptor
from webhook.admission import Admission
from webhook.search import Searcher


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """`searcher` is None where this process cannot reach the index; `why_no_search` tells why.

    `fleet` is None where no fleet runs in this process. `unready` returns what is still missing,
    one line each; empty: the service is ready.
    """

    settings: Settings
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


SERVICES: web.AppKey[Services] = web.AppKey("services", Services)
