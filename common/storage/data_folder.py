"""The data folder: where the embedded adapters keep everything, and who may use it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from common.ports.errors import PermanentError

__all__ = [
    "FORMAT_VERSION",
    "MIGRATIONS",
    "DataFolder",
    "DataFolderError",
    "DataFolderInUseError",
    "Migration",
]

FORMAT_VERSION = 1

Migration = Callable[[Path], None]
"""Brings a folder from one format to the next. It may be killed and run again: be idempotent."""

MIGRATIONS: Mapping[int, Migration] = {}
"""By the format they start from."""

_FORMAT_FILE = "FORMAT"
_NEW_FORMAT_FILE = "FORMAT.new"
_FOLDERS = ("blobs", "index", "run")
_NOT_CONTENT = frozenset({_NEW_FORMAT_FILE, "lost+found", ".DS_Store"})
"""What an empty folder may hold: our own interrupted creation, and what file systems put there."""


class DataFolderError(PermanentError):
    """The folder cannot be used; the message says why and what to do."""


class DataFolderInUseError(DataFolderError):
    """Another process owns it."""


class DataFolder:
    """Opens the folder, creates it when it is missing or empty, migrates it when it is older.

    Several processes may open one folder at once. Raises DataFolderError.
    """

    def __init__(
        self,
        path: Path,
        *,
        format_version: int = FORMAT_VERSION,
        migrations: Mapping[int, Migration] = MIGRATIONS,
    ) -> None:
        self.path = path.absolute()
        self._format_version = format_version
        self._migrations = migrations
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with _locked_folder(self.path):
                self._open()
        except OSError as error:
            raise DataFolderError(
                f"{self.path} cannot be used as data folder: {error.strerror or error}"
            ) from error

    @property
    def queue_path(self) -> Path:
        return self.path / "queue.sqlite"

    @property
    def registry_path(self) -> Path:
        return self.path / "registry.sqlite"

    @property
    def blobs_path(self) -> Path:
        return self.path / "blobs"

    @property
    def vectors_path(self) -> Path:
        return self.path / "vectors.sqlite"

    @property
    def access_path(self) -> Path:
        """Who may call: its owner alone may read it."""
        return self.path / "access.sqlite"

    @property
    def receipts_path(self) -> Path:
        return self.path / "receipts.sqlite"

    @property
    def audit_path(self) -> Path:
        return self.path / "audit.sqlite"

    @property
    def index_path(self) -> Path:
        return self.path / "index"

    @property
    def run_path(self) -> Path:
        """For what lives no longer than the processes: locks, doorbells."""
        return self.path / "run"

    @contextlib.contextmanager
    def own(self) -> Iterator[None]:
        """Be the only owner of the folder. Raises DataFolderError, naming the owner's pid.

        The kernel frees the lock when the process dies, however it dies.
        """
        descriptor = os.open(self.run_path / "owner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            self._lock(descriptor)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            try:
                yield
            finally:
                # Closing alone would leave it to a child that is between fork and exec just now.
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace") or "unknown"
            raise DataFolderInUseError(
                f"{self.path} is in use by process {holder}: "
                "stop that one first, or set BLOOMWEAVER_DATA_DIR to another folder"
            ) from error

    def _open(self) -> None:
        found = self._read_format()
        if found is None:
            self._refuse_strangers_folder()
            self._write_format(self._format_version)
            found = self._format_version
        if found > self._format_version:
            raise DataFolderError(
                f"{self.path} was written by a newer BloomWeaver (format {found}, "
                f"this one knows {self._format_version}): upgrade BloomWeaver, "
                "or set BLOOMWEAVER_DATA_DIR to another folder"
            )
        for name in _FOLDERS:
            (self.path / name).mkdir(exist_ok=True)
        if found < self._format_version:
            with self.own():
                self._migrate(found)

    def _migrate(self, found: int) -> None:
        for version in range(found, self._format_version):
            if version not in self._migrations:
                raise DataFolderError(
                    f"{self.path} has format {version}, which is too old to be migrated"
                )
            self._migrations[version](self.path)
            self._write_format(version + 1)

    def _read_format(self) -> int | None:
        try:
            text = (self.path / _FORMAT_FILE).read_bytes()
        except FileNotFoundError:
            return None
        try:
            version = json.loads(text)["format"]
        except (ValueError, KeyError, TypeError):
            version = None
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise DataFolderError(
                f'{self.path / _FORMAT_FILE} does not read {{"format": NUMBER}}: '
                "this is not a BloomWeaver data folder, or it is damaged"
            )
        return version

    def _refuse_strangers_folder(self) -> None:
        strange = sorted({entry.name for entry in self.path.iterdir()} - _NOT_CONTENT)
        if strange:
            raise DataFolderError(
                f"{self.path} is not a BloomWeaver data folder (it has no {_FORMAT_FILE}) and is "
                f"not empty (it holds {strange[0]!r}): choose an empty or a new folder"
            )

    def _write_format(self, version: int) -> None:
        new = self.path / _NEW_FORMAT_FILE
        with new.open("w", encoding="ascii") as file:
            file.write(json.dumps({"format": version}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path / _FORMAT_FILE)
        _fsync_folder(self.path)


@contextlib.contextmanager
def _locked_folder(path: Path) -> Iterator[None]:
    # The lock is on the folder itself: a lock file would make an empty folder non-empty.
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _fsync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
