"""Plain text: paragraphs between blank lines."""

import re

from common.extraction.extracted_text import BlockKind, CoveringBlocks, ExtractedText

# The atomic group keeps "\r\n" from being taken for two line ends.
_BLANK_LINES = re.compile(r"(?>\r\n|\r|\n)[^\S\r\n]*(?>\r\n|\r|\n)\s*")


def extract_plain(text: str) -> ExtractedText:
    """The text as it is, a block to a paragraph."""
    blocks = CoveringBlocks(text)
    start = 0
    for gap in _BLANK_LINES.finditer(text):
        blocks.add(BlockKind.PARAGRAPH, start, gap.start())
        start = gap.end()
    blocks.add(BlockKind.PARAGRAPH, start, len(text))
    return ExtractedText(text, blocks.finish())
