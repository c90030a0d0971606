"""What is the same in every run: the feed, the model's folder, and how large chunks are."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.adapters.embedder.packaged_model import PACKAGED_MODELS, assemble
from common.chunking.chunk import embedding_text
from tests.bench.peers.feed import Feed, chunks_of, feed, tokenizer
from tests.bench.peers.guard import Said, run_guarded
from tests.bench.peers.install import PYTHON, install, versions
from tests.bench.peers.job import Job, write_job
from tests.bench.peers.variant import PEERS, PRODUCT
from tests.bench.report import progress

QUICK_EDITS = 150
EVERYTHING = 1_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """From the environment: BENCH_QUICK=1 for some ten minutes on two slow cores, BENCH_EDITS and
    BENCH_DOCUMENTS for as many of the feed's, BENCH_SYSTEMS for some of the systems,
    BENCH_DEFAULTS=0 to leave the peers' own batch sizes out, BENCH_INT8=0 the product's int8 graph,
    BENCH_MEMORY_GB and BENCH_SECONDS for what a child may take."""

    quick: bool
    edits: int
    documents: int
    systems: tuple[str, ...]
    defaults: bool
    int8: bool
    gigabytes: float
    seconds: float

    @classmethod
    def from_environment(cls) -> Limits:
        asked = os.environ.get
        quick = asked("BENCH_QUICK", "0") == "1"
        return cls(
            quick=quick,
            edits=int(asked("BENCH_EDITS", QUICK_EDITS if quick else EVERYTHING)),
            documents=int(asked("BENCH_DOCUMENTS", EVERYTHING)),
            systems=tuple(asked("BENCH_SYSTEMS", ",".join([PRODUCT, *PEERS])).split(",")),
            defaults=asked("BENCH_DEFAULTS", "0" if quick else "1") == "1",
            int8=asked("BENCH_INT8", "0" if quick else "1") == "1",
            gigabytes=float(asked("BENCH_MEMORY_GB", "16")),
            seconds=float(asked("BENCH_SECONDS", "3600")),
        )

    @property
    def peers(self) -> list[str]:
        return [name for name in PEERS if name in self.systems]


@dataclass(frozen=True, slots=True)
class Bench:
    """`sizes`: each peer's chunk size, in its own unit, for chunks as long as the product's."""

    limits: Limits
    feed: Feed
    folder: Path
    model_folder: Path
    mean_tokens: float
    sizes: dict[str, int]
    versions: dict[str, str]

    def job(self, system: str, **changes: Any) -> Job:
        """On an empty folder of its own."""
        return Job(
            system=system,
            model_folder=str(self.model_folder),
            data_folder=tempfile.mkdtemp(prefix=f"{system}-", dir=self.folder),
            chunk_size=self.sizes.get(system, 0),
            documents=self.feed.documents,
            **changes,
        )

    def run(self, task: str, job: Job, *arguments: str) -> Said:
        """The peer's child."""
        file = Path(job.data_folder) / "job.json"
        write_job(job, file)
        return run_guarded(
            [str(PYTHON), "-m", "tests.bench.peers.child", task, str(file), *arguments],
            limit_gigabytes=self.limits.gigabytes,
            limit_seconds=self.limits.seconds,
        )

    def answer(self, task: str, job: Job, *arguments: str) -> dict[str, Any]:
        """The child's only answer. Raises RuntimeError when there is none."""
        said = self.run(task, job, *arguments)
        if said.failure or not said.answers:
            raise RuntimeError(f"{task} of {job.system} {said.failure}")
        return said.answers[-1]


@contextlib.contextmanager
def bench(limits: Limits) -> Iterator[Bench]:
    """Installs the peers where they are missing, and finds their chunk sizes."""
    install()
    chosen = feed(limits.documents, limits.edits)
    (model,) = PACKAGED_MODELS.values()
    with tempfile.TemporaryDirectory(
        prefix="bloomweaver-bench-", ignore_cleanup_errors=True
    ) as name:
        folder = Path(name)
        made = Bench(
            limits=limits,
            feed=chosen,
            folder=folder,
            model_folder=assemble(model, folder),
            mean_tokens=_mean_tokens(chosen),
            sizes={},
            versions=versions([PEERS[peer] for peer in limits.peers]),
        )
        progress(
            f"peers: {chosen.name}, {len(chosen.documents)} documents, {len(chosen.edits)} edits, "
            f"{made.mean_tokens:.0f} tokens a chunk"
        )
        for peer in limits.peers:
            made.sizes[peer] = _fitting_size(made, peer)
        yield made


def product_texts(documents: list[tuple[str, str]]) -> list[str]:
    """What the product embeds of them, each chunk of a document once."""
    texts: list[str] = []
    for name, content in documents:
        chunks = {chunk.hash: chunk for chunk in chunks_of(name, content)}.values()
        texts += [embedding_text(chunk.heading_path, chunk.text) for chunk in chunks]
    return texts


def _mean_tokens(chosen: Feed) -> float:
    texts = product_texts(chosen.documents)
    return sum(map(len, tokenizer().encode(texts))) / len(texts)


def _fitting_size(made: Bench, peer: str) -> int:
    found = made.answer("sizes", made.job(peer, inference=False), str(made.mean_tokens))
    progress(
        f"peers: {peer} {made.versions[PEERS[peer]]}: chunk size {found['chunk_size']} gives "
        f"{found['mean']:.0f} tokens a chunk, {found['chunks']} chunks"
    )
    return int(found["chunk_size"])
