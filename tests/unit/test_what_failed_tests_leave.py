"""A failed test's open sockets and files are told at its own end, and not at some later test's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).parents[1] / "conftest.py"

TWO_TESTS = """
import gc
import socket


class Held:
    pass


def test_it_fails_and_leaves_a_socket_open():
    held = Held()
    held.itself, held.socket = held, socket.socket()
    raise AssertionError("as a test does")


def test_that_has_nothing_to_do_with_it():
    gc.collect()
"""


def test_a_failed_test_answers_for_what_it_left_open(tmp_path: Path) -> None:
    shutil.copy(CONFTEST, tmp_path)
    (tmp_path / "test_two.py").write_text(TWO_TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA"],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
        text=True,
        capture_output=True,
        check=False,
    )
    told = [line.split(" - ")[0] for line in ran.stdout.splitlines() if "::test_" in line]
    assert "FAILED test_two.py::test_it_fails_and_leaves_a_socket_open" in told, ran.stdout
    assert "ERROR test_two.py::test_it_fails_and_leaves_a_socket_open" in told, ran.stdout
    assert "PASSED test_two.py::test_that_has_nothing_to_do_with_it" in told, ran.stdout
