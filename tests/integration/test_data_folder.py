"""The data folder: its creation, its format, its owner."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from common.ports.errors import PermanentError
from common.storage.data_folder import DataFolder, DataFolderError

SPAWN = multiprocessing.get_context("spawn")


def format_of(path: Path) -> object:
    return json.loads((path / "FORMAT").read_text())


def test_creates_the_layout(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "deep" / "data")

    assert format_of(folder.path) == {"format": 1}
    assert {path.name for path in folder.path.iterdir()} == {"FORMAT", "blobs", "index", "run"}
    assert folder.queue_path == folder.path / "queue.sqlite"
    assert folder.registry_path == folder.path / "registry.sqlite"


def test_opens_what_is_there_and_touches_nothing(tmp_path: Path) -> None:
    first = DataFolder(tmp_path)
    (first.blobs_path / "kept").write_text("x")

    assert (DataFolder(tmp_path).blobs_path / "kept").read_text() == "x"


@pytest.mark.parametrize("name", ["FORMAT.new", "lost+found"])
def test_takes_an_empty_folder_for_its_own(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{")

    DataFolder(tmp_path)

    assert format_of(tmp_path) == {"format": 1}


def test_a_creation_that_was_killed_is_finished(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    folder.index_path.rmdir()

    assert DataFolder(tmp_path).index_path.is_dir()


def test_refuses_a_strangers_folder(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")

    with pytest.raises(DataFolderError, match=r"not empty \(it holds 'thesis.tex'\)"):
        DataFolder(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    with pytest.raises(DataFolderError, match="cannot be used as data folder"):
        DataFolder(tmp_path / "file")


@pytest.mark.parametrize("text", ["", "7", "{}", '{"format": "1"}', '{"format": true}', "\xff"])
def test_refuses_a_format_it_cannot_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "FORMAT").write_text(text, encoding="latin-1")

    with pytest.raises(DataFolderError, match="damaged"):
        DataFolder(tmp_path)


def test_refuses_a_newer_format(tmp_path: Path) -> None:
    (tmp_path / "FORMAT").write_text('{"format": 7}')

    with pytest.raises(DataFolderError, match=r"newer .*format 7, this one knows 1\): upgrade"):
        DataFolder(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["FORMAT"]
    assert issubclass(DataFolderError, PermanentError)


def test_migrates_an_older_format_step_by_step(tmp_path: Path) -> None:
    DataFolder(tmp_path)
    log = tmp_path / "log"

    def step(name: str) -> None:
        log.write_text((log.read_text() if log.exists() else "") + name)

    DataFolder(
        tmp_path,
        format_version=3,
        migrations={1: lambda path: step(f"1 {path.name};"), 2: lambda _: step("2;")},
    )

    assert log.read_text() == f"1 {tmp_path.name};2;"
    assert format_of(tmp_path) == {"format": 3}


def test_a_migration_that_fails_is_taken_up_where_it_was(tmp_path: Path) -> None:
    DataFolder(tmp_path)
    done: list[int] = []

    def fail(_: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(DataFolderError, match="No space left"):
        DataFolder(tmp_path, format_version=3, migrations={1: lambda _: done.append(1), 2: fail})
    assert format_of(tmp_path) == {"format": 2}

    DataFolder(tmp_path, format_version=3, migrations={2: lambda _: done.append(2)})
    assert done == [1, 2]


def test_a_folder_in_use_is_not_migrated(tmp_path: Path) -> None:
    with DataFolder(tmp_path).own(), pytest.raises(DataFolderError, match="in use by process"):
        DataFolder(tmp_path, format_version=2, migrations={1: lambda _: None})

    assert format_of(tmp_path) == {"format": 1}


def test_a_missing_migration_is_told(tmp_path: Path) -> None:
    DataFolder(tmp_path)

    with pytest.raises(DataFolderError, match="too old"):
        DataFolder(tmp_path, format_version=2)


def test_has_one_owner_at_a_time_and_names_it(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)

    with (
        folder.own(),
        pytest.raises(DataFolderError, match=f"in use by process {os.getpid()}:"),
        DataFolder(tmp_path).own(),
    ):
        pytest.fail("two owners")

    with folder.own():
        pass


def own_until_killed(path: str, pipe: Connection) -> None:
    """Own the folder, start a child that would inherit what it can, and tell both pids."""
    command = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
    with DataFolder(Path(path)).own():
        child = subprocess.Popen(command, stdout=subprocess.PIPE, close_fds=False)
        assert child.stdout is not None
        child.stdout.readline()  # it runs: what closes on exec is closed
        pipe.send((os.getpid(), child.pid))
        pipe.recv()


def test_a_killed_owner_leaves_no_lock_even_to_its_children(tmp_path: Path) -> None:
    ours, theirs = SPAWN.Pipe()
    owner = SPAWN.Process(target=own_until_killed, args=(str(tmp_path), theirs))
    owner.start()
    owner_pid, child_pid = ours.recv()
    folder = DataFolder(tmp_path)

    with pytest.raises(DataFolderError, match=f"process {owner_pid}:"), folder.own():
        pytest.fail("two owners")
    owner.kill()
    owner.join()

    try:
        with folder.own():
            os.kill(child_pid, 0)  # its child lives on
    finally:
        os.kill(child_pid, signal.SIGKILL)


def create(path: str, barrier_pipe: Connection) -> None:
    barrier_pipe.recv()
    DataFolder(Path(path))
    barrier_pipe.send("created")


def test_many_processes_create_it_at_once(tmp_path: Path) -> None:
    pipes = [SPAWN.Pipe() for _ in range(4)]
    processes = [
        SPAWN.Process(target=create, args=(str(tmp_path / "data"), theirs)) for _, theirs in pipes
    ]
    for process in processes:
        process.start()
    for ours, _ in pipes:
        ours.send("go")
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0] * 4
    assert all(ours.poll() for ours, _ in pipes)
    assert format_of(tmp_path / "data") == {"format": 1}
