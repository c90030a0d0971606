"""hadolint has nothing to say of docker/, and what it is told to leave out has a reason."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.buildah import ROOT

pytestmark = pytest.mark.deploy

FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
HADOLINT = Path(sys.executable).parent / "hadolint"


def test_hadolint_finds_nothing() -> None:
    assert len(FILES) == 4
    ended = subprocess.run(
        [HADOLINT, "--no-color", *FILES], capture_output=True, text=True, check=False, timeout=120
    )
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_hadolint_shall_leave_out_says_why(path: Path) -> None:
    ignored = re.findall(r"^# hadolint.*ignore=.*$", path.read_text(), re.MULTILINE)
    assert [line for line in ignored if not re.search(r"ignore=[\w,]+ -- \S", line)] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_process_is_started_without_a_shell(path: Path) -> None:
    """So that SIGTERM reaches it."""
    for line in re.findall(r"^ENTRYPOINT .*|^CMD .*", path.read_text(), re.MULTILINE):
        assert re.match(r"(?:ENTRYPOINT|CMD) \[", line), line
