"""Markdown: the source itself, with the block structure that markdown-it sees in it.

Only blocks are parsed, no inline markup. Large sources are parsed in segments, because
markdown-it keeps several Python objects for every line.
"""

import re
from collections.abc import Iterator
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

from common.extraction.extracted_text import BlockKind, CoveringBlocks, ExtractedText

_WHOLE_CHARACTERS: Final = 1 << 20  # sources up to here are parsed in one go
_SEGMENT_CHARACTERS: Final = 1 << 18
_LINE_CHARACTERS: Final = 1 << 14
_FRONT_MATTER_CHARACTERS: Final = 1 << 16

_LINE = re.compile(r"[^\r\n]*(?>\r\n|\r|\n)|[^\r\n]+")
_FENCE = re.compile(r" {0,3}(`{3,}+(?![^\r\n]*`)|~{3,}+)")
_FRONT_MATTER = re.compile(r"---[ \t]*(?:\r\n|\r|\n)")
_FRONT_MATTER_END = re.compile(r"^(?:---|\.\.\.)[ \t]*$", re.MULTILINE)

_KINDS: Final = {
    "paragraph_open": BlockKind.PARAGRAPH,
    "heading_open": BlockKind.HEADING,
    "fence": BlockKind.CODE,
    "code_block": BlockKind.CODE,
    "html_block": BlockKind.PARAGRAPH,
    "hr": BlockKind.PARAGRAPH,
    "table_open": BlockKind.TABLE,
}


def _block_parser() -> MarkdownIt:
    # Link definitions stay paragraphs: they are text of the document, and the rule for them
    # takes quadratic time on a long run of them.
    parser = MarkdownIt("commonmark").enable("table").disable("reference")
    parser.core.ruler.enableOnly(["normalize", "block"])
    return parser


def extract_markdown(text: str) -> ExtractedText:
    """The source text and its blocks: leaf blocks of CommonMark, tables, front matter.

    Headings inside lists and quotes are paragraphs: they head no section of the document.
    """
    blocks = CoveringBlocks(text)
    body = _front_matter_end(text)
    if body:
        blocks.add(BlockKind.FRONT_MATTER, 0, body)
    parser = _block_parser()
    for start, end, is_fence in _segments(text, body):
        if is_fence:
            blocks.add(BlockKind.CODE, start, end)
        else:
            _add_segment(blocks, parser, text, start, end)
    return ExtractedText(text, blocks.finish())


def _front_matter_end(text: str) -> int:
    opening = _FRONT_MATTER.match(text)
    if opening is None:
        return 0
    head = text[opening.end() : _FRONT_MATTER_CHARACTERS].replace("\r", "\n")
    closing = _FRONT_MATTER_END.search(head)
    return opening.end() + closing.end() if closing else 0


def _add_segment(
    blocks: CoveringBlocks, parser: MarkdownIt, text: str, start: int, end: int
) -> None:
    offsets: list[int] = []
    lines: list[str] = []
    for line in _LINE.finditer(text, start, end):
        offsets.append(line.start())
        # The beginning of a line decides what it is; markdown-it walks over every character.
        lines.append(text[line.start() : min(line.end(), line.start() + _LINE_CHARACTERS)])
    offsets.append(end)
    source = "\n".join(line.rstrip("\r\n") for line in lines)
    for kind, first, last, level in _leaves(parser.parse(source)):
        blocks.add(kind, offsets[first], offsets[min(last, len(lines))], level)


def _leaves(tokens: list[Token]) -> Iterator[tuple[BlockKind, int, int, int]]:
    """Kind, first line, line behind the last, and heading level of every leaf block."""
    list_depth = 0
    for token in tokens:
        if token.type.endswith("_list_open") or token.type.endswith("_list_close"):
            list_depth += token.nesting
        kind = _KINDS.get(token.type)
        if kind is None or token.map is None:
            continue
        level = 0
        if kind is BlockKind.HEADING:
            kind = BlockKind.HEADING if token.level == 0 else BlockKind.PARAGRAPH
            level = int(token.tag[1:]) if token.level == 0 else 0
        if kind is BlockKind.PARAGRAPH and list_depth:
            kind = BlockKind.LIST_ITEM
        yield kind, token.map[0], token.map[1], level


def _segments(text: str, start: int) -> Iterator[tuple[int, int, bool]]:
    """Spans to be parsed one by one, and whether each is a (very large) fenced code block."""
    if len(text) - start <= _WHOLE_CHARACTERS:
        yield start, len(text), False
        return
    segmenter = _Segmenter(start)
    for line in _LINE.finditer(text, start):
        yield from segmenter.take(text, line.start(), line.end())
    yield from segmenter.finish(len(text))


class _Segmenter:
    """Finds blank lines, outside of fences and in front of unindented text, to cut at."""

    def __init__(self, start: int) -> None:
        self._start = start
        self._fence = ""
        self._fence_start = 0
        self._after_blank = False

    def take(self, text: str, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """The segments that end with or before the line from start to end."""
        head = text[start : min(end, start + 200)]
        fence = _FENCE.match(head)
        if self._fence:
            if fence and fence[1].startswith(self._fence) and not head[fence.end() :].strip():
                yield from self._close_fence(end)
            return
        if self._may_cut(start, head):
            yield self._start, start, False
            self._start = start
        self._after_blank = not head.strip()
        if fence:
            self._fence, self._fence_start = fence[1], start

    def finish(self, end: int) -> Iterator[tuple[int, int, bool]]:
        """The segments that are left at the end of the text."""
        if self._fence:
            yield from self._close_fence(end)
        if self._start < end:
            yield self._start, end, False

    def _may_cut(self, start: int, head: str) -> bool:
        size = start - self._start
        safe = self._after_blank and not head[:1].isspace()
        return size >= _WHOLE_CHARACTERS or (safe and size >= _SEGMENT_CHARACTERS)

    def _close_fence(self, end: int) -> Iterator[tuple[int, int, bool]]:
        self._fence, self._after_blank = "", False
        if end - self._fence_start < _SEGMENT_CHARACTERS:
            return
        if self._start < self._fence_start:
            yield self._start, self._fence_start, False
        yield self._fence_start, end, True
        self._start = end
