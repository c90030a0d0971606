"""Two intakes and a user on one name, their requests interleaved at random: in the end the document
is what lies in the landing zone, and what the user did last is what counts.

Notifications are duplicated, reordered and, when their intake dies, delivered again. Those of what
was put may be lost: then listing finds it, which also goes on beside the others. Nobody is told of
the intakes' own moves.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

import pytest

from common import identity
from common.model import DocumentKey
from common.ports.errors import TransientError
from common.ports.landing import Area
from common.settings import Settings
from tests.builders import TIMERS
from tests.fakes.blobs import MemoryBlobStore
from tests.fakes.embedder import HashEmbedder
from tests.fakes.landing import MemoryLanding
from tests.fakes.queue import MemoryQueue
from tests.fakes.registry import MemoryRegistry
from webhook.accept import Accepted, Acceptor, Change
from webhook.intake import IntakeHandler
from webhook.intake_listing import IntakeListing, Tally

NAME = "docs/a.md"
KEY = DocumentKey("docs", "a.md")
SEEDS = range(120)
GOOD = ("one", "two", "three")
"""Few, so that the same bytes come back, where the landing zone can tell two puts of them apart."""


@dataclass
class SlowAcceptor(Acceptor):
    """Its changes arrive late, so that older ones overtake newer ones."""

    world: World | None = None

    async def accept(self, change: Change) -> Accepted:
        assert self.world is not None
        await self.world.pause()
        accepted = await super().accept(change)
        await self.world.pause()
        return accepted


@dataclass
class World:
    random: random.Random
    versioned: bool
    atomic_copies: bool
    notifications: list[bool] = field(default_factory=list)
    """Of the name: whether its processed object was removed."""
    user_done: bool = False
    history: list[str] = field(default_factory=list)
    """For the message of a failure."""
    bad: int = 0
    cut_short: bool = False
    """An intake died, perhaps after it had accepted older bytes than those that are there."""

    def __post_init__(self) -> None:
        self.deaths = self.random.choice(((None,), (None, None, None, 3, 10, 25)))
        self.registry = MemoryRegistry()
        self.landing = MemoryLanding(
            versioned=self.versioned, atomic_copies=self.atomic_copies, pause=self.pause
        )
        acceptor = SlowAcceptor(
            self.registry, MemoryBlobStore(), MemoryQueue(), HashEmbedder().profile, TIMERS,
            world=self,
        )  # fmt: skip
        settings = Settings(_env_file=None)
        self.intake = IntakeHandler(landing=self.landing, acceptor=acceptor, settings=settings)

    async def pause(self) -> None:
        """Once in a while for as long as another intake takes altogether."""
        (turns,) = self.random.choices((0, 1, 2, 6, 60), weights=(4, 8, 4, 3, 1))
        for _ in range(turns):
            await asyncio.sleep(0)

    # --- the actors ------------------------------------------------------------------------------

    async def user(self) -> None:
        for _ in range(self.random.randrange(1, 7)):
            for _ in range(self.random.choice((0, 2, 15, 60, 150))):
                await asyncio.sleep(0)
            self._act()
        self.user_done = True

    def _act(self) -> None:
        match self.random.choice(("put", "put", "put", "bad", "remove", "withdraw")):
            case "put":
                text = self.random.choice(GOOD)
                text += "" if self.versioned and self.atomic_copies else f" {len(self.history)}"
                self.landing.put(Area.INCOMING, NAME, text.encode())
                self._tell(f"put {text}")
            case "bad":
                self.bad += 1
                self.landing.put(Area.INCOMING, NAME, b"\xff" + str(self.bad).encode())
                self._tell("bad")
            case "remove":
                if self.landing.remove(Area.PROCESSED, NAME):
                    waiting = (Area.INCOMING, NAME) in self.landing.held
                    self._tell("remove while one waits" if waiting else "remove")
            case "withdraw":
                # Nobody is told: whoever comes for what was put finds it gone.
                if self.landing.remove(Area.INCOMING, NAME):
                    self.history.append("withdraw")

    def _tell(self, what: str) -> None:
        self.history.append(what)
        removed = what.startswith("remove")
        times = self.random.choice((1, 1, 2) if removed else (0, 1, 1, 2))
        self.notifications += [removed] * times

    async def worker(self) -> None:
        while self.notifications or not self.user_done:
            if not self.notifications:
                await asyncio.sleep(0)
                continue
            at = self.random.randrange(len(self.notifications))
            removed = self.notifications.pop(at)
            if not await self._survived(removed):
                self.cut_short = True
                self.notifications.append(removed)

    async def lister(self) -> None:
        while self.notifications or not self.user_done:
            for _ in range(self.random.choice((5, 50, 200))):
                await asyncio.sleep(0)
            await self.list()

    async def list(self) -> None:
        """By a clock that is ahead, so that all is old enough."""
        tally = Tally()
        listing = IntakeListing(handler=self.intake, clock=lambda: self.landing.now + 3600)
        await listing.take_all(tally, asyncio.Event())
        assert tally.left == 0

    async def _survived(self, removed: bool) -> bool:
        task = asyncio.create_task(self.intake.reconcile(NAME, removed=removed))
        dies_after = self.random.choice(self.deaths)
        steps = 0
        while not task.done():
            steps += 1
            if steps == dies_after:
                task.cancel()
            await asyncio.sleep(0)
        try:
            task.result()
        except (asyncio.CancelledError, TransientError):
            return False
        return True

    # --- what must be true -----------------------------------------------------------------------

    @property
    def document(self) -> str | None:
        """The content's hash; None: there is no document."""
        row = self.registry.rows.get(KEY)
        return None if row is None or row.desired.tombstone else row.desired.content_hash

    def check(self) -> None:
        assert self.landing.data(Area.INCOMING, NAME) is None
        processed = self.landing.data(Area.PROCESSED, NAME)
        failed = self.landing.data(Area.FAILED, NAME)
        if processed is not None and not self.cut_short:
            assert self.document == identity.sha256_hex(processed)
        elif processed is None and failed is None and not self.cut_short:
            assert self.document is None
        if failed is not None:
            assert NAME in self.landing.reasons
        last = self.history[-1] if self.history else ""
        if last.startswith("put "):
            assert processed == last.removeprefix("put ").encode()
            assert failed is None or not self.atomic_copies
        elif last == "bad":
            assert failed == b"\xff" + str(self.bad).encode()
        elif last == "remove" and self.atomic_copies:
            assert processed is None


async def run(seed: int, *, versioned: bool, atomic_copies: bool) -> None:
    world = World(random.Random(seed), versioned, atomic_copies)
    async with asyncio.timeout(30):
        await asyncio.gather(world.user(), world.worker(), world.worker(), world.lister())
        await world.list()
    try:
        world.check()
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {world.history}: {error}") from error


@pytest.mark.parametrize("atomic_copies", [True, False], ids=["", "slow-copies"])
@pytest.mark.parametrize("versioned", [True, False], ids=["versioned", "unversioned"])
async def test_the_last_thing_the_user_did_counts(versioned: bool, atomic_copies: bool) -> None:
    """A copy that takes its time may bring back what was removed while it ran, or leave a failed
    file that was replaced; the document and the landing zone agree all the same."""
    for seed in SEEDS:
        await run(seed, versioned=versioned, atomic_copies=atomic_copies)
