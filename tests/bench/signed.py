"""What a signature costs: single POSTs to a source that signs, to one that does not, and to the
ordinary endpoint, in turns on one webhook."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

from tests.bench.accept import CONNECTIONS, send
from tests.bench.accept_client import SECRET
from tests.bench.report import Line, Options, at_most, progress
from tests.bench.service import MeasuredService, service

SINGLES = 1500
HIGHEST_RATIO = 1.3
SOURCES = """
sources:
  signed:
    namespaces: ["*"]
    verify: {kind: standard-webhooks, secret: "${BLOOMWEAVER_SOURCE_SIGNED_SECRET}"}
    changes:
      - namespace: "{item.namespace}"
        document_id: "{item.document_id}"
        content: item.content
  unsigned:
    namespaces: ["*"]
    verify: {kind: none}
    changes:
      - namespace: "{item.namespace}"
        document_id: "{item.document_id}"
        content: item.content
"""
WAYS = {"ordinary": "single", "unsigned source": "unsigned", "signed source": "signed"}


def measure(options: Options) -> list[Line]:
    """The first round warms up and does not count."""
    costs: dict[str, list[float]] = {name: [] for name in WAYS}
    rates: dict[str, list[float]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory(prefix="bloomweaver-bench-") as folder:
        sources = Path(folder) / "sources.yaml"
        sources.write_text(SOURCES)
        with service(
            "webhook",
            sources_file=sources,
            source_signed_secret=SECRET,
            limit_requests_per_second=0,
        ) as product:
            for number in range(options.repeat + 1):
                for name, how in WAYS.items():
                    cost, rate = _round(product, how, f"{how}-{number}")
                    if number:
                        costs[name].append(cost)
                        rates[name].append(rate)
                progress(f"signed: round {number} of {options.repeat}")
    return _lines(costs, rates)


def _round(product: MeasuredService, how: str, namespace: str) -> tuple[float, float]:
    """CPU time of the webhook for one request, in ms, and requests a second."""
    before = sum(product.cpu_seconds().values())
    answer = send(product, how, SINGLES, namespace)
    used = sum(product.cpu_seconds().values()) - before
    return 1000 * used / SINGLES, SINGLES / answer["seconds"]


def _lines(costs: dict[str, list[float]], rates: dict[str, list[float]]) -> list[Line]:
    signed = costs["signed source"]
    lines = [
        Line(
            f"signed: {name}, {CONNECTIONS} connections",
            f"{median(rates[name]):,.0f}/s, {median(costs[name]):.2f} ms of CPU each",
        )
        for name in WAYS
    ]
    for name in ("ordinary", "unsigned source"):
        ratios = [one / other for one, other in zip(signed, costs[name], strict=True)]
        ratio = median(ratios)
        text = f"{ratio:.2f} ({min(ratios):.2f} … {max(ratios):.2f})"
        lines.append(at_most(f"signed: CPU, signed to {name}", ratio, HIGHEST_RATIO, text))
    return lines
