"""A feed file as lines to send: one change a line, plain or gzip, of any length."""

from __future__ import annotations

import gzip
import json
import stat
import zlib
from collections.abc import Callable, Generator, Iterator
from io import BufferedReader
from pathlib import Path

from common.cli.problems import JSON, CommandError, WrongUsageError
from common.cli.sending import Line, Refusal
from common.client.changes import encoded
from common.client.errors import Problem
from common.extraction.content_types import guess_content_type

FIELDS = frozenset(
    {
        "change_type",
        "namespace",
        "document_id",
        "content",
        "content_encoding",
        "content_type",
        "metadata",
        "source_version",
        "doc_hash",
        "if_version",
        "content_url",
    }
)
"""What the API knows; feeds carry more (a revision, a time), which is left out."""


NO_DOCUMENT = "(no document)"


class Feed:
    """Gives the lines of a file. Lines that are no change are kept aside under their numbers and do
    not stop the others."""

    def __init__(self, path: Path, *, namespace: str = "default", limit: int | None = None) -> None:
        self.bad: dict[int, Refusal] = {}
        self.on_position: Callable[[int], None] = lambda _position: None
        self._path = path
        self._namespace = namespace
        self._limit = limit

    @property
    def size_bytes(self) -> int | None:
        """Of the file as it lies there; None: it is a pipe, and nobody knows. Raises
        WrongUsageError when it cannot be read."""
        try:
            if not self._path.is_file():
                # Opened twice, a pipe loses its writer in between.
                self._refuse_a_folder()
                return None
            with self._path.open("rb"):
                return self._path.stat().st_size
        except OSError as error:
            raise WrongUsageError(f"cannot read {self._path}: {error.strerror}") from error

    def _refuse_a_folder(self) -> None:
        if stat.S_ISDIR(self._path.stat().st_mode):
            raise WrongUsageError(f"cannot read {self._path}: it is a folder")

    def lines(self) -> Generator[Line, None, None]:
        """The changes. `limit` counts lines that hold something."""
        taken = 0
        with self._path.open("rb") as raw:
            seekable = raw.seekable()
            for number, text in enumerate(self._read(raw), 1):
                if seekable:
                    self.on_position(raw.tell())
                if not text.strip():
                    continue
                taken += 1
                if self._limit is not None and taken > self._limit:
                    return
                yield from self._line(number, text)

    def _read(self, raw: BufferedReader) -> Iterator[bytes]:
        """Lines of the file; what is compressed is known by its first bytes, not its name."""
        try:
            # A peek: a pipe cannot be wound back.
            zipped = raw.peek(2)[:2] == b"\x1f\x8b"
            yield from gzip.GzipFile(fileobj=raw) if zipped else raw
        except (EOFError, OSError, zlib.error) as error:
            raise CommandError(f"{self._path} is cut off or damaged: {error}") from error

    def _line(self, number: int, text: bytes) -> Iterator[Line]:
        try:
            change = json.loads(text)
            if isinstance(change, dict):
                document_id = str(change.get("document_id", NO_DOCUMENT))
                yield Line(number, document_id, encoded(self._completed(change)))
                return
            why = "not a JSON object"
        except (ValueError, RecursionError) as error:
            why = f"invalid JSON: {error}"
        problem = Problem(status=400, title="not a change", detail=why)
        self.bad[number] = Refusal(number, NO_DOCUMENT, problem)

    def _completed(self, change: JSON) -> JSON:
        kept = {name: value for name, value in change.items() if name in FIELDS}
        # null means the same as a field that is left out.
        if kept.get("namespace") is None:
            kept["namespace"] = self._namespace
        name = kept.get("document_id")
        if kept.get("content") is None or not isinstance(name, str):
            return kept
        if kept.get("content_type") is None:
            kept["content_type"] = guess_content_type(name)
        return kept
