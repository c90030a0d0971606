"""From extracted text to chunks: sections, atoms, packing, and a last check of the window.

Everything streams in batches, so memory beyond the result stays bounded. The steps are apart
on purpose: atoms (the finest spans that may end a chunk) do not depend on how they are packed.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from common.chunking.chunk import HEADING_CUT, Chunk, embedding_text
from common.chunking.segmentation import (
    Section,
    Span,
    divided,
    lines,
    section_spans,
    sentences,
    slices,
)
from common.extraction.extracted_text import BlockKind, ExtractedText, trimmed

CHUNKER_VERSION = 1

_BATCH_TEXTS: Final = 512
_BATCH_CHARACTERS: Final = 1 << 18
_MIN_ROOM_TOKENS: Final = 24
_PREFIX_TOKENS: Final = 64
_HEADING_CHARACTERS: Final = 200
_WORD_CHARACTERS: Final = 100
_CHARACTERS_PER_TOKEN: Final = 4


class TokenCounter(Protocol):
    """Counts in the tokenizer of the embedding model, special tokens not included."""

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""
        ...

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """The character span of every token of text, in order."""
        ...


@dataclass(frozen=True, slots=True)
class ChunkSizes:
    """How large chunks are.

    target_tokens is what chunks are filled up to; max_tokens is the model's window, special
    tokens and heading path included; max_characters bounds a chunk's text. Raises ValueError
    for a window in which not every text can be placed.
    """

    target_tokens: int = 256
    max_tokens: int = 512
    special_tokens: int = 2
    max_characters: int = 8192

    def __post_init__(self) -> None:
        if self.target_tokens < 1 or self.max_characters < 1 or self.special_tokens < 0:
            raise ValueError(f"sizes must be positive: {self}")
        if self.room_tokens < _MIN_ROOM_TOKENS:
            raise ValueError(f"the window leaves fewer than {_MIN_ROOM_TOKENS} tokens: {self}")

    @property
    def room_tokens(self) -> int:
        """Tokens of the window that heading path and text share."""
        return self.max_tokens - self.special_tokens

    @property
    def prefix_tokens(self) -> int:
        """The most that a heading path may take."""
        return min(_PREFIX_TOKENS, self.room_tokens // 4)

    @property
    def fill_tokens(self) -> int:
        """What chunks are filled up to: the target where the window has room for it."""
        return min(self.target_tokens, self.room_tokens - self.prefix_tokens)


@dataclass(frozen=True, slots=True)
class Atom:
    """A span that is not cut any further, and its size in tokens."""

    span: Span
    size_tokens: int


def chunk_text(extracted: ExtractedText, counter: TokenCounter, sizes: ChunkSizes) -> list[Chunk]:
    """The chunks of a text, in order; none for a text of blanks.

    Every non-blank character is in exactly one chunk, chunks begin and end with one, and none
    exceeds the window. Takes time linear in the text.
    """
    atoms = _Atomizer(extracted.text, counter, sizes).atoms(section_spans(extracted))
    packed = pack(atoms, sizes.fill_tokens, sizes.prefix_tokens, sizes.max_characters)
    return list(_Finisher(extracted.text, counter, sizes).chunks(packed))


def pack(
    atoms: Iterable[Atom], target_tokens: int, slack_tokens: int, max_characters: int
) -> Iterator[Span]:
    """Fill spans with the atoms of one section, in order, up to the target.

    A span that holds only headings so far may exceed the target by the slack, so that no
    heading is left alone in front of a large block.
    """
    current: Span | None = None
    size = 0
    limit = target_tokens
    for atom in atoms:
        span = atom.span
        is_heading = span.kind is BlockKind.HEADING
        if (
            current is not None
            and current.section is span.section
            and size + atom.size_tokens <= limit
            and span.end - current.start <= max_characters
        ):
            current = current.until(span.end)
            size += atom.size_tokens
            limit = limit if is_heading else target_tokens
            continue
        if current is not None:
            yield current
        current, size = span, atom.size_tokens
        limit = target_tokens + (slack_tokens if is_heading else 0)
    if current is not None:
        yield current


class _Atomizer:
    """Blocks that fit are atoms; others are cut into sentences, those into slices."""

    def __init__(self, text: str, counter: TokenCounter, sizes: ChunkSizes) -> None:
        self._text = text
        self._counter = counter
        self._target = sizes.fill_tokens
        self._max_characters = sizes.max_characters
        self._slice_characters = min(_CHARACTERS_PER_TOKEN * self._target, sizes.max_characters)

    def atoms(self, blocks: Iterable[Span]) -> Iterator[Atom]:
        for atom in self._measured(blocks):
            if atom.size_tokens <= self._target:
                yield atom
            else:
                yield from self._sentence_atoms(atom.span)

    def _sentence_atoms(self, block: Span) -> Iterator[Atom]:
        by_line = block.kind in {BlockKind.CODE, BlockKind.TABLE}
        for atom in self._measured((lines if by_line else sentences)(self._text, block)):
            if atom.size_tokens <= self._target:
                yield atom
            else:
                yield from self._slice_atoms(atom.span)

    def _slice_atoms(self, part: Span) -> Iterator[Atom]:
        for atom in self._measured(slices(self._text, part, self._slice_characters)):
            if atom.size_tokens <= self._target:
                yield atom
            else:
                yield from self._token_atoms(atom.span)

    def _token_atoms(self, piece: Span) -> Iterator[Atom]:
        offsets = self._counter.offsets(self._text[piece.start : piece.end])
        return self._measured(divided(self._text, piece, offsets, self._target))

    def _measured(self, spans: Iterable[Span]) -> Iterator[Atom]:
        """Spans with their sizes; those too long for a chunk are not worth counting."""
        for batch in _batches(spans, self._max_characters):
            texts = [
                self._text[span.start : span.end]
                for span in batch
                if span.length <= self._max_characters
            ]
            counts = iter(zip(texts, self._counter.count(texts), strict=True))
            for span in batch:
                too_long = span.length > self._max_characters
                yield Atom(span, sys.maxsize if too_long else size_tokens(*next(counts)))


def size_tokens(text: str, token_count: int) -> int:
    """The size that packing goes by: the token count, but long words do not pass as one token.

    WordPiece makes a single unknown token of any word over 100 characters, however long. In
    such words every started 4 characters count as a token, so that chunks of them stay small.
    """
    if len(text) <= _WORD_CHARACTERS:
        return token_count
    in_long_words = sum(
        -(-len(word) // _CHARACTERS_PER_TOKEN)
        for word in text.split()
        if len(word) > _WORD_CHARACTERS
    )
    return max(token_count, in_long_words)


def _batches(spans: Iterable[Span], max_characters: int) -> Iterator[list[Span]]:
    batch: list[Span] = []
    characters = 0
    for span in spans:
        batch.append(span)
        characters += min(span.length, max_characters)
        if len(batch) >= _BATCH_TEXTS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


class _Finisher:
    """Makes chunks of packed spans and sees to it that each fits the window."""

    def __init__(self, text: str, counter: TokenCounter, sizes: ChunkSizes) -> None:
        self._text = text
        self._counter = counter
        self._sizes = sizes

    def chunks(self, spans: Iterable[Span]) -> Iterator[Chunk]:
        for batch in _batches(spans, self._sizes.max_characters):
            paths = self._fitted_paths([span.section for span in batch])
            for span, path, count in zip(batch, paths, self._counts(batch, paths), strict=True):
                yield from self._fitting(span, path, count)

    def _counts(self, spans: Sequence[Span], paths: Sequence[tuple[str, ...]]) -> list[int]:
        """Tokens of what is embedded for each span, special tokens included."""
        counts = self._counter.count(
            [
                embedding_text(path, self._text[span.start : span.end])
                for span, path in zip(spans, paths, strict=True)
            ]
        )
        return [count + self._sizes.special_tokens for count in counts]

    def _fitting(self, span: Span, path: tuple[str, ...], count: int) -> Iterator[Chunk]:
        """The span as a chunk, or in parts when it does not fit after all.

        The sizes of atoms do not add up exactly in every tokenizer.
        """
        stack = [(span, count)]
        while stack:
            span, count = stack.pop()
            if count <= self._sizes.max_tokens or span.length == 1:
                yield Chunk(self._text[span.start : span.end], span.start, span.end, path, count)
                continue
            parts = self._halves(span)
            counts = self._counts(parts, [path] * len(parts))
            stack.extend(reversed(list(zip(parts, counts, strict=True))))

    def _halves(self, span: Span) -> list[Span]:
        offsets = self._counter.offsets(self._text[span.start : span.end])
        parts = list(divided(self._text, span, offsets, max(1, -(-len(offsets) // 2))))
        if len(parts) > 1:
            return parts
        # The tokenizer gave no place to cut at: cut in the middle.
        middle = span.start + span.length // 2
        bounds = ((span.start, middle), (middle, span.end))
        cut = (trimmed(self._text, start, end) for start, end in bounds)
        return [span.part(start, end) for start, end in cut if start < end]

    def _fitted_paths(self, sections: Sequence[Section]) -> list[tuple[str, ...]]:
        """Each span's heading path, short enough; sections of one path are counted once."""
        distinct = list(dict.fromkeys(section.heading_path for section in sections))
        shortened = [tuple(_shortened(heading) for heading in path) for path in distinct]
        counts = self._counter.count([" > ".join(path) for path in shortened])
        fitted = {
            path: short if count <= self._sizes.prefix_tokens else self._fitted(short)
            for path, short, count in zip(distinct, shortened, counts, strict=True)
        }
        return [fitted[section.heading_path] for section in sections]

    def _fitted(self, path: tuple[str, ...]) -> tuple[str, ...]:
        """The longest innermost part of the path that fits, at least a cut last heading."""
        limit = self._sizes.prefix_tokens
        endings = [path[first:] for first in range(1, len(path))]
        counts = self._counter.count([" > ".join(ending) for ending in endings])
        for ending, count in zip(endings, counts, strict=True):
            if count <= limit:
                return ending
        offsets = self._counter.offsets(path[-1])
        for last in range(min(limit, len(offsets)) - 1, -1, -1):
            heading = path[-1][: offsets[last][0]].rstrip() + HEADING_CUT
            if last and self._counter.count([heading])[0] <= limit:
                return (heading,)
        return ()


def _shortened(heading: str) -> str:
    if len(heading) <= _HEADING_CHARACTERS:
        return heading
    return heading[: _HEADING_CHARACTERS - 1].rstrip() + HEADING_CUT
