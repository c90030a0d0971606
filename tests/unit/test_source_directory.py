"""sources.yaml is read again when it changes, and never for the worse."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from common.composition import ConfigurationError
from tests.source_files import SECRET, VARIABLE
from webhook.signatures import Basic
from webhook.sources.directory import LOOK_SECONDS, SourceDirectory, process_environment

ONE = f"""\
sources:
  one: &one
    namespace: docs
    verify: {{kind: standard-webhooks, secret: "${{{VARIABLE}}}"}}
    changes:
      - document_id: "{{item.id}}"
        content: item.text
"""
TWO = ONE + "  two: *one\n"
BROKEN = ONE.replace("content:", "contents:")


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, SECRET)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sources.yaml"


async def started(path: Path) -> SourceDirectory:
    directory = SourceDirectory(path, on_loopback=False)
    await directory.start()
    return directory


def settled(directory: SourceDirectory) -> bool:
    """A change is read at the second look that finds it the same."""
    return directory.look() or directory.look()


async def test_a_changed_file_is_read_once_it_stands_still(path: Path) -> None:
    path.write_text(ONE)
    directory = await started(path)
    assert directory.look() is False
    path.write_text(TWO)
    assert directory.look() is False, "half of it may be missing yet"
    assert directory.look() is True
    assert sorted(directory.sources) == ["one", "two"]
    assert directory.look() is False


async def test_a_file_that_is_replaced_is_noticed_whatever_its_time_and_size(path: Path) -> None:
    path.write_text(ONE)
    directory = await started(path)
    before = path.stat()
    other = path.with_suffix(".new")
    other.write_text(ONE.replace("one:", "uno:").replace("&one", "&uno"))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)
    assert settled(directory)
    assert sorted(directory.sources) == ["uno"]


async def test_no_file_is_no_source_until_there_is_one(path: Path) -> None:
    directory = await started(path)
    assert directory.sources == {}
    assert not settled(directory)
    path.write_text(ONE)
    assert settled(directory)
    assert directory.get("one") is not None
    path.write_text("sources: {}")
    assert settled(directory)
    assert directory.sources == {}


async def test_a_broken_file_keeps_the_sources_and_says_so_once(path: Path) -> None:
    path.write_text(TWO)
    directory = await started(path)
    path.write_text(BROKEN)
    with capture_logs() as logs:
        assert not settled(directory)
        assert not settled(directory)
    (told,) = logs
    assert told["event"] == "sources.kept"
    assert f"{path}:7: source one: changes.0.contents: there is no such field" in told["mistakes"]
    assert sorted(directory.sources) == ["one", "two"]
    path.write_text(ONE)
    assert settled(directory)
    assert sorted(directory.sources) == ["one"]


@pytest.mark.parametrize("way", ["gone", "unreadable", "not text"])
async def test_a_file_that_cannot_be_read_keeps_the_sources(path: Path, way: str) -> None:
    path.write_text(ONE)
    directory = await started(path)
    path.unlink()
    if way == "unreadable":
        path.mkdir()
    elif way == "not text":
        path.write_bytes(b"\n\xff")
    with capture_logs() as logs:
        assert not settled(directory)
        assert not settled(directory)
    assert [log["event"] for log in logs] == ["sources.kept"]
    assert directory.get("one") is not None


async def test_a_secret_that_is_replaced_in_its_file_is_noticed(path: Path) -> None:
    secret = path.with_name("secret")
    secret.write_text("the first password")
    path.write_text(
        "sources:\n  one:\n    namespace: docs\n    verify: {kind: basic, username: u, "
        "secret: 'file:secret'}\n    changes: [{document_id: a, content: item}]\n"
    )
    directory = await started(path)
    secret.write_text("the second password")
    assert settled(directory)
    source = directory.get("one")
    assert source is not None
    assert isinstance(source.verification, Basic)
    assert source.verification.secrets == (b"the second password",)


async def test_a_broken_file_stops_the_start(path: Path) -> None:
    path.write_text(BROKEN)
    with pytest.raises(ConfigurationError, match=r"sources\.yaml:7: source one"):
        await started(path)


async def test_the_watch_reads_and_outlives_what_goes_wrong(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_text(ONE)
    directory = await started(path)
    looks = 0
    looked = asyncio.Event()

    def look() -> bool:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise RuntimeError("nobody foresaw this")
        looked.set()
        return False

    monkeypatch.setattr(directory, "look", look)
    monkeypatch.setattr("webhook.sources.directory.LOOK_SECONDS", 0.001)
    with capture_logs() as logs:
        task = asyncio.create_task(directory.watch())
        async with asyncio.timeout(30):
            await looked.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert "sources.unforeseen" in [log["event"] for log in logs]
    assert LOOK_SECONDS == 1.0


def test_the_environment_counts_before_the_env_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(f"{VARIABLE}=of the file\nOnly_There=kept as it is\n")
    found = process_environment()
    assert found[VARIABLE] == SECRET
    assert found["Only_There"] == "kept as it is"
