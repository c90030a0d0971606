"""What every store of receipts must do. A new adapter is one more line in CASES."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from common.adapters.receipts.dynamodb import DynamoDbReceipts
from common.adapters.receipts.sqlite import DROPPED_AT_ONCE, SqliteReceipts
from common.ports.receipts import MAX_BODY_BYTES, MAX_ID_BYTES, Receipt, Receipts
from tests.fakes.receipts import MemoryReceipts
from tests.pipeline import Clock
from tests.servers.aws import ministack, moto, use
from tests.servers.process import ServerProcess
from tests.servers.tables import create_table

NOW = 1_700_000_000.0


@dataclass
class Case:
    """One store as two processes see it."""

    first: Receipts
    second: Receipts
    clock: Clock


Opens = Callable[[Path], AbstractAsyncContextManager[Case]]


@contextlib.asynccontextmanager
async def memory(path: Path) -> AsyncIterator[Case]:
    clock = Clock(NOW)
    receipts = MemoryReceipts(clock)
    yield Case(receipts, receipts, clock)


@contextlib.asynccontextmanager
async def sqlite(path: Path) -> AsyncIterator[Case]:
    clock = Clock(NOW)
    first, second = (SqliteReceipts(path / "receipts.sqlite", clock=clock) for _ in range(2))
    yield Case(first, second, clock)
    await first.close()
    await second.close()


def dynamodb(server: Callable[[], ServerProcess]) -> Opens:
    @contextlib.asynccontextmanager
    async def opens(path: Path) -> AsyncIterator[Case]:
        with pytest.MonkeyPatch.context() as patch:
            use(patch, server())
            table, clock = await create_table(), Clock(NOW)
            first, second = (
                DynamoDbReceipts(table, deadline_seconds=30, clock=clock) for _ in range(2)
            )
            yield Case(first, second, clock)
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
async def case(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Case]:
    async with CASES[request.param](tmp_path) as opened:
        yield opened


RECEIPT = Receipt(fingerprint="f", status=200, body=b'{"a":1}', expires_at=NOW + 60.25)


async def test_a_receipt_is_found_by_everybody_as_it_was_kept(case: Case) -> None:
    assert await case.first.find("a", "1", now=NOW) is None
    await case.first.keep("a", "1", RECEIPT)
    assert await case.second.find("a", "1", now=NOW) == RECEIPT


async def test_scopes_and_ids_are_kept_apart(case: Case) -> None:
    await case.first.keep("a", "b c", RECEIPT)
    for scope, delivery_id in (("a b", "c"), ("a", "b"), ("A", "b c"), ("", "a b c"), ("b c", "a")):
        assert await case.first.find(scope, delivery_id, now=NOW) is None


async def test_the_first_receipt_stays_until_it_expires(case: Case) -> None:
    assert await case.first.keep("a", "1", RECEIPT)
    later = replace(RECEIPT, fingerprint="other", expires_at=NOW + 900)
    assert not await case.second.keep("a", "1", later)
    assert await case.first.find("a", "1", now=NOW) == RECEIPT
    case.clock.now = RECEIPT.expires_at
    assert await case.second.keep("a", "1", later)
    assert await case.first.find("a", "1", now=case.clock.now) == later


async def test_an_expired_receipt_is_as_if_it_had_never_been(case: Case) -> None:
    await case.first.keep("a", "1", RECEIPT)
    just_before = RECEIPT.expires_at - 0.125
    assert await case.first.find("a", "1", now=just_before) == RECEIPT
    assert await case.first.find("a", "1", now=RECEIPT.expires_at) is None


async def test_the_largest_receipt_that_may_be_kept(case: Case) -> None:
    largest = replace(RECEIPT, fingerprint="", body=bytes(range(256)) * (MAX_BODY_BYTES // 256))
    name = "é" * (MAX_ID_BYTES // 2)
    await case.first.keep("source:x", name, largest)
    assert await case.second.find("source:x", name, now=NOW) == largest


async def test_of_receipts_kept_at_once_one_stays(case: Case) -> None:
    many = [replace(RECEIPT, fingerprint=str(n)) for n in range(8)]
    sides = (case.first, case.second)
    keeps = (sides[n % 2].keep("a", "1", one) for n, one in enumerate(many))
    kept = await asyncio.gather(*keeps)
    found = await case.first.find("a", "1", now=NOW)
    assert [one for one, was in zip(many, kept, strict=True) if was] == [found]
    assert await case.second.find("a", "1", now=NOW) == found


async def test_sqlite_drops_what_has_expired(tmp_path: Path) -> None:
    clock = Clock(NOW)
    receipts = SqliteReceipts(tmp_path / "receipts.sqlite", clock=clock)
    many = DROPPED_AT_ONCE + 10
    await asyncio.gather(*(receipts.keep("a", str(n), RECEIPT) for n in range(many)))
    assert await receipts.count() == many
    clock.now = RECEIPT.expires_at
    fresh = replace(RECEIPT, expires_at=clock.now + 60)
    await receipts.keep("a", "new", fresh)
    assert await receipts.count() == many - DROPPED_AT_ONCE + 1
    await receipts.keep("a", "newer", fresh)
    assert await receipts.count() == 2
    await receipts.close()
