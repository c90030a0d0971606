"""The readable story of one seed: what happened to the document that broke, in order."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack

from structlog.testing import capture_logs

from tests.simulation.ledger import Violation
from tests.simulation.mutants import MUTANTS
from tests.simulation.patches import small_batches
from tests.simulation.plan import Kind, kind_of
from tests.simulation.world import Adjust, Found, World

STORIES_TOLD = 3
LINES_TOLD = 80


def story_of(
    seed: int,
    mutant: str | None = None,
    adjust: Adjust | None = None,
    kind: Kind = Kind.MACHINE,
) -> tuple[Found | None, list[str]]:
    """Runs the seed again with its trace; only the lines that concern the broken document."""
    lines: list[str] = []
    world = World(seed, kind=kind, trace=lines.append, adjust=adjust)
    found: Found | None = None
    with ExitStack() as patches:
        patches.enter_context(small_batches())
        patches.enter_context(capture_logs())  # the trace tells all, and in order
        if mutant:
            patches.enter_context(MUTANTS[mutant]())
        try:
            world.run()
        except (Violation, AssertionError) as violation:
            found = Found(seed, violation, mutant, kind)
    key = found.violation.key if found and isinstance(found.violation, Violation) else None
    others = {f"d{n}" for n in range(world.plan.documents)} - {key.document_id if key else ""}
    if key:
        lines = [line for line in lines if not others & set(line.split())]
    return found, [f"{'seconds':>9} {'step':>7} {world.plan}", *lines]


def told(
    seeds: Iterable[int],
    mutant: str | None = None,
    adjust: Adjust | None = None,
    kind: Kind | None = Kind.MACHINE,
) -> str:
    """What broke in these seeds, how to see it again, and the end of the first ones' stories."""
    first = list(seeds)[:STORIES_TOLD]
    return "\n".join(_end_of(seed, mutant, adjust, kind or kind_of(seed)) for seed in first)


def _end_of(seed: int, mutant: str | None, adjust: Adjust | None, kind: Kind) -> str:
    found, (plan, *lines) = story_of(seed, mutant, adjust, kind)
    left_out = len(lines) - LINES_TOLD
    before = [f"{left_out} lines before these"] if left_out > 0 else []
    return "\n".join([f"\nseed {seed}: {found}", plan, *before, *lines[-LINES_TOLD:]])
