"""What kind of run a seed is: how many of everything, and which faults it knows how often."""

from __future__ import annotations

import random
from dataclasses import dataclass

from common.transitions import Timers
from tests.simulation.network import Rates
from tests.simulation.ports import Delivering

NAMESPACE = "sim"
"""Where all documents of a run live."""


@dataclass(slots=True, kw_only=True)
class Plan:
    """What kind of run this is: swarm testing, every run knows other faults."""

    documents: int
    writers: int
    changes: int
    readers: int
    embedders: int
    appliers: int
    sweepers: int
    webhooks: int
    rates: Rates
    delivering: Delivering
    races_lost: float
    partial: float
    unforeseen: float
    lag_seconds: float
    kills: float
    pauses: float
    long_pauses: bool
    drains: float
    damage: float
    lost_content: bool
    poison: float
    naps: bool
    lease_seconds: float
    busy: bool
    """Everything comes at once, so that most handlers meet others on the same document."""
    strikes: float

    @property
    def timers(self) -> Timers:
        return Timers(
            stale_after_seconds=40,
            attempt_lease_seconds=self.lease_seconds,
            collect_grace_seconds=45,
            tombstone_retention_seconds=1500,
        )


def draw_plan(drawn: random.Random) -> Plan:
    def maybe(probability: float, most: float) -> float:
        return drawn.random() * most if drawn.random() < probability else 0.0

    size = drawn.choices(("small", "medium", "large"), (75, 20, 5))[0]
    busy = drawn.random() < 0.6
    large, small = size == "large", size == "small"
    return Plan(
        documents=drawn.choice((1, 1, 2)) if not large else drawn.choice((1, 2, 3)),
        writers=1 if small else drawn.choice((1, 2, 3)),
        changes=drawn.randint(2, 4) + (2 if busy and not small else 0) + (3 if large else 0),
        readers=1 if not large else 2,
        embedders=drawn.choice((1, 1, 2)),
        appliers=drawn.choice((1, 1, 2)),
        sweepers=drawn.choice((1, 1, 2)),
        webhooks=1 if small else drawn.choice((1, 2)),
        rates=Rates(
            refused=maybe(0.4, 0.08),
            unanswered=maybe(0.5, 0.10),
            slow=maybe(0.5, 0.12),
            abandoned=maybe(0.4, 0.08),
        ),
        delivering=Delivering(
            lost=maybe(0.3, 0.3), repeated=maybe(0.4, 0.4), delayed=maybe(0.4, 0.4)
        ),
        races_lost=maybe(0.3, 0.4),
        partial=maybe(0.3, 0.3),
        unforeseen=maybe(0.2, 0.4),
        lag_seconds=drawn.choice((0.0, 0.0, 1.0, 8.0)),
        kills=maybe(0.4, 1.0),
        pauses=maybe(0.4, 1.0),
        long_pauses=drawn.random() < 0.3,
        drains=maybe(0.3, 1.0),
        damage=maybe(0.25, 1.0),
        lost_content=drawn.random() < 0.15,
        poison=0.15 if drawn.random() < 0.15 else 0.0,
        naps=drawn.random() < 0.02,
        lease_seconds=drawn.choice((10.0, 30.0)),
        busy=busy,
        strikes=maybe(0.5, 0.08),
    )
