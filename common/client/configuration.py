"""What a client is told by its environment, where its arguments say nothing."""

from __future__ import annotations

import os

URL_VARIABLE = "BLOOMWEAVER_URL"
KEY_VARIABLE = "BLOOMWEAVER_API_KEY"
DEFAULT_URL = "http://127.0.0.1:8080"


def url_of(given: str | None) -> str:
    return given or os.environ.get(URL_VARIABLE, "").strip() or DEFAULT_URL


def key_of(given: str | None) -> str:
    """Empty: none. An empty argument says so, whatever the environment has."""
    return os.environ.get(KEY_VARIABLE, "").strip() if given is None else given
