"""A chunk: the unit that is embedded, stored and found."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Final

from common.extraction.extracted_text import heading_title
from common.ports.embedder import TokenIds

HEADING_CUT: Final = "…"  # what a heading that was cut ends with

_HEADING_MARKS = re.compile(r"[ \t]*(?:#|=+[ \t]*$|-+[ \t]*$)")
_LINE_CHARACTERS: Final = 2000
_LINES_LOOKED_AT: Final = 32  # for headings; what looks like many may be a fence of comments


@dataclass(frozen=True, slots=True)
class Chunk:
    """A span of an extracted text.

    text is exactly the extracted text from start to end (characters, half open). heading_path
    holds the headings above it and that of its own section, outermost first, shortened where
    they would fill the window; the last of them is embedded with the text. token_count is that of
    embedding_text(heading_path, text) in the model's tokenizer, special tokens included;
    token_ids are those tokens without the special ones. hash is the SHA-256, in hexadecimal, of
    what is embedded: chunks of one hash share a vector. It is computed once, with the chunk, in
    the thread that cuts.
    """

    text: str
    start: int
    end: int
    heading_path: tuple[str, ...]
    token_count: int
    token_ids: TokenIds[int] | None = field(default=None, repr=False, compare=False)
    hash: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        value = embedding_text(self.heading_path, self.text).encode("utf-8", "surrogatepass")
        object.__setattr__(self, "hash", hashlib.sha256(value).hexdigest())


def embedding_text(heading_path: tuple[str, ...], text: str) -> str:
    """What is embedded for a chunk: the heading of its section on a line of its own, then its text.

    Only the nearest heading: so a title that changes, or a document that moves within a site, is
    no reason to embed everything below it again. It is left out where the text begins with it.
    """
    heading = embedded_heading(heading_path, text)
    return f"{heading}\n{text}" if heading else text


def embedded_heading(heading_path: tuple[str, ...], text: str) -> str:
    """The line in front of a chunk's text; empty where the text says it itself."""
    if not heading_path or _begins_with(heading_path[-1], text):
        return ""
    return heading_path[-1]


def _begins_with(heading: str, text: str) -> bool:
    """Whether the headings that the text begins with are or include this one."""
    position = 0
    for _ in range(_LINES_LOOKED_AT):
        if position >= len(text):
            break
        end = text.find("\n", position)
        end = len(text) if end < 0 else end
        line = text[position : min(end, position + _LINE_CHARACTERS)]
        if _states(line, heading):
            return True
        if line.strip() and not _HEADING_MARKS.match(line):
            return False
        position = end + 1
    return False


def _states(line: str, heading: str) -> bool:
    if not line.strip():
        return False
    title = heading_title(line)
    if heading.endswith(HEADING_CUT):
        return title.startswith(heading[: -len(HEADING_CUT)])
    return title == heading
