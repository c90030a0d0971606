"""Neither a log nor the metrics may be what ends the work."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from common import telemetry

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here")
def test_a_log_that_cannot_be_written_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = structlog.get_config()
    stream = FULL.open("w")
    monkeypatch.setattr(sys, "stderr", stream)
    try:
        telemetry.configure_logging("json", "info")
        for _ in range(3):
            structlog.get_logger("test").error("disk.full", text="x" * 100_000)
    finally:
        structlog.configure(**before)
        with contextlib.suppress(OSError):
            stream.close()


def test_a_traceback_holds_no_values(capsys: pytest.CaptureFixture[str]) -> None:
    """Local variables are documents, vectors and secrets."""
    before = structlog.get_config()
    try:
        telemetry.configure_logging("json", "info")
        password = "swordfish"
        try:
            password.index("?")
        except ValueError as error:
            structlog.get_logger("test").error("it.broke", exc_info=error)
    finally:
        structlog.configure(**before)
    written = capsys.readouterr().err
    assert "ValueError" in written
    assert "swordfish" not in written


_PREPARE = """
import resource, sys
from pathlib import Path
from common.cli.problems import WrongUsageError
from common.cli.roles import prepare_metrics

if sys.argv[2] == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
try:
    prepare_metrics(Path(sys.argv[1]), clean=sys.argv[2] == "up")
except WrongUsageError as error:
    sys.exit(str(error))
from common import telemetry
print(telemetry.totals())
"""


def test_a_process_that_finds_no_room_for_its_metrics_leaves_those_of_others_readable(
    tmp_path: Path,
) -> None:
    def prepare(kind: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", _PREPARE, str(tmp_path), kind]
        return subprocess.run(command, text=True, capture_output=True, check=False)

    assert prepare("up").returncode == 0
    refused = prepare("full")
    assert refused.returncode == 1
    assert "too large" in refused.stderr, "the limit of this test is another error than ENOSPC"
    looked = prepare("worker")
    assert looked.returncode == 0, looked.stderr
    assert not list(tmp_path.rglob("*.unfinished"))
