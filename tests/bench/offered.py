"""Offered load: how the webhook and a bare handler answer 50, 500 and 2,000 changes a second."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.report import Line, Options, percentile, progress
from tests.bench.service import service
from tests.servers.process import ServerProcess

RATES = (50, 500, 2000)
SECONDS = 5
ROOT = Path(__file__).parents[2]


def measure(options: Options) -> list[Line]:
    """Rounds alternate. The client shares the machine with whom it asks."""
    answers: dict[tuple[str, int], list[Any]] = {}
    with service("webhook", limit_requests_per_second=0) as product, _bare() as bare:
        urls = {"webhook": product.url, "bare aiohttp handler": bare}
        for number in range(options.repeat):
            for rate in RATES:
                for name, url in urls.items():
                    answer = _offer(url, rate, f"offered-{rate}-{number}")
                    answers.setdefault((name, rate), []).append(answer)
                    progress(f"offered: {name}, {rate}/s: {answer['outcomes']}")
    return [_line(name, rate, answers[name, rate]) for rate in RATES for name in urls]


@contextlib.contextmanager
def _bare() -> Iterator[str]:
    command = [sys.executable, "-m", "tests.bench.bare_handler", "{port}"]
    with tempfile.TemporaryDirectory(prefix="bloomweaver-bench-") as folder:
        server = ServerProcess(
            [*command, folder], environment={"PYTHONPATH": str(ROOT)}, probe="/readyz"
        )
        try:
            yield server.url
        finally:
            server.stop()


def _offer(url: str, rate: int, namespace: str) -> Any:
    arguments = [url, str(rate), str(SECONDS), namespace]
    sent = subprocess.run(
        [sys.executable, "-m", "tests.bench.offered_client", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
        timeout=300,
    )
    return json.loads(sent.stdout)


def _line(name: str, rate: int, answers: list[Any]) -> Line:
    """p50 and p99: the medians of the rounds' own."""
    accepted = sum(len(answer["latencies"]) for answer in answers)
    reached = median(len(answer["latencies"]) / answer["seconds"] for answer in answers)
    p50, p99 = (_ms(answers, share) for share in (0.5, 0.99))
    lost = len(answers) * rate * SECONDS - accepted
    refused = f", {lost:,} not accepted" if lost else ""
    result = f"{reached:,.0f}/s, p50 {p50:,.1f} ms, p99 {p99:,.1f} ms{refused}"
    return Line(f"offered: {rate:,}/s to the {name}", result)


def _ms(answers: list[Any], share: float) -> float:
    return 1000 * median(percentile(answer["latencies"], share) for answer in answers)
