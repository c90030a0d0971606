"""Keeps what is secret out of lines that people read and share."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from pydantic import SecretStr

from common.secret_environment import PROCESS
from common.settings import Settings

HIDDEN = "***"
SHORTEST_CHARACTERS = 4
"""A shorter secret is no secret, and its letters are in every line."""

_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PINECONE_API_KEY")
_USER_INFO = re.compile(r"(?<=postgresql://)\S+@|(?<=postgres://)\S+@|(?<=://)[^/\s]+@")
"""Up to the last @: a password may have one in it where it was not encoded; and a slash, in the
address of a database, which has no @ behind its host."""
_PASSWORD = re.compile(r"(?<=password=)[^&\s]+")


def without_secrets(text: str, settings: Settings) -> str:
    """`text` without keys, tokens and what stands before the @ of an address."""
    return without_passwords(_without(text, _secrets(settings)))


def without_read_secrets(text: str) -> str:
    """`text` without passwords and what was read from secrets: where there are no settings yet."""
    return without_passwords(_without(text, PROCESS.values))


def without_passwords(text: str) -> str:
    """`text` without what stands before the @ of an address, and without `password=…`."""
    return _PASSWORD.sub(HIDDEN, _USER_INFO.sub(f"{HIDDEN}@", text))


def _without(text: str, secrets: Iterable[str]) -> str:
    """The longest first: one may be part of another."""
    long = [secret for secret in secrets if len(secret) >= SHORTEST_CHARACTERS]
    for secret in sorted(long, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def _secrets(settings: Settings) -> list[str]:
    known = [value.get_secret_value() for _, value in settings if isinstance(value, SecretStr)]
    return [*known, *[os.environ.get(name, "") for name in _VARIABLES], *PROCESS.values]
