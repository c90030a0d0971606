"""checkov over terraform/: no check fails, and each that is skipped says why.

checkov lives in a virtual environment of its own, which `make test-deploy` sets up.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.terraform import SOURCE

pytestmark = pytest.mark.deploy
ROOT = SOURCE.parent
CHECKOV = ROOT / ".venv-checkov"
LIMIT_SECONDS = 600
SKIP = re.compile(r"checkov:skip=([A-Z0-9_]+)(?::[ \t]*(.*))?")
FEWEST_WORDS = 4
"""Less is no reason."""


def test_no_check_fails() -> None:
    reports = _reports()
    found = [
        f"{one['check_id']} {one['check_name']}: {one['resource']} in {one['file_path']}"
        for report in reports
        for one in report["results"]["failed_checks"]
    ]
    assert found == []
    assert [report["results"]["parsing_errors"] for report in reports] == [[]] * len(reports)
    assert sum(report["summary"]["passed"] for report in reports) > 0, "nothing was checked"


def test_each_skip_has_a_reason() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {skip}"
        for path in SOURCE.rglob("*.tf")
        for skip in _without_reason(path.read_text())
    ]
    assert found == []


def test_a_skip_without_a_reason_is_found() -> None:
    lines = [
        "#checkov:skip=CKV_AWS_1",
        "# checkov:skip=CKV_AWS_2:",
        "#checkov:skip=CKV_AWS_3: not needed",
        "#checkov:skip=CKV_AWS_4:Logs are written once and never replaced.",
    ]
    assert list(_without_reason("\n".join(lines))) == ["CKV_AWS_1", "CKV_AWS_2", "CKV_AWS_3"]


def test_nothing_is_skipped_elsewhere() -> None:
    """A configuration file would switch checks off far from what they are about."""
    for folder in (ROOT, SOURCE):
        assert not [*folder.glob(".checkov.y*ml"), *folder.glob(".checkov.baseline")]


def _without_reason(text: str) -> Iterator[str]:
    for skip in SKIP.finditer(text):
        if len((skip[2] or "").split()) < FEWEST_WORDS:
            yield skip[1]


def _reports() -> list[dict[str, Any]]:
    """One of each framework that found something to check."""
    done = subprocess.run(
        [
            *(_checkov(), "--skip-download", "--compact", "--output", "json"),
            *("--framework", "terraform", "secrets", "--directory", str(SOURCE)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert done.stdout.strip(), done.stderr
    told = json.loads(done.stdout)
    reports: list[dict[str, Any]] = told if isinstance(told, list) else [told]
    assert all("results" in report for report in reports), done.stdout
    return reports


def _checkov() -> Path:
    program = CHECKOV / "bin" / "checkov"
    if not program.is_file():
        pytest.skip(
            "checkov is not installed in .venv-checkov (`make .venv-checkov/ready`):"
            " terraform/ was not checked by it"
        )
    return program
