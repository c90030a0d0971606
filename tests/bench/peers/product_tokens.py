"""BloomWeaver's real handlers in this process, with the real chunker and tokenizer and no model."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from common.ports.embedder import Tokenizer
from common.telemetry import configure_logging
from tests.bench.peers.comparison import stale_and_missing
from tests.bench.peers.feed import chunks_of, sizes, tokenizer
from tests.bench.peers.job import Edit, Job, Phase, last_revision
from tests.fakes.embedder import HashEmbedder
from tests.pipeline import NAMESPACE, Pipeline, pipeline


class CountingEmbedder(HashEmbedder):
    """Vectors are made from words; the texts that would have gone to the model are remembered."""

    async def tokenizer(self) -> Tokenizer:
        return tokenizer()


async def count_tokens(job: Job) -> dict[str, Phase]:
    """Each change is carried through every queue before the next is accepted."""
    configure_logging("console", "error")
    with tempfile.TemporaryDirectory(prefix="bloomweaver-bench-") as folder:
        async with pipeline(Path(folder)) as product:
            product.embedder = CountingEmbedder()
            product.sizes = sizes()
            bulk = [Edit(*document) for document in job.documents]
            return {
                "bulk": await _phase("bulk", product, bulk, dict(job.documents)),
                "replay": await _phase("replay", product, job.edits, last_revision(job)),
            }


async def _phase(name: str, product: Pipeline, edits: list[Edit], alive: dict[str, str]) -> Phase:
    embedded, written = len(product.embedder.embedded), len(product.index.upserted)
    began = time.perf_counter()
    for edit in edits:
        if edit.content is None:
            await product.delete(edit.document_id)
        else:
            await product.insert(edit.document_id, edit.content)
        await product.run()
    seconds = time.perf_counter() - began
    texts = product.embedder.embedded[embedded:]
    records = product.index.records[NAMESPACE].values()
    held, stale, missing = stale_and_missing(
        [(record.document_id, record.text or "") for record in records],
        [(key, chunk.text) for key, text in alive.items() for chunk in chunks_of(key, text)],
    )
    return Phase(
        name=name,
        seconds=seconds,
        chunks=len(texts),
        tokens=sum(map(len, tokenizer().encode(texts))),
        records=len(product.index.upserted) - written,
        held=held,
        stale=stale,
        missing=missing,
        peak_megabytes=0.0,
    )
