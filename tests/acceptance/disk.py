"""A disk that a test can fill: a small one of its own, or the same errors injected."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

DISK_MEBIBYTES = 512
INJECTOR = Path(__file__).parent / "full_disk"
MARKER_VARIABLE = "FULL_DISK_MARKER"


class Disk(Protocol):
    """Where the data folder lies."""

    folder: Path
    environment: Mapping[str, str]
    """What the processes need to notice that the disk is full."""

    def fill(self) -> None:
        """Take all the room there is now; call it again, since files are also deleted."""

    def free(self) -> None:
        """Give the room back."""


class MountedDisk:
    """A file system of its own, in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment: Mapping[str, str] = {}
        self._filler = folder / "filler"

    def fill(self) -> None:
        with self._filler.open("ab", buffering=0) as file:
            for size in (1 << 24, 1 << 16, 1 << 12):
                self._write_until_full(file.fileno(), bytes(size))

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)

    def _write_until_full(self, descriptor: int, block: bytes) -> None:
        try:
            while os.write(descriptor, block) == len(block):
                pass
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


class InjectedDisk:
    """No room, by order of a marker file: see full_disk/sitecustomize.py."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._marker = folder / "is-full"
        self.environment: Mapping[str, str] = {
            "PYTHONPATH": str(INJECTOR),
            MARKER_VARIABLE: str(self._marker),
        }

    def fill(self) -> None:
        self._marker.touch()

    def free(self) -> None:
        self._marker.unlink(missing_ok=True)


@contextlib.contextmanager
def small_disk(folder: Path, kind: str) -> Iterator[Disk]:
    """`kind`: "mounted", "injected", or "" for a mounted one where this user may mount."""
    folder.mkdir()
    if kind == "injected" or not _mounted(folder):
        if kind == "mounted":
            raise AssertionError(f"no file system can be mounted at {folder}")
        yield InjectedDisk(folder)
        return
    try:
        yield MountedDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mounted(folder: Path) -> bool:
    size = f"size={DISK_MEBIBYTES}m"
    try:
        mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)]
        return subprocess.run(mount, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False
