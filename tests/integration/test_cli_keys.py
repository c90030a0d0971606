"""`bloomweaver keys`, and what the client commands do with a key, as people see it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from common.access import Role
from common.adapters.embedder.profile import url_of
from common.api_keys import KEY, is_that_of, parse_key
from common.cli.keys import seconds_of
from common.cli.main import app
from common.cli.problems import WrongUsageError
from common.composition import open_ports
from common.ports.keys import StoredKey
from common.settings import Settings
from tests.access import Keys
from tests.fakes.embedder import HashEmbedder
from tests.integration.test_http_api import Api, insert, serving
from tests.pipeline import pipeline
from webhook.authentication import OpenUntilKnown
from webhook.role import WebhookPart

DAY = 86400.0


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("BLOOMWEAVER_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


async def command(*words: str | Path, key: str | None = None) -> Ended:
    """In a thread: it owns an event loop."""
    runner = CliRunner(env={"COLUMNS": "200", **({"BLOOMWEAVER_API_KEY": key} if key else {})})
    result = await asyncio.to_thread(runner.invoke, app, [*map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ended(result.exit_code, result.stdout, result.stderr)


async def keys(folder: Path, *words: str) -> Ended:
    return await command("keys", *words, "--data-dir", folder)


async def kept_in(folder: Path) -> list[StoredKey]:
    from common.adapters.keys.sqlite import SqliteKeyStore

    store = SqliteKeyStore(folder / "access.sqlite")
    try:
        return await store.list()
    finally:
        await store.close()


# --- create --------------------------------------------------------------------------------------


async def test_a_key_is_printed_alone_and_told_about_beside(folder: Path) -> None:
    made = await keys(folder, "create", "--name", "laptop")
    text = made.out.strip()
    assert made.code == 0
    assert KEY.fullmatch(text)
    assert text not in made.err
    assert "changes:write, documents:read, search in all namespaces" in made.err
    assert "BLOOMWEAVER_API_KEY" in made.err
    assert str(folder / "access.sqlite") in made.err
    assert "from now on the service asks everybody" in made.err
    (stored,) = await kept_in(folder)
    assert is_that_of(parse_key(text), stored)
    assert (stored.name, stored.namespaces, stored.expires_at) == ("laptop", ("*",), None)


async def test_what_was_asked_for_is_what_is_kept(folder: Path) -> None:
    asked = ["--scope", "search", "--scope", "changes:write", "-n", "docs", "-n", "acme-*"]
    made = await keys(folder, "create", "--name", "x", *asked, "--expires", "90d", "--json")
    (stored,) = await kept_in(folder)
    assert stored.scopes == ("changes:write", "search")
    assert stored.namespaces == ("docs", "acme-*")
    assert stored.expires_at == stored.created_at + 90 * DAY
    assert made.json["id"] == stored.id == parse_key(made.json["key"]).id
    assert made.json["namespaces"] == ["docs", "acme-*"]


@pytest.mark.parametrize(
    ("role", "scopes"),
    [
        ("reader", ("documents:read", "search")),
        ("editor", ("changes:write", "documents:read", "search")),
        ("admin", ("admin", "changes:write", "documents:read", "search")),
    ],
)
async def test_a_role_is_its_scopes(role: str, scopes: tuple[str, ...], folder: Path) -> None:
    await keys(folder, "create", "--name", "x", "--role", role)
    (stored,) = await kept_in(folder)
    assert stored.scopes == scopes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--scope", "search", "--role", "admin"], "--scope or --role"),
        (["-n", "a b"], "is no namespace"),
        (["--expires", "soon"], "as in 90d"),
        (["--expires", "0d"], "as in 90d"),
        (["--name", " "], "--name must be"),
        (["--name", "a\nb"], "--name must be"),
    ],
)
async def test_what_cannot_be_meant_makes_no_key(words: list[str], said: str, folder: Path) -> None:
    made = await keys(folder, "create", "--name", "x", *words)
    assert (made.code, made.out) == (2, "")
    assert said in made.err
    assert not folder.exists()


def test_durations() -> None:
    assert [seconds_of(text) for text in ("30m", "12h", "90d", "52w")] == [
        1800.0, 12 * 3600.0, 90 * DAY, 364 * DAY,
    ]  # fmt: skip
    for wrong in ("", "d", "1", "-1d", "1.5d", "1y", "999999d", "1d2h"):
        with pytest.raises(WrongUsageError):
            seconds_of(wrong)


# --- list and revoke -----------------------------------------------------------------------------


async def test_lists_name_every_key_and_no_secret(folder: Path) -> None:
    first = (await keys(folder, "create", "--name", "first")).out.strip()
    second = (await keys(folder, "create", "--name", "second", "-n", "docs")).out.strip()
    await keys(folder, "revoke", first[3:13])
    told = await keys(folder, "list")
    as_json = await keys(folder, "list", "--json")
    for text in (first, second):
        assert text[3:13] in told.out
        assert text[14:30] not in told.out + as_json.out
    assert [(key["name"], key["state"]) for key in as_json.json["keys"]] == [
        ("first", "revoked"), ("second", "active"),
    ]  # fmt: skip
    assert set(as_json.json["keys"][0]) == {
        "id", "name", "scopes", "namespaces", "created_at", "expires_at", "revoked_at", "state",
    }  # fmt: skip
    assert "search in docs" in told.out


async def test_a_whole_key_names_itself_to_be_revoked(folder: Path) -> None:
    text = (await keys(folder, "create", "--name", "leaked")).out.strip()
    revoked = await keys(folder, "revoke", text)
    assert (revoked.code, text[14:30] in revoked.out + revoked.err) == (0, False)
    (stored,) = await kept_in(folder)
    assert stored.revoked_at is not None


async def test_a_key_that_is_not_there_is_told_with_where_was_looked(folder: Path) -> None:
    revoked = await keys(folder, "revoke", "nobody2222")
    assert revoked.code == 1
    assert "nobody2222" in revoked.err
    assert str(folder / "access.sqlite") in revoked.err
    empty = await keys(folder, "list")
    assert (empty.code, "no API keys in" in empty.out) == (0, True)


async def test_a_store_that_nobody_knows_is_wrong_usage(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLOOMWEAVER_KEYS_URL", "pigeon:")
    told = await keys(folder, "list")
    assert told.code == 2
    assert "BLOOMWEAVER_KEYS_URL='pigeon:'" in told.err
    assert len(told.err.splitlines()) == 1


# --- while the service runs ----------------------------------------------------------------------


@contextlib.asynccontextmanager
async def webhook_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """It looks for keys at every request, and remembers none of them."""
    monkeypatch.setattr("webhook.key_verifier.REMEMBERED_SECONDS", 0.0)
    monkeypatch.setattr(OpenUntilKnown.__init__, "__defaults__", (0.0, False, float("-inf")))
    settings = Settings(
        _env_file=None, data_dir=folder, port=0, vectors_url="none:",
        embedder_url=url_of(HashEmbedder().profile),
    )  # fmt: skip
    async with open_ports(settings, receiver="test", own_index=False) as ports:
        part = WebhookPart(ports)
        try:
            await part.start()
            yield (folder / "run" / "address").read_text()
        finally:
            await part.stop()


async def test_a_running_service_follows_the_commands(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with webhook_on(folder, monkeypatch) as url:
        status = ["status", "--url", url]
        assert (await command(*status)).code == 0
        text = (await keys(folder, "create", "--name", "x")).out.strip()
        assert (await command(*status)).code == 1
        assert (await command(*status, key=text)).code == 0
        await keys(folder, "revoke", text[3:13])
        refused = await command(*status, key=text)
        assert (refused.code, "was revoked" in refused.err) == (1, True)


# --- the client commands -------------------------------------------------------------------------


@dataclass
class Asking:
    api: Api
    keys: Keys

    @property
    def url(self) -> str:
        host, port = self.api.runner.addresses[0][:2]
        return f"http://{host}:{port}"


@pytest.fixture
async def asking(tmp_path: Path, folder: Path) -> AsyncIterator[Asking]:
    """A service that asks everybody for a key."""
    known = Keys()
    async with (
        pipeline(tmp_path / "flow") as flow,
        serving(flow, authenticate=known.doorman) as api,
    ):
        yield Asking(api, known)


async def test_every_client_command_sends_the_key(asking: Asking, tmp_path: Path) -> None:
    key = asking.keys.made(Role.ADMIN, "*")
    file = tmp_path / "a.md"
    file.write_text("# One\n\nalpha")
    feed = tmp_path / "feed.jsonl"
    feed.write_text(json.dumps(insert("fed")) + "\n")
    commands: list[list[str | Path]] = [
        ["push", file, "--no-wait"],
        ["replay", feed, "--no-wait"],
        ["search", "alpha"],
        ["status"],
        ["status", "a.md"],
        ["status", "a.md", "--history"],
        ["dlq", "list"],
        ["dlq", "redrive", "--all"],
    ]
    for words in commands:
        ended = await command(*words, "--url", asking.url, key=key)
        assert ended.code == 0, (words, ended.err)
        refused = await command(*words, "--url", asking.url)
        assert refused.code != 0, words
        assert "set BLOOMWEAVER_API_KEY" in refused.err, words
        assert refused.err.count("error: ") == 1, (words, refused.err)
        assert refused.err.strip().splitlines()[-1].startswith("error: "), words


async def test_a_scope_that_is_missing_is_told_with_how_to_mend_it(asking: Asking) -> None:
    key = asking.keys.made(Role.READER, "docs")
    refused = await command("dlq", "list", "--url", asking.url, key=key)
    assert refused.code == 1
    assert "needs the scope admin" in refused.err
    assert "`bloomweaver keys list`" in refused.err
    assert key[14:30] not in refused.err


async def test_a_key_that_only_writes_can_replay(asking: Asking, tmp_path: Path) -> None:
    from common.access import Scope

    key = asking.keys.made([Scope.WRITE], "docs")
    feed = tmp_path / "feed.jsonl"
    feed.write_text(json.dumps(insert("fed")) + "\n")
    ended = await command("replay", feed, "--no-wait", "--url", asking.url, key=key)
    assert ended.code == 0, ended.err


async def test_status_says_what_a_bound_key_is_not_told(asking: Asking) -> None:
    key = asking.keys.made(Role.READER, "docs")
    told = await command("status", "--url", asking.url, key=key)
    assert told.code == 0
    assert "keys that reach all namespaces" in told.err


@pytest.mark.parametrize("key", ["with space", "hush\nhush", "hushé"])
async def test_what_no_header_can_carry_is_told_and_not_repeated(key: str, asking: Asking) -> None:
    refused = await command("status", "--url", asking.url, key=key)
    assert refused.code == 2
    assert "BLOOMWEAVER_API_KEY holds characters that no key has" in refused.err
    assert "hush" not in refused.err


async def test_the_key_is_in_no_log_and_no_error(asking: Asking) -> None:
    key = asking.keys.made(Role.READER, "docs")
    with capture_logs() as logs:
        words = [["status"], ["dlq", "list"], ["status", "nothing"], ["settings"]]
        ended = [
            await command(*w, *(["--url", asking.url] if w != ["settings"] else []), key=key)
            for w in words
        ]
        ended.append(await command("status", "--url", "http://127.0.0.1:9", key=key))
    told = "".join(e.out + e.err for e in ended) + str(logs)
    assert [e.code for e in ended] == [0, 1, 1, 0, 3]
    assert key[14:30] not in told
