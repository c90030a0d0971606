"""docker/healthcheck.py by itself: which port a role is asked on, and what counts as at work."""

from __future__ import annotations

import runpy
from typing import Any

import pytest

from tests.deploy.buildah import ROOT

HEALTHCHECK: dict[str, Any] = runpy.run_path(str(ROOT / "docker/healthcheck.py"))
PYTHON = ("/opt/bloomweaver/bin/python", "/opt/bloomweaver/bin/bloomweaver")


@pytest.mark.parametrize(
    ("command", "environment", "port"),
    [
        ("up --host 0.0.0.0", {}, 8080),
        ("webhook", {"BLOOMWEAVER_PORT": "81"}, 81),
        ("webhook --port 82", {"BLOOMWEAVER_PORT": "81"}, 82),
        ("webhook --port=83", {}, 83),
        ("worker serve --no-queue", {"BLOOMWEAVER_PORT": "81"}, 8090),
        ("worker serve", {"BLOOMWEAVER_SERVE_PORT": "84"}, 84),
        ("worker embed", {"BLOOMWEAVER_SERVE_PORT": "84"}, None),
        ("worker embed --variant up", {}, None),
        ("webhook --port 0", {}, None),
        ("keys create", {}, None),
    ],
)
def test_each_role_is_asked_where_it_listens(
    command: str, environment: dict[str, str], port: int | None
) -> None:
    assert HEALTHCHECK["listening_port"]([*PYTHON, *command.split()], environment) == port


@pytest.mark.parametrize(("state", "well"), [("S", True), ("R", True), ("T", False), ("Z", False)])
def test_a_process_that_was_stopped_or_ended_is_not_at_work(state: str, *, well: bool) -> None:
    assert (HEALTHCHECK["looked_at"](f"1 (a (b) c) {state} 0 1 1 0") is None) is well
