"""A chunk: the unit that is embedded, stored and found."""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Final

from common.extraction.extracted_text import heading_title

HEADING_CUT: Final = "…"  # what a heading that was cut ends with

_HEADING_MARKS = re.compile(r"[ \t]*(?:#|=+[ \t]*$|-+[ \t]*$)")
_LINE_CHARACTERS: Final = 2000


@dataclass(frozen=True, slots=True)
class Chunk:
    """A span of an extracted text.

    text is exactly the extracted text from start to end (characters, half open). heading_path
    holds the headings above it and that of its own section, outermost first, shortened where
    they would fill the window. token_count is that of embedding_text(heading_path, text) in the
    model's tokenizer, special tokens included.
    """

    text: str
    start: int
    end: int
    heading_path: tuple[str, ...]
    token_count: int

    @property
    def hash(self) -> str:
        """SHA-256, in hexadecimal, of what is embedded: chunks of one hash share a vector."""
        value = json.dumps(
            [self.heading_path, self.text], ensure_ascii=False, separators=(",", ":")
        )
        return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()


def embedding_text(heading_path: tuple[str, ...], text: str) -> str:
    """What is embedded for a chunk: its heading path on a line of its own, then its text.

    The headings that the text itself begins with are left out, so as not to say them twice.
    """
    path = _not_stated(heading_path, text)
    return f"{' > '.join(path)}\n{text}" if path else text


def _not_stated(heading_path: tuple[str, ...], text: str) -> tuple[str, ...]:
    path = list(heading_path)
    position = 0
    while path and position < len(text):
        end = text.find("\n", position)
        end = len(text) if end < 0 else end
        line = text[position : min(end, position + _LINE_CHARACTERS)]
        stated = next((heading for heading in reversed(path) if _states(line, heading)), None)
        if stated is not None:
            path.remove(stated)
        elif line.strip() and not _HEADING_MARKS.match(line):
            break
        position = end + 1
    return tuple(path)


def _states(line: str, heading: str) -> bool:
    if not line.strip():
        return False
    title = heading_title(line)
    if heading.endswith(HEADING_CUT):
        return title.startswith(heading[: -len(HEADING_CUT)])
    return title == heading
