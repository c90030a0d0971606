"""Puts a text together out of blocks, for formats whose source is not the text."""

from common.extraction.extracted_text import BlockKind, Blocks, ExtractedText

_TIGHT = {BlockKind.LIST_ITEM, BlockKind.TABLE}


class TextBuilder:
    """Blocks with a blank line between them; list items and table rows follow line by line."""

    def __init__(self) -> None:
        self.blocks = Blocks()
        self._parts: list[str] = []
        self._length = 0
        self._last_kind: BlockKind | None = None

    def add(self, kind: BlockKind, text: str, level: int = 0) -> None:
        """Add a block; one that is blank is left out."""
        text = text.strip()
        if not text:
            return
        if self._parts:
            tight = kind is self._last_kind and kind in _TIGHT
            self._append("\n" if tight else "\n\n")
        start = self._length
        self._append(text)
        self.blocks.append(kind, start, self._length, level)
        self._last_kind = kind

    def finish(self, title: str | None = None) -> ExtractedText:
        """The text and blocks added."""
        return ExtractedText("".join(self._parts), self.blocks, title)

    def _append(self, text: str) -> None:
        self._parts.append(text)
        self._length += len(text)
