"""sources.yaml becomes sources that are ready to be used, or a list of what is wrong and where."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from webhook.signatures import Verification
from webhook.sources.config import NAME, NoneConfig, SourceConfig
from webhook.sources.yaml_lines import Document, Mistake, MistakesError, read_yaml

SHORTEST_SECRET = 8
"""Characters. What is shorter is guessed."""
MAX_SECRET_BYTES = 64 * 1024

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_FILE = "file:"
_NO_REPOSITORIES = (
    "github_token needs `repositories` beside it, those that it may be used for: "
    "[owner/name], or [owner/*] for all of an owner"
)
_DECIDING = (
    "namespace", "namespaces", "format", "parameters", "ignore", "refuse", "items", "changes",
    "trust_unsigned_headers", "repositories",
)  # fmt: skip
"""Fields that change what is made of a delivery."""


@dataclass(frozen=True, slots=True)
class Source:
    """As it is in force."""

    name: str
    config: SourceConfig
    verification: Verification = field(repr=False)
    github_token: str = field(repr=False)
    """Empty where there is none."""
    fingerprint: str
    """Of the mapping: another one makes other changes of the same delivery."""


@dataclass(slots=True)
class SecretReferences:
    """Secrets are named where they are kept: `${VARIABLE}` or `file:/path`.

    `files`: those that were read, since a secret that is replaced there is to be noticed.
    """

    environment: Mapping[str, str] = field(repr=False)
    folder: Path
    """What a relative path begins at."""
    files: set[Path] = field(default_factory=set)

    def resolve(self, reference: str) -> str:
        """Blocking. Raises ValueError, which never repeats what was given: it may be a secret."""
        secret = self._read(reference)
        if len(secret) < SHORTEST_SECRET:
            raise ValueError(f"the secret has fewer than {SHORTEST_SECRET} characters")
        return secret

    def _read(self, reference: str) -> str:
        if found := _VARIABLE.fullmatch(reference):
            if (value := self.environment.get(found[1])) is None:
                raise ValueError(f"the environment has no {found[1]}")
            return value
        if reference.startswith(_FILE):
            return self._read_file(self.folder / reference.removeprefix(_FILE))
        raise ValueError(
            "a secret is never written here: name the variable or the file that holds it, "
            "${NAME} or file:/path"
        )

    def _read_file(self, path: Path) -> str:
        self.files.add(path)
        try:
            with path.open("rb") as file:
                return file.read(MAX_SECRET_BYTES).decode().rstrip("\r\n")
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ValueError(f"{path} is not UTF-8") from None


def load_sources(
    text: str, file: str, secrets: SecretReferences, *, on_loopback: bool
) -> dict[str, Source]:
    """By name. `on_loopback`: nobody but this machine can send anything, so that a source need
    not be verified. Raises MistakesError with everything that is wrong."""
    document = read_yaml(text, file)
    loader = _Loader(document, file, secrets, on_loopback)
    sources = loader.sources()
    if loader.mistakes:
        raise MistakesError(loader.mistakes)
    return sources


class _Loader:
    def __init__(
        self, document: Document, file: str, secrets: SecretReferences, on_loopback: bool
    ) -> None:
        self._document = document
        self._file = file
        self._secrets = secrets
        self._on_loopback = on_loopback
        self.mistakes: list[Mistake] = []

    def sources(self) -> dict[str, Source]:
        value = self._document.value
        if value is None:
            return {}
        if not isinstance(value, dict) or value.keys() - {"sources"}:
            self._note((), "the file has one field, `sources`: an object by name")
            return {}
        given = value.get("sources")
        if not isinstance(given, dict | None):
            self._note(("sources",), "sources must be an object by name")
            return {}
        found = {name: self._source(name, one) for name, one in (given or {}).items()}
        return {name: source for name, source in found.items() if source is not None}

    def _source(self, name: str, given: Any) -> Source | None:
        path = ("sources", name)
        if NAME.fullmatch(name) is None:
            self._note(path, f"{name!r}: a name has small letters, digits, - and _, at most 64")
            return None
        if not isinstance(given, dict):
            self._note(path, f"source {name}: must be an object")
            return None
        try:
            merged = with_preset(given)
            config = SourceConfig.model_validate(merged)
        except UnknownPresetError as error:
            self._note((*path, "preset"), f"source {name}: {error}")
        except ValidationError as error:
            self._note_all(path, name, error)
        else:
            return self._verified(path, name, config, merged)
        return None

    def _verified(
        self, path: tuple[str, str], name: str, config: SourceConfig, merged: Mapping[str, Any]
    ) -> Source | None:
        where = (*path, "verify")
        if isinstance(config.verify, NoneConfig) and not self._on_loopback:
            message = "verify.kind none is for a service on loopback, and this one is not"
            self._note((*where, "kind"), f"source {name}: {message}")
            return None
        secrets = [self._resolved(name, where, *one) for one in config.verify.references.items()]
        token = None
        if config.github_token is not None:
            token = self._resolved(name, path, ("github_token",), config.github_token)
            if config.repositories is None:
                self._note((*path, "github_token"), f"source {name}: {_NO_REPOSITORIES}")
                return None
        if "" in (*secrets, token):
            return None
        try:
            verification = config.verify.verification(tuple(secrets))
        except ValueError as error:
            self._note(where, f"source {name}: verify: the secret {error}")
            return None
        return Source(
            name=name,
            config=config,
            verification=verification,
            github_token=token or "",
            fingerprint=_fingerprint(merged, has_github_token=bool(token)),
        )

    def _resolved(
        self, name: str, where: tuple[str, ...], place: tuple[str | int, ...], reference: str
    ) -> str:
        """The secret; empty where there is a mistake."""
        try:
            return self._secrets.resolve(reference)
        except ValueError as error:
            words = ".".join(map(str, (*where[2:], *place)))
            self._note((*where, *place), f"source {name}: {words}: {error}")
            return ""

    def _note_all(self, path: tuple[str, str], name: str, error: ValidationError) -> None:
        for one in error.errors(include_url=False, include_input=False, include_context=False):
            place = _place_of(one["loc"])
            words = ".".join(str(part) for part in place)
            message = _words_of(one["type"], one["msg"])
            self._note((*path, *place), f"source {name}: {f'{words}: ' if words else ''}{message}")

    def _note(self, path: Sequence[str | int], message: str) -> None:
        line = self._document.line_of(path)
        self.mistakes.append(Mistake(line, message, self._file))


def _fingerprint(merged: Mapping[str, Any], *, has_github_token: bool) -> str:
    """Not of secrets, nor of how they are written: they are replaced, and change no document."""
    deciding = {name: merged.get(name) for name in _DECIDING}
    told = json.dumps([deciding, has_github_token], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _place_of(location: Sequence[str | int]) -> tuple[str | int, ...]:
    """Pydantic names the kind of verification in between, which the file does not."""
    if location[:1] == ("verify",) and len(location) > 1:
        return ("verify", *location[2:])
    return tuple(location)


def _words_of(kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return "there is no such field"
    if kind == "missing":
        return "is missing"
    return message.removeprefix("Value error, ")


# --- presets -------------------------------------------------------------------------------------


class UnknownPresetError(Exception):
    pass


def preset_names() -> list[str]:
    return sorted(path.name.removesuffix(".yaml") for path in _presets().iterdir() if
                  path.name.endswith(".yaml"))  # fmt: skip


def with_preset(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the preset says under what the source says. `parameters` are merged one by one, and so
    is `verify` while it stays of the preset's kind. Raises UnknownPresetError."""
    name = given.get("preset")
    if name is None:
        return dict(given)
    base = preset(name)
    merged = {**base, **given}
    for field_name in ("parameters", "verify"):
        inner, outer = base.get(field_name), given.get(field_name)
        if isinstance(inner, dict) and isinstance(outer, dict):
            same = outer.get("kind", inner.get("kind")) == inner.get("kind")
            merged[field_name] = {**inner, **outer} if same else outer
    return merged


def preset(name: Any) -> Mapping[str, Any]:
    """Raises UnknownPresetError that lists those there are."""
    if not isinstance(name, str) or name not in preset_names():
        known = ", ".join(preset_names())
        raise UnknownPresetError(f"there is no preset {str(name)[:64]!r}; known are {known}")
    return _read_preset(name)


@cache
def _read_preset(name: str) -> Mapping[str, Any]:
    text = (_presets() / f"{name}.yaml").read_text(encoding="utf-8")
    value: Mapping[str, Any] = read_yaml(text, f"{name}.yaml").value
    return value


def _presets() -> Any:
    return resources.files("webhook.sources") / "presets"
