"""Batch shape: what padding several texts into one inference gains on one thread."""

from __future__ import annotations

from tests.bench.corpus import passages
from tests.bench.raw import Way, Yardstick, fused_graph, yardstick
from tests.bench.report import Line, Options, progress, spread

BATCHES = (1, 2, 4, 8, 16)
TEXTS = 32


def measure(options: Options) -> list[Line]:
    """Texts of one length, so that nothing is lost to padding."""
    lines = []
    for tokens in (240, 30):
        with yardstick(fused_graph(), passages(TEXTS, tokens - 2), [(1, 1)]) as raw:
            lines += _lines(raw, tokens, options.repeat)
    return lines


def _lines(raw: Yardstick, tokens: int, repeat: int) -> list[Line]:
    rates: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    for _ in range(repeat):
        for batch in BATCHES:
            rates[batch].append(raw.rate(Way(1, 1, batch)))
    progress(f"shape: {tokens} tokens measured")
    return [
        Line(f"shape: {tokens} tokens, 1 thread, batch {batch}", spread(found, unit="/s"))
        for batch, found in rates.items()
    ]
