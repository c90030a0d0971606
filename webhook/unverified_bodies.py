"""How much memory bodies may take whose senders are not known yet.

A signature is of the body, so that the body is read whole before anybody knows whose it is, and
whoever likes can send one. What is read so counts here until it is verified or refused.

Room is shared out by what is left, not in fixed parts: a source may hold as much as it leaves to
the others, and of what it can still have, one network may hold as much as it leaves to the source's
other senders. So one source alone has half of it all at most, one network of it a quarter, the next
source half of what is left, and so on. Nobody waits: what finds no room is refused, and tried again
later. Sizes are of the bodies; while one is put together and verified there are copies of it. Since
a body has to come at a pace, whoever takes room gives it back within minutes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from aiohttp import web

from common import telemetry
from webhook.problems import OVER_CAPACITY, Problem

K = TypeVar("K")

RETRY_SECONDS = 5
LARGEST_SHARE = 4
"""The largest body that can ever be let in is one part of so many."""
REASON = "unverified-bodies"


@dataclass(slots=True)
class UnverifiedBodies:
    """Of this process. Sizes are bytes."""

    total: int
    used: int = 0
    _of_sources: Counter[str] = field(default_factory=Counter)
    _of_networks: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def largest(self) -> int:
        return self.total // LARGEST_SHARE

    @contextmanager
    def hold(self, source: str, network: str) -> Iterator[Held]:
        """What one body holds; it is given back at the end, however it comes."""
        held = Held(self, source, network)
        try:
            yield held
        finally:
            self.add(source, network, -held.size)

    def has_room(self, source: str, network: str, size: int) -> bool:
        left = self.total - self.used - size
        of_source = self._of_sources[source] + size
        of_network = self._of_networks[source, network] + size
        return 2 * of_network <= left - of_source

    def add(self, source: str, network: str, size: int) -> None:
        """Nothing is kept of who holds nothing."""
        self.used += size
        _add(self._of_sources, source, size)
        _add(self._of_networks, (source, network), size)


@dataclass(slots=True)
class Held:
    _all: UnverifiedBodies
    _source: str
    _network: str
    size: int = 0

    def reach(self, size: int) -> None:
        """The body has at least so many bytes. Raises Problem (503) where there is no room."""
        more = size - self.size
        if more <= 0:
            return
        if not self._all.has_room(self._source, self._network, more):
            telemetry.REFUSED.labels(REASON).inc()
            raise _no_room(self._all.total)
        self._all.add(self._source, self._network, more)
        self.size = size


def _add(counts: Counter[K], key: K, size: int) -> None:
    counts[key] += size
    if counts[key] <= 0:
        del counts[key]


def _no_room(total: int) -> Problem:
    return Problem(
        OVER_CAPACITY,
        "too many deliveries of this source or from your network are arriving at once; "
        "send it again later",
        limit=total,
        reason=REASON,
        retry_after_seconds=RETRY_SECONDS,
        headers={"Retry-After": str(RETRY_SECONDS), "Connection": "close"},
    )


UNVERIFIED: web.AppKey[UnverifiedBodies] = web.AppKey("unverified", UnverifiedBodies)
