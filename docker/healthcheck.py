"""Whether the container's process does its work: exit code 0, or 1 and a line that says what not.

Roles that listen are asked for /healthz. One that works queues listens nowhere: of it is known
that its process runs, and neither stopped nor ended without being reaped.
"""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

TIMEOUT_SECONDS = 4.0
_ROLES = ("up", "webhook", "worker")
_AT_WORK = frozenset("RSDI")
"""States of /proc/PID/stat: running, sleeping, waiting for a disk, idle."""


def listening_port(command: Sequence[str], environment: Mapping[str, str]) -> int | None:
    """Where the role of this command line listens; None for one that does not, or on any port."""
    words = [word for word in command if word in _ROLES]
    if words[:1] == ["worker"]:
        listens = "serve" in command
        variable, default = "BLOOMWEAVER_SERVE_PORT", 8090
    else:
        listens = bool(words)
        variable, default = "BLOOMWEAVER_PORT", 8080
    if not listens:
        return None
    given = [after for word, after in pairwise(command) if word == "--port"]
    given += [word.partition("=")[2] for word in command if word.startswith("--port=")]
    return int(given[-1] if given else environment.get(variable) or default) or None


def asked(port: int) -> str | None:
    """What is wrong with the server on this port."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"port {port} does not answer: {error}"
    finally:
        connection.close()
    return None if status == 200 else f"/healthz on port {port} answers {status}"


def looked_at(stat: str) -> str | None:
    """What is wrong with a process whose /proc/PID/stat this is."""
    state = stat.rpartition(") ")[2][:1]
    return None if state in _AT_WORK else f"the process is in state {state!r}"


def main(process: Path) -> int:
    command = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    port = listening_port(command, os.environ)
    wrong = asked(port) if port else looked_at((process / "stat").read_text())
    if wrong:
        sys.stderr.write(f"{wrong}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path("/proc/1")))
