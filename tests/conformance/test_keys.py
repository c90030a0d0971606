"""What every key store must do. A new adapter is one more line in CASES."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.access import Scope
from common.adapters.keys.dynamodb import DynamoDbKeyStore
from common.adapters.keys.sqlite import SqliteKeyStore
from common.adapters.registry.dynamodb import DynamoDbRegistry
from common.api_keys import is_that_of, kept, new_key
from common.ports.errors import PermanentError, TransientError
from common.ports.keys import KeyStore, StoredKey
from tests.fakes.keys import MemoryKeyStore
from tests.servers.aws import ministack, moto, use
from tests.servers.process import ServerProcess
from tests.servers.tables import create_table

Pair = tuple[KeyStore, KeyStore]
Opens = Callable[[Path], AbstractAsyncContextManager[Pair]]


@contextlib.asynccontextmanager
async def sqlite(path: Path) -> AsyncIterator[Pair]:
    first, second = (SqliteKeyStore(path / "access.sqlite") for _ in range(2))
    yield first, second
    await first.close()
    await second.close()


@contextlib.asynccontextmanager
async def memory(path: Path) -> AsyncIterator[Pair]:
    store = MemoryKeyStore()
    yield store, store


def dynamodb(server: Callable[[], ServerProcess]) -> Opens:
    @contextlib.asynccontextmanager
    async def opens(path: Path) -> AsyncIterator[Pair]:
        with pytest.MonkeyPatch.context() as patch:
            use(patch, server())
            table = await create_table()
            first, second = (DynamoDbKeyStore(table, deadline_seconds=30) for _ in range(2))
            yield first, second
            await first.close()
            await second.close()

    return opens


CASES: dict[str, Opens] = {
    "memory": memory,
    "sqlite": sqlite,
    "dynamodb-moto": dynamodb(moto),
    "dynamodb-ministack": dynamodb(ministack),
}
SLOW = [name for name in CASES if name.startswith("dynamodb")]


@pytest.fixture(params=[pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CASES])
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    """One store as two processes see it."""
    async with CASES[request.param](tmp_path) as opened:
        yield opened


def stored(**changes: Any) -> StoredKey:
    made = kept(
        new_key(),
        name="Ingest of the wiki, é",
        scopes=[Scope.WRITE, Scope.READ],
        namespaces=["docs", "acme-*"],
        created_at=1700000000.1234567,
    )
    return replace(made, **changes)


async def test_a_key_comes_back_as_it_was_kept(pair: Pair) -> None:
    first, second = pair
    for key in (
        stored(),
        stored(expires_at=1700000001.7654321, revoked_at=1700000000.5),
        stored(name="", scopes=(), namespaces=()),
    ):
        assert await first.add(key) is True
        assert await second.get(key.id) == key


async def test_what_is_kept_still_recognises_its_key(pair: Pair) -> None:
    first, second = pair
    key = new_key()
    await first.add(kept(key, name="n", scopes=[], namespaces=[], created_at=1.0))
    found = await second.get(key.id)
    assert found is not None
    assert is_that_of(key, found)


async def test_unknown_keys_are_none(pair: Pair) -> None:
    store, _ = pair
    assert await store.get("nobody2222") is None
    assert await store.list() == []
    assert await store.revoke("nobody2222", at=2.0) is False
    assert await store.list() == []


async def test_a_key_of_the_same_id_changes_nothing(pair: Pair) -> None:
    first, second = pair
    key = stored()
    await first.add(key)
    assert await second.add(stored(id=key.id, scopes=("admin",))) is False
    assert await first.get(key.id) == key


async def test_one_of_many_adds_of_an_id_wins(pair: Pair) -> None:
    first, second = pair
    keys = [stored(id="same222222", name=str(n)) for n in range(6)]
    added = await asyncio.gather(
        *((first if n % 2 else second).add(key) for n, key in enumerate(keys))
    )
    assert sum(added) == 1
    assert await first.get("same222222") == keys[added.index(True)]


async def test_all_are_listed_the_oldest_first(pair: Pair) -> None:
    first, second = pair
    keys = [stored(created_at=at) for at in (3.0, 1.0, 2.0)]
    for key in keys:
        await first.add(key)
    assert await second.list() == [keys[1], keys[2], keys[0]]


async def test_a_revoked_key_stays_and_keeps_its_time(pair: Pair) -> None:
    first, second = pair
    key, other = stored(), stored(created_at=1700000009.0)
    for one in (key, other):
        await first.add(one)
    assert await first.revoke(key.id, at=1700000002.25) is True
    assert await second.revoke(key.id, at=1700000003.5) is True
    revoked = replace(key, revoked_at=1700000002.25)
    assert await second.get(key.id) == revoked
    assert await second.list() == [revoked, other]


async def test_closing_twice_is_no_error(pair: Pair) -> None:
    for store in pair:
        await store.close()
        await store.close()


# --- SQLite -------------------------------------------------------------------------------------


async def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "access.sqlite"
    store = SqliteKeyStore(path)
    try:
        await store.add(stored())
        modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    finally:
        await store.close()
    assert "access.sqlite-wal" in modes
    assert set(modes.values()) == {0o600}


async def test_a_file_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "access.sqlite"
    path.touch(mode=0o644)
    path.chmod(0o644)
    store = SqliteKeyStore(path)
    await store.close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_folder_that_is_not_there_is_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match=r"access\.sqlite cannot be opened .*No such file"):
        SqliteKeyStore(tmp_path / "gone" / "access.sqlite")


# --- DynamoDB -----------------------------------------------------------------------------------


@pytest.mark.slow
async def test_the_registry_of_the_same_table_never_meets_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(monkeypatch, moto())
    table = await create_table()
    store = DynamoDbKeyStore(table, deadline_seconds=30)
    registry = DynamoDbRegistry(table, deadline_seconds=30)
    try:
        await store.add(stored())
        assert await registry.namespaces() == {}
        assert await registry.counts() == []
        assert await registry.due(before=1e12, limit=10) == []
        for namespace in ("$keys", "keys", "eys", ""):
            assert (await registry.scan(namespace)).rows == []
            assert await registry.document_ids(namespace, after="", limit=10) == []
        assert len(await store.list()) == 1
    finally:
        await store.close()
        await registry.close()


@pytest.mark.slow
async def test_a_table_that_is_missing_is_told_at_the_start_and_waited_for_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(monkeypatch, moto())
    store = DynamoDbKeyStore("no-such-table", deadline_seconds=30)
    try:
        with pytest.raises(PermanentError, match="no such table"):
            await store.check()
        with pytest.raises(TransientError, match="no such table"):
            await store.get("some222222")
    finally:
        await store.close()
