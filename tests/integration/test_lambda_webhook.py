"""The webhook's function: the same answers as over a socket, whatever API Gateway does to them."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from common.access import Scope
from common.adapters.embedder.profile import url_of
from common.api_keys import kept, new_key
from common.composition import connect
from common.lambda_runtime import CannotStartError
from common.model import EmbeddingProfile, QueueName
from common.settings import Settings
from tests.access import Keys
from tests.fakes.audit import MemoryAuditTrail
from tests.integration.test_http_api import Api, serving
from tests.lambda_events import REQUEST_ID, FunctionContext, body_of, http_event, shape
from tests.pipeline import pipeline
from webhook import lambda_entry
from webhook.addresses import ADDRESS_HEADER
from webhook.auditing import Auditing
from webhook.authentication import Authenticate, open_to_everybody
from webhook.lambda_entry import Shell
from webhook.lambda_http import request_of
from webhook.limits import request_limits_of
from webhook.problems import TYPE_PREFIX
from webhook.services import SERVICES

DOCUMENTS = "/v1/namespaces/docs/documents"
SEARCH = "/v1/namespaces/docs/search"
NEVER_THE_SAME = {"date", "server", "content-length", "transfer-encoding", "x-request-id"}
ACCIDENTS = {"took_ms", "totals", "traceparent", "message_id", "died_at", "sent_at"}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def comparable(self) -> tuple[int, dict[str, str], Any]:
        headers = {k: v for k, v in self.headers.items() if k not in NEVER_THE_SAME}
        return self.status, headers, _without_accidents(self.body)


def _without_accidents(body: bytes) -> Any:
    """Ids and times that differ from one service to the next are left out."""
    if body.startswith(b"# HELP"):
        return sorted(line for line in body.splitlines() if line.startswith(b"# "))
    try:
        return [_pruned(json.loads(line)) for line in body.splitlines()]
    except ValueError:
        return body


def _pruned(value: Any) -> Any:
    if isinstance(value, list):
        return [_pruned(item) for item in value]
    if isinstance(value, dict):
        return {name: _pruned(item) for name, item in value.items() if name not in ACCIDENTS}
    return value


@dataclass
class Function:
    """The application of an Api, asked through the shell."""

    api: Api
    shell: Shell

    async def ask(self, event: dict[str, Any], *, seconds: float = 20.0) -> Answer:
        answer = await self.shell.answer(request_of(event), seconds)
        body = body_of(answer)
        if answer["headers"].get("content-encoding") == "gzip":
            body = gzip.decompress(body)  # As a client does.
        return Answer(answer["statusCode"], answer["headers"], body)


async def over_the_socket(
    api: Api, method: str, target: str, headers: dict[str, str], body: bytes | None
) -> Answer:
    async with api.client.request(
        method, api.url(target), headers=headers, data=body, skip_auto_headers=("Content-Type",)
    ) as response:
        given = {k.lower(): v for k, v in response.headers.items()}
        return Answer(response.status, given, await response.read())


@asynccontextmanager
async def function(
    folder: Path, authenticate: Authenticate = open_to_everybody, **services_too: Any
) -> AsyncIterator[Function]:
    async with (
        pipeline(folder) as flow,
        serving(flow, authenticate=authenticate, services_too=services_too) as api,
    ):
        socket = folder / "http"
        await web.UnixSite(api.runner, socket).start()
        shell = Shell(socket)
        object.__setattr__(api.runner.app[SERVICES], "most_wait_seconds", shell.most_wait_seconds)
        try:
            yield Function(api, shell)
        finally:
            await shell.close()


JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}
FEED = b"\n".join(
    [
        b'{"change_type": "insert", "namespace": "docs", "document_id": "f1", "content": "one"}',
        b"{",
        b'{"change_type": "delete", "namespace": "docs", "document_id": "f0"}',
    ]
)
INSERT = (
    b'{"change_type": "insert", "namespace": "docs", "document_id": "a", "content": "Alpha beta."}'
)
REQUESTS: list[tuple[str, str, dict[str, str], bytes | None]] = [
    ("GET", "/healthz", {}, None),
    ("GET", "/readyz", {}, None),
    ("POST", "/v1/changes", JSON, INSERT),
    ("POST", "/v1/changes", JSON, b'{"changes": []}'),
    ("POST", "/v1/changes", {**JSON, "Content-Encoding": "gzip"}, gzip.compress(INSERT, mtime=0)),
    ("POST", "/v1/changes", NDJSON, FEED),
    ("POST", "/v1/changes", JSON, b"{"),
    ("PUT", f"{DOCUMENTS}/guide/start.md?metadata=%7B%22team%22%3A%22a%20b%22%7D", {},
     "# Anfang\n\nÜber alles.".encode()),
    ("PUT", f"{DOCUMENTS}/a%20b/%C3%BC%E6%96%87.txt", {}, b"named in Unicode"),
    ("PUT", f"{DOCUMENTS}/100%25.txt?source_version=3", {}, b"percent"),
    ("PUT", f"{DOCUMENTS}/empty.txt", {}, b""),
    ("PUT", f"{DOCUMENTS}/broken.pdf", {}, b"%PDF-1.4 \xff\xfe"),
    ("GET", DOCUMENTS, {}, None),
    ("GET", f"{DOCUMENTS}?limit=1&prefix=guide%2F", {}, None),
    ("GET", f"{DOCUMENTS}/guide/start.md", {}, None),
    ("GET", f"{DOCUMENTS}/a%20b/%C3%BC%E6%96%87.txt", {}, None),
    ("GET", f"{DOCUMENTS}/100%25.txt", {}, None),
    ("GET", f"{DOCUMENTS}/guide/start.md/content", {}, None),
    ("GET", f"{DOCUMENTS}/broken.pdf/content", {}, None),
    ("GET", f"{DOCUMENTS}/guide/start.md/chunks", {}, None),
    ("GET", f"{DOCUMENTS}/guide/start.md/history", {}, None),
    ("HEAD", f"{DOCUMENTS}/guide/start.md", {}, None),
    ("POST", SEARCH, JSON, b'{"query": "Alpha beta.", "top_k": 3}'),
    ("POST", SEARCH, JSON, b'{"query": ""}'),
    ("DELETE", f"{DOCUMENTS}/empty.txt", {}, None),
    ("GET", f"{DOCUMENTS}/nobody", {}, None),
    ("PATCH", f"{DOCUMENTS}/a", {}, None),
    ("GET", "/v1/nothing", {}, None),
    ("GET", "/v1/stats", {}, None),
    ("GET", "/v1/scrub", {}, None),
    ("POST", "/v1/scrub", JSON, b"{}"),
    ("GET", "/v1/dead-letters", {}, None),
    ("GET", "/v1/dead-letters/nobody", {}, None),
    ("DELETE", "/v1/dead-letters/nobody", {}, None),
    ("POST", "/v1/dead-letters/redrive", JSON, b'{"message_ids": ["x"]}'),
    ("POST", "/v1/dead-letters/discard", JSON, b'{"all": true}'),
    ("GET", "/metrics", {}, None),
    ("GET", "/v1/audit", {}, None),
    ("POST", "/v1/sources/nobody", JSON, b"{}"),
    ("GET", "/openapi.json", {}, None),
    ("GET", "/docs", {}, None),
    ("GET", "/docs/none/such.js", {}, None),
]  # fmt: skip


def asks(route: web.AbstractRoute, method: str, target: str) -> bool:
    path = target.partition("?")[0]
    resource = route.resource
    return resource is not None and route.method == method and _matches(resource, path)


def _matches(resource: web.AbstractResource, path: str) -> bool:
    info = resource.get_info()
    pattern = info.get("pattern")
    return pattern.fullmatch(path) is not None if pattern else info.get("path") == path


async def test_every_route_answers_as_it_does_over_a_socket(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with function(tmp_path / "a") as one, function(tmp_path / "b") as other:
        for made in (one, other):
            for name in ("dead", "live"):
                await made.api.flow.insert(name, f"The {name} one.")
            (dead, *_) = await made.api.flow.queue.receive(
                QueueName.CHANGE, limit=1, visibility_seconds=9, wait_seconds=0
            )
            await made.api.flow.queue.dead_letter(dead, "poison")
            await made.api.flow.run()
        for method, target, headers, body in REQUESTS:
            event = http_event(method, target, headers=headers, body=body)
            through_the_shell = await one.ask(event)
            directly = await over_the_socket(other.api, method, target, headers, body)
            assert through_the_shell.comparable() == directly.comparable(), (method, target)
        asked = {
            (route.method, route.resource.canonical)
            for route in one.api.runner.app.router.routes()
            if route.resource and any(asks(route, m, t) for m, t, _, _ in REQUESTS)
        }
        routes = {
            (route.method, route.resource.canonical)
            for route in one.api.runner.app.router.routes()
            if route.resource and route.method != "HEAD"
        }
        assert {r for r in asked if r[0] != "HEAD"} == routes


@pytest.fixture
async def fn(tmp_path: Path) -> AsyncIterator[Function]:
    async with function(tmp_path) as made:
        yield made


async def test_a_binary_document_survives_both_ways(fn: Function) -> None:
    content = bytes(range(256)) * 40
    put = http_event("PUT", f"{DOCUMENTS}/b.pdf", body=b"%PDF-1.4\n" + content)
    assert put["isBase64Encoded"]
    assert (await fn.ask(put)).status == 202
    answer = await fn.ask(http_event("GET", f"{DOCUMENTS}/b.pdf/content"))
    assert (answer.status, answer.body) == (200, b"%PDF-1.4\n" + content)


async def test_events_as_aws_sends_them_are_answered(fn: Function) -> None:
    assert (await fn.ask(shape("http_api_no_body"))).status == 200
    assert (await fn.ask(shape("http_api_text_body_iam"))).status == 202
    letter = await fn.ask(http_event("GET", f"{DOCUMENTS}/%C3%A9tude.md/content"))
    assert letter.body == "# Étude\r\n\r\n\tDe deux lignes.".encode()
    event = shape("http_api_base64_body_lambda")
    assert (await fn.ask(event)).status == 202
    scan = await fn.ask(http_event("GET", f"{DOCUMENTS}/scan%207/%C3%BCbersicht.pdf/content"))
    assert scan.body == base64.b64decode(event["body"])
    by_url = await fn.ask(shape("function_url"))
    assert by_url.json["document_id"] == "100% plain/a/b.txt"
    assert by_url.headers["x-request-id"] == "897c0d4a-ed5f-410c-a5a1-c381e532aed9"
    await fn.ask(http_event("PUT", f"{DOCUMENTS}/guide/a%20b.md", body=b"Found by its prefix."))
    listed = (await fn.ask(shape("http_api_query_cookies_jwt"))).json["documents"]
    assert [found["document_id"] for found in listed] == ["guide/a b.md"]


async def test_a_named_stage_and_a_function_url_name_the_same_document(fn: Function) -> None:
    staged = http_event("PUT", f"{DOCUMENTS}/a%20b/c.txt", body=b"x", stage="prod")
    assert (await fn.ask(staged)).json["document_id"] == "a b/c.txt"
    by_url = http_event("GET", f"{DOCUMENTS}/a%20b%2Fc.txt", decoded=False)
    assert (await fn.ask(by_url)).json["document_id"] == "a b/c.txt"


async def test_the_answer_names_the_request_as_api_gateway_does(fn: Function) -> None:
    answer = await fn.ask(http_event("GET", "/healthz"))
    assert answer.headers["x-request-id"] == REQUEST_ID


async def test_a_wait_ends_before_the_function_does(fn: Function) -> None:
    await fn.api.flow.insert("slow", "Nobody embeds it.")
    event = http_event("GET", f"{DOCUMENTS}/slow?wait=300")
    answer = await fn.ask(event, seconds=0.7)
    assert (answer.status, answer.json["type"]) == (504, TYPE_PREFIX + "not-applied-in-time")
    body = b'{"query": "x", "wait": 300}'
    answer = await fn.ask(http_event("POST", SEARCH, headers=JSON, body=body), seconds=0.7)
    assert (answer.status, answer.json["type"]) == (504, TYPE_PREFIX + "not-applied-in-time")


async def test_what_does_not_end_in_time_is_a_problem_and_is_given_up(fn: Function) -> None:
    fn.api.queue.hold = asyncio.Event()
    event = http_event("POST", "/v1/changes", headers=JSON, body=INSERT)
    answer = await fn.ask(event, seconds=0.05)
    assert (answer.status, answer.json["type"]) == (503, TYPE_PREFIX + "unavailable")
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.headers["x-request-id"], answer.headers["retry-after"]) == (
        REQUEST_ID, "1",
    )  # fmt: skip


async def test_who_asks_for_readiness_waits_for_the_model(fn: Function) -> None:
    """A sandbox is frozen between requests: a model would hardly get on with loading in them."""
    loaded = asyncio.Event()
    services = fn.api.runner.app[SERVICES]
    object.__setattr__(services, "unready", lambda: [] if loaded.is_set() else ["the model"])

    async def settled() -> None:
        await loaded.wait()

    fn.shell.readiness_follows(settled)
    answer = await fn.ask(http_event("GET", "/readyz?"), seconds=0.7)
    assert (answer.status, answer.json["detail"]) == (503, "the model"), "it ends in time"
    assert (await fn.ask(http_event("GET", "/healthz"))).status == 200, "nobody else waits"
    asyncio.get_running_loop().call_later(0.05, loaded.set)
    assert (await fn.ask(http_event("GET", "/readyz"))).status == 200


async def test_an_answer_of_more_than_6_mb_is_a_problem(fn: Function) -> None:
    large = b"x" * 7_000_000
    put = http_event("PUT", f"{DOCUMENTS}/large.txt", body=large)
    assert (await fn.ask(put)).status == 202
    answer = await fn.ask(http_event("GET", f"{DOCUMENTS}/large.txt/content"))
    assert (answer.status, answer.json["type"]) == (500, TYPE_PREFIX + "answer-too-large")
    assert "6 MB" in answer.json["detail"]


# --- who asks ------------------------------------------------------------------------------------


def from_address(event: dict[str, Any], address: str) -> dict[str, Any]:
    event["requestContext"]["http"]["sourceIp"] = address
    return event


async def test_the_audit_trail_is_told_the_address_that_api_gateway_saw(tmp_path: Path) -> None:
    trail = MemoryAuditTrail()
    liar = {ADDRESS_HEADER: "192.0.2.66", "X-Forwarded-For": "192.0.2.67"}
    async with function(tmp_path, auditing=Auditing(trail=trail)) as fn:
        put = http_event("PUT", f"{DOCUMENTS}/a.txt", body=b"x", headers=liar)
        assert (await fn.ask(from_address(put, "2001:db8::7:1"))).status == 202
        nameless = http_event("PUT", f"{DOCUMENTS}/b.txt", body=b"x", headers=liar)
        del nameless["requestContext"]["http"]["sourceIp"]
        assert (await fn.ask(nameless)).status == 202
        # Over TCP the header says nothing.
        async with fn.api.client.delete(f"{DOCUMENTS}/a.txt", headers=liar) as response:
            assert response.status == 202
    assert [event.address for event in trail.events] == ["2001:db8::7:1", "", "127.0.0.1"]


async def test_guesses_are_counted_by_the_address_that_api_gateway_saw(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, limit_failed_logins_per_minute=0.6)
    async with function(tmp_path, Keys().doorman, limits=request_limits_of(settings)) as fn:

        async def guess(number: int, address: str) -> int:
            headers = {"X-API-Key": f"guess {number}", ADDRESS_HEADER: f"192.0.2.{number}"}
            event = http_event("GET", "/v1/stats", headers=headers)
            return (await fn.ask(from_address(event, address))).status

        assert [await guess(n, "203.0.113.7") for n in range(22)] == [401] * 20 + [429] * 2
        assert await guess(23, "203.0.113.8") == 401


# --- the entry point -----------------------------------------------------------------------------

PROFILE = EmbeddingProfile(model="some", fingerprint="0123", dimension=8, max_tokens=64)


@pytest.fixture
async def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    monkeypatch.setenv("BLOOMWEAVER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("BLOOMWEAVER_EMBEDDER_URL", url_of(PROFILE))
    monkeypatch.setenv("BLOOMWEAVER_AUTH", "off")
    monkeypatch.setattr("common.telemetry.configure_logging", lambda *_: None)
    yield
    await asyncio.to_thread(lambda_entry.SANDBOX.close)


async def invoke(event: dict[str, Any], remaining_seconds: float = 30.0) -> Answer:
    """From a thread without a loop, as Lambda's runtime does."""
    context = FunctionContext(remaining_seconds)
    answer = await asyncio.to_thread(lambda_entry.handler, event, context)
    return Answer(answer["statusCode"], answer["headers"], body_of(answer))


@pytest.mark.usefixtures("environment")
async def test_events_share_what_the_first_one_opened() -> None:
    put = http_event("PUT", f"{DOCUMENTS}/a.txt", body=b"Alpha.")
    assert (await invoke(put)).json["version"] == 1
    shell = lambda_entry.SANDBOX._opened
    assert shell is not None
    assert (await invoke(put)).json["outcome"] == "unchanged"
    assert lambda_entry.SANDBOX._opened is shell
    assert (await invoke(http_event("GET", "/readyz"))).status == 200


@pytest.mark.usefixtures("environment")
async def test_bad_settings_fail_the_event_in_a_line_and_the_next_one_tries_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    event = http_event("GET", "/healthz")
    with monkeypatch.context() as wrong:
        wrong.setenv("BLOOMWEAVER_QUEUE_URL", "carrier-pigeon:")
        refused = pytest.raises(CannotStartError, match=r"BLOOMWEAVER_QUEUE_URL='carrier-pigeon:'")
        with capture_logs() as told, refused:
            await invoke(event)
        assert [line["event"] for line in told] == ["function.cannot_start"]
        wrong.setenv("BLOOMWEAVER_PORT", "many")
        with pytest.raises(CannotStartError, match=r"BLOOMWEAVER_PORT: .*'many'"):
            await invoke(event)
    assert (await invoke(event)).status == 200


@pytest.mark.usefixtures("environment")
async def test_a_function_asks_everybody_for_a_key_without_being_told_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it listens on is no address of this machine: the internet stands in front of it."""
    monkeypatch.delenv("BLOOMWEAVER_AUTH")
    put = http_event("PUT", f"{DOCUMENTS}/a.txt", body=b"Alpha.")
    refused = await invoke(put)
    assert (refused.status, refused.json["type"]) == (401, TYPE_PREFIX + "unauthenticated")
    assert (await invoke(http_event("GET", "/readyz"))).status == 200

    key = new_key()
    store = connect("keys", "sqlite:", Settings(_env_file=None), "test")
    try:
        await store.add(kept(key, name="n", scopes=[Scope.ADMIN], namespaces=["*"], created_at=1.0))
    finally:
        await store.close()
    bearer = {"Authorization": f"Bearer {key.text}"}
    taken = await invoke(http_event("PUT", f"{DOCUMENTS}/a.txt", headers=bearer, body=b"Alpha."))
    assert (taken.status, taken.json["version"]) == (202, 1)


async def test_the_client_and_the_server_leave_nothing_open(tmp_path: Path) -> None:
    """Each event has a connection of its own: one kept would be dead after a freeze."""
    async with function(tmp_path) as fn:
        for _ in range(3):
            await fn.ask(http_event("GET", "/healthz"))
        server = fn.api.runner.server
        assert server is not None
        connector = fn.shell._client.connector
        assert isinstance(connector, aiohttp.UnixConnector)
        assert connector.force_close
