"""The workers of an index that is a server, as processes of their own; and a webhook beside them.

Where a test needs an index it is the embedded one, opened by the role as if it were a server: the
command line refuses that, since on one machine `up` owns it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from common.adapters.embedder.profile import ProfileOnly, url_of
from common.cli.main import app
from common.model import EmbeddingProfile, QueueName
from common.ports.embedder import ModelUnavailableError
from common.settings import Settings
from tests.fakes.embedder import HashEmbedder
from tests.integration.test_http_api import is_problem, serving
from tests.pipeline import Pipeline, pipeline
from webhook.role import WebhookPart
from webhook.services import SERVICES
from workers.apply_role import APPLY_QUEUES, consuming
from workers.clock_role import sweeping
from workers.tasks_role import Tasks, _serve

PROFILE = EmbeddingProfile(model="some", fingerprint="0123", dimension=8, max_tokens=64)


@pytest.fixture
async def flow(tmp_path: Path) -> AsyncIterator[Pipeline]:
    async with pipeline(tmp_path) as made:
        yield made


def on_one_machine(folder: Path) -> Settings:
    return Settings(
        _env_file=None,
        data_dir=folder / "data",
        embedder_url=url_of(HashEmbedder().profile),
        vectors_url="none:",
        sweep_interval_seconds=0.05,
    )


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # the role is asked by what it did


async def while_at_work(
    tasks: Tasks, folder: Path, condition: Callable[[], Awaitable[bool]]
) -> None:
    """Runs the role until the condition is met, and then asks it to stop."""
    stop = asyncio.Event()
    role = asyncio.create_task(_serve("test", on_one_machine(folder), tasks, stop))
    watch = asyncio.create_task(until(condition))
    await asyncio.wait([role, watch], return_when=asyncio.FIRST_COMPLETED)
    stop.set()
    await role
    await watch


async def embedded(flow: Pipeline, *names: str) -> None:
    for name in names:
        await flow.insert(name, f"What {name} says.")
        await flow.step(QueueName.CHANGE)


async def test_apply_works_all_three_queues(flow: Pipeline, tmp_path: Path) -> None:
    await embedded(flow, "a", "b")

    async def created() -> bool:
        return all([(await flow.row(n)).applied.version == 1 for n in "ab"])

    await while_at_work(consuming(APPLY_QUEUES), tmp_path, created)
    await flow.insert("a", "What a says, and more.")
    await flow.step(QueueName.CHANGE)
    await flow.delete("b")

    async def updated_and_deleted() -> bool:
        return (await flow.row("a")).applied.version == 2 == (await flow.row("b")).applied.version

    await while_at_work(consuming(APPLY_QUEUES), tmp_path, updated_and_deleted)


async def test_a_consumer_by_itself_leaves_the_other_queues_alone(
    flow: Pipeline, tmp_path: Path
) -> None:
    await embedded(flow, "a", "b")
    await flow.delete("b")

    async def deleted() -> bool:
        return (await flow.row("b")).applied.version == 2

    await while_at_work(consuming([QueueName.DELETE]), tmp_path, deleted)
    assert (await flow.row("a")).applied.version == 0
    assert (await flow.queue.depth(QueueName.CREATE)).waiting == 2


async def test_the_sweeper_wakes_what_stayed_behind(flow: Pipeline, tmp_path: Path) -> None:
    await flow.insert("late", "Its wake-up was lost.")
    lost = await flow.receive(QueueName.CHANGE)
    assert lost is not None
    await flow.queue.ack(lost)

    async def woken() -> bool:
        return (await flow.queue.depth(QueueName.CHANGE)).backlog == 1

    await while_at_work(sweeping, tmp_path, woken)


@pytest.mark.slow
@pytest.mark.parametrize("role", ["apply_role:run", "clock_role:run_sweep", "clock_role:run_scrub"])
def test_a_role_drains_on_sigterm(role: str, tmp_path: Path) -> None:
    module, function = role.split(":")
    code = f"import sys\nfrom workers.{module} import {function} as run\n" + (
        "from common.settings import Settings\nsys.exit(run(Settings()))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], env=_environment(tmp_path), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        last = ""
        for line in process.stderr:
            if "worker.ready" in line:
                process.send_signal(signal.SIGTERM)
            last = line
        assert process.wait(timeout=30) == 0
        assert "worker.stopped" in last


@pytest.mark.slow
def test_a_scrub_by_the_clock_needs_an_interval(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom workers.clock_role import run_scrub as run\n"
        "from common.settings import Settings\nsys.exit(run(Settings()))"
    )
    environment = {**_environment(tmp_path), "BLOOMWEAVER_SCRUB_INTERVAL_SECONDS": "0"}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert "BLOOMWEAVER_SCRUB_INTERVAL_SECONDS=0" in line


def _environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(Path.cwd()),
        "BLOOMWEAVER_DATA_DIR": str(folder / "data"),
        "BLOOMWEAVER_EMBEDDER_URL": url_of(PROFILE),
        "BLOOMWEAVER_LOG_FORMAT": "json",
    }


# --- the command line ----------------------------------------------------------------------------


def invoke(*words: str) -> tuple[int, str]:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(words))
    return result.exit_code, result.output


@pytest.mark.parametrize("kind", ["create", "update", "delete", "apply", "sweep", "scrub"])
def test_the_embedded_index_is_left_to_the_process_that_owns_it(kind: str) -> None:
    code, told = invoke("worker", kind)
    assert code == 2
    assert "`bloomweaver up`" in told


@pytest.mark.parametrize("option", [("--variant", "large"), ("--device", "cpu")])
def test_what_is_for_models_is_for_embed_only(option: tuple[str, str]) -> None:
    code, told = invoke("worker", "apply", *option)
    assert code == 2
    assert f"{option[0]} is for `worker embed`" in told


@pytest.mark.slow
def test_an_unknown_variant_ends_a_worker_at_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    command = [sys.executable, "-m", "common.cli.main", "worker", "embed", "--variant", "huge"]
    ended = subprocess.run(
        command, env=_environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "there is no embedding variant 'huge'" in ended.stderr


def test_profile_prints_what_a_process_without_the_model_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BLOOMWEAVER_EMBEDDER_URL", url_of(PROFILE))
    assert invoke("profile") == (0, url_of(PROFILE) + "\n")
    code, told = invoke("profile", "--json")
    assert (code, url_of(PROFILE).replace('"', '\\"') in told, PROFILE.id in told) == (
        0,
        True,
        True,
    )


def test_profile_is_the_one_of_the_packaged_model() -> None:
    code, told = invoke("profile")
    assert code == 0
    assert told.startswith('profile:{"model":"')
    assert '"dimension":384' in told


def test_profile_says_what_is_wrong_with_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOOMWEAVER_EMBEDDER_URL", "fastembed:/no/such/folder")
    code, told = invoke("profile")
    assert (code, "/no/such/folder" in told) == (2, True)
    monkeypatch.setenv("BLOOMWEAVER_EMBEDDER_URL", "abacus:")
    assert invoke("profile")[0] == 2


# --- a webhook without the model -----------------------------------------------------------------


async def test_without_the_model_changes_are_accepted_and_a_search_says_why_not(
    flow: Pipeline,
) -> None:
    async with serving(flow, profile=PROFILE) as api:
        services = api.runner.app[SERVICES]
        assert services.searcher is not None
        services.searcher.embedder = ProfileOnly(PROFILE)
        insert = {"change_type": "insert", "namespace": "docs", "document_id": "a", "content": "x"}
        assert (await api.change(insert))[0] == 202
        status, body = await api.post("/v1/namespaces/docs/search", {"query": "x"})
        assert status == 503
        assert is_problem(503, body, "search-unavailable")
        assert "knows only the profile of some" in body["detail"]


async def test_without_the_model_the_webhook_is_ready(tmp_path: Path) -> None:
    from common.composition import open_ports

    settings = on_one_machine(tmp_path)
    async with open_ports(settings, receiver="test", own_index=True) as ports:

        async def listen(_runner: object) -> None:
            """Nobody calls."""

        part = WebhookPart(ports, listen=listen)
        await part.start()
        try:
            assert part._model is not None
            await part._model
            assert part._unready() == []
        finally:
            await part.stop()


async def test_what_keeps_a_model_from_loading_is_told_to_the_log_alone(tmp_path: Path) -> None:
    """`/readyz` answers anybody."""
    from common.composition import open_ports

    settings = on_one_machine(tmp_path)
    async with open_ports(settings, receiver="test", own_index=True) as ports:

        async def listen(_runner: object) -> None:
            """Nobody calls."""

        async def broken() -> None:
            raise ModelUnavailableError("/secret/folder/model.onnx is damaged")

        ports.embedder.load = broken  # type: ignore[method-assign]
        part = WebhookPart(ports, listen=listen)
        with capture_logs() as told:
            await part.start()
            try:
                assert part._model is not None
                await asyncio.wait([part._model])
                assert part._unready() == [
                    "the embedding model cannot be loaded; the service's log says why"
                ]
            finally:
                await part.stop()
    (line,) = [line for line in told if line["event"] == "webhook.model_not_loaded"]
    assert "/secret/folder" in line["error"]
