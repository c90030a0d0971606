"""The sources there are just now: read at the start, and again whenever their file changes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import structlog
from pydantic_settings import DotEnvSettingsSource

from common import telemetry
from common.composition import ConfigurationError
from common.settings import Settings
from webhook.sources.loading import SecretReferences, Source, load_sources
from webhook.sources.yaml_lines import Mistake, MistakesError

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0
MAX_FILE_BYTES = 4 * 1024 * 1024

Stamp = tuple[tuple[str, int, int, int], ...]


class SourceDirectory:
    """Asked by many requests, changed by `watch` alone."""

    def __init__(self, path: Path, *, on_loopback: bool) -> None:
        self._path = path
        self._on_loopback = on_loopback
        self._sources: Mapping[str, Source] = {}
        self._secret_files: set[Path] = set()
        self._read: Stamp = ()
        self._seen: Stamp = ()

    @property
    def sources(self) -> Mapping[str, Source]:
        return self._sources

    def get(self, name: str) -> Source | None:
        return self._sources.get(name)

    async def start(self) -> None:
        """Raises ConfigurationError with every mistake and its line. No file: no sources."""
        try:
            await asyncio.to_thread(self.load)
        except MistakesError as error:
            raise ConfigurationError(f"BLOOMWEAVER_SOURCES_FILE: {error}") from None

    async def watch(self) -> None:
        """Never ends by itself."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await asyncio.to_thread(self.look)
            except Exception as error:
                telemetry.UNFORESEEN.labels("sources").inc()
                log.error("sources.unforeseen", exc_info=error)

    def load(self) -> None:
        """Blocking. Raises MistakesError."""
        self._read = self._seen = self._stamp()
        if self._read[0] == _nothing_at(self._path):
            self._refuse_to_forget()
            return
        secrets = SecretReferences(process_environment(), self._path.parent)
        try:
            text = read_source_file(self._path)
            self._sources = load_sources(
                text, str(self._path), secrets, on_loopback=self._on_loopback
            )
        finally:
            self._secret_files = secrets.files
            self._read = self._seen = (self._read[0], *self._stamp()[1:])

    def _refuse_to_forget(self) -> None:
        if self._sources:
            told = "is gone; to have no sources let it say so: `sources: {}`"
            raise MistakesError([Mistake(0, told, str(self._path))])

    def look(self) -> bool:
        """Read the file again if it has changed, and has not changed since the look before, so
        that half a file is never read; whether it was. Blocking.

        A file with mistakes changes nothing: the sources stay as they are, and one line says why.
        So does a file that is gone: senders take an unknown address for the end.
        """
        seen, self._seen = self._seen, self._stamp()
        if self._seen != seen or self._seen == self._read:
            return False
        try:
            self.load()
        except MistakesError as error:
            told = [str(mistake) for mistake in error.mistakes]
            log.error("sources.kept", file=str(self._path), mistakes=told)
            return False
        log.info("sources.loaded", file=str(self._path), sources=sorted(self._sources))
        return True

    def _stamp(self) -> Stamp:
        return tuple(_stamp_of(path) for path in (self._path, *sorted(self._secret_files)))


def _stamp_of(path: Path) -> tuple[str, int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return _nothing_at(path)
    return (str(path), found.st_ino, found.st_mtime_ns, found.st_size)


def _nothing_at(path: Path) -> tuple[str, int, int, int]:
    return (str(path), 0, 0, 0)


def read_source_file(path: Path) -> str:
    """Blocking. Raises MistakesError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise MistakesError([Mistake(0, f"is larger than {MAX_FILE_BYTES} bytes", str(path))])
        return data.decode()
    except OSError as error:
        raise MistakesError([Mistake(0, f"cannot be read: {error.strerror}", str(path))]) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise MistakesError([Mistake(line, "is not UTF-8", str(path))]) from None


def process_environment() -> dict[str, str]:
    """The variables of this process, over those in .env, as for the settings. Blocking."""
    read = DotEnvSettingsSource(Settings, case_sensitive=True).env_vars
    found = {name: value for name, value in read.items() if value is not None}
    return found | dict(os.environ)
