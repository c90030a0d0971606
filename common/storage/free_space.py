"""How much room the disk of a folder has."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from common.ports.errors import TransientError


def free_bytes(path: Path) -> int:
    """What this user may still write to the disk that holds `path`, or will hold it.

    May block, on a network's disk. Raises TransientError.
    """
    try:
        found = os.statvfs(path)
    except FileNotFoundError:
        return free_bytes(path.absolute().parent)
    except OSError as error:
        reason = error.strerror or error
        raise TransientError(f"the room on the disk of {path} is unknown: {reason}") from error
    return found.f_bavail * found.f_frsize


async def free_bytes_beside(path: Path) -> int:
    """The same, in a thread."""
    return await asyncio.to_thread(free_bytes, path)
