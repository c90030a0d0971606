"""A change that names where its content is, as its sender sees it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from common.access import Principal, PrincipalKind, Scope
from common.outbound import CONCURRENT_FETCHES
from common.outbound_rules import RefusedError
from common.settings import Settings
from tests.fakes.audit import MemoryAuditTrail
from tests.integration.test_access import running, settings_in
from tests.integration.test_http_api import Api, is_problem, lines, serving
from tests.pipeline import Pipeline, pipeline
from tests.servers.strangers import (
    LIMIT,
    PRIVATE,
    Asked,
    Internet,
    Stranger,
    answer,
    redirect,
    saying,
)
from webhook import opened
from webhook.auditing import Auditing
from webhook.content_urls import ContentUrls
from webhook.limits import Limits
from webhook.token_bucket import Rate

ALLOWED = ["*.example"]
MARKDOWN = "Content-Type: text/markdown; charset=utf-8"
HASH = hashlib.sha256(b"# Start").hexdigest()


@pytest.fixture
async def flow(tmp_path: Path) -> AsyncIterator[Pipeline]:
    async with pipeline(tmp_path) as made:
        yield made


class World:
    """The service, the strangers it may ask, and what its audit trail was told."""

    def __init__(
        self, api: Api, internet: Internet, auditing: Auditing, trail: MemoryAuditTrail
    ) -> None:
        self.api = api
        self.internet = internet
        self.auditing = auditing
        self.trail = trail

    async def content(self, document_id: str = "a") -> tuple[bytes, str]:
        path = f"/v1/namespaces/docs/documents/{document_id}/content"
        async with self.api.client.get(path) as response:
            return await response.read(), response.content_type


@pytest.fixture
async def world(flow: Pipeline) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        internet, trail = Internet(stack), MemoryAuditTrail()
        limits: dict[str, Any] = {"fetch_allowed_hosts": ALLOWED, "max_document_bytes": LIMIT}
        settings = Settings(_env_file=None, **limits)
        content_urls = ContentUrls(client=internet.client(ALLOWED), settings=settings)
        auditing = Auditing(trail=trail)
        services = {"content_urls": content_urls, "auditing": auditing}
        api = await stack.enter_async_context(serving(flow, services_too=services, **limits))
        yield World(api, internet, auditing, trail)


def insert(
    url: str = "http://a.example/x", document_id: str = "a", **fields: Any
) -> dict[str, Any]:
    return {
        "change_type": "insert", "namespace": "docs", "document_id": document_id,
        "content_url": url, **fields,
    }  # fmt: skip


# --- what is fetched -----------------------------------------------------------------------------


async def test_the_document_is_what_is_at_the_url(world: World) -> None:
    server = await world.internet.stranger("a.example", answer(b"# Start", MARKDOWN))
    status, result = await world.api.change(insert("http://a.example/x?key=1", doc_hash=HASH))
    assert (status, result["outcome"], result["version"]) == (202, "accepted", 1)
    assert await world.content() == (b"# Start", "text/markdown")
    assert [asked.path for asked in server.asked] == ["/x?key=1"]
    assert "authorization" not in server.asked[0].headers


async def test_what_is_fetched_again_and_is_the_same_is_unchanged(world: World) -> None:
    await world.internet.stranger("a.example", answer(b"# Start", MARKDOWN))
    await world.api.change(insert())
    assert (await world.api.change(insert()))[1]["outcome"] == "unchanged"


@pytest.mark.parametrize(
    ("given", "said", "place", "content_type"),
    [
        ("text/html", MARKDOWN, "/x.txt a", "text/html"),
        (None, MARKDOWN, "/x.txt a", "text/markdown"),
        (None, "Content-Type: application/octet-stream", "/x.md?y=.txt a.html", "text/markdown"),
        (None, "X: none", "/x a.html", "text/html"),
        (None, "X: none", "/x a", "text/plain"),
    ],
)
async def test_of_which_type_it_is(
    world: World, given: str | None, said: str, place: str, content_type: str
) -> None:
    await world.internet.stranger("a.example", answer(b"text", said))
    path, document_id = place.split()
    change = insert(f"http://a.example{path}", document_id, content_type=given)
    assert (await world.api.change(change))[0] == 202
    assert (await world.content(document_id))[1] == content_type


async def test_an_update_takes_its_content_from_a_url_and_keeps_the_metadata(world: World) -> None:
    await world.internet.stranger("a.example", answer(b"# New", MARKDOWN))
    first = {**insert(metadata={"lang": "en"}), "content_url": None, "content": "old"}
    await world.api.change(first)
    assert (await world.api.change({**insert(), "change_type": "update"}))[0] == 202
    assert await world.content() == (b"# New", "text/markdown")
    row = await world.api.row("a")
    assert row is not None
    assert row.desired.metadata == {"lang": "en"}


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://other.test/", "other.test is not allowed"),
        ("http://a.example:8080/", "a.example:8080 is not allowed"),
        ("http://127.0.0.1/", "127.0.0.1 is not allowed"),
        ("file:///etc/passwd", "must begin with"),
        ("http://me:word@a.example/", "user or password"),
        ("", "must begin with"),
        (7, "must be a string"),
    ],
)
async def test_a_url_that_is_never_asked_is_refused_before_anything_is_accepted(
    world: World, url: Any, why: str
) -> None:
    good = {**insert(), "content_url": None, "content": "x"}
    status, body = await world.api.change({"changes": [good, insert(url)]})
    assert is_problem(status, body, "invalid-field", "changes[1].content_url")
    assert status == 422
    assert why in body["detail"]
    assert world.internet.names.asked == []
    assert await world.api.row("a") is None


@pytest.mark.parametrize("field", ["content", "content_encoding"])
async def test_content_comes_in_one_way(world: World, field: str) -> None:
    status, body = await world.api.change(insert(**{field: "utf-8"}))
    assert is_problem(status, body, "invalid-field", field)


async def test_a_delete_fetches_nothing(world: World) -> None:
    status, body = await world.api.change({**insert(), "change_type": "delete"})
    assert is_problem(status, body, "invalid-field", "content_url")


@pytest.mark.parametrize(
    ("said", "slug", "status", "field"),
    [
        (answer(status="404 Not Found"), "content-refused", 422, "content_url"),
        (redirect("http://inside.example/"), "content-refused", 422, "content_url"),
        (redirect("http://169.254.169.254/"), "content-refused", 422, "content_url"),
        (answer(bytes(LIMIT + 1), MARKDOWN), "too-large", 413, "content_url"),
        (answer(b"x", "Content-Type: image/png"), "content-refused", 422, "content_url"),
        (answer(b"x", "Content-Type: text/html; charset=latin1"), "content-refused", 422,
         "content_url"),
        (answer(b"\xff", MARKDOWN), "invalid-field", 422, "content_url"),
        (answer(b"a\0b", MARKDOWN), "invalid-field", 422, "content_url"),
        (answer(b"# Other", MARKDOWN), "hash-mismatch", 422, "doc_hash"),
    ],
)  # fmt: skip
async def test_what_cannot_be_the_content_is_refused(
    world: World, said: bytes, slug: str, status: int, field: str
) -> None:
    await world.internet.stranger("a.example", said)
    inside = await world.internet.stranger("inside.example", answer(b"in"), address=PRIVATE)
    answered, body = await world.api.change(insert(doc_hash=HASH))
    assert is_problem(answered, body, slug, field)
    assert answered == status
    assert PRIVATE not in str(body)
    assert inside.connections == 0
    assert await world.api.row("a") is None


async def test_private_hosts_are_refused_in_the_same_words_whatever_is_there(world: World) -> None:
    """Or the answers would be a map of the network."""
    listening = await world.internet.stranger("a.example", answer(b"x"), address=PRIVATE)
    told = [await world.api.change(insert())]
    world.internet.names.name("a.example", [("10.1.2.3", 80)])
    told.append(await world.api.change(insert()))
    world.internet.names.name("a.example", [("169.254.169.254", 80)])
    told.append(await world.api.change(insert()))
    assert told[0] == told[1] == told[2]
    assert listening.connections == 0


async def test_the_audit_trail_is_told_of_what_was_refused(world: World) -> None:
    world.internet.names.name("a.example", [("169.254.169.254", 80)])
    assert (await world.api.change(insert()))[0] == 422
    await world.auditing.close()
    (event,) = world.trail.events
    assert (event.action, event.subject, event.result) == ("refused", "insert", "content-refused")
    assert (event.namespace, event.document_id) == ("docs", "a")


# --- what may pass -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (answer(b"", "Retry-After: 77", status="503 Busy"), "77"),
        (answer(b"", status="500 Oh"), "1"),
        (b"", "1"),
    ],
)
async def test_an_outage_there_is_a_503_here(world: World, said: bytes, seconds: str) -> None:
    await world.internet.stranger("a.example", said)
    async with world.api.client.post("/v1/changes", json=insert()) as response:
        assert is_problem(
            response.status, await response.json(), "content-unavailable", "content_url"
        )
        assert (response.status, response.headers["Retry-After"]) == (503, seconds)
    assert await world.api.row("a") is None


async def test_a_name_that_nobody_knows_is_a_503(world: World) -> None:
    """It may be known in a moment: names of new hosts take their time."""
    status, body = await world.api.change(insert())
    assert is_problem(status, body, "content-unavailable", "content_url")
    assert status == 503


# --- many ----------------------------------------------------------------------------------------


async def test_in_a_list_a_refusal_is_its_own_answer(world: World) -> None:
    await world.internet.stranger("a.example", answer(b"text", MARKDOWN))
    await world.internet.stranger("b.example", answer(status="404 Not Found"))
    changes = [insert(document_id="a"), insert("http://b.example/", "b")]
    status, body = await world.api.change({"changes": changes})
    assert (status, body["results"][0]["outcome"]) == (202, "accepted")
    assert body["results"][1]["document_id"] == "b"
    assert body["results"][1]["error"]["type"].endswith(":content-refused")


async def test_in_a_feed_each_line_has_its_answer(world: World) -> None:
    await world.internet.stranger("a.example", answer(b"text", MARKDOWN))
    await world.internet.stranger("b.example", answer(status="404 Not Found"))
    await world.internet.stranger("c.example", answer(status="502 Bad Gateway"))
    results = await world.api.feed(
        lines(*(insert(f"http://{name}.example/", name) for name in "abc"))
    )
    assert [result.get("outcome") for result in results] == ["accepted", None, None]
    assert [result["error"]["status"] for result in results[1:]] == [422, 503]


async def test_so_many_are_fetched_at_once(world: World) -> None:
    """What was fetched is in memory until it is accepted."""
    under_way = most = 0
    full, go_on = asyncio.Event(), asyncio.Event()

    async def say(_: Asked, writer: asyncio.StreamWriter) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if under_way == CONCURRENT_FETCHES:
            full.set()
        await go_on.wait()
        under_way -= 1
        writer.write(answer(b"text", MARKDOWN))

    await world.internet.stranger("a.example", say)
    changes = [insert(document_id=str(n)) for n in range(3 * CONCURRENT_FETCHES)]
    listed = asyncio.create_task(world.api.change({"changes": changes}))
    await full.wait()
    go_on.set()
    status, body = await listed
    assert (status, len(body["results"]), most) == (202, len(changes), CONCURRENT_FETCHES)


async def test_what_was_fetched_keeps_its_place_until_it_is_accepted(flow: Pipeline) -> None:
    full = asyncio.Event()

    async def say(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"text", MARKDOWN))
        if len(server.asked) == CONCURRENT_FETCHES:
            full.set()

    async with AsyncExitStack() as stack:
        internet = Internet(stack)
        server = await internet.stranger("a.example", say)
        impatient = Settings(_env_file=None, request_timeout_seconds=0.1)
        content_urls = ContentUrls(client=internet.client(ALLOWED), settings=impatient)
        serve = serving(
            flow, services_too={"content_urls": content_urls}, fetch_allowed_hosts=ALLOWED
        )
        api = await stack.enter_async_context(serve)
        api.queue.hold = asyncio.Event()
        changes = [insert(document_id=str(n)) for n in range(CONCURRENT_FETCHES)]
        listed = asyncio.create_task(api.change({"changes": changes}))
        await full.wait()
        status, body = await api.change(insert(document_id="one more"))
        assert is_problem(status, body, "content-unavailable", "content_url")
        assert "too much is being fetched" in body["detail"]
        assert len(server.asked) == CONCURRENT_FETCHES
        api.queue.hold.set()
        assert (await listed)[0] == 202


async def test_what_was_fetched_counts_against_the_limit_of_bytes(flow: Pipeline) -> None:
    async def somebody(_: web.Request) -> Principal:
        return Principal(
            id="key:a", kind=PrincipalKind.KEY, scopes=frozenset({Scope.WRITE}), namespaces=("*",)
        )

    async with AsyncExitStack() as stack:
        internet = Internet(stack)
        await internet.stranger("a.example", answer(b"x" * 500, MARKDOWN))
        settings = Settings(_env_file=None, fetch_allowed_hosts=ALLOWED)
        services = {
            "content_urls": ContentUrls(client=internet.client(ALLOWED), settings=settings),
            "limits": Limits(volume=Rate(per_second=1.0, burst=400.0), clock=lambda: 0.0),
        }
        serve = serving(
            flow, authenticate=somebody, services_too=services, fetch_allowed_hosts=ALLOWED
        )
        api = await stack.enter_async_context(serve)
        assert (await api.change(insert()))[0] == 202
        status, body = await api.change(insert(document_id="b"))
        assert is_problem(status, body, "rate-limited")
        assert (body["reason"], body["retry_after_seconds"]) == ("bytes", 100)


# --- the service's own ---------------------------------------------------------------------------


async def test_the_webhook_as_its_role_runs_it_never_asks_this_machine(tmp_path: Path) -> None:
    """The rule for addresses cannot be set: whatever host is allowed, this machine is not."""
    async with Stranger(saying(answer(b"inside")), address=PRIVATE).listening() as inside:
        urls = [f"http://{host}:{inside.port}/" for host in ("localhost", PRIVATE)]
        allowed = [url.split("/")[2] for url in urls]
        settings = settings_in(tmp_path, fetch_allowed_hosts=allowed)
        async with running(settings) as service, aiohttp.ClientSession(service) as client:
            for url in urls:
                async with client.post("/v1/changes", json=insert(url)) as response:
                    body = await response.json()
                    assert is_problem(response.status, body, "content-refused", "content_url")
                    assert "is not at an address that may be fetched from" in body["detail"]
        assert inside.connections == 0


async def test_files_of_repositories_come_from_github_only(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, fetch_allowed_hosts=["a.example"])
    async with opened.open_own(settings, receiver="test") as own:
        own.github.target("https://api.github.com/repos/acme/docs/contents/a")
        for url in ("https://a.example/", "https://raw.githubusercontent.com/"):
            with pytest.raises(RefusedError, match="is not allowed"):
                own.github.target(url)
