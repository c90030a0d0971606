"""Real text to compare graphs on: the chunks that the product would embed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from common.chunking.chunk import embedding_text
from common.chunking.chunker import ChunkSizes, chunk_text
from common.extraction.extract import extract
from common.ports.embedder import Passage, Tokenizer

__all__ = ["joined", "passages", "spread"]

Document = tuple[bytes, str]
"""A document's content and content type."""


def passages(
    documents: Iterable[Document], tokenizer: Tokenizer, sizes: ChunkSizes
) -> Iterator[Passage]:
    """The distinct chunks of documents, as they are embedded. Raises UnreadableDocument."""
    seen: set[str] = set()
    for content, content_type in documents:
        for chunk in chunk_text(extract(content, content_type), tokenizer, sizes):
            text = embedding_text(chunk.heading_path, chunk.text)
            if text not in seen:
                seen.add(text)
                yield Passage(text, chunk.token_ids)


def spread(found: Sequence[Passage], limit: int) -> list[Passage]:
    """At most `limit` of them, from the whole sequence at even distances."""
    if len(found) <= limit:
        return list(found)
    return [found[place * len(found) // limit] for place in range(limit)]


def joined(found: Sequence[Passage], tokens: int, limit: int) -> list[str]:
    """At most `limit` texts of about so many tokens, no two alike, put together from passages."""
    texts: list[str] = []
    parts: list[str] = []
    size = 0
    for passage in found:
        parts.append(passage.text)
        size += len(passage.token_ids or ())
        if size >= tokens:
            texts.append("\n".join(parts))
            parts, size = [], 0
        if len(texts) == limit:
            break
    return texts or ["\n".join(parts)]
