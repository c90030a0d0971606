"""Bulk indexing and a replay of edits, side by side with other tools, each in its own process."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.bench.peers.guard import Said
from tests.bench.peers.job import Phase
from tests.bench.peers.lines import phase_text, tokens_lines
from tests.bench.peers.product import ProductRun, int8_graph, run_product
from tests.bench.peers.setup import Bench, Limits, bench, product_texts
from tests.bench.peers.variant import PRODUCT, Variant
from tests.bench.raw import GRID, Yardstick, fused_graph, original_graph, yardstick
from tests.bench.report import Line, Options, at_least, at_most, progress, spread

OVER_BEST_BATCH, OVER_DEFAULTS, OF_RAW = 1.5, 3.0, 0.95
WORKER_MEGABYTES = 400.0
SAMPLE_STEP = 10


@dataclass(slots=True)
class Results:
    """`bulk`: a phase a round; `replay` by what the line is called; `failed` likewise."""

    bulk: dict[Variant, list[Phase]] = field(default_factory=dict)
    replay: dict[str, Phase] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    product: list[ProductRun] = field(default_factory=list)
    int8: Path | None = None
    raw: list[float] = field(default_factory=list)
    original: list[float] = field(default_factory=list)

    def rates(self, variant: Variant) -> list[float]:
        return [phase.chunks / phase.seconds for phase in self.bulk.get(variant, [])]


def measure(options: Options) -> list[Line]:
    """Rounds of one bulk run each, in turn, forwards and backwards; the last goes on with the
    edits. What peers do at their own batch sizes is measured once: it is slow and takes memory."""
    limits = Limits.from_environment()
    repeat = 1 if limits.quick else options.repeat
    results = Results()
    with bench(limits) as made:
        texts = product_texts(made.feed.documents)
        variants = _variants(made)
        if any(variant.int8 for variant in variants):
            results.int8 = int8_graph(made.folder)
        with (
            yardstick(fused_graph(), texts, [(2, 1)]) as raw,
            yardstick(original_graph(), texts, [(2, 1)]) as original,
        ):
            for number in range(repeat):
                _one_round(made, variants, number, number == repeat - 1, results)
                results.raw.append(_raw(raw, len(texts)))
                results.original.append(_raw(original, len(texts)))
                progress(f"peers: raw: {results.raw[-1]:.1f}, {results.original[-1]:.1f} chunks/s")
        _once(made, results)
        lines = _lines(made, results)
    return lines


def _variants(made: Bench) -> list[Variant]:
    """Which batch is best is a matter of fastembed, which all peers embed with: one search."""
    variants = []
    if PRODUCT in made.limits.systems:
        variants += [Variant(PRODUCT), *([Variant(PRODUCT, int8=True)] * made.limits.int8)]
    if made.limits.peers:
        peer = made.limits.peers[0]
        rates = {int(b): r for b, r in made.answer("batches", made.job(peer))["rates"].items()}
        best = max(rates, key=lambda batch: rates[batch])
        told = ", ".join(f"{batch}: {rate:.1f}" for batch, rate in rates.items())
        progress(f"peers: fastembed's chunks/s on a sample by batch: {told}")
        variants += [Variant(peer, best) for peer in made.limits.peers]
    return variants


def _one_round(
    made: Bench, variants: list[Variant], number: int, last: bool, results: Results
) -> None:
    for variant in variants[:: -1 if number % 2 else 1]:
        _run(made, variant, with_edits=last and not variant.int8, results=results)


def _once(made: Bench, results: Results) -> None:
    if PRODUCT in made.limits.systems and made.feed.edits:
        flood = run_product(made.job(PRODUCT, edits=made.feed.edits), one_by_one=False)
        results.product.append(flood)
        _note_replay(f"{PRODUCT}, posted as fast as it goes", flood.phases, flood.failure, results)
    if made.limits.defaults:
        for peer in made.limits.peers:
            _run(made, Variant(peer), with_edits=False, results=results)


def _run(made: Bench, variant: Variant, *, with_edits: bool, results: Results) -> None:
    edits = made.feed.edits if with_edits else []
    progress(f"peers: {variant}")
    job = made.job(variant.system, batch=variant.batch, edits=edits)
    if variant.system == PRODUCT:
        run = run_product(job, one_by_one=True, model=results.int8 if variant.int8 else None)
        results.product.append(run)
        phases, failure = run.phases, run.failure
    else:
        said = made.run("index", job)
        phases, failure = _phases(said), _failure(said)
    if "bulk" in phases:
        results.bulk.setdefault(variant, []).append(phases["bulk"])
        progress(f"peers: {variant}: {phase_text(phases['bulk'])}")
    if failure:
        results.failed[str(variant)] = failure
        progress(f"peers: {variant}: {failure}")
    name = f"{variant}, one by one" if variant.system == PRODUCT else str(variant)
    _note_replay(name, phases, failure, results)


def _note_replay(name: str, phases: dict[str, Phase], failure: str, results: Results) -> None:
    if "replay" in phases:
        results.replay[name] = phases["replay"]
        progress(f"peers: replay, {name}: {phase_text(phases['replay'])} {failure}")


def _phases(said: Said) -> dict[str, Phase]:
    told = [Phase(**answer["phase"]) for answer in said.answers if "phase" in answer]
    return {phase.name: phase for phase in told}


def _failure(said: Said) -> str:
    """With how far it was: a run that was killed says something about speed all the same."""
    if not said.failure:
        return ""
    rate = said.embedded / max(said.seconds, 1e-9)
    so_far = f"{said.embedded} chunks in {said.seconds:.0f} s, {rate:.1f} chunks/s"
    return f"{said.failure}; until then {so_far}"


def _raw(raw: Yardstick, count: int) -> float:
    """The better of the grid's ways with a thread a core, found on a sample."""
    ways = [way for way in GRID if way.processes == 2 and way.batch <= 2]
    sample = range(0, count, SAMPLE_STEP)
    best = max(ways, key=lambda way: raw.rate(way, sample))
    return raw.rate(best)


def _lines(made: Bench, results: Results) -> list[Line]:
    lines = [
        Line(f"bulk: {variant}", f"{_rates(results, variant)}, {phase_text(phases[-1])}")
        for variant, phases in results.bulk.items()
    ]
    lines += [Line(f"bulk: {name}", failure) for name, failure in results.failed.items()]
    lines += [
        Line("bulk: raw onnxruntime, fused graph", spread(results.raw, unit=" chunks/s")),
        Line("bulk: raw onnxruntime, original", spread(results.original, unit=" chunks/s")),
    ]
    lines += _ratio_lines(results)
    if made.feed.edits:
        lines += [
            Line(f"replay of {len(made.feed.edits)} edits: {name}", phase_text(phase))
            for name, phase in results.replay.items()
        ]
        lines += tokens_lines("replay", results.replay, made.feed.promised)
    return lines + _product_lines(results)


def _rates(results: Results, variant: Variant) -> str:
    return spread(results.rates(variant), unit=" chunks/s")


def _ratio_lines(results: Results) -> list[Line]:
    ours, int8 = (results.rates(Variant(PRODUCT, int8=graph)) for graph in (False, True))
    if not ours:
        return []
    raw = [rate / limit for rate, limit in zip(ours, results.raw, strict=True)]
    lines = [at_least("bulk: bloomweaver / raw, same graph", median(raw), OF_RAW, spread(raw, 2))]
    for defaults, target in ((False, OVER_BEST_BATCH), (True, OVER_DEFAULTS)):
        peers = [v for v in results.bulk if v.system != PRODUCT and (v.batch is None) == defaults]
        if peers:
            best = max(peers, key=lambda variant: median(results.rates(variant)))
            ratio = median(ours) / median(results.rates(best))
            lines.append(at_least(f"bulk: bloomweaver / {best}", ratio, target, f"{ratio:.2f}"))
            if int8:
                told = f"{median(int8) / median(results.rates(best)):.2f}"
                lines.append(Line(f"bulk: bloomweaver, int8 graph / {best}", told))
    return lines


def _product_lines(results: Results) -> list[Line]:
    if not results.product:
        return []
    worker = max(run.worker_megabytes for run in results.product)
    served = max(run.service_megabytes for run in results.product)
    untrue = [run.failure for run in results.product if run.failure]
    return [
        at_most("memory: peak of a worker", worker, WORKER_MEGABYTES, f"{worker:.0f} MB", " MB"),
        Line("memory: peak of the service process", f"{served:.0f} MB"),
        at_most(
            "bloomweaver: runs that ended with stale or missing records",
            len(untrue),
            0,
            f"{len(untrue)} of {len(results.product)} {untrue[:1] or ''}",
        ),
    ]
