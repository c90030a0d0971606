"""From a model folder to a faster one beside it: candidates, the fastest first, until one agrees.

Synchronous: it is one long calculation for one person who waits. Interrupted or refused, it
leaves nothing behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, Final, Literal

import onnx

from common.chunking.chunker import ChunkSizes
from common.model import EmbeddingProfile, Vector
from common.optimizing.agreement import FUSED_BAR, INT8_BAR, Agreement, agreement
from common.optimizing.float_graph import float_graph, fused_graph
from common.optimizing.fusion import Fusions
from common.optimizing.measurement import speed_ratio, vectors
from common.optimizing.model_folder import complete, draft_beside, put_in_place, require_writable
from common.optimizing.problems import AgreementTooLowError, UnsuitableModelError
from common.optimizing.quantization import (
    INT8_VARIANTS,
    Int8Variant,
    quantise,
    reduced_range_needed,
)
from common.optimizing.sample import Document, joined, passages, spread
from common.ports.embedder import Embedder, Passage

__all__ = ["Graph", "Optimized", "Request", "optimize"]

Graph = Literal["int8", "fused"]
OnProgress = Callable[[str, int, int], None]
"""What is being done, and how much of it: 0 of 0 when it cannot be counted."""

SPEED_TEXTS: Final = 24
SPEED_TOKENS: Final = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to make of what."""

    original: Path
    """A complete model folder."""
    original_profile: EmbeddingProfile
    """As the product knows the model: a packaged one by its name."""
    target: Path
    graph: Graph
    open_embedder: Callable[[Path], Embedder]
    """The embedder of a model folder, with the original's prefixes: what the product would run."""
    documents: Sequence[Document]
    sizes: ChunkSizes
    texts: int = 200
    """The most that are compared."""
    bar: float | None = None
    """The least mean cosine; None: that of the kind of graph, which nothing lowers."""
    replace: bool = False
    variants: Sequence[Int8Variant] = INT8_VARIANTS

    @property
    def least_cosine(self) -> float:
        floor = INT8_BAR if self.graph == "int8" else FUSED_BAR
        return floor if self.bar is None else max(floor, self.bar)


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("bloomweaver", "onnx", "onnxruntime")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimized:
    """What was written."""

    folder: Path
    graph: Graph
    variant: str
    profile: EmbeddingProfile
    original: EmbeddingProfile
    agreement: Agreement
    speed: float
    """How many times as fast as the original, on one thread, a text of some 240 tokens at once."""
    fusions: Fusions
    reduced_range: bool
    made_with: dict[str, str] = field(default_factory=_versions)

    def as_json(self) -> dict[str, Any]:
        return {
            "graph": self.graph,
            "variant": self.variant,
            "profile": self.profile.id,
            "original": {"model": self.original.model, "profile": self.original.id},
            "agreement": asdict(self.agreement),
            "speed_ratio": round(self.speed, 2),
            "speed_tokens": SPEED_TOKENS,
            "fusions": asdict(self.fusions),
            "reduced_range": self.reduced_range,
            "made_with": self.made_with,
        }


def optimize(request: Request, on_progress: OnProgress) -> Optimized:
    """Write the fastest graph that agrees. Raises OptimizationError, ModelUnavailableError,
    TransientError, UnreadableDocument; nothing is written then."""
    require_writable(request.target, replace=request.replace)
    with draft_beside(request.target) as draft, _Comparison(request, on_progress) as comparison:
        return _Optimization(request, draft, comparison, on_progress).run()


class _Optimization:
    """One run: a draft folder whose graph is replaced until one agrees."""

    def __init__(
        self, request: Request, draft: Path, comparison: _Comparison, on_progress: OnProgress
    ) -> None:
        self._request = request
        self._draft = draft
        self._comparison = comparison
        self._on_progress = on_progress
        self._reduced = request.graph == "int8" and reduced_range_needed()

    def run(self) -> Optimized:
        graph, fusions = self._fused()
        complete(self._draft, self._request.original)
        refused: list[str] = []
        for variant in self._candidates(graph, fusions):
            found = self._comparison.agreement_of(self._draft)
            if found.mean >= self._request.least_cosine:
                return self._written(variant, found, fusions)
            refused.append(f"{variant}: {found}")
        raise AgreementTooLowError(_refusal(self._request.least_cosine, refused))

    def _fused(self) -> tuple[onnx.ModelProto, Fusions]:
        self._on_progress("fusing the graph", 0, 0)
        graph = float_graph(self._request.original / "model.onnx", self._draft)
        return fused_graph(graph, self._comparison.token_ids())

    def _candidates(self, graph: onnx.ModelProto, fusions: Fusions) -> Iterator[str]:
        """The name of each candidate, with its graph in the draft folder."""
        if self._request.graph == "fused":
            if not fusions:
                raise UnsuitableModelError(
                    "nothing in this graph is known how to be fused; --graph int8 may still help"
                )
            onnx.save(graph, self._draft / "model.onnx")
            yield "fused"
            return
        for variant in self._request.variants:
            self._on_progress(f"quantising: {variant.name}", 0, 0)
            quantise(graph, variant, self._draft / "model.onnx", reduced=self._reduced)
            yield variant.name

    def _written(self, variant: str, found: Agreement, fusions: Fusions) -> Optimized:
        speed = self._comparison.speed_of(self._draft)
        target = self._request.target
        profile = self._comparison.profile_of(self._draft)
        optimized = Optimized(
            folder=target,
            graph=self._request.graph,
            variant=variant,
            profile=_renamed(profile, target.name),
            original=self._request.original_profile,
            agreement=found,
            speed=speed,
            fusions=fusions,
            reduced_range=self._reduced,
        )
        put_in_place(self._draft, target, optimized.as_json())
        return optimized


class _Comparison:
    """The original, loaded once, and its vectors of the sample."""

    def __init__(self, request: Request, on_progress: OnProgress) -> None:
        self._request = request
        self._on_progress = on_progress
        self._runner = asyncio.Runner()
        self._original = request.open_embedder(request.original)
        self._found: list[Passage] = []
        self._vectors: list[Vector[float]] = []

    def __enter__(self) -> _Comparison:
        try:
            self._found = self._read_sample()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._runner.run(self._original.close())
        finally:
            self._runner.close()

    def token_ids(self) -> list[int]:
        return list(chain.from_iterable(passage.token_ids or () for passage in self._found))

    def agreement_of(self, folder: Path) -> Agreement:
        sample = spread(self._found, self._request.texts)
        if not self._vectors:
            self._vectors = self._embedded(self._original, sample, "embedding with the original")
        with self._open(folder) as other:
            found = self._embedded(other, sample, "embedding with the new graph")
        return agreement(self._vectors, found)

    def profile_of(self, folder: Path) -> EmbeddingProfile:
        with self._open(folder) as other:
            return other.profile

    def speed_of(self, folder: Path) -> float:
        self._on_progress("measuring the speed", 0, 0)
        tokens = min(SPEED_TOKENS, self._request.sizes.room_tokens)
        texts = joined(self._found, tokens, min(SPEED_TEXTS, self._request.texts))
        with self._open(folder) as other:
            self._runner.run(other.load())
            return self._runner.run(speed_ratio(self._original, other, texts))

    def _embedded(
        self, embedder: Embedder, sample: Sequence[Passage], what: str
    ) -> list[Vector[float]]:
        def count(done: int) -> None:
            self._on_progress(what, done, len(sample))

        count(0)
        return self._runner.run(vectors(embedder, sample, count))

    def _read_sample(self) -> list[Passage]:
        self._on_progress("cutting the sample into chunks", 0, 0)
        tokenizer = self._runner.run(self._original.tokenizer())
        found = list(passages(self._request.documents, tokenizer, self._request.sizes))
        if not found:
            raise UnsuitableModelError("the sample holds no text: name other files with --sample")
        return found

    @contextmanager
    def _open(self, folder: Path) -> Iterator[Embedder]:
        embedder = self._request.open_embedder(folder)
        try:
            yield embedder
        finally:
            self._runner.run(embedder.close())


def _refusal(bar: float, refused: Sequence[str]) -> str:
    return (
        f"no graph agrees well enough with the original: {'; '.join(refused)}; at least {bar:g} is "
        "needed, and nothing was written. Use the model as it is, or --graph fused, whose vectors "
        "are the same"
    )


def _renamed(profile: EmbeddingProfile, name: str) -> EmbeddingProfile:
    """The draft folder's profile under the name that the folder will have."""
    return EmbeddingProfile(
        model=name,
        fingerprint=profile.fingerprint,
        dimension=profile.dimension,
        max_tokens=profile.max_tokens,
        query_prefix=profile.query_prefix,
        document_prefix=profile.document_prefix,
    )
