"""DOCX: paragraphs, headings and tables, through python-docx."""

import re
from collections.abc import Iterator
from io import BytesIO
from typing import Any, Final
from zipfile import BadZipFile, ZipFile

import docx
from docx.oxml.ns import qn

from common.extraction.extracted_text import BlockKind, ExtractedText, UnreadableDocument
from common.extraction.text_builder import TextBuilder

_UNCOMPRESSED_BYTES: Final = 256 << 20

_HEADING_STYLE = re.compile(r"heading (\d)", re.IGNORECASE)
_PARAGRAPH, _TABLE, _ROW, _CELL = qn("w:p"), qn("w:tbl"), qn("w:tr"), qn("w:tc")
_TEXT = qn("w:t")
_SPACES: Final = {qn("w:tab"): "\t", qn("w:br"): "\n", qn("w:cr"): "\n"}
_STYLE = f"{qn('w:pPr')}/{qn('w:pStyle')}"
_NUMBERING = f"{qn('w:pPr')}/{qn('w:numPr')}"
_VALUE = qn("w:val")
# Holds an older form of the text beside it; tab stops in properties are no tabs.
_SKIPPED: Final = {
    "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback",
    qn("w:pPr"),
    qn("w:rPr"),
    qn("w:tblPr"),
    qn("w:sectPr"),
}


def extract_docx(content: bytes) -> ExtractedText:
    """Paragraphs and tables as blocks, a table's rows as lines with " | " between the cells.

    Raises UnreadableDocument when the file is broken or would unpack to more than 256 MiB.
    """
    _check_size(content)
    try:
        document = docx.Document(BytesIO(content))
        levels = _heading_levels(document)
        body: Any = document.element.body
    except Exception as error:  # python-docx raises what zipfile, lxml or a missing part raise
        raise UnreadableDocument(f"the DOCX file cannot be read: {error}") from error
    builder = TextBuilder()
    for element in _outer(body, {_PARAGRAPH, _TABLE}):
        if element.tag == _TABLE:
            _add_table(builder, element)
        else:
            _add_paragraph(builder, element, levels)
    return builder.finish()


def _check_size(content: bytes) -> None:
    """zipfile reads no more of a member than its declared size, so the declared sizes bound it."""
    try:
        with ZipFile(BytesIO(content)) as archive:
            total_bytes = sum(member.file_size for member in archive.infolist())
    except (BadZipFile, OSError, ValueError) as error:
        raise UnreadableDocument(f"the DOCX file cannot be read: {error}") from error
    if total_bytes > _UNCOMPRESSED_BYTES:
        raise UnreadableDocument(
            f"the DOCX file would unpack to {total_bytes >> 20} MiB, "
            f"more than the {_UNCOMPRESSED_BYTES >> 20} MiB allowed"
        )


def _heading_levels(document: Any) -> dict[str, int]:
    """Heading levels by style id; a title is above all headings."""
    levels: dict[str, int] = {}
    for style in document.styles:
        heading = _HEADING_STYLE.fullmatch(style.name or "")
        if heading:
            levels[style.style_id] = int(heading[1]) + 1
        elif style.name == "Title":
            levels[style.style_id] = 1
    return levels


def _add_paragraph(builder: TextBuilder, paragraph: Any, levels: dict[str, int]) -> None:
    style = paragraph.find(_STYLE)
    level = levels.get(style.get(_VALUE), 0) if style is not None else 0
    kind = BlockKind.HEADING if level else BlockKind.PARAGRAPH
    if kind is BlockKind.PARAGRAPH and paragraph.find(_NUMBERING) is not None:
        kind = BlockKind.LIST_ITEM
    builder.add(kind, _text(paragraph), level)


def _add_table(builder: TextBuilder, table: Any) -> None:
    rows = (
        " | ".join(" ".join(_text(cell).split()) for cell in _outer(row, {_CELL}))
        for row in _outer(table, {_ROW})
    )
    builder.add(BlockKind.TABLE, "\n".join(row for row in rows if row.strip(" |")))


def _text(element: Any) -> str:
    parts: list[str] = []
    for node in _outer(element, {_TEXT, _PARAGRAPH, *_SPACES}, inside={_PARAGRAPH}):
        if node.tag == _TEXT:
            parts.append(node.text or "")
        else:
            parts.append(_SPACES.get(node.tag, "\n"))
    return "".join(parts)


def _outer(root: Any, tags: set[str], inside: set[str] | None = None) -> Iterator[Any]:
    """Elements of these tags below root in document order, not looking inside those found.

    Those of the tags `inside` are looked into all the same.
    """
    stack = list(reversed(root))
    while stack:
        element = stack.pop()
        if element.tag in _SKIPPED:
            continue
        found = element.tag in tags
        if found:
            yield element
        if not found or (inside and element.tag in inside):
            stack.extend(reversed(element))
