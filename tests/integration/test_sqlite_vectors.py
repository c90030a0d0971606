"""The vector cache on disk: it may be damaged, full, old or gone, and is never worse than empty."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from common.adapters.vectors import sqlite as adapter
from common.adapters.vectors.sqlite import SqliteVectorCache
from common.ports.errors import TransientError
from common.settings import Settings
from tests.conformance.test_vectors import many, vector
from tests.pipeline import Clock

MODEL = "model"
DAY = 86400.0


class Folder:
    """Workers that come and go, on one file."""

    def __init__(self, path: Path) -> None:
        self.path = path / "vectors.sqlite"
        self.clock = Clock()
        self._opened: list[SqliteVectorCache] = []

    def worker(self, limit_bytes: int = 2**24, spare_bytes: int = 0) -> SqliteVectorCache:
        made = SqliteVectorCache(
            self.path, limit_bytes=limit_bytes, unused_seconds=30 * DAY,
            spare_bytes=spare_bytes, clock=self.clock,
        )  # fmt: skip
        self._opened.append(made)
        return made

    async def close(self) -> None:
        for cache in self._opened:
            await cache.close()

    def rows(self, query: str, *values: object) -> list[tuple[object, ...]]:
        """As another program sees the file."""
        connection = sqlite3.connect(self.path)
        try:
            with connection:
                return connection.execute(query, values).fetchall()
        finally:
            connection.close()


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[Folder]:
    made = Folder(tmp_path)
    yield made
    await made.close()


async def test_what_one_worker_put_another_finds_at_once(folder: Folder) -> None:
    first, second = folder.worker(), folder.worker()
    await first.put_many("docs", MODEL, {"a": vector(1)})
    assert await second.get_many("docs", MODEL, ["a"]) == {"a": vector(1)}
    await second.put_many("docs", MODEL, {"b": vector(2)})
    assert await first.get_many("docs", MODEL, ["b"]) == {"b": vector(2)}


async def test_it_outlives_every_worker(folder: Folder) -> None:
    first = folder.worker()
    await first.put_many("docs", MODEL, {"a": vector(1)})
    await first.close()
    assert await folder.worker().get_many("docs", MODEL, ["a"]) == {"a": vector(1)}


async def test_the_settings_name_the_file(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path / "data")
    cache = adapter.connect("sqlite:", settings, "worker")
    assert not (
        tmp_path / "data/vectors.sqlite"
    ).exists()  # processes that embed nothing open it not
    await cache.put_many("docs", MODEL, {"a": vector(1)})
    await cache.close()
    assert (tmp_path / "data/vectors.sqlite").exists()


async def test_the_file_keeps_to_its_bound(folder: Folder) -> None:
    limit = 1_000_000
    cache = folder.worker(limit_bytes=limit)
    for first in range(0, 2000, 32):
        await cache.put_many("docs", MODEL, many(first, 32))
    await cache.close()
    assert limit * 0.7 < folder.path.stat().st_size < limit * 1.15


async def test_a_bound_that_was_lowered_is_reached(folder: Folder) -> None:
    await folder.worker().put_many("docs", MODEL, many(0, 600))
    cache = folder.worker(limit_bytes=200_000)
    for n in range(60):
        await cache.put_many("docs", MODEL, {f"new{n}": vector(n)})
    kept = await cache.get_many("docs", MODEL, list(many(0, 600)))
    assert len(kept) < 100


async def test_what_nobody_asked_for_in_a_long_while_leaves_the_file(folder: Folder) -> None:
    await folder.worker().put_many("docs", MODEL, many(0, 2500))
    folder.clock.now += 31 * DAY
    cache = folder.worker()
    assert await cache.get_many("docs", MODEL, ["unknown"]) == {}
    await cache.close()
    assert folder.rows("SELECT count(*) FROM vectors") == [(0,)]


async def test_a_use_is_written_down_though_not_each(folder: Folder) -> None:
    cache = folder.worker()
    await cache.put_many("docs", MODEL, {"a": vector(1)})
    for _ in range(4):
        folder.clock.now += 20 * DAY
        assert await cache.get_many("docs", MODEL, ["a"]) == {"a": vector(1)}
        await cache.put_many("docs", MODEL, {})
    folder.clock.now += 5
    before = folder.rows("SELECT used_at FROM vectors")
    assert await cache.get_many("docs", MODEL, ["a"]) == {"a": vector(1)}
    await cache.close()
    assert folder.rows("SELECT used_at FROM vectors") == before


async def test_a_changed_bit_is_a_miss(folder: Folder) -> None:
    cache = folder.worker()
    await cache.put_many("docs", MODEL, {"a": vector(1), "b": vector(2)})
    ((key, value),) = folder.rows("SELECT key, value FROM vectors ORDER BY key LIMIT 1")
    assert isinstance(value, bytes)
    assert isinstance(key, bytes)
    flipped = value[:9] + bytes([value[9] ^ 4]) + value[10:]
    folder.rows("UPDATE vectors SET value = ? WHERE key = ?", flipped, key)
    assert len(await cache.get_many("docs", MODEL, ["a", "b"])) == 1


@pytest.mark.parametrize("value", [b"", b"0", b"01", "text", 7, bytes(4), bytes(1540)])
async def test_an_odd_value_is_a_miss(folder: Folder, value: object) -> None:
    cache = folder.worker()
    await cache.put_many("docs", MODEL, {"a": vector(1)})
    folder.rows("UPDATE vectors SET value = ?", value)
    assert await cache.get_many("docs", MODEL, ["a"]) == {}


def no_database(path: Path) -> None:
    path.write_bytes(b"no database at all" * 500)


def no_header(path: Path) -> None:
    path.write_bytes(b"\xff" * 100 + path.read_bytes()[100:])


def no_pages(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:8192] + b"\xa5" * (len(data) - 8192))


def another_table(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE vectors (a, b)")
    connection.close()


@pytest.mark.parametrize("damage", [no_database, no_header, no_pages, another_table])
async def test_a_damaged_file_is_replaced(folder: Folder, damage: Callable[[Path], None]) -> None:
    first = folder.worker()
    await first.put_many("docs", MODEL, many(0, 100))
    await first.close()
    damage(folder.path)
    second = folder.worker()
    with capture_logs():
        await _until_it_works(second)
    await second.put_many("docs", MODEL, {"a": vector(1)})
    assert await second.get_many("docs", MODEL, ["a"]) == {"a": vector(1)}


async def test_a_file_damaged_in_use_is_replaced(folder: Folder) -> None:
    cache, other = folder.worker(), folder.worker()
    await cache.put_many("docs", MODEL, many(0, 100))
    folder.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    size = folder.path.stat().st_size
    with folder.path.open("r+b") as file:
        file.write(b"\xa5" * size)
    with capture_logs():
        await _until_it_works(other)
        await _until_it_works(cache)
    await other.put_many("docs", MODEL, {"a": vector(1)})
    assert await cache.get_many("docs", MODEL, ["a"]) == {"a": vector(1)}


async def _until_it_works(cache: SqliteVectorCache) -> None:
    """At most one call fails, and tells that the file is replaced."""
    try:
        await cache.get_many("docs", MODEL, list(many(0, 100)))
    except TransientError:
        await cache.get_many("docs", MODEL, list(many(0, 100)))


async def test_near_the_end_of_the_disk_nothing_is_put(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = 10**6
    monkeypatch.setattr(adapter, "free_bytes", lambda path: room)
    cache = folder.worker(spare_bytes=10**6)
    await cache.put_many("docs", MODEL, {"a": vector(1)})
    room -= 1
    await cache.put_many("docs", MODEL, {"b": vector(2)})
    assert set(await cache.get_many("docs", MODEL, ["a", "b"])) == {"a"}


async def test_a_folder_that_cannot_be_written_is_told_at_every_call(tmp_path: Path) -> None:
    cache = SqliteVectorCache(tmp_path / "gone/v.sqlite", limit_bytes=1, unused_seconds=1)
    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            await cache.get_many("docs", MODEL, ["a"])
    (tmp_path / "gone").mkdir()
    assert await cache.get_many("docs", MODEL, ["a"]) == {}
    await cache.close()


async def test_who_gives_up_waiting_leaves_the_file_open_for_the_next(folder: Folder) -> None:
    cache = folder.worker()
    impatient = asyncio.create_task(cache.put_many("docs", MODEL, {"a": vector(1)}))
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.gather(impatient, return_exceptions=True)
    await cache.put_many("docs", MODEL, {"b": vector(2)})
    assert await cache.get_many("docs", MODEL, ["b"]) == {"b": vector(2)}


async def test_a_closed_cache_says_so(folder: Folder) -> None:
    cache = folder.worker()
    await cache.put_many("docs", MODEL, {"a": vector(1)})
    await cache.close()
    await cache.close()
    with pytest.raises(TransientError, match="closed"):
        await cache.get_many("docs", MODEL, ["a"])
