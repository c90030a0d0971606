"""What kind of run a seed is: how many of everything, and which faults it knows how often."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from enum import StrEnum

from common.transitions import Timers
from tests.simulation.network import Rates
from tests.simulation.ports import Delivering
from tests.simulation.sqs import SqsRates

NAMESPACE = "sim"
"""Where all documents of a run live."""


class Kind(StrEnum):
    """What kind of installation runs."""

    MACHINE = "machine"
    """All on one machine: a queue that frees a dead worker's messages, an index whose reads lag."""
    AWS = "aws"
    """Functions and services on a queue as SQS and an index that is eventually consistent."""


def kind_of(seed: int) -> Kind:
    """Both alternating, where none is named."""
    return list(Kind)[seed % len(Kind)]


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsPlan:
    """What an installation on AWS has besides."""

    sqs: SqsRates
    replica_lags: tuple[float, ...]
    """Seconds, at most, until each of the index's replicas shows a write."""
    listing_lag_seconds: float
    """The same for listings and fetches; 0: they are the replicas' own."""
    reposts: float
    functions: bool
    """Whether functions apply what consumers that run for long apply otherwise."""
    appliers: tuple[int, int, int]
    """For creates, updates, deletes."""
    scrubs: bool
    """Whether scrubs pass while all goes on."""
    scrubs_repair: bool


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
    aws: AwsPlan | None = None

    @property
    def timers(self) -> Timers:
        return Timers(
            stale_after_seconds=40,
            attempt_lease_seconds=self.lease_seconds,
            collect_grace_seconds=45,
            tombstone_retention_seconds=1500,
        )


def draw_plan(drawn: random.Random, kind: Kind) -> Plan:
    plan = _draw_plan(drawn)
    return _on_aws(drawn, plan) if kind is Kind.AWS else plan


def _on_aws(drawn: random.Random, plan: Plan) -> Plan:
    """SQS loses nothing; the rest of what a run knows is as anywhere."""

    def maybe(probability: float, most: float) -> float:
        return drawn.random() * most if drawn.random() < probability else 0.0

    lag_seconds = drawn.choice((0.0, 1.0, 5.0, 20.0))
    aws = AwsPlan(
        sqs=SqsRates(
            twice=maybe(0.4, 0.3),
            ghosts=maybe(0.3, 0.3),
            sampled=maybe(0.5, 0.6),
            partial=maybe(0.3, 0.2),
            throttled=maybe(0.25, 0.03),
            stale_depth=maybe(0.5, 0.8),
            max_receives=drawn.choice((1, 2, 3, 3)),
        ),
        replica_lags=tuple(drawn.uniform(0, lag_seconds) for _ in range(drawn.choice((1, 2, 3)))),
        listing_lag_seconds=drawn.choice((0.0, 0.0, 5.0, 60.0)),
        reposts=maybe(0.4, 0.3),
        functions=drawn.random() < 0.5,
        appliers=(drawn.choice((1, 2)), drawn.choice((1, 2)), 1),
        scrubs=drawn.random() < 0.3,
        scrubs_repair=drawn.random() < 0.5,
    )
    delivering = replace(plan.delivering, lost=0.0)
    return replace(plan, delivering=delivering, lag_seconds=lag_seconds, aws=aws)


def _draw_plan(drawn: random.Random) -> Plan:
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
