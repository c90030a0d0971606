"""Listings in the order of document ids: by code point, which is that of their UTF-8 bytes."""

from __future__ import annotations

import base64

_CURSOR_MARK = b"after:"
_LAST_CODE_POINT = "\U0010ffff"
_LAST_BEFORE_SURROGATES = "\ud7ff"
_FIRST_AFTER_SURROGATES = "\ue000"


def end_of_prefix(prefix: str) -> str | None:
    """The first text after all those that begin with `prefix`; None: nothing comes after them."""
    stem = prefix.rstrip(_LAST_CODE_POINT)
    if not stem:
        return None
    last = stem[-1]
    following = _FIRST_AFTER_SURROGATES if last == _LAST_BEFORE_SURROGATES else chr(ord(last) + 1)
    return stem[:-1] + following


def cursor_of(document_id: str) -> str:
    return base64.urlsafe_b64encode(_CURSOR_MARK + document_id.encode()).decode("ascii")


def document_id_of(cursor: str) -> str:
    """Raises ValueError for a cursor that no earlier page gave."""
    try:
        data = base64.b64decode(cursor, altchars=b"-_", validate=True)
        if data.startswith(_CURSOR_MARK):
            return data.removeprefix(_CURSOR_MARK).decode()
    except ValueError as error:
        raise ValueError(f"{cursor!r} is not a cursor that an earlier page gave") from error
    raise ValueError(f"{cursor!r} is not a cursor that an earlier page gave")
