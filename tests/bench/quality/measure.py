"""What the product's way of cutting does to retrieval, beside cutting by size alone.

Same texts, same model, same mean size of a chunk, exact cosine search. A hit is a chunk that holds
a wanted passage (`splitters.held`), so both sides answer with ten chunks of the same size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.bench.quality import cranfield, metrics, splitters
from tests.bench.quality.collection import FEED, Collection, joined_cranfield, prometheus
from tests.bench.quality.splitters import Chunk
from tests.bench.quality.vectors import Matrix, Vectors
from tests.bench.report import Line, Options, at_least, percentile, progress

DEPTH = 10
WORSE_AT_MOST = 0.01


@dataclass(frozen=True, slots=True)
class Scores:
    """One number a query, in the order of the queries."""

    ndcg: list[float]
    recall: list[float]
    reciprocal_rank: list[float]


@dataclass(frozen=True, slots=True)
class Side:
    """A way to cut: the tokens of its chunks' own texts, and how well they are found."""

    sizes: list[int]
    scores: Scores


@dataclass(frozen=True, slots=True)
class Round:
    """`bare`: the product's cuts, and nothing but a chunk's own text embedded."""

    ours: Side
    recursive: Side
    bare: Side


def measure(options: Options) -> list[Line]:
    """Cranfield's abstracts are joined in `repeat` orders; beyond that all is deterministic."""
    with Vectors() as vectors:
        return [*_cranfield(vectors, options.repeat), *_prometheus(vectors)]


def _cranfield(vectors: Vectors, orders: int) -> list[Line]:
    """Its abstracts have no headings."""
    name = f"quality: Cranfield, {orders} orders"
    if not cranfield.ABSTRACTS.is_file():
        return [_absent(name, cranfield.ABSTRACTS)]
    rounds = [round_of(joined_cranfield(seed), vectors) for seed in range(1, orders + 1)]
    ours = _together([found.ours for found in rounds])
    recursive = _together([found.recursive for found in rounds])
    return _compared(name, ours, recursive)


def _prometheus(vectors: Vectors) -> list[Line]:
    name = "quality: Prometheus questions"
    if not FEED.is_file():
        return [_absent(name, FEED)]
    found = round_of(prometheus(), vectors)
    ours, recursive, bare = found.ours.scores, found.recursive.scores, found.bare.scores
    _, ranks = _difference(ours.reciprocal_rank, recursive.reciprocal_rank)
    _, headings = _difference(ours.ndcg, bare.ndcg)
    return [
        *_compared(name, found.ours, found.recursive),
        Line(f"{name}, MRR@{DEPTH}", ranks),
        Line(f"{name}, nDCG@{DEPTH} with and without headings", headings),
    ]


def _absent(name: str, path: Path) -> Line:
    return Line(name, f"not measured: {path.name} is not here")


def round_of(collection: Collection, vectors: Vectors) -> Round:
    tokenizer = vectors.tokenizer()
    ours = splitters.ours(collection.documents, tokenizer, vectors.window)
    size = splitters.size_for_chunks(collection.documents, len(ours))
    progress(
        f"quality: {len(ours)} chunks; the recursive splitter makes so many of {size} characters"
    )
    recursive = splitters.recursive(collection.documents, size)
    queries = vectors.of_queries([query.text for query in collection.queries])

    def side(chunks: Sequence[Chunk]) -> Side:
        found = vectors.of_documents([chunk.embedded for chunk in chunks])
        sizes = [len(ids) for ids in tokenizer.encode([chunk.text for chunk in chunks])]
        return Side(sizes, scores_of(collection, chunks, found, queries))

    return Round(side(ours), side(recursive), side(splitters.without_headings(ours)))


def scores_of(
    collection: Collection, chunks: Sequence[Chunk], vectors: Matrix, queries: Matrix
) -> Scores:
    """Of an exact search for every query among all chunks."""
    held = splitters.held(chunks, collection.passages)
    scores = Scores([], [], [])
    for query, similarity in zip(collection.queries, queries @ vectors.T, strict=True):
        best = np.argsort(-similarity, kind="stable")[:DEPTH]
        found = metrics.finds((held[place] for place in best), query.wanted, DEPTH)
        scores.ndcg.append(metrics.ndcg(found, len(query.wanted)))
        scores.recall.append(metrics.recall(found, len(query.wanted)))
        scores.reciprocal_rank.append(metrics.reciprocal_rank(found))
    return scores


def _together(sides: Sequence[Side]) -> Side:
    """All chunks, and each query's mean."""

    def means(of: Callable[[Scores], list[float]]) -> list[float]:
        return [metrics.mean(each) for each in zip(*(of(s.scores) for s in sides), strict=True)]

    scores = Scores(
        means(lambda found: found.ndcg),
        means(lambda found: found.recall),
        means(lambda found: found.reciprocal_rank),
    )
    return Side([size for side in sides for size in side.sizes], scores)


def _compared(name: str, ours: Side, recursive: Side) -> list[Line]:
    lines = [
        Line(f"{name}, chunks", _sizes(ours.sizes)),
        Line(f"{name}, chunks of the recursive splitter", _sizes(recursive.sizes)),
    ]
    for metric, a, b in (
        (f"nDCG@{DEPTH}", ours.scores.ndcg, recursive.scores.ndcg),
        (f"recall@{DEPTH}", ours.scores.recall, recursive.scores.recall),
    ):
        difference, text = _difference(a, b)
        lines.append(at_least(f"{name}, {metric}", difference, -WORSE_AT_MOST, text))
    return lines


def _difference(a: Sequence[float], b: Sequence[float]) -> tuple[float, str]:
    """Of the means; the interval tells how much of it may be the choice of queries."""
    differences = [x - y for x, y in zip(a, b, strict=True)]
    low, high = metrics.bootstrap_interval(differences)
    difference = metrics.mean(differences)
    text = f"{metrics.mean(a):.3f} against {metrics.mean(b):.3f}: {difference:+.3f}"
    return difference, f"{text} (95%: {low:+.3f} … {high:+.3f})"


def _sizes(tokens: Sequence[int]) -> str:
    low, high = percentile(tokens, 0.05), percentile(tokens, 0.95)
    mean = metrics.mean(tokens)
    return f"{len(tokens):,}, mean {mean:.0f} tokens (p5 {low:.0f}, p95 {high:.0f})"
