"""A whole installation in one thread: webhooks, workers, consumers and sweepers run the production
handlers on in-memory stores, while clients write and search and chaos does its worst.

Everything is drawn from the seed: the workload, which faults this run knows and how often, who
goes next. `run(seed)` returns what was found, None if every invariant holds.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from common.model import Record, Row
from tests.simulation.aws import AwsInstallation, AwsStores
from tests.simulation.changes import Changes
from tests.simulation.chaos import Chaos
from tests.simulation.clients import Readers, Writers
from tests.simulation.ending import Ending
from tests.simulation.installation import Installation
from tests.simulation.ledger import Ledger, Violation
from tests.simulation.loop import Process, SimulatedLoop, current_process
from tests.simulation.network import Network
from tests.simulation.plan import Kind, Plan, draw_plan
from tests.simulation.stores import MachineStores, Stores
from tests.simulation.telling import Telling

PATIENCE_SECONDS = 8_000.0
STEPS_AT_MOST = 100_000

Adjust = Callable[[Plan], Plan]


@dataclass(frozen=True, slots=True)
class Found:
    """What a run found, and how to see it again."""

    seed: int
    violation: Violation | AssertionError
    mutant: str | None = None
    kind: Kind = Kind.MACHINE

    def __str__(self) -> str:
        again = f"python -m tests.simulation --kind {self.kind} --seed {self.seed}"
        return f"{self.violation}\n  again: {again}" + (
            f" --mutant {self.mutant}" if self.mutant else ""
        )


class World:
    """Puts a run together, and is the witness of every write in it.

    `adjust` changes the plan that was drawn: a run of a kind that no seed is by itself.
    """

    def __init__(
        self,
        seed: int,
        *,
        kind: Kind = Kind.MACHINE,
        trace: Callable[[str], None] | None = None,
        adjust: Adjust | None = None,
    ) -> None:
        drawn = random.Random(seed)
        plan = draw_plan(drawn, kind)
        self.plan = plan = adjust(plan) if adjust else plan
        self._loop = SimulatedLoop(drawn)  # type: ignore[abstract]  # the rest is not needed
        self._network = network = Network(self._loop, drawn, plan.rates)
        self._telling = Telling(self._loop, trace)
        changes = Changes(drawn, plan)
        self._found: Violation | AssertionError | None = None
        self._ledger = ledger = Ledger(
            step=lambda: self._loop.steps,
            clock=self._loop.time,
            chunks_of=changes.chunks_of,
            broke=self._broke,
            on_queue=self._on_queue,
            retention_seconds=plan.timers.tombstone_retention_seconds,
        )
        self._stores, self._installation = self._assembled(drawn)
        stores, installation = self._stores, self._installation
        self._chaos = chaos = Chaos(plan, network, installation, stores.blobs)
        self._writers = Writers(
            plan=plan,
            network=network,
            installation=installation,
            ledger=ledger,
            changes=changes,
            telling=self._telling,
            broke=self._broke,
        )
        self._readers = Readers(
            network=network, installation=installation, ledger=ledger, broke=self._broke
        )
        self._ending = Ending(
            plan=plan,
            network=network,
            stores=stores,
            installation=installation,
            chaos=chaos,
            ledger=ledger,
            contents=changes.contents,
        )
        self._director = Process("director")
        network.strikes, network.struck = plan.strikes, chaos.strike
        if trace:
            network.trace = self._telling.note

    def _assembled(self, drawn: random.Random) -> tuple[Stores, Installation]:
        plan, network = self.plan, self._network
        if plan.aws:
            on_aws = AwsStores(drawn, plan, network, self._ledger, self)
            return on_aws, AwsInstallation(drawn, plan, network, on_aws, self._broke)
        stores = MachineStores(drawn, plan, network, self._ledger, self)
        return stores, Installation(drawn, plan, network, stores)

    def _on_queue(self, message_id: str) -> bool:
        return self._stores.queue.has(message_id)

    def run(self) -> None:
        """Raises Violation."""
        try:
            self._director.context.run(self._begin)
            quiet = self._loop.run_until_stopped(until=PATIENCE_SECONDS, steps=STEPS_AT_MOST)
            if self._found:
                raise self._found
            if self._loop.errors:
                raise AssertionError(f"a process ended: {self._loop.errors[0]!r}")
            if not quiet:
                raise Violation("convergence", self._ending.restless(), "it never becomes quiet")
            self._ending.check()
        finally:
            self._network.over = True
            self._stores.queue.closed = True
            self._loop.bury()

    def _begin(self) -> None:
        self._installation.begin()
        for _ in range(self.plan.writers):
            self._direct(self._writers.write())
        for number in range(self.plan.readers):
            self._direct(self._readers.read(number))
        self._direct(self._chaos.wreak(self._writers.written))
        self._direct(self._watch())

    def _direct(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._loop.spawn(self._director, self._guarded(coroutine))

    async def _guarded(self, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            await coroutine
        except (Violation, AssertionError) as violation:
            self._broke(violation)

    async def _watch(self) -> None:
        await self._ending.calm_down(self._writers.written)
        self._loop.stop()

    def _broke(self, violation: Violation | AssertionError) -> None:
        self._found = self._found or violation
        self._loop.stop()

    @property
    def stats(self) -> Counter[str]:
        """What happened, how often."""
        stats = Counter(self._network.faults)
        stats["lease lapsed"] = self._stores.queue.lapsed
        stats["searches"] = self._readers.searches
        stats["steps"] = self._loop.steps
        return stats

    # --- the witness of the stores --------------------------------------------------------------

    def row_written(self, before: Row | None, after: Row | None) -> None:
        if self._telling.on:
            self._telling.row_written(before, after)
        self._ledger.row_written(before, after)
        self._readers.stir()

    def records_written(self, records: Sequence[Record]) -> None:
        if self._telling.on:
            self._telling.records_written(records)
        self._ledger.records_written(records)
        self._readers.stir()
        self._chaos.strike_attempt(current_process())


def run(
    seed: int,
    *,
    kind: Kind = Kind.MACHINE,
    trace: Callable[[str], None] | None = None,
    stats: Counter[str] | None = None,
    adjust: Adjust | None = None,
) -> Found | None:
    """One run; `stats` collects what happened in it."""
    world = World(seed, kind=kind, trace=trace, adjust=adjust)
    try:
        world.run()
    except (Violation, AssertionError) as violation:
        return Found(seed, violation, kind=kind)
    finally:
        if stats is not None:
            stats.update(world.stats)
    return None
