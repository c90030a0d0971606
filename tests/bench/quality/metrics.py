"""How good a ranking is: nDCG, recall, reciprocal rank, and what of a difference may be chance.

A query wants some targets. A ranking is told as its finds: for each rank, how many wanted targets
are found there for the first time. A target counts once, where it is found first.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np

Target = TypeVar("Target", bound=Hashable)


def finds(held: Iterable[Iterable[Target]], wanted: Collection[Target], k: int) -> list[int]:
    """Of the first `k` ranks, given what each holds."""
    left = set(wanted)
    found = []
    for targets in islice(held, k):
        new = left.intersection(targets)
        left -= new
        found.append(len(new))
    return found


def ndcg(found: Sequence[int], wanted: int) -> float:
    """With binary gains, at the depth of `found`: the ideal has one wanted target at each rank.

    A rank that finds two at once gains both; the whole is 1 at most. 0 where nothing is wanted.
    """
    ideal = sum(_discount(rank) for rank in range(min(wanted, len(found))))
    gained = sum(gain * _discount(rank) for rank, gain in enumerate(found))
    return min(gained / ideal, 1.0) if ideal else 0.0


def recall(found: Sequence[int], wanted: int) -> float:
    """The share of the wanted targets that were found. 0 where nothing is wanted."""
    return sum(found) / wanted if wanted else 0.0


def reciprocal_rank(found: Sequence[int]) -> float:
    """1 / the rank of the first find, counted from 1; 0 where there is none."""
    return next((1 / rank for rank, gain in enumerate(found, 1) if gain), 0.0)


def mean(values: Sequence[float]) -> float:
    """0 for no values."""
    return math.fsum(values) / len(values) if values else 0.0


def bootstrap_interval(
    differences: Sequence[float], *, rounds: int = 10_000, seed: int = 1
) -> tuple[float, float]:
    """Where the mean of paired differences lies in 95 of 100 collections of queries like this one.

    Percentiles of the means of as many queries, drawn with replacement.
    """
    values = np.asarray(differences, np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(values), (rounds, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def _discount(rank: int) -> float:
    """Of a rank counted from 0."""
    return 1 / math.log2(rank + 2)
