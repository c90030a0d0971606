"""What `up` does when one of its parts ends without being asked to."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from common.adapters.embedder.profile import url_of
from common.api_keys import kept, new_key
from common.composition import ConfigurationError, connect
from common.settings import Settings
from common.up import PartFailedError, _running, _serve, _until
from tests.fakes.embedder import HashEmbedder


async def _ends() -> None:
    raise ValueError("disk on fire")


async def _runs_on() -> None:
    await asyncio.Event().wait()


async def test_a_part_that_ends_takes_the_process_with_it() -> None:
    healthy = asyncio.create_task(_runs_on())
    broken = asyncio.create_task(_ends(), name="update-consumer")
    with pytest.raises(PartFailedError, match=r"update-consumer ended: .*disk on fire"):
        await _until(asyncio.Event(), [healthy, broken])
    healthy.cancel()


async def test_it_waits_for_the_signal_otherwise() -> None:
    healthy = asyncio.create_task(_runs_on())
    stop = asyncio.Event()
    waiting = asyncio.create_task(_until(stop, [healthy]))
    await asyncio.sleep(0)
    assert not waiting.done()
    stop.set()
    await waiting
    healthy.cancel()


class Part:
    """As one that listens already when the disk turns out to be full."""

    def __init__(self, name: str, log: list[str], error: Exception | None = None) -> None:
        self.name, self.log, self.error = name, log, error

    async def start(self) -> None:
        self.log.append(f"start {self.name}")
        if self.error:
            raise self.error

    def tasks(self) -> list[asyncio.Task[None]]:
        return []

    async def stop(self) -> None:
        self.log.append(f"stop {self.name}")


async def test_a_part_whose_start_failed_is_stopped_like_the_others() -> None:
    log: list[str] = []
    parts = [Part("consumers", log), Part("webhook", log, OSError(28, "No space left on device"))]
    with pytest.raises(OSError, match="No space left"):
        async with _running(parts):
            raise AssertionError("it never runs")
    assert log == ["start consumers", "start webhook", "stop webhook", "stop consumers"]


async def test_without_a_key_for_strangers_nothing_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither workers nor consumers: they would take up what waits, and end at once."""
    log: list[str] = []
    monkeypatch.setattr("common.up._parts", lambda _ports: [Part("consumers", log)])
    monkeypatch.setattr("common.up._greet", lambda _settings: None)
    settings = Settings(
        _env_file=None,
        data_dir=tmp_path / "data",
        embedder_url=url_of(HashEmbedder().profile),
        host="0.0.0.0",  # noqa: S104 - nothing listens
    )
    stop = asyncio.Event()
    stop.set()
    with pytest.raises(ConfigurationError, match="bloomweaver keys create"):
        await _serve(settings, stop)
    assert log == []
    keys = connect("keys", settings.keys_url, settings, "test")
    key = new_key()
    await keys.add(kept(key, name="x", scopes=[], namespaces=["*"], created_at=1.0))
    await keys.close()
    with contextlib.suppress(PartFailedError):
        await _serve(settings, stop)
    assert log == ["start consumers", "stop consumers"]
