"""Makes every Python process of a test believe that its disk is full while a marker file exists.

Python imports this module by its name at start, from PYTHONPATH. What it changes is where data
reach the disk: fsync (blobs, the index's log) and SQLite's COMMIT.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path
from typing import Any

MARKER = Path(os.environ["FULL_DISK_MARKER"])
_fsync, _connect = os.fsync, sqlite3.connect


def full_disk_fsync(descriptor: int) -> None:
    if MARKER.exists():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    _fsync(descriptor)


class FullDiskConnection(sqlite3.Connection):
    """Refuses to commit, as SQLite does when its log cannot grow."""

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        if sql == "COMMIT" and MARKER.exists():
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return super().execute(sql, *arguments)


def full_disk_connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
    options.setdefault("factory", FullDiskConnection)
    connection: sqlite3.Connection = _connect(*arguments, **options)
    return connection


os.fsync = full_disk_fsync  # type: ignore[assignment]
sqlite3.connect = full_disk_connect  # type: ignore[assignment]
