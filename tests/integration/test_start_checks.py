"""What a role does before it starts: one real call to every adapter that can be checked."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from common import telemetry, up
from common.adapters.embedder.profile import ProfileOnly
from common.checks import OutOfReachError, require_usable
from common.composition import ConfigurationError, connect, open_ports
from common.model import EmbeddingProfile
from common.ports.errors import PermanentError, TransientError
from common.settings import Settings
from tests.acceptance.service import MODELS, free_port
from tests.scripted_adapter import Scripted, install
from webhook import role as webhook_role
from workers import embed_role
from workers.fleet import worker_environment

Run = Callable[[Settings], int]
ROLES: dict[str, Run] = {"up": up.run, "webhook": webhook_role.run, "worker": embed_role.run}
MISSING = "cannot find ChangeQueue: no such queue in this region: create it, or check AWS_REGION"


@pytest.fixture(autouse=True)
def logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    monkeypatch.setattr(telemetry, "configure_logging", lambda *_: None)
    with capture_logs() as captured:
        yield captured


def settings_of(folder: Path, **more: Any) -> Settings:
    given = {"data_dir": folder / "data", "port": free_port(), "model_cache_dir": MODELS}
    return Settings(_env_file=None, **(given | more))  # type: ignore[arg-type]


def errors_of(logs: list[Any]) -> list[str]:
    return [f"{line['event']}: {line['error']}" for line in logs if line["log_level"] == "error"]


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("role", list(ROLES))
@pytest.mark.parametrize("error", [PermanentError(MISSING), TransientError("no route to sqs")])
def test_a_role_that_lacks_something_says_so_in_one_line_and_starts_nothing(
    role: str, error: Exception, logs: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = install(monkeypatch, "queue", Scripted(error))
    settings = settings_of(tmp_path, queue_url="scripted:")
    assert ROLES[role](settings) == (2 if isinstance(error, PermanentError) else 3)
    assert errors_of(logs) == [f"{role}.cannot_start: BLOOMWEAVER_QUEUE_URL: {error}"]
    assert "exc_info" not in logs[-1]
    assert queue.closed
    assert queue.calls == ["check"], "nothing but the check was asked of it"
    assert not listens(settings.port)
    assert not (settings.data_dir / "run" / "address").exists()


def test_all_that_is_wrong_is_in_the_line_once(
    logs: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_region = PermanentError("BLOOMWEAVER_QUEUE_URL=x: no region is set:\n  set AWS_REGION")
    install(monkeypatch, "queue", Scripted(no_region))
    install(monkeypatch, "registry", Scripted(no_region))
    install(monkeypatch, "blobs", Scripted(TransientError("no route to s3")))
    given = dict.fromkeys(["queue_url", "registry_url", "blobs_url"], "scripted:")
    assert webhook_role.run(settings_of(tmp_path, **given)) == 2
    assert errors_of(logs) == [
        "webhook.cannot_start: BLOOMWEAVER_QUEUE_URL=x: no region is set: set AWS_REGION; "
        "BLOOMWEAVER_BLOBS_URL: no route to s3"
    ]


def test_secrets_stay_out_of_the_line(
    logs: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "aws-hush")
    said = "http://me:pass@host/ refused pinecone-hush signed with aws-hush"
    install(monkeypatch, "queue", Scripted(PermanentError(said)))
    settings = settings_of(
        tmp_path, queue_url="scripted:", pinecone_api_key=SecretStr("pinecone-hush")
    )
    assert webhook_role.run(settings) == 2
    assert errors_of(logs) == [
        "webhook.cannot_start: BLOOMWEAVER_QUEUE_URL: http://***@host/ refused *** signed with ***"
    ]


async def test_an_index_of_another_dimension_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = install(monkeypatch, "index", Scripted(), dimension=1536)
    settings = settings_of(tmp_path, index_url="scripted:")
    async with open_ports(settings, receiver="r", own_index=True) as ports:
        with pytest.raises(ConfigurationError, match=r"BLOOMWEAVER_INDEX_URL: .*1536.*384"):
            await require_usable(ports)
    assert sorted(index.calls) == ["check", "check_dimension"]


WIDE = EmbeddingProfile(model="wide", fingerprint="w", dimension=1024, max_tokens=64)


@pytest.mark.parametrize("one_dimension", [True, False])
async def test_an_index_with_one_dimension_has_to_take_every_variants_vectors(
    one_dimension: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = install(monkeypatch, "index", Scripted(), dimension=384, one_dimension=one_dimension)
    settings = settings_of(tmp_path, index_url="scripted:")
    async with open_ports(settings, receiver="r", own_index=True) as ports:
        ports.variants = {**ports.variants, "wide": ProfileOnly(WIDE)}
        if one_dimension:
            with pytest.raises(ConfigurationError, match=r"BLOOMWEAVER_INDEX_URL: .*384.*1024"):
                await require_usable(ports)
        else:
            await require_usable(ports)
    assert index.calls.count("check_dimension") == (2 if one_dimension else 1)


async def test_a_variants_model_that_is_elsewhere_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, "index", Scripted(), dimension=384)
    settings = settings_of(tmp_path, index_url="scripted:")
    elsewhere = connect("embedder", f"fastembed:{tmp_path / 'none'}", settings, "r")
    async with open_ports(settings, receiver="r", own_index=True) as ports:
        ports.variants = {**ports.variants, "elsewhere": elsewhere}
        await require_usable(ports)
    await elsewhere.close()


async def test_a_namespace_of_another_model_stops_nobody(
    logs: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, "index", Scripted(), dimension=1536, one_dimension=False)
    settings = settings_of(tmp_path, index_url="scripted:")
    async with open_ports(settings, receiver="r", own_index=True) as ports:
        await require_usable(ports)
    [told] = [line for line in logs if line["event"] == "start.checked"]
    assert (told["log_level"], "1536" in told["found"]) == ("warning", True)


async def test_one_that_never_answers_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, "queue", Scripted(hangs=True))
    settings = settings_of(tmp_path, queue_url="scripted:", check_timeout_seconds=0.05)
    async with open_ports(settings, receiver="r", own_index=False) as ports:
        with pytest.raises(OutOfReachError, match=r"no answer within 0.05 s: check the address"):
            await require_usable(ports)


async def test_what_no_port_promises_is_a_line_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, "queue", Scripted(KeyError("Attributes")))
    async with open_ports(
        settings_of(tmp_path, queue_url="scripted:"), receiver="r", own_index=False
    ) as ports:
        with pytest.raises(ConfigurationError, match="the check failed: KeyError: 'Attributes'"):
            await require_usable(ports)


async def test_the_checks_run_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = asyncio.Barrier(2)
    for port in ("queue", "registry"):
        install(monkeypatch, port, Scripted(meets=both))
    settings = settings_of(
        tmp_path, queue_url="scripted:", registry_url="scripted:", check_timeout_seconds=5
    )
    async with open_ports(settings, receiver="r", own_index=False) as ports:
        await require_usable(ports)


@pytest.mark.parametrize("how", ["turned off", "a worker of a fleet"])
async def test_they_can_be_turned_off(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = install(monkeypatch, "queue", Scripted(PermanentError(MISSING)))
    settings = settings_of(tmp_path, queue_url="scripted:", start_checks=how != "turned off")
    if how == "a worker of a fleet":
        for name, value in worker_environment(settings, {}, "embed-1").items():
            monkeypatch.setenv(name, value)
        settings = Settings(_env_file=None)
    async with open_ports(settings, receiver="r", own_index=False) as ports:
        await require_usable(ports)
    assert queue.calls == []
