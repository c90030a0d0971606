"""The Pinecone adapter against a strict server of its protocol: faults, limits, wrong settings."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
from pinecone._internal.http_client import get_budget_registry
from pinecone.async_client import async_index  # noqa: F401

from common import telemetry
from common.adapters.index import pinecone as adapter
from common.adapters.index.pinecone import PineconeIndex
from common.adapters.index.pinecone_client import Client
from common.model import Record
from common.ports.check import Checkable
from common.ports.errors import PermanentError, TransientError
from common.ports.index import DimensionMismatchError, FieldFilter
from common.settings import Settings
from tests.acceptance.service import free_port
from tests.servers.pinecone import INDEX_NAME, Fault, FaultKind, PineconeServer
from tests.servers.pinecone_store import Stored
from tests.unit.pinecone_builders import record

QUERY = array("f", [1.0, 0.0, 0.0])


@pytest.fixture(autouse=True)
def own_retry_budget() -> Iterator[None]:
    """The SDK keeps one for all that is on 127.0.0.1; failures here must not reach other tests."""
    get_budget_registry()._reset()
    yield
    get_budget_registry()._reset()


@pytest.fixture
def server() -> Iterator[PineconeServer]:
    with PineconeServer() as running:
        yield running


class Pauses(list[float]):
    """Takes no time, and remembers what it should have taken."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)
        await asyncio.sleep(0)


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


@pytest.fixture
async def index(server: PineconeServer, pauses: Pauses) -> AsyncIterator[PineconeIndex]:
    made = opened(server, pauses=pauses)
    yield made
    await made.close()


def opened(
    server: PineconeServer, *, pauses: Pauses | None = None, call_seconds: float = 30.0
) -> PineconeIndex:
    client = Client(server.url, api_key=server.api_key, timeout_seconds=call_seconds)
    pause = Pauses() if pauses is None else pauses
    return PineconeIndex(client, call_seconds=call_seconds, pause=pause)


def settings(**given: object) -> Settings:
    return Settings(_env_file=None, **given)  # type: ignore[arg-type]


def truth(server: PineconeServer, namespace: str = "docs") -> set[str]:
    return set(server.served.store.namespaces[namespace].truth)


async def written(index: PineconeIndex, *records: Record, namespace: str = "docs") -> None:
    token = await index.upsert(namespace, records)
    await index.wait_visible(namespace, token, timeout_seconds=10)


# --- faults ---------------------------------------------------------------------------------------

LOST = [
    FaultKind.BROKEN_BEFORE,
    FaultKind.BROKEN_AFTER,
    FaultKind.UNAVAILABLE,
    FaultKind.DROPPED_BEFORE,
    FaultKind.DROPPED_AFTER,
    FaultKind.GARBLED,
]


@pytest.mark.parametrize("kind", LOST)
async def test_a_write_whose_answer_is_lost_is_sent_again_and_is_there_once(
    index: PineconeIndex, server: PineconeServer, kind: FaultKind
) -> None:
    server.fail(Fault(kind=kind, operation="upsert"), Fault(kind=kind, operation="upsert"))
    await written(index, record(0), record(1))
    assert server.served.requests["upsert"] == 3
    assert await index.count("docs") == 2
    found = await index.query("docs", QUERY, top_k=5)
    assert [match.number for match in found] == [0, 1]


@pytest.mark.parametrize("kind", LOST[:-1])
async def test_a_delete_whose_answer_is_lost_is_sent_again(
    index: PineconeIndex, server: PineconeServer, kind: FaultKind
) -> None:
    await written(index, record(0), record(1))
    server.fail(Fault(kind=kind, operation="delete"))
    await index.delete("docs", [record(0).id])
    assert server.served.requests["delete"] == 2
    assert truth(server) == {record(1).id}


@pytest.mark.parametrize("operation", ["query", "fetch", "list", "stats"])
async def test_reads_are_tried_again(
    index: PineconeIndex, server: PineconeServer, operation: str
) -> None:
    await written(index, record(0))
    server.fail(Fault(kind=FaultKind.UNAVAILABLE, operation=operation))
    assert [match.number for match in await index.query("docs", QUERY, top_k=3)] == [0]
    assert [found.number for found in await index.fetch("docs", [record(0).id])] == [0]
    assert [found async for found in index.list_ids("docs")] == [record(0).id]
    assert await index.count("docs") == 1
    assert not server.served.faults.script, "the fault was not met"


async def test_retry_after_is_waited_for(
    index: PineconeIndex, server: PineconeServer, pauses: Pauses
) -> None:
    server.fail(Fault(kind=FaultKind.THROTTLED, operation="upsert", retry_after=7.0))
    await written(index, record(0))
    assert 7.0 <= max(pauses) < 8.0
    assert server.served.requests["upsert"] == 2


async def test_others_are_left_alone_too_after_a_429(
    index: PineconeIndex, server: PineconeServer, pauses: Pauses
) -> None:
    server.fail(Fault(kind=FaultKind.THROTTLED, operation="query", retry_after=7.0))
    await index.query("docs", QUERY, top_k=1)
    pauses.clear()
    await index.query("docs", QUERY, top_k=1)
    assert max(pauses) > 6.0, "the next query did not wait for what the service asked"
    pauses.clear()
    await index.query("other", QUERY, top_k=1)
    assert not pauses, "another namespace waited"


async def test_a_longer_retry_after_than_the_deadline_is_handed_on(
    index: PineconeIndex, server: PineconeServer
) -> None:
    await index.dimension()
    server.fail(Fault(kind=FaultKind.THROTTLED, operation="upsert", retry_after=120.0))
    with pytest.raises(TransientError, match="429") as failed:
        await index.upsert("docs", [record(0)])
    assert failed.value.retry_after_seconds == 120.0
    assert server.served.requests["upsert"] == 1


async def test_an_answer_that_does_not_come_ends_with_the_deadline(server: PineconeServer) -> None:
    """The write took effect; its repetitions change nothing."""
    index = opened(server, call_seconds=3.0)
    await index.dimension()
    server.fail(*[Fault(kind=FaultKind.SLOW, operation="upsert", seconds=60)] * 20)
    with pytest.raises(TransientError, match="no answer"):
        await index.upsert("docs", [record(0)])
    assert server.served.requests["upsert"] >= 2, "the lost answer was not asked for again"
    server.served.faults.script.clear()
    await written(index, record(0))
    assert truth(server) == {record(0).id}
    await index.close()


async def test_an_outage_ends_with_the_deadline_and_says_why(
    server: PineconeServer, pauses: Pauses
) -> None:
    index = opened(server, pauses=pauses, call_seconds=2.0)
    await index.dimension()
    server.served.faults.by_chance = [(1.0, Fault(kind=FaultKind.UNAVAILABLE))]
    with pytest.raises(TransientError, match="HTTP 503"):
        await index.query("docs", QUERY, top_k=1)
    await index.close()


async def test_each_try_is_one_request_and_counted(
    index: PineconeIndex, server: PineconeServer
) -> None:
    """The SDK's own retries, which nobody could count, are off."""
    before = counted()
    server.fail(*[Fault(kind=FaultKind.UNAVAILABLE, operation="upsert")] * 3)
    await written(index, record(0))
    assert server.served.requests["upsert"] == 4
    after = counted()
    sent = server.served.requests
    assert after["upsert"] - before["upsert"] == sent["upsert"]
    looks = after["wait_visible"] - before["wait_visible"]
    assert looks + after["query"] - before["query"] == sent["query"]


def counted() -> Counter[str]:
    found: Counter[str] = Counter()
    for metric in telemetry.OUTSIDE_CALLS.collect():
        for sample in metric.samples:
            if sample.name.endswith("_total") and sample.labels["service"] == "pinecone":
                found[sample.labels["operation"]] += int(sample.value)
    return found


async def test_after_close_calls_fail_as_an_outage_does(server: PineconeServer) -> None:
    index, unused = opened(server), opened(server)
    await index.upsert("docs", [record(0)])
    for closed in (index, unused):
        await closed.close()
        await closed.close()
        with pytest.raises(TransientError, match="closed"):
            await closed.query("docs", QUERY, top_k=1)
        with pytest.raises(TransientError, match="closed"):
            await closed.upsert("docs", [record(1)])


async def test_a_cancelled_call_stops_asking(server: PineconeServer) -> None:
    index = opened(server)
    await index.dimension()
    server.fail(*[Fault(kind=FaultKind.SLOW, operation="upsert", seconds=60)] * 9)
    writing = asyncio.create_task(index.upsert("docs", [record(0)]))
    await asyncio.to_thread(server.served.arrived["upsert"].wait)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert server.served.requests["upsert"] == 1
    await index.close()


# --- limits ---------------------------------------------------------------------------------------


async def test_nothing_to_write_or_delete_sends_nothing(
    index: PineconeIndex, server: PineconeServer
) -> None:
    await index.wait_visible("docs", await index.upsert("docs", []), timeout_seconds=1)
    await index.delete("docs", [])
    assert await index.fetch("docs", []) == []
    assert not server.served.requests


async def test_large_writes_and_deletes_are_split(
    index: PineconeIndex, server: PineconeServer
) -> None:
    """3,000 records of 3 KB: 9 MB, which the server would refuse in one request."""
    records = [record(n, text="x" * 3000) for n in range(3000)]
    await written(index, *records)
    assert server.served.requests["upsert"] >= 5
    assert server.served.largest_bytes["upsert"] > 1_500_000, "requests are far from full"
    assert await index.count("docs") == 3000
    await index.delete("docs", [r.id for r in records])
    assert truth(server) == set()


async def test_ids_of_any_length_are_fetched(index: PineconeIndex) -> None:
    """512 characters each, every one of which takes three in an address."""
    ids = [f"{'#' * 509}{n:03}" for n in range(40)]
    records = [replace(record(n), id=ids[n]) for n in range(40)]
    await written(index, *records)
    found = await index.fetch("docs", ids)
    assert {one.id for one in found} == set(ids)


async def test_requests_wait_for_their_turn(
    index: PineconeIndex, server: PineconeServer, pauses: Pauses
) -> None:
    """10,000 deleted records and 300 queries take seconds at Pinecone's rates."""
    for name in server.served.rates.per_second:
        server.served.rates.per_second[name] = 1e9  # The pauses take no time here.
    await written(index, record(0))
    pauses.clear()
    await index.delete("docs", [record(n).id for n in range(10_000)])
    assert max(pauses) > 1.0
    assert server.served.requests["delete"] == 20
    pauses.clear()
    await asyncio.gather(*(index.query("docs", QUERY, top_k=1) for _ in range(300)))
    assert max(pauses) > 1.0


async def test_too_much_for_the_rates_is_told_with_when_to_come_back(
    server: PineconeServer,
) -> None:
    index = opened(server, call_seconds=3.0)
    await written(index, record(0))
    with pytest.raises(TransientError, match="rates") as refused:
        await index.delete("docs", [record(n).id for n in range(40_000)])
    assert refused.value.retry_after_seconds is not None
    assert refused.value.retry_after_seconds > 0.5
    await index.close()


async def test_more_is_asked_for_at_once_than_is_under_way_at_once(
    index: PineconeIndex, server: PineconeServer
) -> None:
    await written(index, record(0))
    server.fail(*[Fault(kind=FaultKind.SLOW, operation="fetch", seconds=0.5)] * 100)
    await asyncio.gather(*(index.fetch("docs", [record(0).id]) for _ in range(60)))
    assert 1 < server.served.most_at_once <= 16


async def test_top_k_beyond_the_services_limit_asks_for_the_limit(index: PineconeIndex) -> None:
    await written(index, record(0))
    assert len(await index.query("docs", QUERY, top_k=50_000)) == 1


async def test_an_answer_of_more_than_4_mb_is_asked_for_again_with_fewer_matches(
    index: PineconeIndex, server: PineconeServer
) -> None:
    near = [array("f", [1.0, n / 1000, 0.0]) for n in range(120)]
    heavy = {"t": "x" * 38_000}
    await written(index, *(record(n, vector=near[n], metadata=heavy) for n in range(120)))
    asked = server.served.requests["query"]
    found = await index.query("docs", QUERY, top_k=1000)
    assert server.served.requests["query"] == asked + 5, "1000, 500, 250, 125, 62"
    assert [match.number for match in found] == list(range(62))


async def test_a_query_that_is_refused_for_its_size_however_little_it_asks_for_ends(
    index: PineconeIndex, server: PineconeServer
) -> None:
    await written(index, record(0))
    asked = server.served.requests["query"]
    server.fail(*[Fault(kind=FaultKind.STATUS, status=413, operation="query")] * 20)
    with pytest.raises(PermanentError, match="413"):
        await index.query("docs", QUERY, top_k=1000)
    assert server.served.requests["query"] == asked + 10


async def test_metadata_that_no_record_can_hold_is_the_documents_fault(
    index: PineconeIndex, server: PineconeServer
) -> None:
    with pytest.raises(PermanentError, match="metadata of document"):
        await index.upsert("docs", [record(0, metadata={"t": "x" * 50_000})])
    assert not server.served.requests["upsert"]


async def test_records_of_other_programs_are_passed_over(
    index: PineconeIndex, server: PineconeServer
) -> None:
    await written(index, record(0))
    server.served.store.write("docs", [("foreign", Stored((1.0, 0.0, 0.0), {"title": "x"}))])
    assert [match.number for match in await index.query("docs", QUERY, top_k=5)] == [0]
    assert await index.fetch("docs", ["foreign"]) == []


async def test_a_field_named_as_an_operator_can_be_filtered_by(index: PineconeIndex) -> None:
    await written(index, record(0, metadata={"$and": "x", "": 1, "_text": True}), record(1))
    for where in (
        FieldFilter("$and", "eq", "x"),
        FieldFilter("", "gte", 1),
        FieldFilter("_text", "exists", True),
    ):
        found = await index.query("docs", QUERY, top_k=5, where=where)
        assert [match.number for match in found] == [0], where


# --- freshness ------------------------------------------------------------------------------------


async def test_a_write_is_waited_for_across_processes(server: PineconeServer) -> None:
    """A token of one adapter's write is waited for with another's."""
    writer, reader = opened(server), opened(server)
    server.served.store.index_lag_seconds = 3600
    token = await writer.upsert("docs", [record(0)])
    with pytest.raises(TransientError, match="does not show"):
        await reader.wait_visible("docs", token, timeout_seconds=0.2)
    assert await reader.query("docs", QUERY, top_k=1) == []
    server.served.store.index_everything()
    await reader.wait_visible("docs", token, timeout_seconds=10)
    assert len(await reader.query("docs", QUERY, top_k=1)) == 1
    await writer.close()
    await reader.close()


async def test_all_requests_of_a_write_are_waited_for(
    index: PineconeIndex, server: PineconeServer
) -> None:
    records = [record(n, text="x" * 3000) for n in range(1500)]
    token = await index.upsert("docs", records)
    assert server.served.requests["upsert"] > 1
    assert int(token) == server.served.store.namespaces["docs"].lsn


# --- what is set up wrongly -----------------------------------------------------------------------


async def test_a_check_says_what_it_found(index: PineconeIndex, server: PineconeServer) -> None:
    assert isinstance(index, Checkable)
    await written(index, record(0))
    assert await index.check() == f"{server.url}: 3 dimensions, cosine, 1 records in 1 namespaces"
    assert await index.dimension() == 3
    await index.check_dimension(3)
    with pytest.raises(DimensionMismatchError, match=r"3 dimensions.*makes 384.*BLOOMWEAVER_"):
        await index.check_dimension(384)


async def test_an_index_is_found_by_its_name(
    server: PineconeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PINECONE_API_KEY", server.api_key)
    given = settings(pinecone_control_url=server.url)
    index = adapter.connect(f"pinecone:{INDEX_NAME}", given, "test")
    assert isinstance(index, PineconeIndex)
    assert f"{INDEX_NAME}: 3 dimensions" in await index.check()
    await written(index, record(0))
    assert truth(server) == {record(0).id}
    server.served.ready = False
    with pytest.raises(TransientError, match="not ready"):
        await index.check()
    await index.close()
    missing = adapter.connect("pinecone:another", given, "test")
    assert isinstance(missing, PineconeIndex)
    with pytest.raises(PermanentError, match=r"another.*404.*BLOOMWEAVER_INDEX_URL"):
        await missing.check()
    with pytest.raises(TransientError):
        await missing.query("docs", QUERY, top_k=1)
    await missing.close()


async def test_a_wrong_key_is_permanent_at_the_start_and_transient_at_work(
    server: PineconeServer,
) -> None:
    given = settings(pinecone_api_key="not-this-one")
    index = adapter.connect(f"pinecone:{server.url}", given, "test")
    assert isinstance(index, PineconeIndex)
    with pytest.raises(PermanentError, match="BLOOMWEAVER_PINECONE_API_KEY") as refused:
        await index.check()
    assert "not-this-one" not in str(refused.value)
    with pytest.raises(TransientError, match="401"):
        await index.upsert("docs", [record(0)])
    await index.close()


@pytest.mark.parametrize("status", [401, 402, 403, 404])
async def test_a_permission_that_is_taken_away_fails_no_document(
    index: PineconeIndex, server: PineconeServer, status: int
) -> None:
    await written(index, record(0))
    server.served.faults.by_chance = [(1.0, Fault(kind=FaultKind.STATUS, status=status))]
    for call in (
        index.upsert("docs", [record(1)]),
        index.query("docs", QUERY, top_k=1),
        index.delete("docs", [record(0).id]),
        index.fetch("docs", [record(0).id]),
        index.count("docs"),
    ):
        with pytest.raises(TransientError, match=f"HTTP {status}"):
            await call


async def test_an_index_of_another_metric_or_dimension_is_refused(pauses: Pauses) -> None:
    with PineconeServer(metric="dotproduct", dimension=8) as server:
        index = opened(server, pauses=pauses)
        with pytest.raises(PermanentError, match=r"dotproduct.*needs cosine"):
            await index.check()
        with pytest.raises(DimensionMismatchError, match="8 dimensions"):
            await index.upsert("docs", [record(0)])
        with pytest.raises(DimensionMismatchError, match="8 dimensions"):
            await index.query("docs", QUERY, top_k=1)
        await index.close()


async def test_a_host_that_is_not_there_may_come_back(pauses: Pauses) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    client = Client(url, api_key="k", timeout_seconds=1)
    index = PineconeIndex(client, call_seconds=1, pause=pauses)
    with pytest.raises(TransientError, match=url):
        await index.check()
    await index.close()


@pytest.mark.parametrize("address", ["http://pinecone:5081", "http://"])
async def test_an_address_that_the_sdk_refuses_is_told_at_the_start(address: str) -> None:
    index = adapter.connect(f"pinecone:{address}", settings(pinecone_api_key="k"), "test")
    assert isinstance(index, PineconeIndex)
    with pytest.raises(PermanentError, match="BLOOMWEAVER_INDEX_URL"):
        await index.check()
    await index.close()


def test_settings_that_cannot_work_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PINECONE_API_KEY", raising=False)
    with pytest.raises(PermanentError, match="BLOOMWEAVER_PINECONE_API_KEY"):
        adapter.connect("pinecone:documents", settings(), "test")
    with pytest.raises(PermanentError, match="names no index"):
        adapter.connect("pinecone:", settings(pinecone_api_key="k"), "test")
    for address, more in (
        ("https://me:hush@host", {}),
        ("documents", {"pinecone_control_url": "https://me:hush@host"}),
    ):
        with pytest.raises(PermanentError, match="no user or password") as refused:
            adapter.connect(f"pinecone:{address}", settings(pinecone_api_key="k", **more), "test")
        assert "hush" not in str(refused.value)
    given = settings(pinecone_api_key="k", max_metadata_bytes=32769)
    with pytest.raises(PermanentError, match="BLOOMWEAVER_MAX_METADATA_BYTES=32769"):
        adapter.connect("pinecone:documents", given, "test")


def test_opening_it_waits_for_no_import_of_the_sdks_client() -> None:
    """A consumer in a Lambda function starts in a second, all imports included."""
    program = (
        "import sys; from common.adapters.index import pinecone; from common.settings import "
        "Settings; pinecone.connect('pinecone:i', Settings(pinecone_api_key='k'), 't'); "
        "sys.exit(bool({'httpx', 'numpy', 'aiohttp'} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_call_is_over_before_an_attempts_lease_is() -> None:
    given = settings(pinecone_api_key="k", attempt_lease_seconds=20)
    index = adapter.connect("pinecone:documents", given, "test")
    assert isinstance(index, PineconeIndex)
    assert index.call_seconds == 10
