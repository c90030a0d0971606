"""Many runs on all cores. A seed's result does not depend on which process works it."""

from __future__ import annotations

import gc
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import structlog
from prometheus_client.metrics import MetricWrapperBase

from common import telemetry
from tests.simulation.plan import Kind, kind_of

SEEDS_A_TASK = 50


@dataclass(slots=True)
class Batch:
    """What a range of seeds came to. `cpu_seconds` is the worker's own time."""

    runs: int = 0
    cpu_seconds: float = 0.0
    found: list[tuple[int, str]] = field(default_factory=list)
    stats: Counter[str] = field(default_factory=Counter)

    def add(self, other: Batch) -> None:
        self.runs += other.runs
        self.cpu_seconds += other.cpu_seconds
        self.found += other.found
        self.stats.update(other.stats)


Task = tuple[int, int, str | None, Kind | None]


def work(task: Task) -> Batch:
    """Seeds `first` to `last` (excluded), with a mutant or none; in this process.

    Without a kind both alternate.
    """
    from tests.simulation.mutants import MUTANTS
    from tests.simulation.patches import small_batches
    from tests.simulation.world import run

    first, last, mutant, kind = task
    batch = Batch()
    began = time.process_time()
    with ExitStack() as patches:
        patches.enter_context(small_batches())
        if mutant:
            patches.enter_context(MUTANTS[mutant]())
        for seed in range(first, last):
            found = run(seed, kind=kind or kind_of(seed), stats=batch.stats)
            batch.runs += 1
            if found:
                batch.found.append((seed, str(replace(found, mutant=mutant))))
    gc.collect()
    batch.cpu_seconds = time.process_time() - began
    return batch


def run_seeds(
    first: int,
    count: int,
    *,
    jobs: int | None = None,
    mutant: str | None = None,
    kind: Kind | None = Kind.MACHINE,
) -> Iterator[Batch]:
    """Batches as they are done, in order of their seeds; closing it early ends the work."""
    starts = range(first, first + count, SEEDS_A_TASK)
    last = first + count
    tasks: list[Task] = [(start, min(start + SEEDS_A_TASK, last), mutant, kind) for start in starts]
    context = multiprocessing.get_context("spawn")
    with context.Pool(jobs or os.cpu_count(), initializer=quieten) as pool:
        yield from pool.imap(work, tasks)


class _Nothing:
    """A metric that is not kept."""

    def labels(self, *_: str) -> _Nothing:
        return self

    def inc(self, amount: float = 1) -> None:
        return None

    def observe(self, amount: float) -> None:
        return None


def quieten() -> None:
    """Logs and metrics cost more than the runs; cycles are collected once a task."""
    critical = structlog.make_filtering_bound_logger(50)
    import tests.simulation.mutants  # noqa: F401 - all modules, before the collector is told

    structlog.configure(wrapper_class=critical, cache_logger_on_first_use=True)
    for name, metric in vars(telemetry).items():
        if isinstance(metric, MetricWrapperBase):
            setattr(telemetry, name, _Nothing())
    gc.disable()
    gc.freeze()
