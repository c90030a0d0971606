"""What the audit trail costs: the same webhook with and without one, in turns."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from statistics import median
from typing import Any

from tests.bench.accept import CONNECTIONS, send
from tests.bench.report import Line, Options, percentile, progress, spread
from tests.bench.service import MeasuredService, service
from tests.servers.postgresql import postgresql

SINGLES, LINES = 1000, 5000
_Rates = dict[str, dict[str, list[float]]]


def measure(options: Options) -> list[Line]:
    """Rounds alternate, so that what else the machine does meets all alike."""
    trails = {
        "no trail": "none:",
        "SQLite": "sqlite:",
        "PostgreSQL on this machine": postgresql().new_database(),
    }
    with contextlib.ExitStack() as stack:
        services = {name: stack.enter_context(_service(url)) for name, url in trails.items()}
        rates: _Rates = {name: {"ndjson": [], "single": [], "alone": []} for name in services}
        for number in range(options.repeat + 1):
            for name, product in services.items():
                _round(product, number, rates[name])
            progress(f"audit: round {number} of {options.repeat}")
    return [line for name in services for line in _lines(name, rates[name], rates["no trail"])]


@contextlib.contextmanager
def _service(url: str) -> Iterator[MeasuredService]:
    with service("webhook", audit_url=url) as product:
        yield product


def _round(product: MeasuredService, number: int, rates: dict[str, list[float]]) -> None:
    """The first warms up and does not count."""
    ndjson = send(product, "ndjson", LINES, f"ndjson-{number}")
    single = send(product, "single", SINGLES, f"single-{number}")
    alone = send(product, "single", SINGLES // 5, f"alone-{number}", connections=1)
    if number:
        rates["ndjson"].append(LINES / ndjson["seconds"])
        rates["single"].append(SINGLES / single["seconds"])
        rates["alone"] += [seconds * 1000 for seconds in alone["latencies"]]


def _lines(name: str, rates: dict[str, list[float]], without: dict[str, list[float]]) -> list[Line]:
    def share(how: str) -> str:
        return f"{median(rates[how]) / median(without[how]):.2f} of that without"

    alone = f"{median(rates['alone']):.1f} ms, {percentile(rates['alone'], 0.99):.1f} ms"
    told: list[tuple[str, Any]] = [
        ("NDJSON", f"{spread(rates['ndjson'], 0, '/s')}, {share('ndjson')}"),
        (f"{CONNECTIONS} connections", f"{spread(rates['single'], 0, '/s')}, {share('single')}"),
        ("one connection, p50 and p99", alone),
    ]
    return [Line(f"audit: {what}, {name}", text) for what, text in told]
