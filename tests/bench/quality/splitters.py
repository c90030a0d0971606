"""A collection's documents in chunks: as the product cuts them, and by size alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common.chunking.chunk import embedding_text
from common.ports.embedder import Tokenizer
from common.settings import Settings
from tests.bench.quality.collection import Document, Passage
from tests.bench.quality.recursive import split
from workers.embed import make_chunks, sizes_for

SIZES_TRIED = (50, 20_000)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A span of a document's content, in characters, half open, and what is embedded for it."""

    document: int
    start: int
    end: int
    text: str
    embedded: str


def ours(documents: Sequence[Document], tokenizer: Tokenizer, window: int) -> list[Chunk]:
    """With the sizes that are set where nobody sets any."""
    defaults = Settings.model_fields
    sizes = sizes_for(
        defaults["chunk_target_tokens"].default, defaults["chunk_max_tokens"].default, window
    )
    found = []
    for place, document in enumerate(documents):
        content = document.content.encode()
        for chunk in make_chunks(content, document.content_type, tokenizer, sizes):
            if chunk.text != document.content[chunk.start : chunk.end]:
                raise ValueError(f"{document.document_id}: extraction moved its text")
            embedded = embedding_text(chunk.heading_path, chunk.text)
            found.append(Chunk(place, chunk.start, chunk.end, chunk.text, embedded))
    return found


def without_headings(chunks: Sequence[Chunk]) -> list[Chunk]:
    """The same cuts; only the text itself is embedded."""
    return [Chunk(c.document, c.start, c.end, c.text, c.text) for c in chunks]


def recursive(documents: Sequence[Document], size: int) -> list[Chunk]:
    """By `size` in characters; what is embedded is the text of a chunk alone."""
    return [
        Chunk(place, start, end, document.content[start:end], document.content[start:end])
        for place, document in enumerate(documents)
        for start, end in split(document.content, size)
    ]


def size_for_chunks(documents: Sequence[Document], wanted: int) -> int:
    """The size in characters with which the recursive splitter makes nearly so many chunks.

    As both splitters leave nothing out, chunks of the same number are of the same mean size.
    """

    def count(size: int) -> int:
        return sum(len(split(document.content, size)) for document in documents)

    smallest = _first(lambda size: count(size) <= wanted, *SIZES_TRIED)
    return min(smallest - 1, smallest, key=lambda size: abs(count(size) - wanted))


def _first(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The first number from which on it holds."""
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


def held(chunks: Sequence[Chunk], passages: Sequence[Passage]) -> list[list[int]]:
    """The passages that each chunk holds, or of which it holds at least half the characters."""
    in_document: dict[int, list[int]] = {}
    for place, passage in enumerate(passages):
        in_document.setdefault(passage.document, []).append(place)
    return [
        [place for place in in_document.get(chunk.document, []) if _holds(chunk, passages[place])]
        for chunk in chunks
    ]


def _holds(chunk: Chunk, passage: Passage) -> bool:
    common = min(chunk.end, passage.end) - max(chunk.start, passage.start)
    return 2 * common >= passage.end - passage.start
