"""Keeps what is secret out of lines that people read and share."""

from __future__ import annotations

import os
import re

from pydantic import SecretStr

from common.settings import Settings

HIDDEN = "***"
SHORTEST_CHARACTERS = 4
"""A shorter secret is no secret, and its letters are in every line."""

_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PINECONE_API_KEY")
_USER_INFO = re.compile(r"(?<=://)[^/\s@]+@")


def without_secrets(text: str, settings: Settings) -> str:
    """`text` without keys, tokens and what stands before the @ of an address."""
    for secret in _secrets(settings):
        text = text.replace(secret, HIDDEN)
    return _USER_INFO.sub(f"{HIDDEN}@", text)


def _secrets(settings: Settings) -> list[str]:
    """The longest first: one may be part of another."""
    known = [value.get_secret_value() for _, value in settings if isinstance(value, SecretStr)]
    known += [os.environ.get(name, "") for name in _VARIABLES]
    return sorted((s for s in known if len(s) >= SHORTEST_CHARACTERS), key=len, reverse=True)
