"""`python -m tests.bench`: measures the product on this machine and prints one table."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from types import FrameType

from tests.bench import (
    accept,
    audit,
    bulk,
    costs,
    edits,
    fairness,
    freshness,
    idle,
    offered,
    search,
    shape,
    signed,
)
from tests.bench.peers import measure as peers
from tests.bench.peers import tokens
from tests.bench.quality import measure as quality
from tests.bench.report import Line, Measure, Options, as_json, progress, table

MEASURES: dict[str, Measure] = {
    "bulk": bulk.measure,
    "freshness": freshness.measure,
    "fairness": fairness.measure,
    "accept": accept.measure,
    "signed": signed.measure,
    "offered": offered.measure,
    "audit": audit.measure,
    "idle": idle.measure,
    "shape": shape.measure,
    "search": search.measure,
    "edits": edits.measure,
    "tokens": tokens.measure,
    "peers": peers.measure,
    "quality": quality.measure,
    "costs": costs.measure,
}
"""`bulk` tells memory as well, `idle` the start. `edits`, `tokens` and `peers` compare with other
tools, which they install when they are missing (tests/bench/peers)."""


def main() -> int:
    """Exit code 1 when a target was missed."""
    arguments = _arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    lines: list[Line] = []
    for name in arguments.only:
        began = time.monotonic()
        progress(f"--- {name}")
        lines += MEASURES[name](Options(repeat=arguments.repeat))
        progress(f"--- {name} took {time.monotonic() - began:.0f} s")
    print(as_json(lines) if arguments.json else table(lines))
    return 1 if any(line.met is False for line in lines) else 0


def _leave(number: int, _: FrameType | None) -> None:
    """As an exception, so that every child is ended on the way out."""
    sys.exit(128 + number)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    names = ",".join(MEASURES)
    parser.add_argument("--only", type=_names, default=[*MEASURES], help=f"some of {names}")
    parser.add_argument("--repeat", type=int, default=3, help="rounds that medians are taken of")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    return parser.parse_args()


def _names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in MEASURES:
            raise argparse.ArgumentTypeError(f"no measure {name!r}: {', '.join(MEASURES)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
