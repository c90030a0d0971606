"""Which files a push means, and what their documents are called."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.cli.problems import CommandError, WrongUsageError
from common.extraction.content_types import CONTENT_TYPES_BY_SUFFIX, guess_content_type


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFile:
    """A file and the document it stands for."""

    path: Path
    document_id: str
    content_type: str

    def sha256(self) -> str:
        """Of the bytes, hex; read in pieces. Raises OSError."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(slots=True)
class Scan:
    """What was found under the paths, in the order of document ids."""

    files: dict[str, LocalFile] = field(default_factory=dict)
    unsupported: dict[str, Path] = field(default_factory=dict)
    unnameable: dict[str, str] = field(default_factory=dict)
    """Names that no document can have, as people may read them, and why."""

    def add(self, path: Path, document_id: str) -> None:
        """Raises WrongUsageError when two files would be one document."""
        known = self.files.get(document_id)
        if known is not None and not known.path.samefile(path):
            raise WrongUsageError(
                f"{known.path} and {path} would both be document {document_id!r}: push the folder "
                "that holds both, or push them one after the other with different --prefix"
            )
        content_type = guess_content_type(path.name)
        if content_type is None:
            self.unsupported[document_id] = Path(_readable(str(path)))
        elif (readable := _readable(document_id)) != document_id:
            self.unnameable[readable] = "its name is no UTF-8"
        else:
            self.files[document_id] = LocalFile(
                path=path, document_id=document_id, content_type=content_type
            )


def scan(paths: Sequence[str], prefix: str = "") -> Scan:
    """Find the files. Raises WrongUsageError for a path that is nothing or of no known type,
    CommandError for a folder that cannot be read: what it holds must not count as gone."""
    found = Scan()
    for path in paths:
        for file, name in _found(path):
            found.add(file, prefix + name)
    found.files = dict(sorted(found.files.items()))
    return found


def as_prefix(prefix: str) -> str:
    """A prefix is a folder: `team` must not also own `teammates/`."""
    return f"{prefix.strip('/')}/" if prefix.strip("/") else ""


def _found(path: str) -> Iterator[tuple[Path, str]]:
    """Files and their names relative to what was pushed."""
    given = Path(path)
    if given.is_dir():
        yield from _in_folder(given, given)
    elif given.exists():
        _require_supported(given)
        yield given, given.name
    elif glob.has_magic(path):
        yield from _matching(path)
    else:
        raise WrongUsageError(f"no such file or folder: {path}")


def _in_folder(folder: Path, base: Path) -> Iterator[tuple[Path, str]]:
    for directory, folders, names in os.walk(folder, onerror=_unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(directory, name)
            if not name.startswith(".") and path.is_file():
                yield path, path.relative_to(base).as_posix()


def _matching(pattern: str) -> Iterator[tuple[Path, str]]:
    """Named relative to the part of the pattern that has no wildcard."""
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    base = Path(*parts[:fixed])
    matches = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207 (Path.glob refuses absolute patterns)
    if not matches:
        raise WrongUsageError(f"nothing matches: {pattern}")
    for match in matches:
        if match.is_dir():
            yield from _in_folder(match, base)
        else:
            yield match, match.relative_to(base).as_posix()


def _require_supported(path: Path) -> None:
    if guess_content_type(path.name) is None:
        raise WrongUsageError(
            f"{path} is of no known type; known are {', '.join(CONTENT_TYPES_BY_SUFFIX)}"
        )


def _readable(name: str) -> str:
    """Bytes that are no UTF-8 come as lone surrogates, which no JSON can hold: as escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _unreadable(error: OSError) -> None:
    raise CommandError(f"cannot read the folder {error.filename}: {error.strerror}")
