"""What a client notices of its limits, and of a namespace's quota. Nothing comes back of a bucket
while a test runs: the rates are one in a hundred seconds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from aiohttp import web

from common.access import ANYBODY_HERE, Principal, Role
from common.model import DocumentKey
from common.settings import Settings
from tests.access import Keys, bearer
from tests.integration import test_http_api
from tests.integration.test_http_api import Api, insert, is_problem, lines
from tests.pipeline import Pipeline, pipeline
from webhook.accept import Change, ChangeType
from webhook.authentication import Authenticate, anybody_here, unauthenticated
from webhook.feed import STOPPING_SIGNAL
from webhook.limits import request_limits_of
from webhook.problems import FORBIDDEN, Problem
from webhook.quotas import quotas_of

SLOW = 0.01
"""A second."""


@pytest.fixture
async def flow(tmp_path: Path) -> AsyncIterator[Pipeline]:
    async with pipeline(tmp_path) as made:
        yield made


@asynccontextmanager
async def serving(
    flow: Pipeline, *, authenticate: Authenticate = anybody_here, **limits: Any
) -> AsyncIterator[Api]:
    settings = Settings(_env_file=None, **limits)
    too = {
        "limits": request_limits_of(settings),
        "quotas": quotas_of(settings, flow.registry),
    }
    async with test_http_api.serving(
        flow, authenticate=authenticate, services_too=too, **limits
    ) as api:
        yield api


@dataclass
class Limited:
    api: Api
    keys: Keys
    key: str
    other: str

    async def get(self, key: str, path: str = "/v1/stats", **headers: str) -> tuple[int, Any, Any]:
        async with self.api.client.get(path, headers={**bearer(key), **headers}) as response:
            return response.status, response.headers, await response.json(content_type=None)

    async def change(self, value: Any) -> tuple[int, Any]:
        return await self.api.change(value, headers=bearer(self.key))


@asynccontextmanager
async def limited(flow: Pipeline, *, burst: float, **limits: Any) -> AsyncIterator[Limited]:
    """Limits of SLOW where none is given, `burst` of them at once."""
    keys = Keys()
    key, other = keys.made(Role.ADMIN, "*"), keys.made(Role.ADMIN, "*")
    async with serving(
        flow, authenticate=keys.doorman, limit_burst_seconds=burst / SLOW, **limits
    ) as api:
        yield Limited(api, keys, key, other)


async def test_each_key_has_requests_of_its_own(flow: Pipeline) -> None:
    async with limited(flow, burst=2, limit_requests_per_second=SLOW) as at:
        assert [(await at.get(at.key))[0] for _ in range(2)] == [200, 200]
        status, headers, body = await at.get(at.key)
        assert is_problem(status, body, "rate-limited")
        assert (body["reason"], body["limit"]) == ("requests", SLOW)
        assert int(headers["Retry-After"]) == body["retry_after_seconds"]
        assert 50 < body["retry_after_seconds"] <= 100
        assert headers["RateLimit-Policy"] == '"requests";q=2;w=200'
        assert headers["RateLimit"] == f'"requests";r=0;t={headers["Retry-After"]}'
        assert (await at.get(at.other))[0] == 200
        async with at.api.client.get("/metrics", headers=bearer(at.other)) as response:
            assert 'bloomweaver_requests_limited_total{limit="requests"}' in await response.text()


async def test_anybody_on_this_machine_has_no_limits(flow: Pipeline) -> None:
    limits: dict[str, Any] = {
        "limit_requests_per_second": SLOW,
        "limit_changes_per_second": SLOW,
        "limit_bytes_per_second": SLOW,
    }
    async with serving(flow, limit_burst_seconds=1, **limits) as api:
        for number in range(5):
            assert (await api.change(insert(str(number))))[0] == 202
        assert len(await api.feed(lines(insert("a"), insert("b")))) == 2


async def test_changes_are_counted_and_a_refused_one_is_not_accepted(flow: Pipeline) -> None:
    async with limited(flow, burst=2, limit_changes_per_second=SLOW) as at:
        assert (await at.change(insert("a")))[0] == 202
        path = "/v1/namespaces/docs/documents/a"
        async with at.api.client.delete(path, headers=bearer(at.key)) as response:
            assert response.status == 202
        at.api.journal.clear()
        status, body = await at.change(insert("b"))
        assert is_problem(status, body, "rate-limited")
        assert body["reason"] == "changes"
        async with at.api.client.put(path, data="x", headers=bearer(at.key)) as response:
            assert response.status == 429
        assert at.api.journal == []
        assert (await at.get(at.key))[0] == 200


async def test_a_list_is_counted_as_a_whole_even_beyond_the_burst(flow: Pipeline) -> None:
    async with limited(flow, burst=3, limit_changes_per_second=SLOW) as at:
        status, body = await at.change({"changes": [insert(str(n)) for n in range(5)]})
        assert (status, len(body["results"])) == (202, 5)
        status, body = await at.change(insert("5"))
        assert is_problem(status, body, "rate-limited")
        assert 250 < body["retry_after_seconds"] <= 300
    async with limited(flow, burst=3, limit_changes_per_second=SLOW) as at:
        assert (await at.change(insert("one")))[0] == 202
        at.api.journal.clear()
        status, body = await at.change({"changes": [insert(f"new {n}") for n in range(3)]})
        assert is_problem(status, body, "rate-limited")
        assert at.api.journal == []
        assert (await at.change({"changes": [insert("two"), insert("three")]}))[0] == 202


async def test_bytes_are_counted(flow: Pipeline) -> None:
    async with limited(flow, burst=10, limit_bytes_per_second=SLOW) as at:
        assert (await at.change(insert("a", "x" * 8)))[0] == 202
        status, body = await at.change(insert("b", "x" * 8))
        assert is_problem(status, body, "rate-limited")
        assert body["reason"] == "bytes"
        assert (await at.change(insert("c", "xx")))[0] == 202


async def test_a_feed_waits_instead(flow: Pipeline) -> None:
    """No line is refused; the sender is slowed down, here until the service stops."""
    async with limited(flow, burst=2, limit_changes_per_second=SLOW) as at:
        data = lines(*(insert(str(number)) for number in range(3)))
        feed = asyncio.create_task(at.api.feed(data, **bearer(at.key)))
        for _ in range(2):
            await at.api.registry.rows.acquire()
        at.api.runner.app[STOPPING_SIGNAL].set()
        first, second, last = await feed
        assert [first["outcome"], second["outcome"]] == ["accepted", "accepted"]
        assert last["error"]["type"].endswith("stopping")
        assert last["feed_ended"]


async def test_a_feed_that_has_waited_goes_on(flow: Pipeline) -> None:
    async with limited(flow, burst=1, limit_changes_per_second=50) as at:
        results = await at.api.feed(lines(*(insert(str(n)) for n in range(5))), **bearer(at.key))
        assert [result["outcome"] for result in results] == ["accepted"] * 5
        async with at.api.client.get(
            "/v1/namespaces/docs/documents", headers=bearer(at.key)
        ) as got:
            assert len((await got.json())["documents"]) == 5


# --- waiting -------------------------------------------------------------------------------------


async def test_one_key_holds_so_many_feeds_and_waits(flow: Pipeline) -> None:
    """Of all kinds together; another key has its own, and what does not wait goes on."""
    async with limited(flow, burst=100, max_waiting_per_principal=1) as at:
        begun, over = asyncio.Event(), asyncio.Event()

        async def slow_lines() -> AsyncIterator[bytes]:
            yield lines(insert("a"))
            begun.set()
            await over.wait()

        feed = asyncio.create_task(at.api.feed(slow_lines(), **bearer(at.key)))
        await begun.wait()
        await at.api.registry.rows.acquire()
        document = "/v1/namespaces/docs/documents/a"
        status, headers, body = await at.get(at.key, document + "?wait=100")
        assert is_problem(status, body, "rate-limited")
        assert (body["reason"], body["limit"], headers["Retry-After"]) == ("waiting", 1, "5")
        search = {"query": "a", "wait": 100}
        path = "/v1/namespaces/docs/search"
        assert (await at.api.post(path, search, headers=bearer(at.key)))[0] == 429
        many = {"Content-Type": "application/x-ndjson", **bearer(at.key)}
        async with at.api.client.post("/v1/changes", data=b"", headers=many) as response:
            assert response.status == 429
        assert (await at.get(at.key, document))[0] == 200
        assert (await at.get(at.other, document + "?wait=0"))[0] == 504
        over.set()
        assert (await feed)[0]["outcome"] == "accepted"
        assert (await at.get(at.key, document + "?wait=0"))[0] == 504


# --- guesses -------------------------------------------------------------------------------------


async def test_guessing_is_slow(flow: Pipeline) -> None:
    async with limited(flow, burst=1, limit_failed_logins_per_minute=0.6) as at:
        assert (await at.get(at.key))[0] == 200
        stranger = Keys()
        statuses = [(await at.get(stranger.made(Role.ADMIN, "*")))[0] for _ in range(25)]
        assert statuses == [401] * 20 + [429] * 5
        status, headers, body = await at.get("nonsense")
        assert is_problem(status, body, "rate-limited")
        assert body["reason"] == "failures"
        assert 50 < int(headers["Retry-After"]) <= 100
        # A right one that nobody has seen yet cannot be told from a guess; one that was seen can.
        assert (await at.get(at.other))[0] == 429
        assert (await at.get(at.key))[0] == 200


async def test_a_credential_that_was_right_once_is_no_way_around(flow: Pipeline) -> None:
    right = {"secret"}

    async def door(request: web.Request) -> Principal:
        if request.headers["X-API-Key"] not in right:
            raise unauthenticated("not one that is known here")
        return ANYBODY_HERE

    async with serving(flow, authenticate=door, limit_failed_logins_per_minute=0.6) as api:

        async def status() -> int:
            return (await api.get("/v1/stats", headers={"X-API-Key": "secret"}))[0]

        assert await status() == 200
        right.clear()
        assert [await status() for _ in range(22)] == [401] * 20 + [429] * 2


async def test_who_sends_no_credential_guesses_nothing(flow: Pipeline) -> None:
    async with limited(flow, burst=1, limit_failed_logins_per_minute=0.6) as at:
        for _ in range(30):
            assert (await at.api.get("/v1/stats"))[0] == 401
        assert (await at.get(at.key))[0] == 200


async def test_what_somebody_may_not_do_is_no_guess(flow: Pipeline) -> None:
    """A right token of a person who has no role here."""

    async def door(request: web.Request) -> Principal:
        raise Problem(FORBIDDEN, "you have no role here")

    async with serving(flow, authenticate=door, limit_failed_logins_per_minute=0.6) as api:
        for _ in range(30):
            assert (await api.get("/v1/stats", headers={"X-API-Key": "right"}))[0] == 403


# --- quotas --------------------------------------------------------------------------------------

QUOTA = {"docs": {"documents": 2}, "team-*": {"chunks": 2}, "*": {"documents": 1}}


async def refused(api: Api, value: Any, reason: str, *, limit: int, used: int) -> bool:
    api.journal.clear()
    status, body = await api.change(value)
    assert is_problem(status, body, "quota-exceeded", "namespace")
    assert (body["reason"], body["limit"], body["used"]) == (reason, limit, used)
    return status == 403 and api.journal == []


async def test_a_namespace_takes_no_further_document(flow: Pipeline) -> None:
    async with serving(flow, namespace_quotas=QUOTA) as api:
        for name in "ab":
            assert (await api.change(insert(name)))[0] == 202
        assert await refused(api, insert("c"), "documents", limit=2, used=2)
        (line,) = await api.feed(lines(insert("c")))
        assert line["error"]["status"] == 403
        async with api.client.put("/v1/namespaces/docs/documents/c", data="x") as response:
            assert response.status == 403
        # Another namespace has a quota of its own, and another pattern.
        assert (await api.change(insert("c", namespace="other")))[0] == 202
        assert await refused(api, insert("d", namespace="other"), "documents", limit=1, used=1)


async def test_what_is_there_may_change_and_go(flow: Pipeline) -> None:
    async with serving(flow, namespace_quotas=QUOTA) as api:
        for name in "ab":
            await api.change(insert(name))
        assert (await api.change(insert("a")))[1]["outcome"] == "unchanged"
        assert (await api.change(insert("a", "new")))[1]["version"] == 2
        update = {"change_type": "update", "namespace": "docs", "document_id": "b"}
        assert (await api.change({**update, "metadata": {"n": 1}}))[0] == 202
        status, body = await api.change({**update, "document_id": "c", "metadata": {"n": 1}})
        assert is_problem(status, body, "not-found", "document_id")
        assert (
            await api.change({"change_type": "delete", "namespace": "docs", "document_id": "a"})
        )[0] == 202


async def test_a_deleted_document_makes_room(flow: Pipeline) -> None:
    async with serving(flow, namespace_quotas=QUOTA) as api:
        for name in "ab":
            await api.change(insert(name))
        await api.change({"change_type": "delete", "namespace": "docs", "document_id": "a"})
        await flow.run()
    async with serving(flow, namespace_quotas=QUOTA) as api:
        assert (await api.change(insert("c")))[0] == 202
        assert await refused(api, insert("a"), "documents", limit=2, used=2)


async def test_many_at_once_do_not_share_the_last_place(flow: Pipeline) -> None:
    async with serving(flow, namespace_quotas={"docs": {"documents": 5}}) as api:
        answers = await asyncio.gather(*(api.change(insert(str(n))) for n in range(20)))
        assert sorted(status for status, _ in answers) == [202] * 5 + [403] * 15


async def test_chunks_are_counted_once_they_are_applied(flow: Pipeline) -> None:
    async with serving(flow, namespace_quotas=QUOTA) as api:
        for name in "ab":
            await api.change(insert(name, f"words of {name}", namespace="team-a"))
        await flow.run()
    async with serving(flow, namespace_quotas=QUOTA) as api:
        new = insert("c", "more words", namespace="team-a")
        assert await refused(api, new, "chunks", limit=2, used=2)
        longer = insert("a", "other words", namespace="team-a")
        assert await refused(api, longer, "chunks", limit=2, used=2)
        same = insert("a", "words of a", namespace="team-a", metadata={"n": 1})
        assert (await api.change(same))[1]["version"] == 2


async def test_a_namespace_takes_no_further_bytes(flow: Pipeline) -> None:
    """Of what was accepted: it need not be embedded yet."""
    async with serving(flow, namespace_quotas={"docs": {"bytes": 10}}) as api:
        assert (await api.change(insert("a", "x" * 6)))[0] == 202
        assert await refused(api, insert("b", "x" * 6), "bytes", limit=10, used=6)
        assert (await api.change(insert("a", "y" * 10)))[0] == 202
        assert await refused(api, insert("a", "z" * 11), "bytes", limit=10, used=10)
        assert (await api.change(insert("a", "y" * 10, metadata={"n": 1})))[0] == 202
        assert (await api.change(insert("empty", "")))[0] == 202
        assert (await api.change(insert("a", "z" * 4)))[1]["outcome"] == "accepted"
        stats = (await api.get("/v1/stats"))[1]
        assert stats["namespaces"][0]["bytes"] == 4
    async with serving(flow, namespace_quotas={"docs": {"bytes": 10}}) as api:
        assert (await api.change(insert("b", "x" * 6)))[0] == 202
        assert await refused(api, insert("c", "x"), "bytes", limit=10, used=10)


async def test_many_at_once_do_not_share_the_last_bytes(flow: Pipeline) -> None:
    async with serving(flow, namespace_quotas={"docs": {"bytes": 11}}) as api:
        answers = await asyncio.gather(*(api.change(insert(str(n), "xx")) for n in range(20)))
        assert sorted(status for status, _ in answers) == [202] * 5 + [403] * 15


async def test_a_deleted_document_frees_its_bytes(flow: Pipeline) -> None:
    async with serving(flow, namespace_quotas={"docs": {"bytes": 10}}) as api:
        await api.change(insert("a", "x" * 10))
        await api.change({"change_type": "delete", "namespace": "docs", "document_id": "a"})
    async with serving(flow, namespace_quotas={"docs": {"bytes": 10}}) as api:
        assert (await api.change(insert("b", "x" * 10)))[0] == 202


async def test_nothing_is_kept_of_namespaces_in_which_nothing_happens(flow: Pipeline) -> None:
    quotas = quotas_of(Settings(_env_file=None, namespace_quotas=QUOTA), flow.registry)
    for number in range(20):
        key = DocumentKey(f"n{number}", "a")
        change = Change(key=key, change_type=ChangeType.INSERT, content=b"x")
        async with quotas.room_for(change):
            assert len(quotas._under_way) == 2
    assert not quotas._under_way


async def test_a_full_namespace_is_that_changes_own_result(flow: Pipeline) -> None:
    """The neighbours are accepted: a delete among them is what makes room."""
    async with serving(flow, namespace_quotas=QUOTA) as api:
        for name in "ab":
            await api.change(insert(name))
        delete = {"change_type": "delete", "namespace": "docs", "document_id": "a"}
        wanted = [insert("b", "new"), insert("c"), delete, insert("d", namespace="other")]
        status, body = await api.change({"changes": wanted})
        assert status == 202
        outcomes = [result.get("outcome") for result in body["results"]]
        assert outcomes == ["accepted", None, "accepted", "accepted"]
        error = body["results"][1]["error"]
        assert is_problem(403, error, "quota-exceeded", "namespace")


# --- namespaces ----------------------------------------------------------------------------------


async def test_no_further_namespace_is_begun(flow: Pipeline) -> None:
    async with serving(flow, max_namespaces=2) as api:
        for name in ("one", "two"):
            assert (await api.change(insert("a", namespace=name)))[0] == 202
        assert await refused(api, insert("a", namespace="three"), "namespaces", limit=2, used=2)
        # The tombstone that this would leave needs the namespace.
        delete = {"change_type": "delete", "namespace": "three", "document_id": "a"}
        remembered = delete | {"source_version": 7}
        assert await refused(api, remembered, "namespaces", limit=2, used=2)
        (line,) = await api.feed(lines(insert("a", namespace="three")))
        assert line["error"]["reason"] == "namespaces"
        assert (await api.change(insert("b", namespace="one")))[0] == 202
        assert set(await flow.registry.namespaces()) == {"one", "two"}
        assert await api.post("/v1/namespaces/three/search", {"query": "a"}) == (
            200,
            {"hits": [], "took_ms": ANY},
        )


async def test_what_writes_nothing_takes_no_namespaces_place(flow: Pipeline) -> None:
    async with serving(flow, max_namespaces=1) as api:
        of = {"namespace": "typo", "document_id": "a"}
        delete = of | {"change_type": "delete"}
        update = of | {"change_type": "update", "metadata": {"k": "v"}}
        seen = insert("a", namespace="typo") | {"if_version": 3}
        status, body = await api.change(delete)
        assert (status, body["outcome"], body["version"]) == (202, "unchanged", 0)
        assert (await api.change(update))[0] == 404
        assert (await api.change(seen))[0] == 412
        status, body = await api.change({"changes": [delete, update, seen]})
        assert status == 202
        told = [one.get("outcome") or one["error"]["status"] for one in body["results"]]
        assert told == ["unchanged", 404, 412]
        assert await flow.registry.namespaces() == {}
        assert (await api.change(insert("a", namespace="one")))[0] == 202
        assert set(await flow.registry.namespaces()) == {"one"}


async def test_a_delete_that_overtook_its_insert_is_remembered_in_a_new_namespace(
    flow: Pipeline,
) -> None:
    async with serving(flow, max_namespaces=1) as api:
        delete = {"change_type": "delete", "namespace": "one", "document_id": "a"}
        _, body = await api.change(delete | {"source_version": 7})
        assert (body["outcome"], body["version"]) == ("accepted", 1)
        _, body = await api.change(insert("a", namespace="one") | {"source_version": 6})
        assert (body["outcome"], body["version"]) == ("superseded", 1)
        assert set(await flow.registry.namespaces()) == {"one"}


async def test_what_must_not_be_there_yet_begins_a_namespace(flow: Pipeline) -> None:
    async with serving(flow) as api:
        path, new = "/v1/namespaces/new/documents/a", {"If-None-Match": "*"}
        async with api.client.put(path, data="x", headers=new) as response:
            assert response.status == 202
        assert set(await flow.registry.namespaces()) == {"new"}


async def test_a_list_may_name_one_namespace_too_many(flow: Pipeline) -> None:
    """Its neighbours are accepted, as with every quota."""
    async with serving(flow, max_namespaces=1) as api:
        assert (await api.change(insert("a", namespace="one")))[0] == 202
        wanted = [insert("b", namespace=name) for name in ("one", "two", "one")]
        status, body = await api.change({"changes": wanted})
        assert status == 202
        assert [result.get("outcome") for result in body["results"]] == [
            "accepted",
            None,
            "unchanged",
        ]
        assert is_problem(403, body["results"][1]["error"], "quota-exceeded", "namespace")
        assert set(await flow.registry.namespaces()) == {"one"}


async def test_a_list_takes_no_more_new_namespaces_than_there_is_room_for(flow: Pipeline) -> None:
    async with serving(flow, max_namespaces=2) as api:
        wanted = [insert("a", namespace=name) for name in ("one", "two", "three", "four")]
        _, body = await api.change({"changes": wanted})
        assert [one.get("outcome") for one in body["results"]].count("accepted") == 2
        assert len(await flow.registry.namespaces()) == 2
