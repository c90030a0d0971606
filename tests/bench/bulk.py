"""Bulk: how much of raw onnxruntime's speed is left end to end, and what it takes in memory."""

from __future__ import annotations

import json
import time
import urllib.request
from dataclasses import dataclass, field
from statistics import median

from common.settings import Settings
from tests.bench import corpus
from tests.bench.raw import GRID, Way, Yardstick, fused_graph, original_graph, yardstick
from tests.bench.report import Line, Options, at_least, at_most, progress, spread
from tests.bench.service import MeasuredService, service

RATIO = 0.95
WORKER_MEGABYTES = 400.0
CANDIDATES = 2
"""So many of the grid's best, found on a sample, run on everything in each repeat."""
SAMPLE_STEP = 5
ORIGINAL_WAY = Way(2, 1, 1)
"""The best, or within a few hundredths of it, in every run so far."""


@dataclass(slots=True)
class Rounds:
    """One entry a repeat."""

    product: list[float] = field(default_factory=list)
    product_cpu: list[float] = field(default_factory=list)
    raw: dict[Way, list[float]] = field(default_factory=dict)
    original: list[float] = field(default_factory=list)
    raw_cpu: dict[Way, list[float]] = field(default_factory=dict)
    service_share: list[float] = field(default_factory=list)
    cores: list[float] = field(default_factory=list)
    posted: list[float] = field(default_factory=list)

    @property
    def best(self) -> Way:
        """By the median: whoever was lucky once on a shared machine is not the best."""
        return max(self.raw, key=lambda way: median(self.raw[way]))

    @property
    def ratios(self) -> list[float]:
        return [ours / raw for ours, raw in zip(self.product, self.raw[self.best], strict=True)]

    @property
    def over_original(self) -> list[float]:
        return [ours / raw for ours, raw in zip(self.product, self.original, strict=True)]

    @property
    def cpu_ratios(self) -> list[float]:
        """CPU time a chunk, which those who take the cores away distort less."""
        raw = self.raw_cpu[self.best]
        return [ours / theirs for ours, theirs in zip(self.product_cpu, raw, strict=True)]


def measure(options: Options) -> list[Line]:
    """Interleaved, so that what else the machine does meanwhile meets both alike."""
    workers = Settings().workers_max
    texts = corpus.texts()
    progress(f"bulk: {len(corpus.documents())} documents, {len(texts)} chunks, {corpus.name()}")
    rounds = Rounds()
    with (
        yardstick(fused_graph(), texts, [(2, 1), (1, 2)]) as raw,
        yardstick(original_graph(), texts, [(2, 1)]) as original,
        service(workers_min=workers, workers_max=workers) as product,
    ):
        product.warm_workers(workers)
        _index(product, "warm", Rounds())
        ways = _best_ways(raw, len(texts))
        for number in range(options.repeat):
            _one_round(number, product, raw, ways, rounds)
            rounds.original.append(original.rate(ORIGINAL_WAY))
            progress(f"bulk: raw, original graph: {rounds.original[-1]:.1f} chunks/s")
        peaks = product.peak_megabytes()
    return [*_speed_lines(rounds, len(texts)), *_memory_lines(peaks)]


def _one_round(
    number: int, product: MeasuredService, raw: Yardstick, ways: list[Way], rounds: Rounds
) -> None:
    if number % 2:
        _raw(raw, ways, rounds)
    _index(product, f"round-{number}", rounds)
    if not number % 2:
        _raw(raw, ways, rounds)
    progress(f"bulk: end to end {rounds.product[-1]:.1f} chunks/s")
    for way in ways:
        progress(f"bulk: raw, {way}: {rounds.raw[way][-1]:.1f} chunks/s")


def _best_ways(raw: Yardstick, count: int) -> list[Way]:
    sample = range(0, count, SAMPLE_STEP)
    rates = {way: raw.rate(way, sample) for way in GRID}
    for way, rate in rates.items():
        progress(f"bulk: raw on a sample, {way}: {rate:.1f} chunks/s")
    return sorted(rates, key=lambda way: -rates[way])[:CANDIDATES]


def _raw(raw: Yardstick, ways: list[Way], rounds: Rounds) -> None:
    for way in ways:
        before = raw.cpu_seconds()
        rounds.raw.setdefault(way, []).append(raw.rate(way))
        used = (raw.cpu_seconds() - before) / len(corpus.texts())
        rounds.raw_cpu.setdefault(way, []).append(used)


def _index(product: MeasuredService, namespace: str, rounds: Rounds) -> None:
    """A namespace of its own each time, so that no vector is reused."""
    assert product.process
    before = product.cpu_seconds()
    began = time.perf_counter()
    _post(product, namespace)
    posted = time.perf_counter() - began
    product.wait_applied(namespace, len(corpus.documents()))
    took = time.perf_counter() - began
    used = {pid: total - before.get(pid, 0.0) for pid, total in product.cpu_seconds().items()}
    rounds.product.append(len(corpus.texts()) / took)
    rounds.product_cpu.append(sum(used.values()) / len(corpus.texts()))
    rounds.service_share.append(used[product.process.pid] / sum(used.values()))
    rounds.cores.append(sum(used.values()) / took)
    rounds.posted.append(posted)


def _post(product: MeasuredService, namespace: str) -> None:
    lines = [
        json.dumps(
            {
                "change_type": "insert",
                "namespace": namespace,
                "document_id": document.document_id,
                "content": document.content,
                "content_type": document.content_type,
            }
        )
        for document in corpus.documents()
    ]
    request = urllib.request.Request(
        f"{product.url}/v1/changes",
        "\n".join(lines).encode(),
        {"Content-Type": "application/x-ndjson"},
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        results = [json.loads(line) for line in answer]
    refused = [result for result in results if "error" in result]
    if refused or len(results) != len(lines):
        raise RuntimeError(f"{len(results)} of {len(lines)} answered, refused: {refused[:1]}")


def _speed_lines(rounds: Rounds, chunks: int) -> list[Line]:
    ratio = median(rounds.ratios)
    way = rounds.best
    return [
        at_least(
            f"bulk: end to end / raw, same graph, {chunks} chunks",
            ratio,
            RATIO,
            spread(rounds.ratios, 2),
        ),
        Line("bulk: end to end / raw on the original graph", spread(rounds.over_original, 2)),
        Line("bulk: end to end", spread(rounds.product, unit=" chunks/s")),
        Line("bulk: raw on the original graph", spread(rounds.original, unit=" chunks/s")),
        Line(
            f"bulk: raw onnxruntime, same graph, {way}", spread(rounds.raw[way], unit=" chunks/s")
        ),
        Line("bulk: CPU time a chunk, end to end / raw", spread(rounds.cpu_ratios, 2)),
        Line("bulk: CPU used end to end", spread(rounds.cores, 2, " cores")),
        Line("bulk: of it by the service process", spread(rounds.service_share, 2)),
        Line("bulk: until everything was accepted", spread(rounds.posted, 2, " s")),
    ]


def _memory_lines(peaks: list[tuple[str, float]]) -> list[Line]:
    lines = []
    for name in dict.fromkeys(name for name, _ in peaks):
        worst = max(size for found, size in peaks if found == name)
        each = ", ".join(f"{size:.0f}" for found, size in peaks if found == name)
        if name == "service":
            lines.append(Line(f"memory: peak of the {name}", f"{each} MB"))
        else:
            lines.append(
                at_most(f"memory: peak of an {name}", worst, WORKER_MEGABYTES, f"{each} MB", " MB")
            )
    return lines
