"""Environment variables that are kept elsewhere, as JSON objects of strings: which of them are
accepted, and how they come into the environment before the settings are made of it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass

from pydantic_settings import BaseSettings

from common.ports.errors import PermanentError
from common.settings import Settings

SETTING = "BLOOMWEAVER_SECRET_IDS"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REFUSED = re.compile(
    r"(?:AWS|BASH|DYLD|GLIBC|LAMBDA|LD|MALLOC|OPENSSL|SSL_CERT)_.*|PYTHON.*|_.*|.*_PROXY"
    r"|PATH|HOME|SHELL|ENV|IFS|TMPDIR|TEMP|TMP|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE"
    r"|PROMETHEUS_MULTIPROC_DIR|" + SETTING,
    re.IGNORECASE,
)
"""What decides which programs and libraries run, whom they trust, and whose secrets are read.

Sources refer to variables of any other name (docs/sources.md), so that all others are accepted."""


class UnusableSecretError(PermanentError):
    """A person must mend it. The message holds no value."""


@dataclass(frozen=True, slots=True)
class SecretRead:
    """`placed`: the variables that it gave; `kept`: those that the environment had before."""

    secret_id: str
    placed: tuple[str, ...]
    kept: tuple[str, ...]


class _Named(BaseSettings):
    """From where the settings come, before they are made."""

    model_config = Settings.model_config
    secret_ids: str = ""


def ids_set() -> list[str]:
    """Which secrets are to be read, each once, in their order."""
    parts = (part.strip() for part in _Named().secret_ids.split(","))
    return list(dict.fromkeys(part for part in parts if part))


def variables_in(secret_id: str, text: str) -> dict[str, str]:
    """Raises UnusableSecretError for all but an object of strings by acceptable names."""
    try:
        found = json.loads(text)
    except ValueError:  # its message could tell a part of the value
        raise _unusable(secret_id, "it is not JSON") from None
    if not isinstance(found, dict):
        raise _unusable(secret_id, "it is no JSON object")
    if mistake := next(_mistakes(found), None):
        raise _unusable(secret_id, mistake)
    return found


def _mistakes(found: Mapping[str, object]) -> Iterator[str]:
    for name, value in found.items():
        if not _NAME.fullmatch(name):
            yield "one of its names cannot be that of an environment variable"
        elif _REFUSED.fullmatch(name):
            yield f"{name} is not taken from a secret: set it in the environment"
        elif not isinstance(value, str):
            yield f"the value of {name} is no string"
        elif "\0" in value:
            yield f"the value of {name} holds a NUL"


def _unusable(secret_id: str, why: str) -> UnusableSecretError:
    return UnusableSecretError(
        f"{SETTING}: the secret {secret_id} cannot be used: {why}; it has to be a JSON object of "
        'strings by the variables that they are for, as {"BLOOMWEAVER_API_KEY": "…"}'
    )


class SecretEnvironment:
    """Places variables of secrets, and replaces them when they are read again.

    What the environment had by itself is kept. Not for several threads.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        self._environment = environment
        self._ours: dict[str, str] = {}
        self._ids: list[str] | None = None
        self.read: list[SecretRead] = []

    def has_read(self, ids: Sequence[str]) -> bool:
        return self._ids == list(ids)

    @property
    def values(self) -> list[str]:
        """That were placed, so that they can be kept out of lines."""
        return list(self._ours.values())

    def place(self, secrets: Mapping[str, Mapping[str, str]]) -> None:
        """Variables by secret. Raises UnusableSecretError where two secrets disagree on one; then
        nothing is changed."""
        wanted = _merged(secrets)
        for name, value in self._ours.items():
            if self._environment.get(name) == value:
                del self._environment[name]
        kept = {name for name in wanted if name in self._environment}
        self._ours = {name: value for name, value in wanted.items() if name not in kept}
        self._environment.update(self._ours)
        self._ids = list(secrets)
        self.read = [
            SecretRead(
                secret_id,
                tuple(name for name in variables if name not in kept),
                tuple(name for name in variables if name in kept),
            )
            for secret_id, variables in secrets.items()
        ]


def _merged(secrets: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    merged: dict[str, str] = {}
    found_in: dict[str, str] = {}
    for secret_id, variables in secrets.items():
        for name, value in variables.items():
            if merged.setdefault(name, value) != value:
                raise UnusableSecretError(
                    f"{SETTING}: {name} has one value in {found_in[name]} and another in "
                    f"{secret_id}: remove it from one of them"
                )
            found_in.setdefault(name, secret_id)
    return merged


PROCESS = SecretEnvironment(os.environ)
"""Of this process."""
