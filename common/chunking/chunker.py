"""From extracted text to chunks: sections, atoms, cuts, and a last check of the window.

Atoms are the finest spans that may begin a chunk; which of them do is decided by the content
around them (common/chunking/boundaries.py), so that an edit changes the chunks it touches and one
or two beside them. Every text is tokenised once: the ids of atoms make those of chunks, where the
tokenizer allows it, and chunks carry them to the embedder.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice, pairwise
from typing import Final

from common.chunking.boundaries import Spacing, cuts, spacing_for, sure_cut
from common.chunking.chunk import HEADING_CUT, Chunk, embedded_heading, embedding_text
from common.chunking.segmentation import (
    Section,
    Span,
    divided,
    lines,
    phrases,
    section_spans,
    sentences,
)
from common.extraction.extracted_text import BlockKind, ExtractedText, trimmed
from common.ports.embedder import TokenIds, Tokenizer

CHUNKER_VERSION = 2

_BATCH_TEXTS: Final = 512
_BATCH_CHARACTERS: Final = 1 << 18
_MIN_ROOM_TOKENS: Final = 24
_PREFIX_TOKENS: Final = 64
_HEADING_CHARACTERS: Final = 200
_WORD_CHARACTERS: Final = 100
_CHARACTERS_PER_TOKEN: Final = 4
_GROUPS_TOGETHER: Final = 64
_ATOMS_TOGETHER: Final = 1 << 13
_ATOMS_AT_MOST: Final = 1 << 15  # held for want of a place that is sure to be cut
_PLAIN_BLANKS: Final = frozenset(" \t\n\r")  # what every tokenizer takes for a blank


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


BLOCK, SENTENCE, PHRASE = 2, 1, 0
"""What an atom begins, the better places to cut at first."""


@dataclass(frozen=True, slots=True)
class Atom:
    """A span that is not cut any further, its token ids, its size in tokens, and what it begins."""

    span: Span
    ids: TokenIds[int]
    size_tokens: int
    begins: int = BLOCK


def chunk_text(extracted: ExtractedText, tokenizer: Tokenizer, sizes: ChunkSizes) -> list[Chunk]:
    """The chunks of a text, in order; none for a text of blanks.

    Every non-blank character is in exactly one chunk, chunks begin and end with one, and none
    exceeds the window. Takes time linear in the text.
    """
    atoms = _Atomizer(extracted.text, tokenizer, sizes).atoms(section_spans(extracted))
    groups = grouped(extracted.text, atoms, sizes)
    return list(_Finisher(extracted.text, tokenizer, sizes).chunks(groups))


def grouped(text: str, atoms: Iterable[Atom], sizes: ChunkSizes) -> Iterator[list[Atom]]:
    """The atoms of each chunk; a section begins one."""
    spacing = spacing_of(sizes)
    for _, section in groupby(atoms, key=lambda atom: id(atom.span.section)):
        for group in _section_groups(text, section, spacing):
            yield from _short_enough(group, sizes.max_characters)


def spacing_of(sizes: ChunkSizes) -> Spacing:
    return spacing_for(sizes.fill_tokens, sizes.room_tokens - sizes.prefix_tokens)


def _section_groups(text: str, section: Iterator[Atom], spacing: Spacing) -> Iterator[list[Atom]]:
    """A long section is cut while it is read, at places that hold whatever follows."""
    members: list[Atom] = []
    while more := list(islice(section, _ATOMS_TOGETHER)):
        members += more
        if len(more) < _ATOMS_TOGETHER:
            break
        sizes, scores = _sizes_and_scores(text, members)
        sure = sure_cut(sizes, scores, spacing)
        if sure is None and len(members) >= _ATOMS_AT_MOST:
            sure = cuts(sizes, scores, spacing)[-1] or len(members)
        if sure is not None:
            yield from _groups(members[:sure], sizes[:sure], scores[:sure], spacing)
            members = members[sure:]
    yield from _groups(members, *_sizes_and_scores(text, members), spacing)


def _groups(
    atoms: list[Atom], sizes: list[int], scores: list[int], spacing: Spacing
) -> Iterator[list[Atom]]:
    for first, last in pairwise([*cuts(sizes, scores, spacing), len(atoms)]):
        yield atoms[first:last]


def _sizes_and_scores(text: str, atoms: list[Atom]) -> tuple[list[int], list[int]]:
    return [atom.size_tokens for atom in atoms], [_score(text, atom) for atom in atoms]


def _score(text: str, atom: Atom) -> int:
    """How well a chunk may begin here: by what begins, then by a hash of the text itself."""
    content = text[atom.span.start : atom.span.end].encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(content, digest_size=8).digest()
    return int.from_bytes(digest) + (atom.begins << 64)


def _short_enough(atoms: list[Atom], max_characters: int) -> Iterator[list[Atom]]:
    """Cut again where there are far more characters than tokens."""
    first = 0
    for place, atom in enumerate(atoms):
        if atom.span.end - atoms[first].span.start > max_characters:
            yield atoms[first:place]
            first = place
    yield atoms[first:]


class _Atomizer:
    """Blocks that fit are atoms; others are cut into sentences, those into slices."""

    def __init__(self, text: str, tokenizer: Tokenizer, sizes: ChunkSizes) -> None:
        self._text = text
        self._tokenizer = tokenizer
        self._target = sizes.fill_tokens
        self._block = spacing_of(sizes).farthest
        self._max_characters = sizes.max_characters
        self._slice_characters = min(_CHARACTERS_PER_TOKEN * self._target, sizes.max_characters)

    def atoms(self, blocks: Iterable[Span]) -> Iterator[Atom]:
        for atom in self._measured(blocks, BLOCK):
            # What may be one chunk by itself is not cut: half a paragraph is found less well.
            if atom.size_tokens <= self._block:
                yield atom
            else:
                yield from _beginning(BLOCK, self._sentence_atoms(atom.span))

    def _sentence_atoms(self, block: Span) -> Iterator[Atom]:
        cut = lines if block.kind in {BlockKind.CODE, BlockKind.TABLE} else sentences
        for atom in self._measured(cut(self._text, block), SENTENCE):
            if atom.size_tokens <= self._target:
                yield atom
            else:
                yield from _beginning(SENTENCE, self._phrase_atoms(atom.span))

    def _phrase_atoms(self, part: Span) -> Iterator[Atom]:
        for atom in self._measured(phrases(self._text, part, self._slice_characters), PHRASE):
            if atom.size_tokens <= self._target:
                yield atom
            else:
                yield from self._token_atoms(atom.span)

    def _token_atoms(self, piece: Span) -> Iterator[Atom]:
        offsets = self._tokenizer.offsets(self._text[piece.start : piece.end])
        return self._measured(divided(self._text, piece, offsets, self._target), PHRASE)

    def _measured(self, spans: Iterable[Span], begins: int) -> Iterator[Atom]:
        """Spans with their sizes; those too long for a chunk are not worth tokenising."""
        for batch in _batches(spans, self._max_characters):
            texts = [
                self._text[span.start : span.end]
                for span in batch
                if span.length <= self._max_characters
            ]
            encoded = iter(zip(texts, self._tokenizer.encode(texts), strict=True))
            for span in batch:
                if span.length > self._max_characters:
                    yield Atom(span, array("i"), sys.maxsize, begins)
                    continue
                text, ids = next(encoded)
                yield Atom(span, ids, size_tokens(text, len(ids)), begins)


def _beginning(what: int, atoms: Iterable[Atom]) -> Iterator[Atom]:
    """The same atoms, the first of which begins more than the others."""
    rest = iter(atoms)
    for first in islice(rest, 1):
        yield replace(first, begins=what)
    yield from rest


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
    """Makes chunks of grouped atoms and sees to it that each fits the window."""

    def __init__(self, text: str, tokenizer: Tokenizer, sizes: ChunkSizes) -> None:
        self._text = text
        self._tokenizer = tokenizer
        self._sizes = sizes

    def chunks(self, groups: Iterable[list[Atom]]) -> Iterator[Chunk]:
        for batch in _some_at_a_time(groups):
            spans = [_whole(group) for group in batch]
            paths = self._fitted_paths([span.section for span in spans])
            for span, path, ids in zip(spans, paths, self._ids(batch, spans, paths), strict=True):
                yield from self._fitting(span, path, ids)

    def _ids(
        self, groups: list[list[Atom]], spans: list[Span], paths: list[tuple[str, ...]]
    ) -> list[TokenIds[int]]:
        """Those of what is embedded for each group: put together, or tokenised once more."""
        headings = self._encoded_once(
            [
                embedded_heading(path, self._text[span.start : span.end])
                for span, path in zip(spans, paths, strict=True)
            ]
        )
        found: list[TokenIds[int] | None] = [
            self._together(heading, group) for heading, group in zip(headings, groups, strict=True)
        ]
        again = [place for place, ids in enumerate(found) if ids is None]
        encoded = iter(self._encoded([spans[i] for i in again], [paths[i] for i in again]))
        return [next(encoded) if ids is None else ids for ids in found]

    def _encoded_once(self, texts: list[str]) -> list[TokenIds[int]]:
        distinct = list(dict.fromkeys(texts))
        ids = dict(zip(distinct, self._tokenizer.encode(distinct), strict=True))
        return [ids[text] for text in texts]

    def _together(self, heading: TokenIds[int], atoms: list[Atom]) -> TokenIds[int] | None:
        """None where the tokens of the parts may not be those of the whole."""
        if not self._tokenizer.separable:
            return None
        ids = heading + atoms[0].ids
        for before, atom in pairwise(atoms):
            between = self._text[before.span.end : atom.span.start]
            if not _PLAIN_BLANKS.intersection(between):
                return None
            ids.extend(atom.ids)
        return ids

    def _encoded(
        self, spans: Sequence[Span], paths: Sequence[tuple[str, ...]]
    ) -> list[TokenIds[int]]:
        return self._tokenizer.encode(
            [
                embedding_text(path, self._text[span.start : span.end])
                for span, path in zip(spans, paths, strict=True)
            ]
        )

    def _fitting(self, span: Span, path: tuple[str, ...], ids: TokenIds[int]) -> Iterator[Chunk]:
        """The span as a chunk, or in parts when it does not fit after all.

        The sizes of atoms do not add up exactly in every tokenizer.
        """
        stack = [(span, ids)]
        while stack:
            span, ids = stack.pop()
            count = len(ids) + self._sizes.special_tokens
            if count <= self._sizes.max_tokens or span.length == 1:
                text = self._text[span.start : span.end]
                yield Chunk(text, span.start, span.end, path, count, ids)
                continue
            parts = self._halves(span)
            encoded = self._encoded(parts, [path] * len(parts))
            stack.extend(reversed(list(zip(parts, encoded, strict=True))))

    def _halves(self, span: Span) -> list[Span]:
        offsets = self._tokenizer.offsets(self._text[span.start : span.end])
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
        counts = self._counts([" > ".join(path) for path in shortened])
        fitted = {
            path: short if count <= self._sizes.prefix_tokens else self._fitted(short)
            for path, short, count in zip(distinct, shortened, counts, strict=True)
        }
        return [fitted[section.heading_path] for section in sections]

    def _fitted(self, path: tuple[str, ...]) -> tuple[str, ...]:
        """The longest innermost part of the path that fits, at least a cut last heading."""
        limit = self._sizes.prefix_tokens
        endings = [path[first:] for first in range(1, len(path))]
        counts = self._counts([" > ".join(ending) for ending in endings])
        for ending, count in zip(endings, counts, strict=True):
            if count <= limit:
                return ending
        offsets = self._tokenizer.offsets(path[-1])
        for last in range(min(limit, len(offsets)) - 1, -1, -1):
            heading = path[-1][: offsets[last][0]].rstrip() + HEADING_CUT
            if last and self._counts([heading])[0] <= limit:
                return (heading,)
        return ()

    def _counts(self, texts: list[str]) -> list[int]:
        return [len(ids) for ids in self._tokenizer.encode(texts)]


def _whole(atoms: list[Atom]) -> Span:
    return atoms[0].span.until(atoms[-1].span.end)


def _some_at_a_time(groups: Iterable[list[Atom]]) -> Iterator[list[list[Atom]]]:
    """Some at a time: enough to tokenise together, few enough to keep memory bounded."""
    batch: list[list[Atom]] = []
    for group in groups:
        batch.append(group)
        if len(batch) == _GROUPS_TOGETHER:
            yield batch
            batch = []
    if batch:
        yield batch


def _shortened(heading: str) -> str:
    if len(heading) <= _HEADING_CHARACTERS:
        return heading
    return heading[: _HEADING_CHARACTERS - 1].rstrip() + HEADING_CUT
