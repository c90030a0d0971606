"""What every format is turned into: a text and the blocks it is made of."""

import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

_HEADING_CHARACTERS: Final = 2000  # of a heading's source that are looked at for its title

_ATX_OPENING = re.compile(r"#{1,6}(?:[ \t]+|$)")
_ATX_CLOSING = re.compile(r"(?:(?<=[ \t])|^)#+[ \t]*$")
_SETEXT_UNDERLINE = re.compile(r"[\r\n]+[ \t]*(?:=+|-+)[ \t]*$")
_LINK = re.compile(r"!?\[([^\[\]]*)\](?:\([^()]*\)|\[[^\[\]]*\])")
_EMPHASIS = re.compile(r"\*{1,3}(?=\S)([^*]*)(?<=\S)\*{1,3}")


class UnreadableDocument(Exception):  # noqa: N818 - named for what it says of the document
    """The content cannot be turned into text; the message is a reason for a person."""


class BlockKind(IntEnum):
    """What a block is; it decides where a block too large for a chunk may be cut."""

    PARAGRAPH = 0
    HEADING = 1
    LIST_ITEM = 2
    CODE = 3
    TABLE = 4
    FRONT_MATTER = 5
    PAGE = 6


@dataclass(frozen=True, slots=True)
class Block:
    """A half-open span of characters; level is a heading's (1 is the outermost) or else 0."""

    kind: BlockKind
    start: int
    end: int
    level: int = 0


class Blocks:
    """Blocks in document order, in 10 bytes each: a document may have millions."""

    def __init__(self) -> None:
        self._starts = array("I")
        self._ends = array("I")
        self._kinds = bytearray()
        self._levels = bytearray()

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Block:
        kind = BlockKind(self._kinds[index])
        return Block(kind, self._starts[index], self._ends[index], self._levels[index])

    def __iter__(self) -> Iterator[Block]:
        return map(self.__getitem__, range(len(self)))

    def append(self, kind: BlockKind, start: int, end: int, level: int = 0) -> None:
        """Add a block behind the last one."""
        self._starts.append(start)
        self._ends.append(end)
        self._kinds.append(kind)
        self._levels.append(level)

    def merge_tail(self, first: int) -> None:
        """Make one block, of the kind of the last, of all blocks from index first on."""
        if first >= len(self) - 1:
            return
        start, end, kind = self._starts[first], self._ends[-1], self[len(self) - 1].kind
        for column in (self._starts, self._ends, self._kinds, self._levels):
            del column[first:]
        self.append(kind, start, end)


@dataclass(frozen=True, slots=True)
class ExtractedText:
    """A document's text; every non-blank character lies in exactly one block.

    title is an outermost heading that the text itself does not contain (HTML's title).
    """

    text: str
    blocks: Blocks
    title: str | None = None


class CoveringBlocks:
    """Collects blocks in order and makes paragraphs of what lies between them.

    A parser may leave text out (a list that is nested too deeply); no text may be lost for it.
    """

    def __init__(self, text: str) -> None:
        self.blocks = Blocks()
        self._text = text
        self._end = 0

    def add(self, kind: BlockKind, start: int, end: int, level: int = 0) -> None:
        """Add a block; what overlaps the block before it is cut off."""
        start = max(start, self._end)
        self._fill(start)
        start, end = trimmed(self._text, start, end)
        if start < end:
            self.blocks.append(kind, start, end, level)
            self._end = end

    def finish(self) -> Blocks:
        """All blocks, with the rest of the text made a paragraph."""
        self._fill(len(self._text))
        return self.blocks

    def _fill(self, until: int) -> None:
        start, end = trimmed(self._text, self._end, until)
        if start < end:
            self.blocks.append(BlockKind.PARAGRAPH, start, end)
            self._end = end


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without blank characters at its ends; (end, end) when nothing else is in it."""
    if start >= end:
        return end, end
    if not text[start].isspace() and not text[end - 1].isspace():
        return start, end
    body = text[start:end]
    start += len(body) - len(body.lstrip())
    return (start, start + len(body.strip())) if start < end else (end, end)


def heading_title(source: str) -> str:
    """A heading as plain text on one line: no Markdown marks, links or emphasis.

    Only the first 2,000 characters are looked at.
    """
    title = source[:_HEADING_CHARACTERS].strip()
    title = _SETEXT_UNDERLINE.sub("", title)
    title = _ATX_OPENING.sub("", title, count=1) if title.startswith("#") else title
    title = _ATX_CLOSING.sub("", title)
    title = _EMPHASIS.sub(r"\1", _LINK.sub(r"\1", title))
    return " ".join(title.replace("`", "").split())
