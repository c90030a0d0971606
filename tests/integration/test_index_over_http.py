"""What the adapters for index servers have in common, beyond what every index promises.

Chroma's server is its own; tests/servers/qdrant_rest.py says how far Qdrant's is one.
"""

from __future__ import annotations

import asyncio
import math
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import REGISTRY

from common.adapters.index import chroma, qdrant
from common.adapters.index.chroma import ChromaIndex
from common.adapters.index.qdrant import QdrantIndex
from common.ports.errors import PermanentError, TransientError
from common.ports.index import DimensionMismatchError, IndexUnavailableError
from common.settings import Settings
from tests.conformance.test_index import NAMESPACE, ids, record
from tests.servers.chroma import chroma_url
from tests.servers.http_log import answering
from tests.servers.qdrant import QDRANT_KEY, qdrant_url

Made = ChromaIndex | QdrantIndex


@dataclass(frozen=True)
class Service:
    adapter: ModuleType
    url: Callable[[], str]
    """Of a running server, each time with another prefix."""
    secret: str
    """The setting that holds it; `key` is the server's."""
    key: str
    header: tuple[str, str]
    """That sends the secret, and what comes before it."""
    version: object
    """The server's answer when it is asked for its version 9.8.7."""
    writes: str
    """The operation that writes are counted as."""
    page: str
    """The constant that tells how many ids are listed at once."""

    @asynccontextmanager
    async def opened(
        self, url: str, *, key: str | None = None, seconds: float = 30
    ) -> AsyncIterator[Any]:
        given: dict[str, Any] = {self.secret: key or self.key}
        settings = Settings(request_timeout_seconds=seconds, **given)
        index = self.adapter.connect(url, settings, "test")
        try:
            yield index
        finally:
            await index.close()

    def at(self, address: str) -> str:
        return f"{self.adapter.__name__.rpartition('.')[2]}:{address}"


CHROMA = Service(
    chroma, chroma_url, "chroma_token", "unused", ("authorization", "Bearer "), "9.8.7",
    "upsert", "IDS_A_RANGE",
)  # fmt: skip
QDRANT = Service(
    qdrant, qdrant_url, "qdrant_api_key", QDRANT_KEY, ("api-key", ""),
    {"title": "qdrant", "version": "9.8.7"}, "points", "IDS_A_CALL",
)  # fmt: skip


@pytest.fixture(params=[CHROMA, QDRANT], ids=["chroma", "qdrant"])
def service(request: pytest.FixtureRequest) -> Service:
    given: Service = request.param
    return given


@pytest.fixture
async def index(service: Service) -> AsyncIterator[Made]:
    async with service.opened(service.url()) as made:
        yield made


async def test_rivals_that_create_a_namespace_lose_nothing(service: Service) -> None:
    url = service.url()
    async with service.opened(url) as one, service.opened(url) as two, service.opened(url) as three:
        rivals = [one, two, three] * 2
        await asyncio.gather(*(r.upsert(NAMESPACE, [record(n)]) for n, r in enumerate(rivals)))
        assert await ids(one) == {record(n).id for n in range(len(rivals))}
        assert await one.namespaces() == [NAMESPACE]


async def test_of_two_dimensions_one_wins(service: Service) -> None:
    url = service.url()
    async with service.opened(url) as one, service.opened(url) as two:
        written = await asyncio.gather(
            one.upsert(NAMESPACE, [record(0)]),
            two.upsert(NAMESPACE, [record(1, (1.0, 0.0))]),
            return_exceptions=True,
        )
        refused = [error for error in written if error != ""]
        assert [type(error) for error in refused] == [DimensionMismatchError]
        assert await one.count(NAMESPACE) == 1


async def test_another_dimension_is_told_at_the_start(index: Made) -> None:
    await index.check_dimension(384)
    await index.upsert(NAMESPACE, [record(0)])
    await index.check_dimension(3)
    with pytest.raises(DimensionMismatchError, match="'docs' holds vectors of 3 dimensions"):
        await index.check_dimension(384)


async def test_a_query_of_another_dimension_is_refused(index: Made) -> None:
    await index.upsert(NAMESPACE, [record(0)])
    with pytest.raises(DimensionMismatchError):
        await index.query(NAMESPACE, array("f", [1.0]), top_k=1)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
async def test_a_vector_that_is_not_finite_is_never_sent(index: Made, wrong: float) -> None:
    with pytest.raises(PermanentError, match="not finite"):
        await index.upsert(NAMESPACE, [record(0), record(1, (wrong, 0.0, 0.0))])
    assert await index.namespaces() == []


@pytest.mark.parametrize(
    ("number", "said"), [(2**63, "fit 64 bits"), (math.nan, "finite"), (-math.inf, "finite")]
)
async def test_a_number_that_no_server_holds_is_refused(
    index: Made, number: float, said: str
) -> None:
    with pytest.raises(PermanentError, match=f"'size'.* {said}"):
        await index.upsert(NAMESPACE, [record(0, metadata={"size": number})])


async def test_what_others_keep_on_the_server_is_left_alone(service: Service, index: Made) -> None:
    async with service.opened(service.url()) as other:
        await other.upsert(NAMESPACE, [record(7)])
        await index.upsert("more", [record(0)])
        assert await index.namespaces() == ["more"]
        assert await index.count(NAMESPACE) == 0
        assert await other.count(NAMESPACE) == 1


async def test_listing_misses_nothing_while_records_are_deleted(
    service: Service, index: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.adapter, service.page, 10)
    records = [record(n) for n in range(100)]
    await index.upsert(NAMESPACE, records)
    listed: list[str] = []
    async for record_id in index.list_ids(NAMESPACE):
        if not listed:
            await index.delete(NAMESPACE, [record_id, *(r.id for r in records[:40])])
        listed.append(record_id)
    assert {r.id for r in records[40:]} <= set(listed)
    assert len(listed) == len(set(listed))


# What the server and the network may do.


async def test_the_check_tells_what_is_there(index: Made) -> None:
    await index.upsert(NAMESPACE, [record(0)])
    assert (await index.check()).endswith(" 1 namespaces")


async def test_a_server_out_of_reach_is_transient(service: Service) -> None:
    async with service.opened(service.at("http://127.0.0.1:1")) as index:
        for call in (index.check(), index.count(NAMESPACE), index.upsert(NAMESPACE, [record(0)])):
            with pytest.raises(TransientError, match="cannot"):
                await call


async def test_a_server_that_never_answers_is_not_waited_for(service: Service) -> None:
    async def never(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with answering(never) as log, service.opened(service.at(log.url), seconds=0.2) as index:
        with pytest.raises(TransientError, match="no answer within"):
            await index.count(NAMESPACE)


async def test_a_connection_that_was_closed_meanwhile_is_opened_again(service: Service) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        if len(asked) == 1:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response(service.version)

    async with answering(answer) as log, service.opened(service.at(log.url)) as index:
        assert await (await index._connection.opened()).version() == "9.8.7"
    assert len(asked) == 2


async def test_the_secret_is_sent_and_never_told(service: Service) -> None:
    async def refuse(request: web.Request) -> web.Response:
        return web.json_response({"error": "AuthError", "message": "Forbidden"}, status=403)

    async with (
        answering(refuse) as log,
        answering(refuse) as elsewhere,
        service.opened(service.at(log.url), key="secret-1") as index,
        service.opened(service.at(elsewhere.url), key="secret-2") as other,
    ):
        setting = f"BLOOMWEAVER_{service.secret.upper()}"
        with pytest.raises(PermanentError, match=setting) as refused:
            await index.check()
        for one in (index, other):
            with pytest.raises(TransientError):
                await one.count(NAMESPACE)
        name, before = service.header
        assert {asked.headers[name] for asked in log.asked} == {f"{before}secret-1"}
        assert {asked.headers[name] for asked in elsewhere.asked} == {f"{before}secret-2"}
        assert "secret-1" not in str(refused.value)


@pytest.mark.parametrize(("status", "asked"), [(429, 7.0), (503, 7.0), (500, None)])
async def test_a_server_that_asks_to_be_left_alone_says_how_long(
    service: Service, status: int, asked: float | None
) -> None:
    async def busy(request: web.Request) -> web.Response:
        headers = {"Retry-After": "7"} if asked else {}
        return web.Response(status=status, headers=headers, text="slow down")

    async with answering(busy) as log, service.opened(service.at(log.url)) as index:
        with pytest.raises(TransientError) as told:
            await index.count(NAMESPACE)
        assert told.value.retry_after_seconds == asked


async def test_requests_are_counted(service: Service, index: Made) -> None:
    name = service.adapter.__name__.rpartition(".")[2]

    def writes() -> float:
        labels = {"service": name, "operation": service.writes}
        return REGISTRY.get_sample_value("bloomweaver_outside_calls_total", labels) or 0.0

    before = writes()
    many = 2 * service.adapter.RECORDS_A_CALL + 1
    await index.upsert(NAMESPACE, [record(n) for n in range(many)])
    assert writes() == before + 3


async def test_a_closed_index_says_so(index: Made) -> None:
    await index.close()
    with pytest.raises(IndexUnavailableError):
        await index.count(NAMESPACE)


async def test_an_index_closed_while_it_connects_leaves_no_connection(index: Made) -> None:
    await asyncio.gather(index.count(NAMESPACE), index.close(), return_exceptions=True)
    assert index._connection._opened is None
