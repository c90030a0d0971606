"""How a run is told, and what its tokens are held against."""

from __future__ import annotations

from collections.abc import Mapping

from tests.bench.peers.job import Phase
from tests.bench.peers.variant import PRODUCT
from tests.bench.report import Line, at_most

TOKENS_OF = {"langchain": 0.5, "llamaindex": 0.15}
"""The share of a peer's tokens that the product may embed."""


def phase_text(phase: Phase, *, timed: bool = True) -> str:
    """`timed` is false where no model ran: time and memory would mean nothing."""
    told = f"{phase.chunks:,} chunks, {phase.tokens:,} tokens, {phase.records:,} records written"
    if phase.stale is not None:
        told += f", {phase.held:,} held, {phase.stale} stale, {phase.missing} missing"
    if not timed:
        return told
    return f"{phase.seconds:.1f} s, {told}, {phase.peak_megabytes:,.0f} MB"


def tokens_lines(what: str, phases: Mapping[str, Phase], promised: bool) -> list[Line]:
    """The product's tokens over each peer's. Its first run counts: one edit at a time.

    Of a part of the edits nothing is promised: what a single edit does differs too much.
    """
    lines = []
    ours = next((phase for name, phase in phases.items() if name.startswith(PRODUCT)), None)
    for name, phase in phases.items():
        if ours is None or name.startswith(PRODUCT):
            continue
        share = ours.tokens / phase.tokens
        measure = f"{what}: tokens, bloomweaver / {name}"
        target = TOKENS_OF.get(name.partition(",")[0])
        if promised and target:
            lines.append(at_most(measure, share, target, f"{share:.3f}"))
        else:
            lines.append(Line(measure, f"{share:.3f}"))
    return lines
