"""What a process is composed of: the ports it opened and the parts that run on them.

`common` imports neither `webhook` nor `workers`; `up` finds their parts by entry point.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from common.model import EmbeddingProfile
from common.ports.blobs import BlobStore
from common.ports.embedder import Embedder
from common.ports.index import Index
from common.ports.queue import Queue
from common.ports.registry import Registry
from common.ports.vectors import VectorCache
from common.scrubbing import ScrubService
from common.settings import Settings
from common.transitions import Timers


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetStatus:
    """Embedding workers of this machine."""

    running: int
    peak: int
    maximum: int
    started_total: int


@dataclass(slots=True, kw_only=True)
class Ports:
    """Opened adapters. `index` is None in a process that does not own the embedded index."""

    settings: Settings
    queue: Queue
    registry: Registry
    blobs: BlobStore
    vectors: VectorCache
    embedder: Embedder
    index: Index | None
    fleet_status: Callable[[], FleetStatus] | None = None
    """Set by the part that runs a fleet in this process."""
    scrub: ScrubService | None = None
    """Set by the part that runs consumers in this process."""
    variants: Mapping[str, Embedder] = field(default_factory=dict)
    """The embedders of all embedding variants by name, this process' own among them."""

    @property
    def profile(self) -> EmbeddingProfile:
        return self.embedder.profile


class Part(Protocol):
    """A piece of a process: starts, and stops by draining its work in hand."""

    def __init__(self, ports: Ports) -> None: ...

    async def start(self) -> None:
        """Returns once the part is at work; raises if it cannot be."""

    def tasks(self) -> Sequence[asyncio.Task[None]]:
        """What runs until stop(); one that ends before has failed, and the process with it."""

    async def stop(self) -> None:
        """Stop taking work, finish what is in hand within the drain timeout, then cancel.

        Called after a start that failed, too.
        """


def timers_of(settings: Settings) -> Timers:
    return Timers(
        stale_after_seconds=settings.stale_after_seconds,
        attempt_lease_seconds=settings.attempt_lease_seconds,
        collect_grace_seconds=settings.collect_grace_seconds,
        tombstone_retention_seconds=settings.tombstone_retention_seconds,
    )
