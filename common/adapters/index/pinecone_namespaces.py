"""Namespaces in Pinecone's alphabet: ours are any Unicode, theirs ASCII, and two names are taken.

ASCII letters, digits and -._~ stay as they are, every other byte of the name's UTF-8 becomes %XX;
the empty name is a lone %. One name has one spelling, so no two names meet.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, unquote_to_bytes

_EMPTY: Final = "%"
_DEFAULT: Final = "__default__"
"""Pinecone's own name for the namespace without a name."""


def encoded(namespace: str) -> str:
    if not namespace:
        return _EMPTY
    if namespace == _DEFAULT:
        return f"%5F{namespace[1:]}"
    return quote(namespace, safe="")


def decoded(name: str) -> str | None:
    """The namespace that is kept under `name`; None when none of ours can be."""
    if name == _EMPTY:
        return ""
    try:
        namespace = unquote_to_bytes(name).decode()
    except UnicodeDecodeError:
        return None
    return namespace if encoded(namespace) == name else None
