"""What is indexed and replayed: a documentation site's first revision and its edits since."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from common.adapters.embedder.packaged_model import PACKAGED_MODELS, tokenizer_path
from common.chunking.chunk import Chunk
from common.chunking.chunker import ChunkSizes
from common.chunking.tokenizer import ModelTokenizer
from common.extraction.content_types import guess_content_type
from common.settings import Settings
from tests.bench.corpus import FEED
from tests.bench.peers.job import Edit
from workers.embed import make_chunks, sizes_for


@dataclass(frozen=True, slots=True)
class Feed:
    """`documents`: pairs of id and content. `promised`: what the targets are about, all of it."""

    name: str
    documents: list[tuple[str, str]]
    edits: list[Edit]
    promised: bool = False


def feed(documents_at_most: int, edits_at_most: int) -> Feed:
    everything = _prometheus() if FEED.is_file() else _handbook()
    return restricted(everything, documents_at_most, edits_at_most)


def restricted(everything: Feed, documents_at_most: int, edits_at_most: int) -> Feed:
    """Where documents are left out, so are the edits of all but those that are in."""
    documents, edits = everything.documents, everything.edits
    if documents_at_most < len(documents):
        documents = documents[:documents_at_most]
        chosen = {document_id for document_id, _ in documents}
        edits = [edit for edit in edits if edit.document_id in chosen]
    edits = edits[:edits_at_most]
    promised = everything.promised and len(edits) == len(everything.edits)
    return Feed(everything.name, documents, edits, promised)


def content_type(document_id: str) -> str:
    return guess_content_type(document_id) or "text/plain"


def chunks_of(document_id: str, content: str) -> list[Chunk]:
    """As a worker with the default settings makes them."""
    return make_chunks(content.encode(), content_type(document_id), tokenizer(), sizes())


@cache
def sizes() -> ChunkSizes:
    settings = Settings(_env_file=None)
    (model,) = PACKAGED_MODELS.values()
    return sizes_for(settings.chunk_target_tokens, settings.chunk_max_tokens, model.max_tokens)


@cache
def tokenizer() -> ModelTokenizer:
    (model,) = PACKAGED_MODELS.values()
    return ModelTokenizer(tokenizer_path(model))


def _prometheus() -> Feed:
    with gzip.open(FEED, "rt", encoding="utf-8") as lines:
        changes = [json.loads(line) for line in lines]
    first = [change for change in changes if change["revision"] == changes[0]["revision"]]
    documents = [(change["document_id"], change["content"]) for change in first]
    edits = [_edit(change) for change in changes[len(first) :]]
    return Feed("Prometheus documentation", documents, edits, promised=True)


def _handbook() -> Feed:
    root = Path(str(files("common.demo")))
    folder = root / "documents"
    documents = [
        (path.relative_to(folder).as_posix(), path.read_text(encoding="utf-8"))
        for path in sorted(folder.rglob("*.md"))
    ]
    lines = (root / "edits.jsonl").read_text(encoding="utf-8").splitlines()
    edits = [_edit(json.loads(line)) for line in lines]
    return Feed("packaged handbook", documents, edits)


def _edit(change: dict[str, Any]) -> Edit:
    content = None if change["change_type"] == "delete" else change["content"]
    return Edit(change["document_id"], content)
