"""What is indexed: real documentation where it is there, else the packaged handbook."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path

from tokenizers import Tokenizer

from common.adapters.embedder.packaged_model import PACKAGED_MODELS, tokenizer_path
from common.chunking.chunk import embedding_text
from common.chunking.tokenizer import ModelTokenizer
from common.extraction.content_types import guess_content_type
from workers.embed import make_chunks, sizes_for

FEED = Path(__file__).parents[3] / "shared" / "data" / "prometheus-docs.jsonl.gz"
CHUNKS_AT_MOST = 400


@dataclass(frozen=True, slots=True)
class Document:
    """`texts`: what is embedded of it, each distinct chunk of all documents once."""

    document_id: str
    content: str
    content_type: str
    texts: tuple[str, ...]


@cache
def documents() -> tuple[Document, ...]:
    """Documents of at most some 400 chunks in all, spread evenly over the corpus."""
    everything = _feed() if FEED.is_file() else _handbook()
    chunked = [_document(name, content) for name, content in everything]
    step = max(sum(len(d.texts) for d in chunked) // CHUNKS_AT_MOST, 1)
    found: list[Document] = []
    known: set[str] = set()
    for document in chunked[::step]:
        if len(known) + len(document.texts) <= CHUNKS_AT_MOST:
            new = tuple(text for text in document.texts if text not in known)
            found.append(replace(document, texts=new))
            known.update(new)
    return tuple(found)


def name() -> str:
    return "Prometheus documentation" if FEED.is_file() else "packaged handbook"


def texts() -> list[str]:
    return [text for document in documents() for text in document.texts]


def token_ids(of: list[str]) -> list[list[int]]:
    """As the model is fed them, special tokens included, cut at its window."""
    (model,) = PACKAGED_MODELS.values()
    tokenizer = Tokenizer.from_file(str(tokenizer_path(model)))
    tokenizer.no_padding()
    tokenizer.enable_truncation(model.max_tokens)
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(of)]


def passages(count: int, tokens: int) -> list[str]:
    """Different texts of so many tokens each."""
    text = "\n".join(document.content for document in documents())
    offsets = _counter().offsets(text)
    if len(offsets) < count * tokens:
        raise ValueError(f"the corpus has no {count} passages of {tokens} tokens")
    firsts = range(0, count * tokens, tokens)
    return [text[offsets[i][0] : offsets[i + tokens - 1][1]] for i in firsts]


def _document(name: str, content: str) -> Document:
    content_type = guess_content_type(name) or "text/plain"
    chunks = make_chunks(content.encode(), content_type, _counter(), sizes_for(256, 512, 512))
    texts = dict.fromkeys(embedding_text(c.heading_path, c.text) for c in chunks)
    return Document(name, content, content_type, tuple(texts))


@cache
def _counter() -> ModelTokenizer:
    (model,) = PACKAGED_MODELS.values()
    return ModelTokenizer(tokenizer_path(model))


def _feed() -> Iterator[tuple[str, str]]:
    """What is alive at the end of the feed."""
    left: dict[str, str] = {}
    with gzip.open(FEED, "rt", encoding="utf-8") as lines:
        for line in lines:
            change = json.loads(line)
            if change["change_type"] == "delete":
                left.pop(change["document_id"], None)
            else:
                left[change["document_id"]] = change["content"]
    yield from sorted(left.items())


def _handbook() -> Iterator[tuple[str, str]]:
    root = Path(str(files("common.demo"))) / "documents"
    for path in sorted(root.rglob("*.md")):
        yield path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")
