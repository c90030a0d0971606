"""Where a text may be cut: sections, blocks, sentences, slices. Nothing here packs."""

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from zlib import crc32

from common.extraction.extracted_text import (
    Block,
    BlockKind,
    ExtractedText,
    heading_title,
    trimmed,
)

_HEADINGS_TOGETHER: Final = 8  # consecutive headings without text that share a section

# One set of characters comes first, so that the engine skips quickly to the next candidate.
_SENTENCE_END = re.compile(
    r"""[.!?…。！？｡\r\n]
    (?: (?<=[\r\n])
    |   (?<=[。！？｡]) (?![。！？｡]) [」』”’）]?
    |   (?<=[.!?…]) ["'”’)\]]? (?=\s) (?!\s[a-z])  # not behind "e.g." and the like
    )""",
    re.VERBOSE,
)
_WORD = re.compile(r"\S+")
_WORDS_A_PHRASE: Final = 16  # on average
_WORD_CHARACTERS: Final = 64  # of a word that are hashed
_LINE_END = re.compile(r"[\r\n]")


@dataclass(frozen=True, slots=True, eq=False)
class Section:
    """The text from a heading to the next; heading_path includes its own, outermost first."""

    heading_path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """Part of a section's text, in characters, half open."""

    section: Section
    kind: BlockKind
    start: int
    end: int

    @property
    def length(self) -> int:
        """In characters."""
        return self.end - self.start

    def part(self, start: int, end: int) -> "Span":
        """Another span of the same block."""
        return Span(self.section, self.kind, start, end)

    def until(self, end: int) -> "Span":
        """This span, extended."""
        return Span(self.section, self.kind, self.start, end)


def section_spans(extracted: ExtractedText) -> Iterator[Span]:
    """Every block as a span in its section.

    A heading begins a section, but headings with nothing under them travel with the next one.
    """
    outline = _Outline(extracted.title)
    headings: list[Block] = []
    section = Section(outline.path)
    for block in extracted.blocks:
        if block.kind is BlockKind.HEADING:
            headings.append(block)
            outline.enter(block.level, extracted.text[block.start : block.end])
            if len(headings) < _HEADINGS_TOGETHER:
                continue
        if headings:
            section = Section(outline.path)
            yield from (_span(section, heading) for heading in headings)
            headings.clear()
        if block.kind is not BlockKind.HEADING:
            yield _span(section, block)
    section = Section(outline.path)
    yield from (_span(section, heading) for heading in headings)


def _span(section: Section, block: Block) -> Span:
    return Span(section, block.kind, block.start, block.end)


class _Outline:
    """The headings that are open at a place in the document."""

    def __init__(self, title: str | None) -> None:
        self._open: list[tuple[int, str]] = [(0, title)] if title else []

    @property
    def path(self) -> tuple[str, ...]:
        """Titles, outermost first."""
        return tuple(title for _, title in self._open if title)

    def enter(self, level: int, source: str) -> None:
        """A heading of this level begins; it closes those of its level and below."""
        while self._open and self._open[-1][0] >= level:
            self._open.pop()
        self._open.append((level, heading_title(source)))


def sentences(text: str, span: Span) -> Iterator[Span]:
    """Parts of a span that end with a sentence or a line."""
    return _cut_at(_SENTENCE_END, text, span)


def lines(text: str, span: Span) -> Iterator[Span]:
    """The non-blank lines of a span."""
    return _cut_at(_LINE_END, text, span)


def _cut_at(pattern: re.Pattern[str], text: str, span: Span) -> Iterator[Span]:
    start = span.start
    for match in pattern.finditer(text, span.start, span.end):
        first, last = trimmed(text, start, match.end())
        if first < last:
            yield span.part(first, last)
        start = match.end()
    first, last = trimmed(text, start, span.end)
    if first < last:
        yield span.part(first, last)


def phrases(text: str, span: Span, width_characters: int) -> Iterator[Span]:
    """Parts of some words each, cut in front of words that their hash picks, so that the same
    words are cut alike wherever they stand. Parts that would be too long are cut by length."""
    start, before = span.start, 0
    for word in _WORD.finditer(text, span.start, span.end):
        first, last = word.span()
        hashed = crc32(text[first : min(last, first + _WORD_CHARACTERS)].encode("utf-8", "replace"))
        picked = (31 * before + hashed) % 0xFFFFFFFB % _WORDS_A_PHRASE == 0
        before = hashed
        if first > start and (picked or last - start > width_characters):
            yield from slices(text, span.part(start, first), width_characters)
            start = first
    yield from slices(text, span.part(start, span.end), width_characters)


def slices(text: str, span: Span, width_characters: int) -> Iterator[Span]:
    """Parts of a bounded length, cut at blanks where there are any."""
    start = span.start
    while start < span.end:
        end = min(start + width_characters, span.end)
        if end < span.end and not text[end].isspace() and not text[end - 1].isspace():
            words = text[start:end].rsplit(None, 1)
            end -= len(words[1]) if len(words) > 1 else 0
        first, last = trimmed(text, start, end)
        if first < last:
            yield span.part(first, last)
        start = end


def divided(
    text: str, span: Span, offsets: list[tuple[int, int]], max_tokens: int
) -> Iterator[Span]:
    """About equal parts of at most max_tokens, at blanks where there are any, else anywhere.

    offsets are those of the span's tokens, relative to its start.
    """
    parts = -(-len(offsets) // max_tokens)
    if parts < 2:
        yield span
        return
    quota = -(-len(offsets) // parts)
    starts = [span.start + first for first, _ in offsets]
    position = span.start
    token = 0
    while token + quota < len(starts):
        token = _cut_token(text, starts, token, quota)
        if token >= len(starts):
            break
        first, last = trimmed(text, position, starts[token])
        if first < last:
            yield span.part(first, last)
        position = starts[token]
    first, last = trimmed(text, position, span.end)
    if first < last:
        yield span.part(first, last)


def _cut_token(text: str, starts: list[int], token: int, quota: int) -> int:
    """The token to cut in front of, at most quota behind the given one where possible."""
    latest = token + quota
    for candidate in range(latest, token + quota // 2, -1):
        if text[starts[candidate] - 1].isspace() and starts[candidate] > starts[token]:
            return candidate
    # Several tokens may stand for one character: cut in front of the first of them.
    first = bisect_left(starts, starts[latest], token, latest)
    if starts[first] > starts[token]:
        return first
    while latest < len(starts) and starts[latest] == starts[token]:
        latest += 1
    return latest
