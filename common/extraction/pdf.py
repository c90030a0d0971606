"""PDF: the text of its pages, through pypdf."""

import logging
from collections.abc import Iterator
from io import BytesIO

from pypdf import PdfReader
from pypdf.errors import DependencyError, FileNotDecryptedError

from common.extraction.decoding import without_surrogates
from common.extraction.extracted_text import (
    BlockKind,
    CoveringBlocks,
    ExtractedText,
    UnreadableDocument,
)

# pypdf reports every flaw that it works around; what matters comes as an exception.
logging.getLogger("pypdf").setLevel(logging.CRITICAL)

_ENCRYPTED = "the PDF is encrypted"


def extract_pdf(content: bytes) -> ExtractedText:
    """Pages as blocks, with a blank line between them; a page without text is left out.

    Raises UnreadableDocument when a password is needed or the file is broken.
    """
    try:
        pages = list(_pages(content))
    except UnreadableDocument:
        raise
    except (DependencyError, FileNotDecryptedError) as error:
        raise UnreadableDocument(_ENCRYPTED) from error
    except Exception as error:  # pypdf raises whatever a broken file makes it stumble over
        raise UnreadableDocument(f"the PDF cannot be read: {_reason(error)}") from error
    return _joined(pages)


def _pages(content: bytes) -> Iterator[str]:
    reader = PdfReader(BytesIO(content))
    # Many PDFs are encrypted with an empty password, only to forbid printing: anyone may read.
    if reader.is_encrypted and not reader.decrypt(""):
        raise UnreadableDocument(_ENCRYPTED)
    for page in reader.pages:
        yield without_surrogates(page.extract_text()).strip()


def _joined(pages: list[str]) -> ExtractedText:
    pages = [page for page in pages if page]
    text = "\n\n".join(pages)
    blocks = CoveringBlocks(text)
    start = 0
    for page in pages:
        blocks.add(BlockKind.PAGE, start, start + len(page))
        start += len(page) + 2
    return ExtractedText(text, blocks.finish())


def _reason(error: Exception) -> str:
    return f"{error}" or type(error).__name__
