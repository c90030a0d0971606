"""The readable story of one seed: what happened to the document that broke, in order."""

from __future__ import annotations

from contextlib import ExitStack

from tests.simulation.ledger import Violation
from tests.simulation.mutants import MUTANTS
from tests.simulation.world import Found, World, small_batches


def story_of(seed: int, mutant: str | None = None) -> tuple[Found | None, list[str]]:
    """Runs the seed again with its trace; only the lines that concern the broken document."""
    lines: list[str] = []
    world = World(seed, trace=lines.append)
    found: Found | None = None
    with ExitStack() as patches:
        patches.enter_context(small_batches())
        if mutant:
            patches.enter_context(MUTANTS[mutant]())
        try:
            world.run()
        except (Violation, AssertionError) as violation:
            found = Found(seed, violation, mutant)
    key = found.violation.key if found and isinstance(found.violation, Violation) else None
    others = {f"d{n}" for n in range(world.plan.documents)} - {key.document_id if key else ""}
    if key:
        lines = [line for line in lines if not others & set(line.split())]
    return found, [f"{'seconds':>9} {'step':>7} {world.plan}", *lines]
