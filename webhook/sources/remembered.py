"""What is known of deliveries that were worked, for when they come again.

Under each of its names a part of a delivery has places, taken one after the other: each attempt
that ends before all of it is accepted leaves the changes that it has accepted in one, and what is
told of the whole is in the last. So a part that is new costs one look, and nothing that was
accepted is done again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from common.clock import system_clock
from common.ports.receipts import MAX_BODY_BYTES, Receipt, Receipts
from webhook.problems import deadline
from webhook.sources.identity import Part
from webhook.sources.loading import Source
from webhook.sources.mapping import JSON

T = TypeVar("T")

AT_ONCE = 16
"""Receipts looked up or kept side by side: a batch of events may have thousands."""
MAX_PLACES = 40
"""Of one name. Senders give up after fewer attempts; the last is for what is told of the whole."""
MAX_CHANGES_A_PLACE = 16_000
"""As many keys as a receipt has room for."""
_WARNINGS, _ACCEPTED = "warnings", "accepted_changes"


@dataclass(slots=True)
class Known:
    """Of one part of a delivery."""

    told: JSON | None = None
    """What was told of it, once all of it was accepted."""
    accepted: set[str] = field(default_factory=set)
    """Of the changes accepted before, what `settled.keys_of` calls them; of no interest where
    something was told of the whole."""
    places: dict[str, int] = field(default_factory=dict)
    """By name, how many are taken."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What is to be known of one part from now on: `told` of it, or the changes `accepted`."""

    part: Part
    known: Known
    told: JSON | None = None
    accepted: Sequence[str] = ()

    @property
    def entries(self) -> list[JSON]:
        if self.told is not None:
            return [self.told]
        return [{_ACCEPTED: some} for some in _batches(self.accepted, MAX_CHANGES_A_PLACE)]


class Remembered:
    """Of one source. None for the store: nothing is remembered. Methods raise TransientError, and
    Problem (503) when the store is slow."""

    def __init__(self, receipts: Receipts | None, source: Source, timeout_seconds: float) -> None:
        self._receipts = receipts
        self._scope = f"source:{source.name}"
        self._seconds = source.config.remembered_hours * 3600.0
        self._timeout_seconds = timeout_seconds

    async def known_of(self, parts: Sequence[Part]) -> list[Known]:
        """Of each part."""
        return await self._all([lambda part=part: self._known(part) for part in parts])

    async def keep(self, kept: Sequence[Kept]) -> None:
        pairs = [(one, name) for one in kept for name in one.part.names]
        await self._all([lambda pair=pair: self._keep(*pair) for pair in pairs])

    async def _known(self, part: Part) -> Known:
        known = Known()
        for name in part.names:
            known.places[name] = 0
            while (found := await self._at(name, known.places[name])) is not None:
                if _ACCEPTED not in found:
                    known.told = found
                    return known
                known.accepted.update(found[_ACCEPTED])
                known.places[name] += 1
        return known

    async def _keep(self, kept: Kept, name: str) -> None:
        """At the next places; those that another attempt has taken meanwhile are passed over."""
        place = kept.known.places[name]
        for entry in kept.entries:
            last = MAX_PLACES if kept.told is not None else MAX_PLACES - 1
            while place < last:
                if await self._put(name, place, entry):
                    place += 1
                    break
                found = await self._at(name, place)
                place += 1
                if found is None or found == entry:
                    break
                if _ACCEPTED not in found:
                    return

    async def _at(self, name: str, place: int) -> JSON | None:
        if self._receipts is None or place >= MAX_PLACES:
            return None
        receipt = await self._receipts.find(self._scope, _id(name, place), now=system_clock())
        if receipt is None:
            return None
        found: JSON = json.loads(receipt.body)
        return found

    async def _put(self, name: str, place: int, entry: JSON) -> bool:
        if self._receipts is None:
            return True
        expires_at = system_clock() + self._seconds
        body = json.dumps(entry).encode()
        if len(body) > MAX_BODY_BYTES:
            body = json.dumps({k: v for k, v in entry.items() if k != _WARNINGS}).encode()
        receipt = Receipt(fingerprint=name, status=200, body=body, expires_at=expires_at)
        return await self._receipts.keep(self._scope, _id(name, place), receipt)

    async def _all(self, calls: Sequence[Callable[..., Awaitable[T]]]) -> list[T]:
        if len(calls) == 1:  # as nearly all are
            async with deadline(self._timeout_seconds):
                return [await calls[0]()]
        found: list[T] = []
        for some in _batches(calls, AT_ONCE):
            async with deadline(self._timeout_seconds):
                found += await asyncio.gather(*(call() for call in some))
        return found


def _id(name: str, place: int) -> str:
    return f"{name}#{place}" if place else name


def _batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some
