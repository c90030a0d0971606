"""What a measure says, and the one table at the end."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Line:
    """`met` is None where nothing was promised."""

    measure: str
    result: str
    target: str = ""
    met: bool | None = None

    @property
    def verdict(self) -> str:
        return {True: "met", False: "missed", None: ""}[self.met]


@dataclass(frozen=True, slots=True)
class Options:
    """`repeat`: rounds of whatever a median is taken of."""

    repeat: int = 3


Measure = Callable[[Options], list[Line]]


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def at_least(measure: str, value: float, target: float, text: str, unit: str = "") -> Line:
    return Line(measure, text, f">= {target:,g}{unit}", value >= target)


def at_most(measure: str, value: float, target: float, text: str, unit: str = "") -> Line:
    return Line(measure, text, f"<= {target:,g}{unit}", value <= target)


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest rank: a value that was measured."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def spread(values: Sequence[float], digits: int = 1, unit: str = "") -> str:
    """`median (lowest … highest)`."""
    low, middle, high = min(values), median(values), max(values)
    return f"{middle:,.{digits}f}{unit} ({low:,.{digits}f} … {high:,.{digits}f})"


def table(lines: Sequence[Line]) -> str:
    rows = [("measure", "result", "target", "")]
    rows += [(line.measure, line.result, line.target, line.verdict) for line in lines]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    rows.insert(1, ("-" * widths[0], "-" * widths[1], "-" * widths[2], "-" * widths[3]))
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def as_json(lines: Sequence[Line]) -> str:
    return json.dumps([asdict(line) for line in lines], ensure_ascii=False, indent=2)
