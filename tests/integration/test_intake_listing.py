"""Files that no notification told of: found by listing, taken in like all others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from structlog.testing import capture_logs

from common.model import DocumentKey
from common.ports.errors import PortError, TransientError
from common.ports.landing import Area, Places
from common.settings import Settings
from tests.builders import TIMERS
from tests.fakes.blobs import MemoryBlobStore
from tests.fakes.embedder import HashEmbedder
from tests.fakes.landing import MemoryLanding
from tests.fakes.queue import MemoryQueue
from tests.fakes.registry import MemoryRegistry
from webhook.accept import Acceptor
from webhook.intake import IntakeHandler
from webhook.intake_listing import (
    LONGEST_PAUSE_SECONDS,
    IntakeListing,
    Tally,
    list_regularly,
    list_within,
)

AGE_SECONDS = 900.0
PATIENCE_SECONDS = 20.0
"""Only a test that fails takes as long."""


@dataclass
class Zone(MemoryLanding):
    """Some names are in trouble, some hold who looks until they are let go."""

    troubles: dict[str, Exception] = field(default_factory=dict)
    listing_troubles: list[Exception] = field(default_factory=list)
    looked: list[str] = field(default_factory=list)
    held_up: set[str] = field(default_factory=set)
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    """Someone is held up."""
    go: asyncio.Event = field(default_factory=asyncio.Event)
    at_once: int = 0
    most_at_once: int = 0
    listed: asyncio.Queue[None] = field(default_factory=asyncio.Queue)
    """A pass has been over all pages."""

    async def look(self, name: str) -> Places:
        self.looked.append(name)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0)  # the others' turn
            if name in self.held_up:
                self.reached.set()
                await self.go.wait()
            if name in self.troubles:
                raise self.troubles[name]
            return await super().look(name)
        finally:
            self.at_once -= 1

    async def waiting(self, *, before: float) -> AsyncIterator[list[str]]:
        async for page in super().waiting(before=before):
            await asyncio.sleep(0)  # a request takes its time
            yield page
            self._raise_trouble()
        self._raise_trouble()
        self.listed.put_nowait(None)

    def _raise_trouble(self) -> None:
        """At the second page, and where there is none at the end."""
        if self.listing_troubles:
            raise self.listing_troubles.pop()


class World:
    def __init__(self, **settings: Any) -> None:
        self.zone = Zone()
        self.registry = MemoryRegistry()
        acceptor = Acceptor(
            self.registry, MemoryBlobStore(), MemoryQueue(), HashEmbedder().profile, TIMERS
        )
        given = {"intake_listing_age_seconds": AGE_SECONDS, "intake_concurrency": 2, **settings}
        handler = IntakeHandler(
            landing=self.zone, acceptor=acceptor, settings=Settings(_env_file=None, **given)
        )
        self.pauses: list[float] = []
        self.listing = IntakeListing(
            handler=handler, clock=lambda: self.zone.now, pause=self.remember
        )

    async def remember(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def put(self, *names: str) -> None:
        for name in names:
            self.zone.put(Area.INCOMING, name, b"# A")

    def later(self, seconds: float) -> None:
        self.zone.now += seconds

    async def passed(self) -> Tally:
        tally = Tally()
        await self.listing.take_all(tally, asyncio.Event())
        return tally

    def incoming(self) -> set[str]:
        return {name for area, name in self.zone.held if area is Area.INCOMING}

    def documents(self) -> set[str]:
        return {key.document_id for key in self.registry.rows}


@pytest.fixture
def world() -> World:
    return World()


async def test_a_file_that_nobody_told_of_becomes_a_document(world: World) -> None:
    world.put("docs/a.md", "docs/b.md")
    world.later(AGE_SECONDS + 1)

    assert await world.passed() == Tally(files=2, settled=2)

    assert DocumentKey("docs", "a.md") in world.registry.rows
    assert (world.documents(), world.incoming()) == ({"a.md", "b.md"}, set())


async def test_a_young_file_is_left_to_its_notification(world: World) -> None:
    world.put("docs/old.md")
    world.later(2)
    world.put("docs/young.md")
    world.later(AGE_SECONDS - 1)

    assert await world.passed() == Tally(files=1, settled=1)

    assert (world.documents(), world.incoming()) == ({"old.md"}, {"docs/young.md"})


async def test_what_cannot_be_a_document_is_found_once(world: World) -> None:
    world.zone.largest_move_bytes = 3
    world.zone.put(Area.INCOMING, "docs/large.bin", b"\0\0\0\0")
    world.zone.put(Area.INCOMING, "docs/bad.bin", b"\0")
    world.later(AGE_SECONDS + 1)

    assert await world.passed() == Tally(files=2, settled=2)
    assert world.zone.reasons.keys() == {"docs/large.bin", "docs/bad.bin"}
    assert world.incoming() == {"docs/large.bin"}

    world.zone.looked.clear()
    assert await world.passed() == Tally()
    assert world.zone.looked == []


@pytest.mark.parametrize(
    "error", [TransientError("away"), PortError("odd"), ZeroDivisionError()], ids=repr
)
async def test_the_trouble_of_one_name_stops_no_other(world: World, error: Exception) -> None:
    names = {f"docs/{number}.md" for number in range(8)}
    world.put(*names)
    world.later(AGE_SECONDS + 1)
    world.zone.troubles["docs/3.md"] = error

    assert await world.passed() == Tally(files=8, settled=7, left=1)
    assert world.incoming() == {"docs/3.md"}

    world.zone.troubles.clear()
    assert await world.passed() == Tally(files=1, settled=1)
    assert world.incoming() == set()


async def test_only_so_many_are_in_hand(world: World) -> None:
    world.put(*(f"docs/{number}.md" for number in range(8)))
    world.later(AGE_SECONDS + 1)

    await world.passed()

    assert world.zone.most_at_once == 2


async def test_in_an_outage_names_are_tried_ever_more_slowly() -> None:
    world = World(intake_concurrency=1)
    names = [f"docs/{number:02}.md" for number in range(20)]
    world.put(*names)
    world.later(AGE_SECONDS + 1)
    world.zone.troubles = {name: TransientError("away") for name in names}

    assert (await world.passed()).left == 20

    assert all(later >= 0.5 * sooner for sooner, later in zip(world.pauses, world.pauses[1:]))  # noqa: B905
    assert world.pauses[0] < 0.5
    assert LONGEST_PAUSE_SECONDS / 2 <= world.pauses[-1] <= LONGEST_PAUSE_SECONDS

    world.pauses.clear()
    del world.zone.troubles[names[0]]
    await world.passed()
    await world.passed()
    assert len(world.pauses) == 38
    assert min(world.pauses) < 0.5, "who succeeded is not slow any more"


async def test_what_listing_raises_comes_once_the_names_in_hand_are_done(world: World) -> None:
    world.put(*(f"docs/{number}.md" for number in range(6)))
    world.later(AGE_SECONDS + 1)
    world.zone.listing_troubles = [TransientError("may not list")]

    with pytest.raises(TransientError, match="may not list"):
        await world.passed()

    assert world.incoming() == {"docs/3.md", "docs/4.md", "docs/5.md"}


async def test_what_there_is_no_time_for_is_said(world: World) -> None:
    world.put("docs/a.md", "docs/b.md")
    world.later(AGE_SECONDS + 1)
    world.zone.held_up = {"docs/a.md", "docs/b.md"}

    summary = await list_within(world.listing, 0.1)

    assert (summary["settled"], summary["left"], summary["cut_short"]) == (0, 0, True)
    assert world.zone.at_once == 0, "nobody works on"
    world.zone.held_up.clear()
    summary = await list_within(world.listing, PATIENCE_SECONDS)
    assert summary == {"files": 2, "settled": 2, "left": 0, "cut_short": False}


# --- by the clock --------------------------------------------------------------------------------


def running(world: World) -> tuple[asyncio.Event, asyncio.Task[None]]:
    stop = asyncio.Event()
    return stop, asyncio.create_task(list_regularly(world.listing, stop))


async def test_the_first_pass_is_at_the_start_and_trouble_ends_none_of_the_others() -> None:
    world = World(intake_listing_interval_seconds=0.01)
    world.put("docs/a.md")
    world.later(AGE_SECONDS + 1)
    world.zone.listing_troubles = [TransientError("away"), ZeroDivisionError()]
    with capture_logs() as lines:
        stop, task = running(world)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await world.zone.listed.get()

        stop.set()
        await task

    assert world.documents() == {"a.md"}
    told = [line["log_level"] for line in lines if line["event"] == "intake.not_listed"]
    assert told == ["error", "warning"]


async def test_there_is_an_interval_between_passes() -> None:
    world = World(intake_listing_interval_seconds=3600)
    stop, task = running(world)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await world.zone.listed.get()
    for _ in range(20):
        await asyncio.sleep(0)
    assert world.zone.listed.empty()

    stop.set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await task


async def test_an_interval_of_zero_means_never() -> None:
    world = World(intake_listing_interval_seconds=0)

    async with asyncio.timeout(PATIENCE_SECONDS):
        await list_regularly(world.listing, asyncio.Event())

    assert world.zone.listed.empty()


async def test_a_drain_finishes_what_is_in_hand_and_begins_nothing() -> None:
    world = World(intake_concurrency=1, drain_timeout_seconds=PATIENCE_SECONDS)
    world.put("docs/a.md", "docs/b.md")
    world.later(AGE_SECONDS + 1)
    world.zone.held_up = {"docs/a.md", "docs/b.md"}
    stop, task = running(world)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await world.zone.reached.wait()

    stop.set()
    await asyncio.sleep(0)
    world.zone.go.set()
    await task

    assert len(world.documents()) == 1
    assert len(world.zone.looked) == 2, "before and after one name was taken"


async def test_what_outlasts_the_drain_is_left_to_the_next_pass() -> None:
    world = World(drain_timeout_seconds=0.01)
    world.put("docs/a.md")
    world.later(AGE_SECONDS + 1)
    world.zone.held_up = {"docs/a.md"}
    stop, task = running(world)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await world.zone.reached.wait()

    stop.set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await task

    assert world.incoming() == {"docs/a.md"}
    assert asyncio.all_tasks() == {asyncio.current_task()}
