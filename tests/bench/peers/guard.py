"""A child process that is ended when it takes too much memory or time, and what it said so far."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.peers.install import ROOT

LOOK_SECONDS = 0.05
"""A batch of long texts takes gigabytes within a second."""

_ENVIRONMENT = {
    "COCOINDEX_DISABLE_USAGE_TRACKING": "1",
    "COCOINDEX_LOG_LEVEL": "warn",
    "HF_HUB_OFFLINE": "1",
    "LANGSMITH_TRACING": "false",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONPATH": str(ROOT),
}


@dataclass(slots=True)
class Said:
    """`answers`: its lines. `failure` is empty when it ended well."""

    answers: list[dict[str, Any]] = field(default_factory=list)
    failure: str = ""
    seconds: float = 0.0
    """From `ready` on, or from the start where it never said so."""

    @property
    def embedded(self) -> int:
        """How many texts it had embedded when it last told."""
        counts = [answer["embedded"] for answer in self.answers if "embedded" in answer]
        return int(counts[-1]) if counts else 0


def run_guarded(command: Sequence[str], *, limit_gigabytes: float, limit_seconds: float) -> Said:
    """Blocks until it has ended, by itself or not. Raises nothing of the child's."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=ROOT,
            env={**os.environ, **_ENVIRONMENT},
            text=True,
            start_new_session=True,
        )
        said = Said()
        watcher = threading.Thread(
            target=_watch, args=(process, said, limit_gigabytes, limit_seconds)
        )
        watcher.start()
        try:
            _listen(process, said)
        finally:
            _kill(process)
            watcher.join()
        if process.returncode and not said.failure:
            said.failure = f"ended with {process.returncode}: {_last_line(errors)}"
    return said


def _listen(process: subprocess.Popen[str], said: Said) -> None:
    assert process.stdout
    began = time.monotonic()
    with process.stdout as lines:
        for line in lines:
            if not line.endswith("\n"):
                break  # it was killed in the middle of it
            answer = json.loads(line)
            said.answers.append(answer)
            if "ready" in answer:
                began = time.monotonic()
    said.seconds = time.monotonic() - began
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)


def _watch(
    process: subprocess.Popen[str], said: Said, limit_gigabytes: float, limit_seconds: float
) -> None:
    deadline = time.monotonic() + limit_seconds
    while process.poll() is None:
        gigabytes = _resident_gigabytes(process.pid)
        if gigabytes > limit_gigabytes:
            said.failure = f"killed at {gigabytes:.1f} GB"
        elif time.monotonic() > deadline:
            said.failure = f"killed after {limit_seconds:g} s"
        if said.failure:
            _kill(process)
            return
        time.sleep(LOOK_SECONDS)


def _resident_gigabytes(pid: int) -> float:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE") / 1e9
    return 0.0


def _kill(process: subprocess.Popen[str]) -> None:
    """With whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(errors: Any) -> str:
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"
