"""`bloomweaver doctor` as people run it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from typer.testing import CliRunner, Result

from common import telemetry
from common.adapters.registry.sqlite import SqliteRegistry
from common.cli.main import app
from common.model import EmbeddingProfile
from common.ports.errors import PermanentError, TransientError
from common.storage.data_folder import DataFolder
from tests.acceptance.service import MODELS, PATIENCE_SECONDS, free_port
from tests.scripted_adapter import Scripted, install
from tests.servers.aws import moto, use
from tests.servers.queues import TestQueues


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logging is the process's: a command in a test must not set it up for the others."""
    monkeypatch.setattr(telemetry, "configure_logging", lambda *_: None)


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A process with the profile only: no model is loaded where a test is not about it."""
    monkeypatch.chdir(tmp_path)
    return {
        "BLOOMWEAVER_DATA_DIR": str(tmp_path / "data"),
        "BLOOMWEAVER_MODEL_CACHE_DIR": str(MODELS),
        "BLOOMWEAVER_URL": f"http://127.0.0.1:{free_port()}",
        "BLOOMWEAVER_EMBEDDER_URL": "profile:" + json.dumps(PROFILE),
        "BLOOMWEAVER_CHECK_TIMEOUT_SECONDS": str(PATIENCE_SECONDS),
        "COLUMNS": "300",
    }


PROFILE = {
    "model": "words", "fingerprint": "f" * 64, "dimension": 3, "max_tokens": 64,
    "query_prefix": "", "document_prefix": "",
}  # fmt: skip


def doctor(given: dict[str, str], *arguments: str) -> Result:
    return CliRunner(env=given).invoke(app, ["doctor", *arguments])


def verdicts(result: Result) -> dict[str, str]:
    return {check["name"]: check["verdict"] for check in json.loads(result.stdout)["checks"]}


def line_of(result: Result, name: str) -> str:
    [line] = [line for line in result.stdout.splitlines() if line[2:].startswith(f"{name}:")]
    return line


def test_before_the_first_start_nothing_is_wrong_and_nothing_is_made(
    given: dict[str, str], tmp_path: Path
) -> None:
    result = doctor(given)
    assert result.exit_code == 0, result.output
    assert line_of(result, "data folder").startswith("! ")
    assert "`bloomweaver up` makes it" in line_of(result, "data folder")
    assert "`bloomweaver up` starts it" in line_of(result, "webhook")
    assert list(tmp_path.iterdir()) == []


def test_a_data_folder_is_tried_out(given: dict[str, str]) -> None:
    DataFolder(Path(given["BLOOMWEAVER_DATA_DIR"]))
    result = doctor(given, "--json")
    assert result.exit_code == 0
    assert verdicts(result) == {
        "settings": "fine", "data folder": "fine", "queue": "fine", "registry": "fine",
        "blobs": "fine", "vectors": "fine", "index": "fine", "embedder": "fine",
        "keys": "fine", "audit": "fine", "disk": "fine", "webhook": "note",
    }  # fmt: skip
    assert line_of(doctor(given), "keys") == "✓ keys: 0 in access.sqlite"
    assert line_of(doctor(given), "queue") == "✓ queue: 0 waiting, 0 in hand, 0 dead letters"


SOURCES = """\
sources:
  files:
    preset: s3
    namespace: docs
    parameters: {base_url: "https://files.example"}
    verify: {kind: token, secret: "${A_SECRET}"}
  handbook:
    preset: github-push
    namespace: docs
    verify: {secret: "${A_SECRET}"}
  wiki:
    namespace: docs
    verify: {kind: none}
    changes: [{document_id: "{item.id}", content: item.text}]
"""


def test_sources_are_read_as_the_webhook_reads_them(given: dict[str, str], tmp_path: Path) -> None:
    """In the folder where it is started, without a setting that names them."""
    (tmp_path / "sources.yaml").write_text(SOURCES)
    result = doctor(given)
    assert result.exit_code == 1
    line = line_of(result, "sources")
    assert line.startswith("✗ sources: ")
    assert "sources.yaml:6: source files: verify.secret: the environment has no A_SECRET" in line
    assert "sources.yaml:10: source handbook" in line

    given["A_SECRET"] = "long enough to be one"
    result = doctor(given)
    assert result.exit_code == 0
    line = line_of(result, "sources")
    assert line.startswith("! sources: ")
    assert "source files: fetches content by its URL, and no host is allowed" in line
    assert "source handbook: has no github_token" in line

    (tmp_path / "sources.yaml").write_text(
        SOURCES.replace(
            "preset: github-push",
            'preset: github-push\n    github_token: "${A_SECRET}"\n    repositories: [o/n]',
        )
    )
    given["BLOOMWEAVER_FETCH_ALLOWED_HOSTS"] = '["other.example"]'
    line = line_of(doctor(given), "sources")
    assert "the host files.example is not allowed (BLOOMWEAVER_FETCH_ALLOWED_HOSTS)" in line
    assert "handbook" not in line
    given["BLOOMWEAVER_FETCH_ALLOWED_HOSTS"] = '["files.example"]'
    assert line_of(doctor(given), "sources") == "✓ sources: 3 sources: files, handbook, wiki"


def test_an_unverified_source_that_others_reach_is_wrong(
    given: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "sources.yaml").write_text(SOURCES)
    given |= {"A_SECRET": "long enough to be one", "BLOOMWEAVER_HOST": "0.0.0.0"}  # noqa: S104
    result = doctor(given)
    assert result.exit_code == 1
    assert "source wiki: verify.kind none is for a service on loopback" in line_of(
        result, "sources"
    )


def test_a_file_of_sources_that_is_named_and_not_there_is_noted(given: dict[str, str]) -> None:
    given["BLOOMWEAVER_SOURCES_FILE"] = "elsewhere.yaml"
    line = line_of(doctor(given), "sources")
    assert line.startswith("! sources: elsewhere.yaml is not there")


def test_a_start_that_would_be_refused_is_foreseen(given: dict[str, str]) -> None:
    """Before there is a data folder, in one without a key, and not once there is a key."""
    given["BLOOMWEAVER_HOST"] = "192.0.2.1"
    for _ in range(2):
        result = doctor(given)
        assert result.exit_code == 1
        assert line_of(result, "callers").startswith("✗ callers: BLOOMWEAVER_HOST='192.0.2.1'")
        assert "bloomweaver keys create" in line_of(result, "callers")
        DataFolder(Path(given["BLOOMWEAVER_DATA_DIR"]))
    made = CliRunner(env=given).invoke(app, ["keys", "create", "--name", "x", "--role", "admin"])
    assert made.exit_code == 0, made.output
    result = doctor(given)
    assert (result.exit_code, line_of(result, "callers")) == (
        0,
        "✓ callers: on 192.0.2.1 everybody is asked for an API key",
    )


def test_the_index_of_a_running_service_is_left_alone(given: dict[str, str]) -> None:
    with DataFolder(Path(given["BLOOMWEAVER_DATA_DIR"])).own():
        result = doctor(given)
    assert line_of(result, "index") == "✓ index: in use by `bloomweaver up`, which owns it"
    assert result.exit_code == 0


def test_everything_is_tried_although_one_fails(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    DataFolder(Path(given["BLOOMWEAVER_DATA_DIR"]))
    install(monkeypatch, "queue", Scripted(PermanentError("no such queue: create it")))
    install(monkeypatch, "blobs", Scripted(hangs=True))
    index = install(monkeypatch, "index", Scripted(), dimension=1536)
    for name in ("QUEUE", "BLOBS", "INDEX"):
        given[f"BLOOMWEAVER_{name}_URL"] = "scripted:"
    left: list[int] = []
    monkeypatch.setattr("common.cli.doctor._leave", left.append)
    result = doctor(given, "--timeout", "3")
    assert result.exit_code == 1
    assert left == [1], "a call that hangs may hold a thread: the process does not wait for it"
    assert line_of(result, "queue") == (
        "✗ queue: no such queue: create it (BLOOMWEAVER_QUEUE_URL=scripted:)"
    )
    assert line_of(result, "blobs").startswith("✗ blobs: no answer within 3 s: check the address")
    assert "1536 dimensions, the model 3" in line_of(result, "index")
    assert line_of(result, "registry") == "✓ registry: 0 namespaces"
    assert index.closed


def test_secrets_are_not_shown(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "index", Scripted(TransientError("key hush-hush was refused")))
    given["BLOOMWEAVER_PINECONE_API_KEY"] = "hush-hush"
    given["BLOOMWEAVER_INDEX_URL"] = "scripted:https://me:hush@host"
    for result in (doctor(given), doctor(given, "--json")):
        assert result.exit_code == 1
        assert "hush" not in result.output
        assert "key *** was refused" in result.output


async def test_namespaces_of_another_model_are_noted(given: dict[str, str]) -> None:
    registry = SqliteRegistry(DataFolder(Path(given["BLOOMWEAVER_DATA_DIR"])).registry_path)
    other = EmbeddingProfile(**(PROFILE | {"model": "other"}))  # type: ignore[arg-type]
    await registry.bind_namespace("handbook", other)
    await registry.close()
    line = line_of(await asyncio.to_thread(doctor, given), "registry")
    assert line.startswith("! ")
    assert "handbook" in line
    assert "BLOOMWEAVER_EMBEDDER_URL" in line


def test_a_folder_of_someone_else_is_wrong(given: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.doc").write_text("mine")
    result = doctor(given)
    assert result.exit_code == 1
    assert "set BLOOMWEAVER_DATA_DIR to another one" in line_of(result, "data folder")


def test_unusable_settings_are_the_users_to_mend(given: dict[str, str]) -> None:
    result = doctor(given | {"BLOOMWEAVER_PORT": "http"})
    assert result.exit_code == 2
    assert "BLOOMWEAVER_PORT" in result.stderr


NOT_READY = {
    "type": "urn:bloomweaver:problem:not-ready",
    "detail": "the model cannot be loaded",
}


@asynccontextmanager
async def answering(status: int, body: dict[str, Any]) -> AsyncIterator[str]:
    async def ready(_: web.Request) -> web.Response:
        return web.json_response(body, status=status)

    server = web.Application()
    server.add_routes([web.get("/readyz", ready)])
    runner = web.AppRunner(server)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "body", "line"),
    [
        (200, {"status": "ready"}, "✓ webhook: ready at"),
        (503, NOT_READY, "is not ready: the model cannot be loaded"),
        (503, {"detail": "no upstream"}, "is no BloomWeaver: set BLOOMWEAVER_URL to where it is"),
        (200, {"hello": "world"}, "is no BloomWeaver: set BLOOMWEAVER_URL to where it is"),
    ],
)
async def test_a_webhook_that_runs_is_asked(
    status: int, body: dict[str, Any], line: str, given: dict[str, str]
) -> None:
    async with answering(status, body) as url:
        result = await asyncio.to_thread(doctor, given | {"BLOOMWEAVER_URL": url})
    assert line in line_of(result, "webhook")
    assert result.exit_code == (0 if line[0] == "✓" else 1)


@pytest.mark.slow
def test_the_packaged_model_is_loaded_and_asked(given: dict[str, str], tmp_path: Path) -> None:
    """As a process: with no data folder, none is made for the model's files either."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("BLOOMWEAVER_")}
    environment["BLOOMWEAVER_URL"] = given["BLOOMWEAVER_URL"]
    command = [sys.executable, "-m", "common.cli.main", "doctor"]
    ended = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True,
        timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "✓ embedder: all-MiniLM-L6-v2-int8: 384 dimensions, loaded and tried in" in ended.stdout
    assert ended.stderr == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_services_of_aws_are_told_apart(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the network: a queue service that is set up, and a table and a bucket that are not."""
    use(monkeypatch, moto())
    queues = TestQueues(moto().url)
    given |= {f"BLOOMWEAVER_{name.upper()}": value for name, value in queues.settings.items()}
    given |= {
        "BLOOMWEAVER_REGISTRY_URL": "dynamodb:no-such-table",
        "BLOOMWEAVER_BLOBS_URL": "s3://no-such-bucket-anywhere/blobs",
        "BLOOMWEAVER_LANDING_URL": "s3://no-such-bucket-anywhere",
        "BLOOMWEAVER_INTAKE_QUEUE_NAME": "no-such-intake",
        "BLOOMWEAVER_VECTORS_URL": "none:",
    }
    result = doctor(given)
    assert result.exit_code == 1
    assert line_of(result, "intake queue").startswith("✗ intake queue: ")
    assert "no-such-intake" in line_of(result, "intake queue")
    assert "no such queue in this region" in line_of(result, "intake queue")
    assert f"✓ queue: {queues.names['change']}: 0 waiting" in result.stdout
    assert "no such table in this region" in line_of(result, "registry")
    assert line_of(result, "registry").endswith("(BLOOMWEAVER_REGISTRY_URL=dynamodb:no-such-table)")
    for name in ("blobs", "landing"):
        assert line_of(result, name).startswith(f"✗ {name}: ")
        assert "no such bucket: create it" in line_of(result, name)
    assert line_of(result, "clock").startswith("✓ clock: ")
