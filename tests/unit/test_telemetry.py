"""Logging must not be what ends the work."""

from __future__ import annotations

import contextlib
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
