"""Bytes to text, by byte order mark, declared charset or UTF-8."""

import codecs
import re
from typing import Final

_BYTE_ORDER_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Codecs for which a sender has no honest use; idna and punycode take quadratic time.
_REFUSED: Final = {"idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined"}
_SURROGATE = re.compile("[\ud800-\udfff]")


def decode(content: bytes, charset: str | None) -> str:
    """The text of content; what cannot be decoded becomes U+FFFD, and so do surrogates."""
    for mark, codec in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return without_surrogates(content.decode(codec, errors="replace"))
    return without_surrogates(content.decode(_codec(charset), errors="replace"))


def without_surrogates(text: str) -> str:
    """The text with lone surrogates, which no encoder takes, replaced one for one."""
    return _SURROGATE.sub("\ufffd", text)


def _codec(charset: str | None) -> str:
    try:
        name = codecs.lookup(charset or "utf-8").name.replace("_", "-")
        # Raises LookupError for codecs that are no text encodings, such as hex.
        b"a".decode(name, errors="replace")
    except (LookupError, ValueError):
        return "utf-8"
    return "utf-8" if name in _REFUSED else name
