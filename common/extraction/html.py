"""HTML: what a reader sees of a page, through selectolax (lexbor)."""

import re
from typing import Final

from selectolax.lexbor import LexborHTMLParser, LexborNode

from common.extraction.extracted_text import BlockKind, ExtractedText, heading_title
from common.extraction.text_builder import TextBuilder

_SKIPPED: Final = {"script", "style", "template", "noscript", "head", "-comment"}
_HEADINGS: Final = {f"h{level}": level for level in range(1, 7)}
_BLOCKS: Final = {
    "address", "article", "aside", "blockquote", "body", "caption", "dd", "details", "dialog",
    "div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "header", "hgroup",
    "hr", "html", "legend", "main", "menu", "nav", "ol", "optgroup", "option", "p", "section",
    "select", "summary", "ul",
}  # fmt: skip
_CELLS: Final = {"td", "th"}

# Elements that the parser closes by itself, and void ones: they do not nest by being left open.
_NOT_NESTING: Final = {
    "area", "base", "br", "col", "colgroup", "dd", "dt", "embed", "hr", "img", "input", "li",
    "link", "meta", "option", "p", "param", "source", "tbody", "td", "tfoot", "th", "thead", "tr",
    "track", "wbr",
}  # fmt: skip
_FORMATTING: Final = "a|b|big|code|em|font|i|nobr|s|small|strike|strong|tt|u"
_MAX_NESTING: Final = 4096
_MAX_REOPENED: Final = 5_000_000

_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)[^<>]*>?")
_FORMATTING_TAG = re.compile(rf"</?(?:{_FORMATTING})(?=[\s/>])[^<>]*>?", re.IGNORECASE)
_FORMATTING_NAMES: Final = frozenset(_FORMATTING.split("|"))
_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?([A-Za-z0-9_.:-]+)", re.IGNORECASE)


def declared_charset(content: bytes) -> str | None:
    """The charset that a meta element in the first 1,024 bytes names, if any."""
    found = _CHARSET.search(content[:1024])
    return found[1].decode("ascii") if found else None


def extract_html(source: str) -> ExtractedText:
    """Headings, paragraphs, list items, preformatted text and tables as blocks.

    A title is the outermost heading of a page without h1.
    """
    tree = LexborHTMLParser(_tamed(source))
    page = _Page()
    if tree.root is not None:
        _walk(tree.root, page)
    page.flush()
    title = None
    if not page.has_main_heading and (node := tree.css_first("head title")) is not None:
        title = heading_title(" ".join(node.text().split())) or None
    return page.builder.finish(title)


def _tamed(source: str) -> str:
    """The source without what would cost the HTML parser quadratic time.

    For each start tag it looks through all open elements, and it opens unclosed formatting
    elements anew in each block. Neither carries text, so an excess of them is taken out.
    """
    if source.count("<") <= _MAX_NESTING:
        return source
    tags, formatting, nesting = _tag_statistics(source)
    if formatting * tags > _MAX_REOPENED:
        source = _FORMATTING_TAG.sub("", source)
    return _flattened(source) if nesting > _MAX_NESTING else source


def _tag_statistics(source: str) -> tuple[int, int, int]:
    """Number of start tags, most formatting elements open at once, deepest nesting."""
    tags = formatting = most_formatting = nesting = most_nesting = 0
    for tag in _TAG.finditer(source):
        name = tag[2].lower()
        if name in _NOT_NESTING:
            tags += 1
            continue
        step = -1 if tag[1] else 1
        tags += step > 0
        nesting = max(nesting + step, 0)
        most_nesting = max(most_nesting, nesting)
        if name in _FORMATTING_NAMES:
            formatting = max(formatting + step, 0)
            most_formatting = max(most_formatting, formatting)
    return tags, most_formatting, most_nesting


def _flattened(source: str) -> str:
    """The source without start tags that are nested too deeply, and their end tags."""
    nesting = 0

    def keep(tag: re.Match[str]) -> str:
        nonlocal nesting
        if tag[2].lower() in _NOT_NESTING:
            return tag[0] if nesting <= _MAX_NESTING else " "
        if tag[1]:
            nesting = max(nesting - 1, 0)
            return tag[0] if nesting < _MAX_NESTING else " "
        nesting += 1
        return tag[0] if nesting <= _MAX_NESTING else " "

    return _TAG.sub(keep, source)


def _walk(root: LexborNode, page: "_Page") -> None:
    """Enters and leaves every element in document order, without recursion."""
    node: LexborNode | None = root
    depth = 0
    while node is not None:
        child = None if node.tag in _SKIPPED else _entered(node, page)
        if child is not None:
            node = child
            depth += 1
            continue
        while node is not None and node.next is None and depth:
            node = node.parent
            depth -= 1
            page.leave(node.tag or "" if node else "")
        node = node.next if node is not None and depth else None


def _entered(node: LexborNode, page: "_Page") -> LexborNode | None:
    """Enter a node; the first of its children, or None when it has been left again."""
    tag = node.tag or ""
    if tag == "-text":
        page.text(node.text_content or "")
        return None
    page.enter(tag)
    child = node.first_child
    if child is None:
        page.leave(tag)
    return child


class _Table:
    """A table being read: where its blocks begin, and the cells of the row so far."""

    def __init__(self, first_block: int) -> None:
        self.first_block = first_block
        self.cells: list[str] = []
        self.in_cell = False


class _Page:
    """Turns the events of a walk into blocks."""

    def __init__(self) -> None:
        self.builder = TextBuilder()
        self.has_main_heading = False
        self._buffer: list[str] = []
        self._lists = 0
        self._pre = 0
        self._heading = 0
        self._tables: list[_Table] = []

    def text(self, data: str) -> None:
        """Take a piece of text as it stands in the source."""
        self._buffer.append(data if self._pre else data.replace("\n", " ").replace("\r", " "))

    def enter(self, tag: str) -> None:
        """An element begins."""
        if tag == "br":
            self._buffer.append("\n")
        elif tag == "table":
            self.flush()
            self._tables.append(_Table(len(self.builder.blocks)))
        elif self._tables and self._in_table(tag, entering=True):
            pass
        elif tag in _HEADINGS:
            self.flush()
            self._heading = _HEADINGS[tag]
        elif tag in _BLOCKS or tag in {"li", "pre"}:
            self.flush()
            self._count(tag, 1)

    def leave(self, tag: str) -> None:
        """An element ends."""
        if tag == "table" and self._tables:
            self.flush()
            self._join_rows(self._tables.pop())
        elif self._tables and self._in_table(tag, entering=False):
            pass
        elif tag in _HEADINGS:
            self.flush()
            self._heading = 0
        elif tag in _BLOCKS or tag in {"li", "pre"}:
            self.flush()
            self._count(tag, -1)

    def flush(self) -> None:
        """End the block that is being read."""
        if self._tables:
            self._end_row()
        text = self._taken()
        if text and self._heading:
            text = " ".join(text.split())
            self.has_main_heading = self.has_main_heading or self._heading == 1
            self.builder.add(BlockKind.HEADING, text, self._heading)
        else:
            self.builder.add(self._kind(), text)

    def _count(self, tag: str, step: int) -> None:
        if tag == "li":
            self._lists += step
        elif tag == "pre":
            self._pre += step

    def _kind(self) -> BlockKind:
        if self._pre:
            return BlockKind.CODE
        return BlockKind.LIST_ITEM if self._lists else BlockKind.PARAGRAPH

    def _taken(self) -> str:
        """The text read so far, out of the buffer; blanks are collapsed but in pre."""
        text = "".join(self._buffer)
        self._buffer.clear()
        if self._pre:
            return text.strip()
        lines = (" ".join(line.split()) for line in text.split("\n"))
        return "\n".join(line for line in lines if line)

    def _in_table(self, tag: str, entering: bool) -> bool:
        """Handle a tag of a table; paragraphs in a cell only separate words."""
        table = self._tables[-1]
        if tag in _CELLS:
            if not entering:
                table.cells.append(" ".join(self._taken().split()))
            table.in_cell = entering
        elif tag == "tr":
            self._end_row()
        elif table.in_cell and tag in {"p", "div"} and not self._pre:
            self._buffer.append(" ")
        else:
            return False
        return True

    def _end_row(self) -> None:
        cells = self._tables[-1].cells
        if any(cells):
            self.builder.add(BlockKind.TABLE, " | ".join(cells))
        cells.clear()

    def _join_rows(self, table: _Table) -> None:
        blocks = self.builder.blocks
        first = len(blocks)
        while first > table.first_block and blocks[first - 1].kind is BlockKind.TABLE:
            first -= 1
        blocks.merge_tail(first)
