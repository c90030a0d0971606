"""What stands in for a Qdrant server: see `qdrant_rest`, which says how far."""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
import uuid
from functools import cache
from pathlib import Path

from tests.servers.process import ServerProcess

QDRANT_KEY = "a-key-of-tests"
_MEMORY = Path("/dev/shm")


@cache
def qdrant() -> ServerProcess:
    """One for this test process; tests keep apart by the prefixes of their collections."""
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-m", "tests.servers.qdrant_rest", "{port}", _folder(), QDRANT_KEY]
    return ServerProcess(command, environment={"PYTHONPATH": root}, probe="/")


def qdrant_url() -> str:
    """Of an index of its own on that server."""
    return f"qdrant:{qdrant().url}?prefix=t{uuid.uuid4().hex[:12]}"


def _folder() -> str:
    """In memory where that is possible: a collection is a dozen synced files."""
    folder = tempfile.mkdtemp(prefix="qdrant-", dir=_MEMORY if _MEMORY.is_dir() else None)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
