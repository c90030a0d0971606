"""Accept: how many changes a second are durable and queued when their sender is told so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.report import Line, Options, at_least, percentile, progress, spread
from tests.bench.service import MeasuredService, service

CONNECTIONS = 16
SINGLES, LINES = 2000, 10_000
NDJSON_PER_SECOND = 1000.0


def measure(options: Options) -> list[Line]:
    """The HTTP edge by itself, and beside it the whole service with one worker at work."""
    lines = [Line("accept: fsync of 4 KiB on this disk", _fsync())]
    with service("webhook") as edge:
        lines += _lines(edge, "webhook alone", options.repeat, promised=True)
    with service(workers_max=1) as product:
        lines += _lines(product, "up, 1 worker busy", options.repeat, promised=False)
    return lines


def _lines(product: MeasuredService, where: str, repeat: int, *, promised: bool) -> list[Line]:
    singles, rates, latencies = [], [], []
    for number in range(repeat):
        answer = send(product, "single", SINGLES, f"single-{number}")
        singles.append(SINGLES / answer["seconds"])
        latencies += answer["latencies"]
        rates.append(LINES / send(product, "ndjson", LINES, f"ndjson-{number}")["seconds"])
        progress(f"accept: {where}: {singles[-1]:,.0f}/s single, {rates[-1]:,.0f}/s NDJSON")
    p50, p99 = median(latencies) * 1000, percentile(latencies, 0.99) * 1000
    name, result = f"accept: NDJSON, {where}", spread(rates, 0, "/s")
    ndjson = at_least(name, median(rates), NDJSON_PER_SECOND, result, "/s")
    return [
        ndjson if promised else Line(name, result),
        Line(f"accept: {CONNECTIONS} connections, {where}", spread(singles, 0, "/s")),
        Line("accept: its p50 and p99", f"{p50:.1f} ms, {p99:.1f} ms"),
    ]


def send(
    product: MeasuredService, how: str, count: int, namespace: str, connections: int = CONNECTIONS
) -> Any:
    """What the client in a process of its own has measured."""
    arguments = [product.url, how, str(count), str(connections), namespace]
    sent = subprocess.run(
        [sys.executable, "-m", "tests.bench.accept_client", *arguments],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        check=True,
        timeout=300,
    )
    return json.loads(sent.stdout)


def _fsync() -> str:
    """What durable costs here at the least."""
    took = []
    with tempfile.TemporaryFile(buffering=0) as file:
        for _ in range(50):
            file.write(b"x" * 4096)
            began = time.perf_counter()
            os.fsync(file.fileno())
            took.append((time.perf_counter() - began) * 1000)
    return spread(took, 2, " ms")
