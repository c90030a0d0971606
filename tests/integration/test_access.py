"""The door: who is let in without a key, from when on nobody is, and what a key opens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict
from structlog.testing import capture_logs

from common import telemetry
from common.access import ANYBODY_HERE, Principal, Role
from common.adapters.embedder.profile import url_of
from common.adapters.keys.sqlite import SqliteKeyStore
from common.api_keys import new_key
from common.composition import ConfigurationError, open_ports
from common.model import DocumentKey
from common.ports.keys import KeyStore
from common.settings import Settings
from tests.access import Keys, bearer
from tests.fakes.embedder import HashEmbedder
from tests.fakes.keys import MemoryKeyStore
from tests.integration.test_http_api import Api, insert, is_problem, serving
from tests.pipeline import Pipeline, pipeline
from webhook import role
from webhook.authentication import Authenticate, Doorman, OpenUntilKnown, unauthenticated
from webhook.problems import Problem
from webhook.role import WebhookPart, authentication_of

STATS = "/v1/stats"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - what is refused
ELSEWHERE = (
    EVERYWHERE,
    "::",
    "",
    "10.0.0.7",
    "example.org",
    "localhost.example.org",
    "127.0.0.1.x",
)


@pytest.fixture
async def flow(tmp_path: Path) -> AsyncIterator[Pipeline]:
    async with pipeline(tmp_path) as made:
        yield made


async def door_of(
    store: KeyStore, *, listens_on: str | None = "127.0.0.1", **settings: Any
) -> Authenticate:
    """As the webhook makes it, but that it looks for keys at every request."""
    given = Settings(_env_file=None, **settings)
    door = await authentication_of(given, store, listens_on=listens_on)
    if isinstance(door, OpenUntilKnown):
        door.look_seconds = 0
    return door


async def status_of(api: Api, headers: Mapping[str, str] | None = None) -> int:
    async with api.client.get(STATS, headers=headers) as response:
        await response.read()
        return response.status


# --- on loopback, without a key ------------------------------------------------------------------


async def test_without_any_key_anybody_on_this_machine_is_let_in(flow: Pipeline) -> None:
    async with serving(flow, authenticate=await door_of(MemoryKeyStore())) as api:
        assert (await api.change(insert()))[0] == 202
        assert await status_of(api) == 200
        assert await status_of(api, bearer("whatever")) == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:8080"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "localhost.evil.example"},
        {"Host": "10.0.0.7"},
        {"Host": "["},
        {"Origin": "https://evil.example"},
        {"Origin": "http://127.0.0.1.evil.example"},
        {"Origin": "null"},
        {"Origin": "file://"},
        {"Origin": "http://[x"},
        {"Sec-Fetch-Site": "cross-site"},
        {"X-Forwarded-For": "203.0.113.9"},
        {"Forwarded": "for=203.0.113.9"},
        {"X-Real-IP": "203.0.113.9"},
    ],
)
async def test_nobody_from_elsewhere_comes_in_by_this_machine(
    headers: dict[str, str], flow: Pipeline
) -> None:
    """A page in the browser of this machine (also by a name that it made to mean this machine), a
    proxy and a tunnel reach loopback as well."""
    async with serving(flow, authenticate=await door_of(MemoryKeyStore())) as api:
        status, body = await api.post("/v1/changes", insert(), headers=headers)
        assert is_problem(status, body, "forbidden")
        assert api.journal == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost"},
        {"Host": "localhost:8080"},
        {"Host": "127.0.0.1:8080"},
        {"Host": "127.8.8.8"},
        {"Host": "[::1]:8080"},
        {"Host": "console.localhost"},
        {"Origin": "http://localhost:3000"},
        {"Sec-Fetch-Site": "same-origin"},
    ],
)
async def test_the_names_of_this_machine_are_let_in(
    headers: dict[str, str], flow: Pipeline
) -> None:
    async with serving(flow, authenticate=await door_of(MemoryKeyStore())) as api:
        assert await status_of(api, headers) == 200


async def test_the_first_key_closes_the_door(flow: Pipeline) -> None:
    keys = Keys()
    async with serving(flow, authenticate=await door_of(keys.store)) as api:
        assert await status_of(api) == 200
        key = keys.made(Role.READER, "docs")
        status, body = await api.get(STATS)
        assert is_problem(status, body, "unauthenticated")
        assert await status_of(api, bearer(key)) == 200


async def test_with_a_key_other_names_and_pages_may_call(flow: Pipeline) -> None:
    keys = Keys()
    given = bearer(keys.made(Role.READER, "docs"))
    async with serving(flow, authenticate=await door_of(keys.store)) as api:
        assert await status_of(api, {"Host": "bloomweaver.example", **given}) == 200


async def test_the_last_key_s_end_opens_it_to_nobody(flow: Pipeline) -> None:
    keys = Keys()
    key = keys.made(Role.READER, "docs")
    async with serving(flow, authenticate=await door_of(keys.store)) as api:
        assert await status_of(api) == 401
        await keys.store.revoke(key[3:13], at=1.0)
        assert await status_of(api) == 401
    async with serving(flow, authenticate=await door_of(keys.store)) as restarted:
        assert await status_of(restarted) == 401


async def test_keys_are_looked_for_once_in_a_moment(flow: Pipeline) -> None:
    door = await door_of(MemoryKeyStore())
    assert isinstance(door, OpenUntilKnown)
    door.look_seconds = 1e9
    counted = 0

    async def knows_anybody() -> bool:
        nonlocal counted
        counted += 1
        return False

    door.knows_anybody = knows_anybody
    async with serving(flow, authenticate=door) as api:
        for _ in range(5):
            assert await status_of(api) == 200
    assert counted == 1


# --- a store that does not answer ----------------------------------------------------------------


@pytest.mark.parametrize("listens_on", ["127.0.0.1", None])
async def test_a_store_out_of_reach_is_503_and_lets_nobody_in(
    listens_on: str | None, flow: Pipeline
) -> None:
    keys = Keys()
    key = keys.made(Role.ADMIN, "*")
    door = await door_of(keys.store, listens_on=listens_on)
    keys.store.out_of_reach = True
    async with serving(flow, authenticate=door) as api:
        status, body = await api.get(STATS, headers=bearer(key))
        assert is_problem(status, body, "unavailable")
        keys.store.out_of_reach = False
        assert await status_of(api, bearer(key)) == 200


async def test_before_it_was_known_whether_there_are_keys_nobody_is_let_in(flow: Pipeline) -> None:
    store = MemoryKeyStore(out_of_reach=True)
    async with serving(flow, authenticate=await door_of(store)) as api:
        assert await status_of(api) == 503


# --- elsewhere than on loopback ------------------------------------------------------------------


@pytest.mark.parametrize("host", ELSEWHERE)
async def test_without_a_key_it_listens_on_this_machine_alone(host: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        await door_of(MemoryKeyStore(), listens_on=host)
    line = str(refused.value)
    assert repr(host) in line
    assert "bloomweaver keys create" in line
    assert "\n" not in line


@pytest.mark.parametrize("host", [*ELSEWHERE, None])
async def test_with_one_it_asks_everybody(host: str | None, flow: Pipeline) -> None:
    keys = Keys()
    key = keys.made(Role.READER, "docs")
    async with serving(flow, authenticate=await door_of(keys.store, listens_on=host)) as api:
        assert await status_of(api) == 401
        assert await status_of(api, bearer(key)) == 200


async def test_off_is_off_everywhere_and_said(flow: Pipeline) -> None:
    with capture_logs() as told:
        door = await door_of(MemoryKeyStore(), listens_on=EVERYWHERE, auth="off")
    assert [line["log_level"] for line in told] == ["warning"]
    async with serving(flow, authenticate=door) as api:
        assert await status_of(api, {"Host": "any.example"}) == 200


async def test_required_asks_on_loopback_as_well(flow: Pipeline) -> None:
    async with serving(flow, authenticate=await door_of(MemoryKeyStore(), auth="required")) as api:
        assert await status_of(api) == 401


# --- credentials ---------------------------------------------------------------------------------


async def test_how_a_key_may_be_sent(flow: Pipeline) -> None:
    keys = Keys()
    key, other = keys.made(Role.READER, "docs"), keys.made(Role.READER, "docs")
    sent = {
        f"Bearer {key}": 200,
        f"bearer  {key} ": 200,
        f"Basic {key}": 401,
        key: 401,
        "Bearer": 401,
        "Bearer x y": 401,
        f"Bearer {key}, Bearer {other}": 401,
        "Bearer eyJhbGciOiJub25lIn0.e30.": 401,
    }
    async with serving(flow, authenticate=await door_of(keys.store, listens_on=None)) as api:
        for value, status in sent.items():
            assert await status_of(api, {"Authorization": value}) == status, value
        assert await status_of(api, {"X-API-Key": key}) == 200
        assert await status_of(api, {"X-API-Key": key, **bearer(key)}) == 200
        assert await status_of(api, {"X-API-Key": other, **bearer(key)}) == 401
        two = CIMultiDict([("X-API-Key", key), ("X-API-Key", other)])
        assert await status_of(api, two) == 401
        assert await status_of(api, {"Cookie": f"api_key={key}"}) == 401
        async with api.client.get(f"{STATS}?api_key={key}") as response:
            assert response.status == 401
            assert response.headers["WWW-Authenticate"] == "Bearer"


async def test_no_key_is_told_to_anybody(flow: Pipeline) -> None:
    """Neither in answers nor in logs, whatever is wrong with it."""
    keys = Keys()
    known, expired = keys.made(Role.READER, "docs"), keys.made(Role.READER, expires_at=1.0)
    given = [known, expired, new_key().text, known[:-1], known + "x", f"{known} {known}"]
    told = ""
    with capture_logs() as logs:
        async with serving(flow, authenticate=await door_of(keys.store, listens_on=None)) as api:
            for value in given:
                for method, path in (("GET", STATS), ("POST", "/v1/changes"), ("GET", "/metrics")):
                    async with api.client.request(method, path, headers=bearer(value)) as answer:
                        told += await answer.text() + str(answer.headers)
    assert "unauthenticated" in told
    secrets = [value[14:40] for value in given]
    assert not [secret for secret in secrets if secret in told + str(logs)]


# --- the role ------------------------------------------------------------------------------------


def settings_in(folder: Path, **more: Any) -> Settings:
    given: dict[str, Any] = {"port": 0, "vectors_url": "none:"} | more
    embedder_url = url_of(HashEmbedder().profile)
    return Settings(_env_file=None, data_dir=folder / "data", embedder_url=embedder_url, **given)


async def key_in(settings: Settings) -> str:
    keys = Keys()
    text = keys.made(Role.ADMIN, "*")
    settings.data_dir.mkdir(exist_ok=True)
    async with open_ports(settings, receiver="test", own_index=False):
        store = SqliteKeyStore(settings.data_dir / "access.sqlite")
    try:
        await store.add(keys.store.kept[text[3:13]])
    finally:
        await store.close()
    return text


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[str]:
    """The webhook as its role runs it; its address."""
    async with open_ports(settings, receiver="test", own_index=False) as ports:
        part = WebhookPart(ports)
        try:
            await part.start()
            yield (settings.data_dir / "run" / "address").read_text()
        finally:
            await part.stop()


async def asked(url: str, headers: dict[str, str] | None = None) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.get(url + STATS, headers=headers) as answer,
    ):
        return answer.status


async def test_the_role_listens_everywhere_once_there_is_a_key(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, host=EVERYWHERE)
    with pytest.raises(ConfigurationError, match="keys create"):
        async with running(settings):
            raise AssertionError("it listens")
    assert not (settings.data_dir / "run" / "address").exists()
    key = await key_in(settings)
    async with running(settings) as everywhere:
        url = everywhere.replace(EVERYWHERE, "127.0.0.1")
        assert await asked(url) == 401
        assert await asked(url, bearer(key)) == 200


async def test_the_role_is_open_on_loopback_until_there_is_a_key(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with running(settings) as url:
        assert await asked(url) == 200
    await key_in(settings)
    async with running(settings) as url:
        assert await asked(url) == 401


async def test_what_listens_otherwise_asks_everybody(tmp_path: Path) -> None:
    """Of a function: what stands in front of its socket is the internet."""
    settings = settings_in(tmp_path)
    async with open_ports(settings, receiver="test", own_index=False) as ports:

        async def listen(runner: web.AppRunner) -> None:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            assert await asked(f"http://{host}:{port}") == 401

        part = WebhookPart(ports, listen=listen)
        try:
            await part.start()
        finally:
            await part.stop()


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    monkeypatch.setattr(telemetry, "configure_logging", lambda *_: None)
    with capture_logs() as captured:
        yield captured


def test_without_a_key_the_command_ends_with_2_and_one_line(
    logs: list[Any], tmp_path: Path
) -> None:
    assert role.run(settings_in(tmp_path, host=EVERYWHERE)) == 2
    [error] = [line for line in logs if line["log_level"] not in ("info", "debug")]
    assert error["event"] == "webhook.cannot_start"
    assert "BLOOMWEAVER_HOST='0.0.0.0'" in error["error"]


@pytest.mark.slow
def test_so_does_up(tmp_path: Path) -> None:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("BLOOMWEAVER_")}
    environment = inherited | {
        "BLOOMWEAVER_DATA_DIR": str(tmp_path / "data"),
        "BLOOMWEAVER_EMBEDDER_URL": url_of(HashEmbedder().profile),
        "BLOOMWEAVER_HOST": EVERYWHERE,
        "BLOOMWEAVER_PORT": "0",
        "BLOOMWEAVER_LOG_FORMAT": "json",
        "PYTHONPATH": str(Path.cwd()),
    }
    ended = subprocess.run(
        [sys.executable, "-m", "common.cli.main", "up"],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == ""
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    [error] = [line for line in lines if line["level"] not in ("info", "debug")]
    assert "bloomweaver keys create" in error["error"]


async def test_nothing_of_a_key_store_stays_open(tmp_path: Path) -> None:
    before = {task.get_name() for task in asyncio.all_tasks()}
    async with running(settings_in(tmp_path)) as url:
        assert await asked(url) == 200
    assert {task.get_name() for task in asyncio.all_tasks()} <= before


# --- while a request goes on ---------------------------------------------------------------------


async def test_a_feed_ends_once_its_key_may_no_more(
    flow: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A feed may be open for days: a key that was revoked must not go on writing by it."""
    monkeypatch.setattr("webhook.feed.ASKED_AGAIN_SECONDS", 0.0)
    revoked = asyncio.Event()

    async def door(request: web.Request) -> Principal:
        if revoked.is_set():
            raise unauthenticated("the API key was revoked")
        return ANYBODY_HERE

    answered = asyncio.Event()

    async def sent() -> AsyncIterator[bytes]:
        yield json.dumps(insert("a")).encode() + b"\n"
        await answered.wait()
        revoked.set()
        yield json.dumps(insert("b")).encode() + b"\n"

    async with serving(flow, authenticate=door) as api:
        headers = {"Content-Type": "application/x-ndjson"}
        async with api.client.post("/v1/changes", data=sent(), headers=headers) as response:
            first = json.loads(await response.content.readline())
            answered.set()
            last = json.loads(await response.content.readline())
            assert await response.content.read() == b""
    assert first["outcome"] == "accepted"
    assert (last["error"]["status"], last["feed_ended"]) == (401, True)
    assert await flow.registry.get(DocumentKey("docs", "b")) is None


async def test_a_slow_look_does_not_open_the_door_again() -> None:
    """It was begun before there was a key, and ends after another look has found one."""
    looks: list[asyncio.Future[bool]] = []
    both = asyncio.Event()

    async def knows_anybody() -> bool:
        look: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        looks.append(look)
        if len(looks) == 2:
            both.set()
        return await look

    door = OpenUntilKnown(Doorman(), knows_anybody, look_seconds=0.0)
    request = make_mocked_request("GET", "/", headers={"Host": "localhost"})
    slow = asyncio.create_task(door(request))
    quick = asyncio.create_task(door(request))
    await both.wait()
    looks[1].set_result(True)
    with pytest.raises(Problem):
        await quick
    looks[0].set_result(False)
    with pytest.raises(Problem):
        await slow
