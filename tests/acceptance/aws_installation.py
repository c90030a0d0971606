"""The product on its AWS column, as real processes: an emulator of AWS, perhaps behind a proxy that
misbehaves, a Pinecone test server whose reads lag, and a process for each role."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.acceptance.service import MODELS, PATIENCE_SECONDS, free_port, wait_until
from tests.servers.aws import aws_environment
from tests.servers.process import ServerProcess

API_KEY = "test-key"
WORKERS = (
    ("embed", "worker", "embed"),
    ("apply", "worker", "apply"),
    ("sweep", "worker", "sweep"),
)
DRAIN_SECONDS = 60.0


def pinecone_server(*, lag_seconds: float) -> ServerProcess:
    command = [sys.executable, "-m", "tests.servers.pinecone", "--port", "{port}"]
    options = ["--dimension", "384", "--index-lag-seconds", str(lag_seconds)]
    root = str(Path(__file__).parents[2])
    return ServerProcess([*command, *options], environment={"PYTHONPATH": root}, probe="/_test/")


def unruly_server(upstream: str, *, seed: int, calm: bool = False) -> ServerProcess:
    command = [sys.executable, "-m", "tests.servers.unruly", "--port", "{port}"]
    options = ["--upstream", upstream, "--seed", str(seed), *(["--calm"] if calm else [])]
    root = str(Path(__file__).parents[2])
    probe = "/_unruly/counts"
    return ServerProcess([*command, *options], environment={"PYTHONPATH": root}, probe=probe)


@dataclass
class AwsInstallation:
    """All processes share a data folder, so that /metrics of the webhook sums over them."""

    folder: Path
    aws_url: str
    pinecone_url: str
    settings: dict[str, object] = field(default_factory=dict)
    name: str = field(default_factory=lambda: f"bw{secrets.token_hex(4)}")
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def product_settings(self) -> dict[str, str]:
        queues = {
            f"{kind}_queue_name": f"{self.name}-{kind}"
            for kind in ("change", "create", "update", "delete", "dead_letter", "intake")
        }
        given = {
            "data_dir": self.folder / "data",
            "model_cache_dir": MODELS,
            "queue_url": "sqs:",
            "registry_url": f"dynamodb:{self.name}",
            "blobs_url": f"s3://{self.name}/store",
            "index_url": f"pinecone:{self.pinecone_url}",
            "pinecone_api_key": API_KEY,
            "vectors_url": "none:",
            "port": self.port,
            "url": self.url,
            "log_format": "json",
            **queues,
            **self.settings,
        }
        return {f"BLOOMWEAVER_{k.upper()}": str(v) for k, v in given.items()}

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("BLOOMWEAVER_", "AWS_"))}
        return {**kept, **aws_environment(self.aws_url), **self.product_settings}

    def start(self, roles: Sequence[tuple[str, ...]] = WORKERS) -> None:
        for name, *arguments in (("webhook", "webhook"), *roles):
            self.launch(name, *arguments)
        wait_until("the webhook is ready", self._ready)

    def launch(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "common.cli.main", *arguments],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def run(
        self, *arguments: str, timeout_seconds: float = 900
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "common.cli.main", *arguments],
            env=self.environment,
            text=True,
            capture_output=True,
            check=False,
            timeout=timeout_seconds,
        )

    def begin(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Its output and its errors are one stream."""
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "common.cli.main", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait(PATIENCE_SECONDS)

    def get(self, path: str) -> Any:
        try:
            with urllib.request.urlopen(self.url + path, timeout=30) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            error.close()  # it holds the connection
            raise

    def stop(self) -> dict[str, int]:
        """SIGTERM to all; their exit codes once they have drained."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        return {name: p.wait(DRAIN_SECONDS) for name, p in self.processes.items()}

    def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait(PATIENCE_SECONDS)

    def tail(self) -> str:
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text()[-2000:]}" for log in logs)

    def _ready(self) -> bool:
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise AssertionError(f"{name} ended with {process.returncode}:\n{self.tail()}")
        try:
            return self.get("/readyz") is not None
        except (urllib.error.URLError, ConnectionError):
            return False
