"""`python -m tests.simulation`: many seeds on all cores, or the story of one.

make simulate SEEDS=100000      so many seeds, with a progress bar; then stories of what broke
--seed 4711                     one seed: what happened to the document that broke
--mutants                       how soon each mutant is noticed
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from tests.simulation.fleet import Batch, quieten, run_seeds
from tests.simulation.mutants import AWS_MUTANTS, MUTANTS
from tests.simulation.plan import Kind, kind_of
from tests.simulation.story import story_of, told

console = Console()
BOTH = "both"


def main() -> int:
    arguments = _parser().parse_args()
    kind = None if arguments.kind == BOTH else Kind(arguments.kind)
    if arguments.seed is not None:
        return _one(arguments.seed, arguments.mutant, kind or kind_of(arguments.seed))
    if arguments.mutants:
        return _mutants(arguments.seeds, arguments.jobs, kind)
    return _many(arguments.first, arguments.seeds, arguments.jobs, arguments.mutant, kind)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation",
        description="Runs whole installations under faults, one a seed. Exit code 1: one broke.",
    )
    parser.add_argument("--seeds", type=int, default=5000, help="how many (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--seed", type=int, help="run this one and tell its story")
    parser.add_argument(
        "--kind",
        choices=[*Kind, BOTH],
        default=BOTH,
        help="of installation; both: seed by seed in turn (default: %(default)s)",
    )
    parser.add_argument("--mutant", choices=MUTANTS, help="take this guard out")
    parser.add_argument(
        "--mutants", action="store_true", help="each mutant until it is noticed, SEEDS at most"
    )
    return parser


def _many(first: int, count: int, jobs: int, mutant: str | None, kind: Kind | None) -> int:
    total = Batch()
    began = time.monotonic()
    columns = (
        TextColumn("simulating"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[found]} broke"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=count, found=0)
        for batch in run_seeds(first, count, jobs=jobs, mutant=mutant, kind=kind):
            total.add(batch)
            progress.update(bar, advance=batch.runs, found=len(total.found))
            for _, text in batch.found:
                progress.console.print(text, markup=False, highlight=False)
            if not console.is_terminal and total.runs % 10_000 < batch.runs:
                sys.stdout.write(f"{total.runs} of {count}, {len(total.found)} broke\n")
                sys.stdout.flush()
    _report(total, time.monotonic() - began)
    if total.found:
        sys.stdout.write(told((seed for seed, _ in total.found), mutant, kind=kind) + "\n")
    return 1 if total.found else 0


def _report(total: Batch, seconds: float) -> None:
    sys.stdout.write("\nwhat happened in these runs:\n")
    for name, number in sorted(total.stats.items(), key=lambda item: -item[1]):
        sys.stdout.write(f"  {number:12,} {name}\n")
    a_second = total.runs / total.cpu_seconds if total.cpu_seconds else 0.0
    sys.stdout.write(
        f"\n{total.runs:,} runs, {len(total.found)} broke; {seconds:.0f} s, "
        f"{total.runs / seconds:.0f} runs/s, {a_second:.0f} a second of one core's time\n"
    )


def _mutants(most: int, jobs: int, kind: Kind | None) -> int:
    unnoticed = []
    for name in _of_kind(kind):
        runs = 0
        seed = None
        for batch in run_seeds(0, most, jobs=jobs, mutant=name, kind=kind):
            runs += batch.runs
            if batch.found:
                seed, text = batch.found[0]
                sys.stdout.write(f"{name:24} noticed at seed {seed}: {text.splitlines()[0][:90]}\n")
                break
        if seed is None:
            unnoticed.append(name)
            sys.stdout.write(f"{name:24} NOT noticed in {runs} runs\n")
        sys.stdout.flush()
    return 1 if unnoticed else 0


def _of_kind(kind: Kind | None) -> list[str]:
    return [name for name in MUTANTS if kind is not Kind.MACHINE or name not in AWS_MUTANTS]


def _one(seed: int, mutant: str | None, kind: Kind) -> int:
    quieten()
    found, lines = story_of(seed, mutant, kind=kind)
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.write(f"\n{found or f'seed {seed}: every invariant holds'}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
