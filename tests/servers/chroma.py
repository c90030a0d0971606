"""Chroma's own server as a process, as its wheel ships it."""

from __future__ import annotations

import subprocess
import sys
import uuid
from functools import cache
from pathlib import Path

from tests.servers.process import ServerProcess

_PROGRAM = Path(sys.executable).parent / "chroma"
_PROBE = "/api/v2/heartbeat"


class ChromaServer(ServerProcess):
    """A new one, with an empty folder of its own; it can be killed and started again."""

    def __init__(self) -> None:
        command = [str(_PROGRAM), "run", "--path", "{folder}/data", "--host", "127.0.0.1"]
        super().__init__([*command, "--port", "{port}"], probe=_PROBE)

    def start_again(self) -> None:
        """After `stop`, which kills it: on the same port and with the same data."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.process.args, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._wait(self.url + _PROBE)


@cache
def chroma() -> ServerProcess:
    """One for this test process; tests keep apart by the prefixes of their collections."""
    return ChromaServer()


def chroma_url() -> str:
    """Of an index of its own on that server."""
    return f"chroma:{chroma().url}?prefix=t{uuid.uuid4().hex[:12]}"
