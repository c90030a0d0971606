"""moto and ministack as processes, and the environment that sends the product to them."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import pytest

from tests.servers.process import ServerProcess

REGION = "eu-central-1"
_BIN = Path(sys.executable).parent


@cache
def moto() -> ServerProcess:
    """One for this test process; tests keep apart by the names of what they create."""
    return fresh_moto()


def fresh_moto() -> ServerProcess:
    """With nothing in it; whoever starts it stops it."""
    command = [sys.executable, "-m", "tests.servers.moto", "-H", "127.0.0.1", "-p", "{port}"]
    root = str(Path(__file__).parents[2])
    return ServerProcess(command, environment={"PYTHONPATH": root}, probe="/moto-api/")


@cache
def ministack() -> ServerProcess:
    return fresh_ministack()


def fresh_ministack() -> ServerProcess:
    """With nothing in it; whoever starts it stops it. Functions run as processes of its own, from
    code in its folder."""
    return ServerProcess(
        [str(_BIN / "ministack")],
        environment={"GATEWAY_PORT": "{port}", "BIND_HOST": "127.0.0.1", "TMPDIR": "{folder}"},
        probe="/_ministack/health",
        with_children=True,
    )


def aws_environment(endpoint_url: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint_url,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    }


def use(monkeypatch: pytest.MonkeyPatch, server: ServerProcess) -> None:
    """Everything this process opens from now on, until the test ends, talks to the server."""
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    for name, value in aws_environment(server.url).items():
        monkeypatch.setenv(name, value)
