"""What must survive a loss of power is synced before anyone is told: shown by the system calls.

The programs run under tests/system_calls.py, which works wherever Linux lets a process trace its
own children; where it does not, these tests fail.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tests
from tests import system_calls
from tests.acceptance.service import Service
from tests.system_calls import SYNCS, Call, read_calls

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="system calls are traced on Linux only"),
]

NEEDLE = "the-needle"


class Trace:
    """The system calls of one write, in the order in which they ended."""

    def __init__(self, calls: list[Call], folder: Path, told: Call) -> None:
        self._calls = [call for call in calls if call.path.startswith(str(folder))]
        self._folder = folder
        self._told = told
        """The call that says to the outside that the write is done."""

    def last(self, what: str, condition: Callable[[Call], bool]) -> Call:
        """The last such call that had ended when the answer went out."""
        found = [c for c in self._calls if condition(c) and c.ended < self._told.began]
        assert found, f"before it was told there was no {what} in:\n{self}"
        return found[-1]

    def synced(self, path: str, *, holds: bool = False) -> Call:
        """A sync of a file or folder (a pattern below the data folder)."""
        what = f"sync of {path}{' with the data in it' if holds else ''}"
        return self.last(
            what, lambda c: c.name in SYNCS and self._is(c, path) and (c.holds or not holds)
        )

    def written(self, path: str) -> Call:
        """A write of the data to a file."""
        return self.last(
            f"write to {path}", lambda c: c.name in WRITES and self._is(c, path) and c.holds
        )

    def renamed(self, path: str) -> Call:
        return self.last(
            f"rename to {path}", lambda c: c.name.startswith("rename") and self._is(c, path)
        )

    def paths_synced(self) -> set[str]:
        synced = [c for c in self._calls if c.name in SYNCS and c.ended < self._told.began]
        return {str(Path(c.path).relative_to(self._folder)) for c in synced}

    def __str__(self) -> str:
        return "\n".join(map(str, [*self._calls, self._told]))

    def _is(self, call: Call, pattern: str) -> bool:
        path = Path(call.path)
        return path.is_relative_to(self._folder) and path.relative_to(self._folder).match(pattern)


WRITES = ("write", "pwrite64", "writev")


def before(first: Call, *later: Call) -> bool:
    """Whether each had ended when the next began."""
    calls = [first, *later]
    return all(a.ended < b.began for a, b in zip(calls, later, strict=False))


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Call], Path]:
    """Of durable_writes.py, and its folder."""
    folder = tmp_path_factory.mktemp("durable")
    program = [sys.executable, "-m", "tests.integration.durable_writes", str(folder / "data")]
    (folder / "data").mkdir()
    done = subprocess.run(
        [*tracer(folder), *program],
        check=False,
        capture_output=True,
        cwd=Path(tests.__path__[0]).parent,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return read_calls(folder / "calls"), folder / "data"


def tracer(folder: Path) -> list[str]:
    return [sys.executable, system_calls.__file__, str(folder / "calls"), NEEDLE, "--"]


def between(calls: tuple[list[Call], Path], name: str) -> Trace:
    found, folder = calls
    (begun,) = [c for c in found if c.data == f"{name} begins\n"]
    (told,) = [c for c in found if c.data == f"{name} returned\n"]
    return Trace([c for c in found if c.began > begun.ended], folder, told)


def test_a_blob_is_on_the_disk_under_its_name_before_put_returns(
    calls: tuple[list[Call], Path],
) -> None:
    trace = between(calls, "blob")
    assert before(
        trace.written("blobs/.tmp/*"),
        trace.synced("blobs/.tmp/*", holds=True),
        trace.renamed("blobs/raw/ns/hash"),
        trace.synced("blobs/raw/ns"),
    )
    assert {"blobs", "blobs/raw"} <= trace.paths_synced(), "the new folders' own names"


def test_a_row_is_on_the_disk_before_put_if_returns(calls: tuple[list[Call], Path]) -> None:
    trace = between(calls, "row")
    log = "registry.sqlite-wal"
    assert before(trace.written(log), trace.synced(log, holds=True))


def test_records_are_on_the_disk_before_upsert_returns(calls: tuple[list[Call], Path]) -> None:
    """The engine writes to mapped memory, which shows in no call; but in the file at its sync."""
    between(calls, "upsert").synced("index/*/shard/wal/open-*", holds=True)


def test_deletions_are_on_the_disk_before_delete_returns(calls: tuple[list[Call], Path]) -> None:
    folder = calls[1]
    logs = {str(path.relative_to(folder)) for path in folder.glob("index/*/shard/wal/*")}
    assert logs
    assert logs <= between(calls, "delete").paths_synced(), "any file of the log may have it"


def test_a_change_is_on_the_disk_before_it_is_answered_over_http(tmp_path: Path) -> None:
    service = Service(tmp_path)
    service.run_by = tracer(tmp_path)
    service.start()
    try:
        answer = service.post(
            "/v1/changes",
            {"change_type": "insert", "document_id": NEEDLE, "content": f"# {NEEDLE}"},
        )
        assert answer["outcome"] == "accepted"
        assert service.stop() == 0, service.tail()
    finally:
        service.close()
    calls = read_calls(tmp_path / "calls")
    (told,) = [c for c in calls if c.data.startswith("HTTP/1.1 202")]
    trace = Trace(calls, service.data_dir, told)
    named = trace.renamed("blobs/raw/*/*/*")
    row = trace.synced("registry.sqlite-wal", holds=True)
    assert before(
        trace.written("blobs/.tmp/*"),
        trace.synced("blobs/.tmp/*", holds=True),
        named,
        trace.synced(str(Path(named.path).parent.relative_to(service.data_dir))),
        trace.written("registry.sqlite-wal"),
        row,
        trace.written("queue.sqlite-wal"),
    )
