"""How many tokens each tool would embed on bulk and replay. No model runs: this counts, and says
nothing about time. Every tool goes its true way, with vectors made from hashes."""

from __future__ import annotations

import asyncio

from tests.bench.peers.job import Phase
from tests.bench.peers.lines import phase_text, tokens_lines
from tests.bench.peers.product_tokens import count_tokens
from tests.bench.peers.setup import Bench, Limits, bench
from tests.bench.peers.variant import PRODUCT, Variant
from tests.bench.report import Line, Options, progress


def measure(options: Options) -> list[Line]:
    """All edits, unless the environment says otherwise."""
    del options  # nothing here is subject to noise
    limits = Limits.from_environment()
    with bench(limits) as made:
        found = {str(variant): _phases(made, variant) for variant in _variants(limits)}
    lines: list[Line] = []
    for part in ("bulk", "replay"):
        phases = {name: told[part] for name, told in found.items() if part in told}
        lines += [
            Line(f"tokens, no inference: {part}, {name}", phase_text(phase, timed=False))
            for name, phase in phases.items()
        ]
        if part == "replay":
            what = "tokens, no inference: replay"
            lines += tokens_lines(what, phases, made.feed.promised)
    return lines


def _variants(limits: Limits) -> list[Variant]:
    """Only LangChain's tokens depend on how much is sent at once (child_langchain tells why)."""
    variants = [Variant(system) for system in limits.systems]
    return variants + [Variant("langchain", 1)] * ("langchain" in limits.systems)


def _phases(made: Bench, variant: Variant) -> dict[str, Phase]:
    job = made.job(variant.system, batch=variant.batch, inference=False, edits=made.feed.edits)
    if variant.system == PRODUCT:
        phases = asyncio.run(count_tokens(job))
    else:
        said = made.run("index", job)
        if said.failure:
            raise RuntimeError(f"{variant} {said.failure}")
        told = [Phase(**answer["phase"]) for answer in said.answers if "phase" in answer]
        phases = {phase.name: phase for phase in told}
    for phase in phases.values():
        progress(f"tokens: {variant}, {phase.name}: {phase_text(phase, timed=False)}")
    return phases
