"""Content of any supported type to text with structure."""

from common.extraction.content_types import (
    DOCX,
    HTML,
    MARKDOWN,
    PDF,
    SUPPORTED,
    charset,
    is_text,
    media_type,
)
from common.extraction.decoding import decode
from common.extraction.extracted_text import ExtractedText, UnreadableDocument

__all__ = ["SUPPORTED", "ExtractedText", "UnreadableDocument", "extract"]


def extract(content: bytes, content_type: str) -> ExtractedText:
    """The text and blocks of a document.

    content_type may carry parameters; a charset is heeded, and without one text is UTF-8. Any
    text/* that is not listed in SUPPORTED is read as plain text. The libraries for a format are
    imported when a document of that format comes.

    Raises UnreadableDocument when the type is unknown or the content broken or encrypted.
    """
    media = media_type(content_type)
    if media == PDF:
        from common.extraction.pdf import extract_pdf

        return extract_pdf(content)
    if media == DOCX:
        from common.extraction.docx import extract_docx

        return extract_docx(content)
    if is_text(media):
        return _extract_text(content, content_type)
    raise UnreadableDocument(
        f"content type {content_type!r} is not supported; supported are {', '.join(SUPPORTED)}"
    )


def _extract_text(content: bytes, content_type: str) -> ExtractedText:
    media = media_type(content_type)
    if media == HTML:
        from common.extraction.html import declared_charset, extract_html

        return extract_html(decode(content, charset(content_type) or declared_charset(content)))
    text = decode(content, charset(content_type))
    if media == MARKDOWN:
        from common.extraction.markdown import extract_markdown

        return extract_markdown(text)
    from common.extraction.plain import extract_plain

    return extract_plain(text)
