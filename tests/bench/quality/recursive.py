"""The size-based splitter most systems use: separators from coarse to fine, packed up to a size.

The algorithm of LangChain's RecursiveCharacterTextSplitter with its defaults (the length is that
in characters, a separator stays at the start of what follows, blank ends are stripped) and without
overlap. It cuts the collections measured here exactly where version 1.1.3 of that library does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from common.extraction.extracted_text import trimmed

Piece = tuple[int, int]
"""Start and end in characters, half open."""

SEPARATORS = ("\n\n", "\n", ". ", " ", "")


def split(text: str, size: int, separators: Sequence[str] = SEPARATORS) -> list[Piece]:
    """Chunks of at most `size` characters, in order; `separators` ends with the empty one."""
    return list(_split(text, (0, len(text)), size, separators))


def _split(text: str, whole: Piece, size: int, separators: Sequence[str]) -> Iterator[Piece]:
    level = next(i for i, found in enumerate(separators) if found in text[slice(*whole)])
    waiting: list[Piece] = []
    for piece in _pieces(text, whole, separators[level]):
        if piece[1] - piece[0] < size:
            waiting.append(piece)
            continue
        yield from _packed(text, waiting, size)
        waiting = []
        finer = separators[level + 1 :]
        yield from _split(text, piece, size, finer) if finer else [piece]
    yield from _packed(text, waiting, size)


def _pieces(text: str, whole: Piece, separator: str) -> Iterator[Piece]:
    start, end = whole
    if not separator:
        yield from ((place, place + 1) for place in range(start, end))
        return
    at = text.find(separator, start, end)
    while at >= 0:
        yield start, at
        start, at = at, text.find(separator, at + len(separator), end)
    yield start, end


def _packed(text: str, pieces: Sequence[Piece], size: int) -> Iterator[Piece]:
    """Neighbours together as long as they fit, without the blanks at their ends."""
    groups: list[Piece] = []
    for start, end in pieces:
        if groups and end - groups[-1][0] <= size:
            groups[-1] = groups[-1][0], end
        else:
            groups.append((start, end))
    spans = (trimmed(text, *group) for group in groups)
    yield from (span for span in spans if span[0] < span[1])
