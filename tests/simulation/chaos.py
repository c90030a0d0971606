"""What befalls processes and blobs: kill, pause, drain and damage, any time or in mid call."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from tests.fakes.blobs import MemoryBlobStore
from tests.simulation.installation import Installation, Member
from tests.simulation.loop import Process
from tests.simulation.network import Network
from tests.simulation.plan import Plan

SHORT_PAUSE_SECONDS = 10.0
"""With the slowest call this stays within half a lease and the grace: see docs/consistency.md."""
LONG_PAUSE_SECONDS = 240.0
ATTEMPTS_STRUCK = 5.0
"""How much likelier a process is struck between writing its records and committing them."""
DEEDS_AT_MOST = 8


class Chaos:
    """`damaged` tells whether a blob was lost or torn, `damaged_contents` which contents were."""

    def __init__(
        self, plan: Plan, network: Network, installation: Installation, blobs: MemoryBlobStore
    ) -> None:
        self._random: random.Random = network.random
        self._plan = plan
        self._network, self._loop = network, network.loop
        self._installation = installation
        self._blobs = blobs
        self._deeds_left = DEEDS_AT_MOST
        self.damaged = False
        self.damaged_contents: set[str] = set()

    async def wreak(self, written: asyncio.Event) -> None:
        """Until everything is `written`, or enough was done."""
        drawn, plan = self._random, self._plan
        weights: dict[Callable[[Member | None], None], float] = {
            self._kill: plan.kills,
            self._pause: plan.pauses,
            self._drain: plan.drains,
            self._damage: plan.damage,
        }
        deeds = [deed for deed, weight in weights.items() if weight]
        while deeds and self._deeds_left and not written.is_set():
            await asyncio.sleep(drawn.uniform(0, 3 if plan.busy else 20))
            if self._network.calm:
                return
            deed = drawn.choice(deeds)
            if drawn.random() < weights[deed]:
                self._deeds_left -= 1
                deed(self._victim())

    def strike(self, process: Process) -> None:
        """In the middle of its work: when its call took effect, before it knows."""
        member = self._installation.member_of(process)
        if member and self._deeds_left:
            self._deeds_left -= 1
            if self._random.random() < 0.5:
                self._kill(member)
            else:
                self._pause(member)

    def strike_attempt(self, process: Process) -> None:
        """Between writing its records and committing them."""
        if self._network.chance(ATTEMPTS_STRUCK * self._plan.strikes):
            self.strike(process)

    def _victim(self) -> Member | None:
        victims = self._installation.awake
        return self._random.choice(victims) if victims else None

    def _kill(self, member: Member | None) -> None:
        if member:
            self._network.tell(f"kill {member.name}")
            self._loop.kill(member.process)
            again = self._random.uniform(0, 30)
            self._network.later(again, self._installation.restart, member)

    def _pause(self, member: Member | None) -> None:
        if member:
            seconds = self._random.uniform(0, SHORT_PAUSE_SECONDS)
            if self._plan.long_pauses:
                longest = self._random.choice((LONG_PAUSE_SECONDS / 10, LONG_PAUSE_SECONDS))
                seconds = self._random.uniform(longest / 4, longest)
            self._network.tell(f"pause {member.name}")
            self._loop.pause(member.process)
            self._network.later(seconds, self._wake, member.process, seconds)

    def _wake(self, process: Process, seconds: float) -> None:
        process.slept_seconds += seconds
        self._loop.resume(process)

    def _drain(self, member: Member | None) -> None:
        """SIGTERM: what is in hand is finished or handed back, then a new process begins."""
        if member and not member.acceptor:
            self._network.tell(f"drain {member.name}")
            member.stop.set()
            self._network.later(20.0, self._replace, member, member.process)

    def _replace(self, member: Member, old: Process) -> None:
        if member.process is old and old.alive and not self._network.over:
            self._loop.kill(old)
            self._installation.restart(member)

    def _damage(self, _: Member | None) -> None:
        held = self._blobs.held
        keys = sorted(k for k in held if k.startswith("packs/"))
        if self._plan.lost_content and self._random.random() < 0.3:
            keys = sorted(held)
        if not keys:
            return
        self.damaged = True
        key = self._random.choice(keys)
        if key.startswith("raw/"):
            self.damaged_contents.add(key)
        data, at = held[key]
        if self._random.random() < 0.5:
            self._network.tell(f"blob lost {key[:4]}")
            del held[key]
        else:
            self._network.tell(f"blob torn {key[:4]}")
            held[key] = (data[: self._random.randrange(len(data) + 1)], at)
