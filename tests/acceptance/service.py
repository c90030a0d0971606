"""`bloomweaver up` as a user starts it: a process group of its own, logs in a file."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

MODELS = Path(sys.prefix) / "models-of-tests"
"""One fused model for all services under test: making it takes two seconds of a core."""

PATIENCE_SECONDS = 60.0
"""How long a condition may take before the test fails; nothing is asserted about it."""


def free_port() -> int:
    """One that no outgoing connection is given while the service that listens there is killed and
    started again: then it could not listen until that connection ends."""
    while True:
        port = random.SystemRandom().choice(_LISTENERS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])


def _ports_of_listeners() -> Sequence[int]:
    """Those that the system gives to no outgoing connection; [0], any, where it leaves none."""
    given = range(32768, 61000)
    with contextlib.suppress(FileNotFoundError):
        first, last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
        given = range(int(first), int(last) + 1)
    return [port for port in range(10_000, 65_536) if port not in given] or [0]


_LISTENERS = _ports_of_listeners()


def wait_until(what: str, condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    """Look at the condition until it holds; an AssertionError names what never came."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"never happened within {seconds:g} s: {what}")
        time.sleep(0.05)


class Service:
    """Starts, stops and kills `bloomweaver up` on one data folder and one port."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "up.log"
        self._settings = {f"BLOOMWEAVER_{k.upper()}": str(v) for k, v in settings.items()}
        self.more_environment: Mapping[str, str] = {}
        self.run_by: Sequence[str] = ()
        """A command that is to run `up`, as `strace` does."""
        self._groups: set[int] = set()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("BLOOMWEAVER_")}
        return {
            **inherited,
            "BLOOMWEAVER_DATA_DIR": str(self.data_dir),
            "BLOOMWEAVER_MODEL_CACHE_DIR": str(MODELS),
            "BLOOMWEAVER_PORT": str(self.port),
            "BLOOMWEAVER_URL": self.url,
            "BLOOMWEAVER_LOG_FORMAT": "json",
            **self._settings,
            **self.more_environment,
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-W", "ignore", "-m", "common.cli.main", *arguments]

    def start(self) -> None:
        self.launch()
        wait_until("the service is ready", self._ready)

    def launch(self) -> None:
        """Start it and leave it to itself."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.run_by, *self.command("up")],
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._groups.add(self.process.pid)

    def _ready(self) -> bool:
        assert self.process
        if self.process.poll() is not None:
            raise AssertionError(f"up ended with {self.process.returncode}:\n{self.tail()}")
        try:
            return self.get("/readyz") is not None
        except (urllib.error.URLError, ConnectionError):
            return False

    def tail(self) -> str:
        return self.log.read_text()[-3000:]

    def stop(self) -> int:
        """SIGTERM, and the exit code once it has drained."""
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_SECONDS)

    def kill_group(self) -> None:
        """SIGKILL for the process and all its workers at once, as a power switch would."""
        assert self.process
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE_SECONDS)

    def close(self) -> None:
        if self.process and self.process.poll() is None:
            self.kill_group()
        for pid in self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def alive(self) -> list[int]:
        """Every `up` and worker that was started here and lives, also those of earlier starts."""
        return [pid for pid in _pids() if _group_of(pid) in self._groups]

    def workers(self) -> list[int]:
        """Process ids of the embedding workers."""
        assert self.process
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            text=True,
            capture_output=True,
            check=False,
            timeout=900,
        )

    def get(self, path: str) -> Any:
        """Raises URLError; the HTTPError of another status says what the answer did."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=30) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:  # it holds the connection
                error.add_note(error.read().decode(errors="replace"))
            raise

    def post(self, path: str, body: object) -> Any:
        request = urllib.request.Request(
            self.url + path,
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def put(self, document_id: str, content: bytes, content_type: str) -> Any:
        request = urllib.request.Request(
            f"{self.url}/v1/namespaces/default/documents/{document_id}",
            content,
            {"Content-Type": content_type},
            method="PUT",
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def documents(self) -> dict[str, int]:
        """How many documents of namespace `default` stand where."""
        for namespace in self.get("/v1/stats")["namespaces"]:
            if namespace["namespace"] == "default":
                return dict(namespace["documents"])
        return {}


def _pids() -> list[int]:
    """None where there is no /proc."""
    return sorted(int(entry.name) for entry in Path("/proc").glob("[0-9]*"))


def _group_of(pid: int) -> int | None:
    """Its process group; None when it is dead, also while its parent has not looked yet."""
    try:
        state, _, group = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:3]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else int(group)


def running(folder: Path, **settings: object) -> Iterator[Service]:
    service = Service(folder, **settings)
    service.start()
    yield service
    service.close()
