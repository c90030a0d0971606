"""Blobs as files in a folder: whole or not at all, and on the disk when put() returns."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import secrets
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from common.blob_keys import segments_of
from common.clock import Clock, system_clock
from common.ports.blobs import BlobInfo, BlobNotFoundError
from common.ports.errors import PermanentError, PortError, TransientError
from common.settings import Settings
from common.storage.data_folder import DataFolder
from common.storage.free_space import free_bytes_beside

__all__ = ["FolderBlobStore"]

P = ParamSpec("P")
T = TypeVar("T")

_THREADS = 8  # what waits here is mostly fsync
_PUT_ATTEMPTS = 20
_LIST_BATCH = 512
_LEFTOVER_SECONDS = 86400.0
_TEMPORARY_FOLDER = ".tmp"
_KNOWN_FOLDERS_LIMIT = 10_000
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_IN_THE_WAY = frozenset({errno.ENOTDIR, errno.EISDIR, errno.EEXIST})
_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
"""At the start a person has to mend it; later it is no fault of the document in hand."""


class FolderBlobStore:
    """Implements BlobStore and CapacityAware. A key is a path below `root`.

    Other processes may use the folder too.

    Raises ValueError for a key that is no plain relative path of printable ASCII segments.
    """

    def __init__(self, root: Path, *, clock: Clock = system_clock) -> None:
        """`clock` (seconds since the epoch) only dates leftovers of killed processes."""
        self._root = root.absolute()
        self._temporary = self._root / _TEMPORARY_FOLDER
        self._known_folders: set[Path] = set()
        with _port_errors(self._root, permanent=_IN_THE_WAY | _REFUSED):
            self._temporary.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers(clock() - _LEFTOVER_SECONDS)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="blobs")

    async def close(self) -> None:
        """Finish what was begun."""
        await asyncio.to_thread(self._threads.shutdown)

    async def free_bytes(self) -> int:
        return await free_bytes_beside(self._root)

    async def put(self, key: str, data: bytes) -> bool:
        return await self._run(self._put, self._path(key), data)

    async def get(self, key: str) -> bytes:
        return await self._run(self._get, self._path(key), key)

    async def exists(self, key: str) -> bool:
        return await self._run(Path.is_file, self._path(key))

    async def delete(self, keys: Sequence[str]) -> None:
        await self._run(self._delete, [self._path(key) for key in keys])

    async def delete_if_older(self, keys: Sequence[str], *, before: float) -> int:
        paths = [self._path(key) for key in keys]
        return await self._run(self._delete_if_older, paths, before)

    async def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        start = self._path(prefix.rstrip("/")) if prefix.rstrip("/") else self._root
        found = self._walk(start, only_below=prefix.endswith("/"))
        while batch := await self._run(list, itertools.islice(found, _LIST_BATCH)):
            for info in batch:
                yield info

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        with _port_errors(self._root):
            return await loop.run_in_executor(self._threads, lambda: function(*args, **kwargs))

    def _path(self, key: str) -> Path:
        segments = segments_of(key)
        if segments[0] == _TEMPORARY_FOLDER:
            raise ValueError(
                f"{key!r} is not a blob key: {_TEMPORARY_FOLDER} holds what is unfinished"
            )
        return self._root.joinpath(*segments)

    def _put(self, path: Path, data: bytes) -> bool:
        for attempt in itertools.count(1):
            try:
                self._make_folder(path.parent)
                return self._write_or_refresh(path, data)
            except FileNotFoundError:
                # delete() took the file or an empty folder away in between: make them again.
                if attempt == _PUT_ATTEMPTS:
                    raise
                self._known_folders.clear()
                self._temporary.mkdir(parents=True, exist_ok=True)
        raise AssertionError("the loop above ends by itself")

    def _write_or_refresh(self, path: Path, data: bytes) -> bool:
        if _holds(path, data):
            os.utime(path)
            _fsync_folder(path.parent)  # whoever wrote it may not have got as far as this yet
            return False
        self._write(path, data)
        return True

    def _write(self, path: Path, data: bytes) -> None:
        temporary = self._temporary / f"{os.getpid()}-{secrets.token_hex(8)}"
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _fsync_folder(path.parent)

    def _make_folder(self, folder: Path) -> None:
        """Make the folder and see to it that its name is on the disk, once per process."""
        if folder == self._root or folder in self._known_folders:
            return
        self._make_folder(folder.parent)
        _make_one_folder(folder)
        _fsync_folder(folder.parent)
        if len(self._known_folders) >= _KNOWN_FOLDERS_LIMIT:
            self._known_folders.clear()
        self._known_folders.add(folder)

    def _get(self, path: Path, key: str) -> bytes:
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise BlobNotFoundError(f"there is no blob {key}") from error

    def _delete(self, paths: Sequence[Path]) -> None:
        for path in paths:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                path.unlink()
        for folder in {path.parent for path in paths}:
            self._remove_empty(folder)

    def _delete_if_older(self, paths: Sequence[Path], before: float) -> int:
        deleted = sum(self._set_aside(path, before) for path in paths)
        for folder in {path.parent for path in paths}:
            self._remove_empty(folder)
        return deleted

    def _set_aside(self, path: Path, before: float) -> bool:
        """Look at the time of what was taken away, so that no put can come in between."""
        aside = self._temporary / f"{os.getpid()}-{secrets.token_hex(8)}"
        try:
            path.rename(aside)
        except (FileNotFoundError, NotADirectoryError):
            return False
        if aside.stat().st_mtime >= before:
            with contextlib.suppress(FileExistsError):  # put again since: that one is as good
                path.hardlink_to(aside)
            aside.unlink()
            return False
        aside.unlink()
        return True

    def _remove_empty(self, folder: Path) -> None:
        # A pack folder per document would otherwise outlive the document for ever.
        with contextlib.suppress(OSError):
            while folder != self._root:
                folder.rmdir()
                self._known_folders.discard(folder)
                folder = folder.parent

    def _walk(self, start: Path, *, only_below: bool) -> Iterator[BlobInfo]:
        folders = [start]
        if not only_below and start.is_file():
            yield from self._infos([start])
            return
        while folders:
            names, files = _entries(folders.pop())
            folders += [path for path in names if path != self._temporary]
            yield from self._infos(files)

    def _infos(self, paths: Sequence[Path]) -> Iterator[BlobInfo]:
        for path in paths:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                found = path.stat()
                key = path.relative_to(self._root).as_posix()
                yield BlobInfo(key, found.st_size, found.st_mtime)

    def _remove_leftovers(self, before: float) -> None:
        for path in _entries(self._temporary)[1]:
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < before:
                    path.unlink()


def _holds(path: Path, data: bytes) -> bool:
    """Whether the file is there with just this content; a torn one is not."""
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except FileNotFoundError:
        return False


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the files in it; none if it is gone."""
    folders: list[Path] = []
    files: list[Path] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                (folders if entry.is_dir(follow_symlinks=False) else files).append(Path(entry))
    except (FileNotFoundError, NotADirectoryError):
        pass  # removed since its name was read
    return folders, files


def _make_one_folder(folder: Path) -> None:
    """Raises FileNotFoundError when it is removed meanwhile (mkdir's exist_ok says "exists")."""
    try:
        folder.mkdir()
    except FileExistsError:
        if not stat.S_ISDIR(folder.stat().st_mode):
            raise


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _port_errors(root: Path, *, permanent: frozenset[int] = _IN_THE_WAY) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _port_error(root, error, permanent) from error


def _port_error(root: Path, error: OSError, permanent: frozenset[int]) -> PortError:
    if error.errno in _FULL:
        return TransientError(f"the disk that holds {root} is full: free some space on it")
    if error.errno == errno.EIO:
        return TransientError(f"the disk that holds {root} reports an error: look at its health")
    if error.errno in permanent:
        return PermanentError(f"{root} cannot be used: {error.strerror}: {error.filename}")
    return TransientError(f"{root} cannot be used now: {error.strerror or error}")


def connect(url: str, settings: Settings, receiver: str) -> FolderBlobStore:
    """`folder:` is blobs/ in the data folder."""
    return FolderBlobStore(DataFolder(settings.data_dir).blobs_path)
