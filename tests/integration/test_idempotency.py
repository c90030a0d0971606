"""Idempotency-Key: what was answered is answered again, and nothing is done twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from common.access import Role
from common.adapters.receipts.sqlite import SqliteReceipts
from common.clock import system_clock
from common.model import QueueName
from common.ports.errors import TransientError
from common.ports.receipts import Receipt
from tests.access import Keys, bearer
from tests.fakes.receipts import MemoryReceipts
from tests.integration.test_http_api import DOCUMENTS, Api, insert, is_problem, lines, serving
from tests.pipeline import Pipeline, pipeline
from webhook.idempotency import KeyedRequests

ONE = f"{DOCUMENTS}/a"
KEY = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}
CHANGES = "/v1/changes"


@pytest.fixture
async def flow(tmp_path: Path) -> AsyncIterator[Pipeline]:
    async with pipeline(tmp_path) as made:
        yield made


class Noticed(MemoryReceipts):
    def __init__(self) -> None:
        super().__init__()
        self.kept_one = asyncio.Event()

    async def keep(self, scope: str, delivery_id: str, receipt: Receipt) -> bool:
        kept = await super().keep(scope, delivery_id, receipt)
        self.kept_one.set()
        return kept


@pytest.fixture
def receipts() -> Noticed:
    return Noticed()


@pytest.fixture
async def api(flow: Pipeline, receipts: MemoryReceipts) -> AsyncIterator[Api]:
    async with serving(flow, services_too={"receipts": receipts}) as made:
        yield made


async def sent(
    api: Api,
    value: Any,
    headers: Mapping[str, str] = KEY,
    method: str = "POST",
    path: str = CHANGES,
) -> tuple[int, Any, bool]:
    """Status, body, and whether it was answered before."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    typed = {"Content-Type": "application/json", **headers}
    async with api.client.request(method, path, data=data, headers=typed) as response:
        replayed = response.headers.get("Idempotency-Replayed") == "true"
        return response.status, await response.json(content_type=None), replayed


async def accepted_version(api: Api) -> int:
    row = await api.row("a")
    return row.desired.version if row else 0


async def test_what_is_sent_again_late_does_not_come_back(api: Api) -> None:
    status, told, replayed = await sent(api, insert(content="mine"))
    assert (status, told["version"], replayed) == (202, 1, False)
    await sent(api, insert(content="theirs"), {"Idempotency-Key": "another"})
    assert await sent(api, insert(content="mine")) == (202, told, True)
    assert (await accepted_version(api)) == 2
    async with api.client.get(f"{ONE}/content") as response:
        assert await response.read() == b"theirs"


async def test_answers_outlive_the_process(flow: Pipeline, tmp_path: Path) -> None:
    told = []
    for _ in range(2):
        receipts = SqliteReceipts(tmp_path / "receipts.sqlite")
        async with serving(flow, services_too={"receipts": receipts}) as api:
            told.append(await sent(api, insert()))
        await receipts.close()
    assert told == [(202, told[0][1], False), (202, told[0][1], True)]


async def test_the_key_in_quotes_is_the_same_key(api: Api) -> None:
    await sent(api, insert())
    quoted = {"Idempotency-Key": f'"{KEY["Idempotency-Key"]}"'}
    assert (await sent(api, insert(), quoted))[2]


@pytest.mark.parametrize(
    "other",
    [
        {"value": insert(content="other")},
        {"headers": {**KEY, "If-Match": '"v1"'}},
        {"headers": {**KEY, "Content-Type": "application/json; charset=utf-8"}},
        {"path": f"{CHANGES}?x=1"},
        {"path": f"{DOCUMENTS}/b", "method": "PUT"},
        {"method": "PUT", "path": ONE},
    ],
)
async def test_a_key_names_one_request(api: Api, other: dict[str, Any]) -> None:
    await sent(api, insert())
    status, body, _ = await sent(api, **{"value": insert(), **other})
    assert is_problem(status, body, "idempotency-key-reused", "Idempotency-Key")
    assert await accepted_version(api) == 1


async def test_uploads_and_deletes_too(api: Api) -> None:
    def of(key: str, method: str) -> dict[str, Any]:
        headers = {"Idempotency-Key": key, "Content-Type": "text/plain"}
        return {"headers": headers, "method": method, "path": ONE}

    for _ in range(2):
        status, body, _ = await sent(api, b"one", **of("put", "PUT"))
        assert (status, body["version"]) == (202, 1)
        status, body, _ = await sent(api, b"", **of("delete", "DELETE"))
        assert (status, body["version"]) == (202, 2)
    assert (await sent(api, b"", **of("delete", "DELETE")))[2]


async def test_keys_of_different_callers_are_different(flow: Pipeline) -> None:
    keys = Keys()
    one, other = keys.made(Role.EDITOR, "docs"), keys.made(Role.EDITOR, "docs")
    reader = keys.made(Role.READER, "docs")
    services = {"receipts": MemoryReceipts()}
    async with serving(flow, authenticate=keys.doorman, services_too=services) as api:
        assert not (await sent(api, insert(), {**KEY, **bearer(one)}))[2]
        assert not (await sent(api, insert(), {**KEY, **bearer(other)}))[2]
        assert (await sent(api, insert(), {**KEY, **bearer(one)}))[2]
        assert (await sent(api, insert(), {**KEY, **bearer(reader)}))[0] == 403
        assert (await sent(api, insert()))[0] == 401


async def test_refusals_are_answered_again(api: Api) -> None:
    await sent(api, insert(), {})
    headers = {**KEY, "If-Match": '"v9"', "Content-Type": "text/plain"}
    first = await sent(api, b"two", headers, "PUT", ONE)
    assert (first[0], first[2]) == (412, False)
    assert await sent(api, b"two", headers, "PUT", ONE) == (412, first[1], True)


async def test_what_failed_for_now_can_be_tried_again(api: Api) -> None:
    api.queue.errors.append(TransientError("out of reach"))
    assert (await sent(api, insert()))[0] == 503
    status, body, replayed = await sent(api, insert())
    assert (status, body["outcome"], replayed) == (202, "unchanged", False)


async def test_without_knowing_whether_it_was_done_nothing_is(
    api: Api, receipts: MemoryReceipts
) -> None:
    receipts.errors.append(TransientError("out of reach"))
    assert (await sent(api, insert()))[0] == 503
    assert await accepted_version(api) == 0


async def test_an_answer_that_cannot_be_kept_is_given(flow: Pipeline) -> None:
    class Forgetful(MemoryReceipts):
        async def keep(self, *_: Any) -> bool:
            raise TransientError("out of reach")

    async with serving(flow, services_too={"receipts": Forgetful()}) as api:
        assert (await sent(api, insert()))[0] == 202


async def test_keys_expire(flow: Pipeline, receipts: MemoryReceipts) -> None:
    async with serving(flow, idempotency_hours=2, services_too={"receipts": receipts}) as api:
        before = system_clock()
        await sent(api, insert())
        (receipt,) = receipts.kept.values()
        assert before + 7200 <= receipt.expires_at <= system_clock() + 7200


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "ü"])
async def test_keys_that_are_none(api: Api, key: str) -> None:
    status, body, _ = await sent(api, insert(), {"Idempotency-Key": key})
    assert is_problem(status, body, "malformed-request", "Idempotency-Key")
    assert await accepted_version(api) == 0


async def test_a_feed_has_no_key(api: Api) -> None:
    headers = {**KEY, "Content-Type": "application/x-ndjson"}
    status, body, _ = await sent(api, lines(insert()), headers)
    assert is_problem(status, body, "malformed-request", "Idempotency-Key")


async def test_bodies_keep_their_limits(flow: Pipeline, receipts: MemoryReceipts) -> None:
    limits: Any = {"max_body_bytes": 3000, "max_document_bytes": 1000}
    async with serving(flow, services_too={"receipts": receipts}, **limits) as api:
        assert (await sent(api, b" " * 3001))[0] == 413
        headers = {**KEY, "Content-Type": "text/plain"}
        assert (await sent(api, b"x" * 1001, headers, "PUT", ONE))[0] == 413
    assert receipts.kept == {}


async def test_large_answers_are_kept_whole(api: Api, receipts: MemoryReceipts) -> None:
    changes = {"changes": [insert(f"{'long' * 100}-{n}") for n in range(1000)]}
    first = await sent(api, changes)
    assert len(json.dumps(first[1])) > 300_000
    assert len(next(iter(receipts.kept.values())).body) < 100_000
    assert await sent(api, changes) == (202, first[1], True)


# --- at once -------------------------------------------------------------------------------------


async def test_a_request_that_is_under_way_is_not_begun_again(api: Api) -> None:
    api.queue.hold = asyncio.Event()
    first = asyncio.create_task(sent(api, insert()))
    await api.registry.rows.acquire()
    status, body, _ = await sent(api, insert())
    assert is_problem(status, body, "idempotency-key-in-use")
    api.queue.hold.set()
    assert (await first)[0] == 202
    assert (await sent(api, insert()))[2]


async def test_a_client_that_goes_away_finds_its_answer(api: Api, receipts: Noticed) -> None:
    """It is cancelled between the row and the wake-up, and asks again when all is done."""
    api.queue.hold = asyncio.Event()
    host, port = api.runner.addresses[0][:2]
    body = json.dumps(insert()).encode()
    _, writer = await asyncio.open_connection(host, port)
    head = (
        f"POST {CHANGES} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Idempotency-Key: {KEY['Idempotency-Key']}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await api.registry.rows.acquire()
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    while api.runner.server and api.runner.server.connections:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0)
    api.queue.hold.set()
    async with asyncio.timeout(20):
        await receipts.kept_one.wait()
    status, told, replayed = await sent(api, insert())
    assert (status, told["outcome"], replayed) == (202, "accepted", True)
    (delivery,) = await api.flow.queue.receive(
        QueueName.CHANGE, limit=9, visibility_seconds=30, wait_seconds=0
    )
    assert delivery.wake_up.version == 1


async def test_stopping_waits_for_what_is_under_way() -> None:
    keyed, go = KeyedRequests(), asyncio.Event()

    async def work() -> web.StreamResponse:
        await go.wait()
        return web.Response(status=202)

    asked = asyncio.create_task(keyed.answer(("a", "b"), lambda: asyncio.create_task(work())))
    await asyncio.sleep(0)
    asked.cancel()
    closing = asyncio.create_task(keyed.close())
    await asyncio.sleep(0)
    assert not closing.done()
    go.set()
    await closing
    assert asked.cancelled()


async def test_what_outlasts_the_stop_ends() -> None:
    keyed, ended = KeyedRequests(), asyncio.Event()

    async def work() -> web.StreamResponse:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    asked = asyncio.create_task(keyed.answer(("a", "b"), lambda: asyncio.create_task(work())))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await keyed.close(wait_seconds=0)
    assert ended.is_set()
    await asyncio.wait((asked,))
    assert asked.cancelled()


async def test_without_a_store_of_receipts_it_is_as_without_a_key(flow: Pipeline) -> None:
    async with serving(flow) as api:
        for outcome in ("accepted", "unchanged"):
            assert (await sent(api, insert()))[1]["outcome"] == outcome
