"""Notion's handshake: a token comes once, its operator sees it, and from then on it signs."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from common.adapters.receipts.sqlite import SqliteReceipts
from common.settings import Settings
from common.storage.data_folder import DataFolder
from tests.integration.test_http_api import is_problem
from tests.integration.test_http_sources import Sender, sending
from tests.pipeline import Pipeline, pipeline
from tests.source_files import SECRET, VARIABLE, recorded
from webhook.sources.command import SourceCommands
from webhook.sources.handshake import MAX_TOKENS, tokens_of

WAITING = """\
sources:
  notes: {preset: notion, namespace: docs, verify: {kind: notion-handshake}}
"""
DONE = """\
sources:
  notes: {preset: notion, namespace: docs, verify: {secret: "${TOKEN}"}}
"""
TOKEN = "secret_token-that-notion-made-up"
PAGE = recorded("notion-automation-page.json")


def handshake(token: Any) -> bytes:
    return json.dumps({"verification_token": token}).encode()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(_env_file=None, data_dir=tmp_path / "data", sources_file=tmp_path / "s.yaml")


@pytest.fixture
async def sender(tmp_path: Path, settings: Settings) -> AsyncIterator[Sender]:
    receipts = SqliteReceipts(DataFolder(settings.data_dir).receipts_path)
    flow: Pipeline
    async with (
        pipeline(tmp_path) as flow,
        sending(flow, settings.sources_file, receipts, file=WAITING) as made,
    ):
        yield made
    await receipts.close()


async def test_the_token_comes_is_shown_and_signs(
    sender: Sender, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with capture_logs() as logs:
        status, body, _ = await sender.post("notes", handshake(TOKEN), {})
        assert (status, body["source"], body["changes"]) == (200, "notes", 0)
        assert (await sender.post("notes", handshake(TOKEN), {}))[0] == 200
    assert [log["event"] for log in logs if log["event"].startswith("source.")] == [
        "source.token_came"
    ] * 2
    assert TOKEN not in str(logs)
    assert await tokens_of(sender.receipts, "notes") == [TOKEN]
    monkeypatch.setenv("TOKEN", TOKEN)
    settings.sources_file.write_text(DONE)
    assert not sender.directory.look()
    assert sender.directory.look()
    signature = hmac.new(TOKEN.encode(), PAGE, hashlib.sha256).hexdigest()
    headers = {"X-Notion-Signature": f"sha256={signature}"}
    status, body, _ = await sender.post("notes", PAGE, headers)
    assert (status, body["accepted"]) == (200, 1)
    # The handshake is over: nobody replaces the secret.
    status, body, _ = await sender.post("notes", handshake("another"), {})
    assert is_problem(status, body, "unauthenticated")
    assert await tokens_of(sender.receipts, "notes") == [TOKEN]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", PAGE, handshake(""), handshake(1), handshake("a\nb"), handshake("x" * 513),
     json.dumps({"verification_token": TOKEN, "more": 1}).encode()],
)  # fmt: skip
async def test_nothing_but_a_token_is_taken_meanwhile(sender: Sender, body: bytes) -> None:
    signature = hmac.new(b"", body, hashlib.sha256).hexdigest()
    status, answer, _ = await sender.post(
        "notes", body, {"X-Notion-Signature": f"sha256={signature}"}
    )
    assert is_problem(status, answer, "unauthenticated")
    assert "sources tokens NAME" in answer["detail"]
    assert await sender.texts() == {}
    assert await tokens_of(sender.receipts, "notes") == []


async def test_strangers_fill_no_store_with_tokens(sender: Sender) -> None:
    many = [f"{TOKEN}-{number}" for number in range(MAX_TOKENS + 2)]
    answers = [(await sender.post("notes", handshake(token), {}))[0] for token in many]
    assert answers == [200] * MAX_TOKENS + [503] * 2
    assert await tokens_of(sender.receipts, "notes") == many[:MAX_TOKENS]
    status, body, _ = await sender.post("notes", b" " * 5000, {})
    assert is_problem(status, body, "too-large")


async def test_sources_that_wait_for_none_have_none(tmp_path: Path, sender: Sender) -> None:
    await sender.post("notes", handshake(TOKEN), {})
    assert await tokens_of(sender.receipts, "other") == []


def test_the_command_shows_them(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, SECRET)
    settings.sources_file.write_text(WAITING)
    commands = SourceCommands(settings)
    assert commands.tokens("notes") == []
    assert commands.sources()[0]["verify"] == "notion-handshake"
    tried = commands.attempt("notes", PAGE, {}, sign=False, verify=True)
    assert tried["problem"]["status"] == 401
