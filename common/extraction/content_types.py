"""Which content types there are, by file name. Standard library only: the CLI imports it."""

from pathlib import PurePosixPath
from typing import Final

DOCX: Final = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
HTML: Final = "text/html"
MARKDOWN: Final = "text/markdown"
PDF: Final = "application/pdf"
PLAIN: Final = "text/plain"

SUPPORTED: Final = (PLAIN, MARKDOWN, HTML, PDF, DOCX)

CONTENT_TYPES_BY_SUFFIX: Final[dict[str, str]] = {
    ".md": MARKDOWN,
    ".markdown": MARKDOWN,
    ".txt": PLAIN,
    ".rst": "text/x-rst",
    ".html": HTML,
    ".htm": HTML,
    ".pdf": PDF,
    ".docx": DOCX,
}


def media_type(content_type: str) -> str:
    """The content type without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def charset(content_type: str) -> str | None:
    """The charset parameter of a content type, if it has one."""
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip("\"'") or None
    return None


def guess_content_type(path: str) -> str | None:
    """The content type that a file name's suffix stands for, or None when it is unknown."""
    return CONTENT_TYPES_BY_SUFFIX.get(PurePosixPath(path).suffix.lower())


def is_text(content_type: str) -> bool:
    """Whether such content is text that a person can read and edit as it is."""
    return media_type(content_type).startswith("text/")
