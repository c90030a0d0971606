"""What every audit trail must do. A new adapter is one more line in CASES."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from common.adapters.audit.postgresql import PostgresqlAuditTrail
from common.adapters.audit.sqlite import SqliteAuditTrail
from common.audit import DROPPED, millis
from common.audit_verification import verify
from common.ports.audit import AuditEntry, AuditEvent, AuditPlace, AuditQuery, AuditTrail, ChainEnd
from tests.fakes.audit import MemoryAuditTrail
from tests.servers.postgresql import postgresql

KEY = b"a key of the chain"


@contextlib.asynccontextmanager
async def memory(path: Path) -> AsyncIterator[AuditTrail]:
    yield MemoryAuditTrail(key=KEY)


@contextlib.asynccontextmanager
async def sqlite(path: Path) -> AsyncIterator[AuditTrail]:
    trail = SqliteAuditTrail(path / "audit.sqlite", key=KEY)
    yield trail
    await trail.close()


@contextlib.asynccontextmanager
async def postgres(path: Path) -> AsyncIterator[AuditTrail]:
    url = await asyncio.to_thread(lambda: postgresql().new_database())
    trail = PostgresqlAuditTrail(url, timeout_seconds=30, key=KEY)
    yield trail
    await trail.close()


CASES: dict[str, Callable[[Path], AbstractAsyncContextManager[AuditTrail]]] = {
    "memory": memory,
    "sqlite": sqlite,
    "postgresql": postgres,
}


@pytest.fixture(params=["memory", "sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
async def trail(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AuditTrail]:
    async with CASES[request.param](tmp_path) as opened:
        yield opened


def event(number: int, **members: object) -> AuditEvent:
    made = AuditEvent(
        at=1_700_000_000.25 + number,
        principal="key:8f2k",
        action="insert",
        namespace="docs",
        document_id=f"d{number}",
        subject="",
        result="accepted",
        version=number,
        address="192.0.2.7",
        request_id=f"r{number}",
        source="",
    )
    return replace(made, **members)  # type: ignore[arg-type]


async def all_of(trail: AuditTrail) -> list[AuditEntry]:
    return [entry async for entry in trail.entries()]


async def whole(trail: AuditTrail) -> bool:
    return (await verify(trail, key=KEY))[1] is None


async def test_entries_come_back_as_they_were_told(trail: AuditTrail) -> None:
    told = [
        event(1, namespace="größe", document_id="a/ü\u2028\"'\\\n\t𝄞", count=7, subject="GET /v1"),
        event(2, principal="", address="2001:db8::1", source="shop", version=2**62),
    ]
    await trail.append(told)
    entries = await all_of(trail)
    assert [entry.event for entry in entries] == told
    assert [entry.sequence for entry in entries] == [1, 2]
    assert entries[1].previous_hash == entries[0].hash
    assert await whole(trail)


async def test_an_empty_trail(trail: AuditTrail) -> None:
    assert await all_of(trail) == []
    assert await trail.head() == ChainEnd()
    assert await trail.anchor() == ChainEnd()
    assert await trail.page(AuditQuery(), limit=5) == []
    assert await whole(trail)
    assert await trail.drop(before=2e9, now=2e9) == 0


async def test_time_is_kept_to_the_millisecond(trail: AuditTrail) -> None:
    await trail.append([event(0, at=1_795_000_000.1234567)])
    assert (await all_of(trail))[0].event.at == 1_795_000_000.123
    assert await whole(trail)


async def test_texts_that_no_database_takes_are_made_fit(trail: AuditTrail) -> None:
    await trail.append([event(1, document_id="a\0b\ud800c", subject="é" * 10_000)])
    kept = (await all_of(trail))[0].event
    assert "\0" not in kept.document_id
    assert kept.document_id.startswith("a")
    assert len(kept.subject.encode()) <= 4096
    assert await whole(trail)


async def test_concurrent_appends_make_one_chain(trail: AuditTrail) -> None:
    await asyncio.gather(*(trail.append([event(n), event(n, action="delete")]) for n in range(200)))
    entries = await all_of(trail)
    assert [entry.sequence for entry in entries] == list(range(1, 401))
    assert {(e.event.version, e.event.action) for e in entries} == {
        (n, action) for n in range(200) for action in ("insert", "delete")
    }
    for first, second in zip(entries[::2], entries[1::2], strict=True):
        assert first.event.version == second.event.version, "one append was torn apart"
    assert await whole(trail)


async def test_a_caller_that_gives_up_spoils_nothing(trail: AuditTrail) -> None:
    calls = [asyncio.create_task(trail.append([event(n)])) for n in range(20)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await trail.append([event(99)])
    kept = {entry.event.version for entry in await all_of(trail)}
    assert kept >= {*range(1, 20, 2), 99}
    assert await whole(trail)


async def test_more_than_a_page_is_read(trail: AuditTrail) -> None:
    await trail.append([event(n) for n in range(2500)])
    assert len(await all_of(trail)) == 2500
    assert [entry.sequence async for entry in trail.entries(after=2498)] == [2499, 2500]


# --- pages ---------------------------------------------------------------------------------------


async def versions(trail: AuditTrail, limit: int = 100, **wanted: object) -> list[int]:
    query = AuditQuery(**wanted)  # type: ignore[arg-type]
    return [entry.event.version for entry in await trail.page(query, limit=limit)]


async def test_a_page_has_the_newest_first(trail: AuditTrail) -> None:
    await trail.append([event(n) for n in range(10)])
    assert await versions(trail, limit=3) == [9, 8, 7]
    third = (await trail.page(AuditQuery(), limit=3))[-1]
    place = AuditPlace(millis(third.event.at), third.hash)
    more = await trail.page(AuditQuery(), limit=3, before=place)
    assert [entry.event.version for entry in more] == [6, 5, 4]


async def test_a_place_that_nothing_is_at(trail: AuditTrail) -> None:
    await trail.append([event(1)])
    with pytest.raises(ValueError):
        await trail.page(AuditQuery(), limit=3, before=AuditPlace(millis(event(1).at), "0" * 64))


async def test_a_page_of_what_was_asked_for(trail: AuditTrail) -> None:
    await trail.append(
        [event(n, namespace="abc"[n % 3], document_id=f"d{n % 2}") for n in range(6)]
    )
    assert await versions(trail, namespace="a") == [3, 0]
    assert await versions(trail, namespace="a", document_id="d1") == [3]
    assert await versions(trail, document_id="d0") == [4, 2, 0]
    assert await versions(trail, since=event(4).at) == [5, 4]
    assert await versions(trail, namespace="nobody's") == []


@pytest.mark.parametrize(
    ("reach", "seen"),
    [
        (("*",), [5, 4, 3, 2, 1, 0]),
        (("kb",), [0]),
        (("kb-*",), [2, 1]),
        (("kb", "kb-a"), [1, 0]),
        (("k%*", "k_*", "KB"), []),
        (("%",), [4]),
        ((), []),
    ],
)
async def test_a_page_stays_within_reach(
    trail: AuditTrail, reach: tuple[str, ...], seen: list[int]
) -> None:
    names = ["kb", "kb-a", "kb-b", "other", "%", ""]
    await trail.append([event(n, namespace=name) for n, name in enumerate(names)])
    assert await versions(trail, reach=reach) == seen
    assert await versions(trail, reach=reach, namespace="other") == [3] * (reach == ("*",))


# --- retention -----------------------------------------------------------------------------------


async def test_the_oldest_are_dropped_and_the_chain_goes_on(trail: AuditTrail) -> None:
    await trail.append([event(n) for n in range(10)])
    fourth = (await all_of(trail))[3]
    assert await trail.drop(before=event(4).at, now=2e9) == 4
    assert await trail.anchor() == fourth.end
    entries = await all_of(trail)
    assert [entry.sequence for entry in entries] == [5, 6, 7, 8, 9, 10, 11]
    told = entries[-1].event
    assert (told.action, told.subject, told.count) == (DROPPED, str(fourth.end), 4)
    await trail.append([event(20)])
    assert await whole(trail)
    assert await trail.drop(before=event(4).at, now=2e9) == 0


async def test_only_up_to_the_first_that_is_not_older(trail: AuditTrail) -> None:
    """Clocks of several processes differ: an older entry may stand behind a younger one."""
    await trail.append([event(0), event(9), event(1)])
    assert await trail.drop(before=event(5).at, now=2e9) == 1
    assert [entry.event.version for entry in await all_of(trail)][:2] == [9, 1]


async def test_everything_may_be_dropped(trail: AuditTrail) -> None:
    await trail.append([event(n) for n in range(5)])
    assert await trail.drop(before=2e9, now=2e9) == 5
    assert [entry.event.action for entry in await all_of(trail)] == [DROPPED]
    assert await whole(trail)
    await trail.append([event(7)])
    assert (await trail.head()).sequence == 7
    assert await whole(trail)


async def test_a_large_drop_is_done_in_parts(trail: AuditTrail) -> None:
    await trail.append([event(n) for n in range(25)])
    dropped = [await trail.drop(before=event(23).at, now=2e9, limit=10) for _ in range(4)]
    assert dropped == [10, 10, 3, 0]
    assert await whole(trail)


async def test_a_page_behind_a_drop(trail: AuditTrail) -> None:
    await trail.append([event(n) for n in range(5)])
    await trail.drop(before=event(3).at, now=2e9)
    assert [e.sequence for e in await trail.page(AuditQuery(), limit=9)] == [6, 5, 4]
    assert await trail.head() == (await all_of(trail))[-1].end
