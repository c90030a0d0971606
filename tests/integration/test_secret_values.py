"""Settings that are kept in Secrets Manager, as every role reads them at its start (moto)."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from botocore.session import get_session
from structlog.testing import capture_logs
from typer.testing import CliRunner

from common import telemetry
from common.aws import secret_values
from common.cli.configuration import load_settings
from common.cli.main import app
from common.cli.problems import OutOfReachError, WrongUsageError
from common.lambda_runtime import CannotStartError, Sandbox
from common.secret_environment import PROCESS
from common.secrets import without_secrets
from common.settings import Settings
from tests.servers.aws import REGION, aws_environment, moto, use
from tests.servers.refusing import refusing

HUSH = "pcsk_hush-hush"


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What is placed goes again, and what the process had is there again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(telemetry, "configure_logging", lambda *_: None)
    use(monkeypatch, moto())
    before = dict(os.environ)
    yield
    PROCESS.place({})
    os.environ.clear()
    os.environ.update(before)


class Secrets:
    """Of one test, by names that no other has."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._client: Any = get_session().create_client("secretsmanager", REGION)
        self.ids: list[str] = []

    def add(self, value: str | bytes | None) -> str:
        """Its ARN; None: it has no value yet."""
        kind = "SecretBinary" if isinstance(value, bytes) else "SecretString"
        given = {} if value is None else {kind: value}
        arn: str = self._client.create_secret(Name=f"secret-{uuid4()}", **given)["ARN"]
        self.name(arn)
        return arn

    def change(self, arn: str, value: str) -> None:
        self._client.put_secret_value(SecretId=arn, SecretString=value)

    def name(self, secret_id: str) -> None:
        self.ids.append(secret_id)
        self._monkeypatch.setenv("BLOOMWEAVER_SECRET_IDS", ",".join(self.ids))


@pytest.fixture
def secrets(own_environment: None, monkeypatch: pytest.MonkeyPatch) -> Secrets:
    return Secrets(monkeypatch)


def test_settings_are_made_of_all_secrets_and_the_environment_counts_first(
    secrets: Secrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLOOMWEAVER_QDRANT_API_KEY", "of the environment")
    secrets.add(json.dumps({"BLOOMWEAVER_PINECONE_API_KEY": HUSH, "CMS_SECRET": "long enough"}))
    secrets.add(json.dumps({"BLOOMWEAVER_QDRANT_API_KEY": "of a secret"}))
    settings = load_settings({})
    assert settings.pinecone_api_key is not None
    assert settings.pinecone_api_key.get_secret_value() == HUSH
    assert settings.qdrant_api_key is not None
    assert settings.qdrant_api_key.get_secret_value() == "of the environment"
    assert os.environ["CMS_SECRET"] == "long enough", "sources.yaml refers to it"


async def test_settings_are_loaded_within_an_event_loop(secrets: Secrets) -> None:
    secrets.add(json.dumps({"BLOOMWEAVER_PINECONE_API_KEY": HUSH}))
    settings = load_settings({})
    assert settings.pinecone_api_key is not None


def test_secrets_are_read_once_by_a_command(secrets: Secrets) -> None:
    arn = secrets.add(json.dumps({"BLOOMWEAVER_LOG_LEVEL": "error"}))
    assert load_settings({}).log_level == "error"
    secrets.change(arn, json.dumps({"BLOOMWEAVER_LOG_LEVEL": "debug"}))
    assert load_settings({}).log_level == "error", "one start has one set of settings"


def test_what_was_read_is_in_no_line(secrets: Secrets) -> None:
    secrets.add(json.dumps({"CMS_SECRET": HUSH, "BLOOMWEAVER_PORT": "hush-hush-2"}))
    with pytest.raises(WrongUsageError, match="BLOOMWEAVER_PORT") as refused:
        load_settings({})
    assert "hush" not in str(refused.value)
    settings = Settings(_env_file=None, port=1)
    assert without_secrets(f"the key {HUSH} is wrong", settings) == "the key *** is wrong"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("hush-hush", "it is not JSON"),
        (b"hush-hush", "is binary"),
        (None, "has no value yet: put one"),
        ('{"PATH": "hush-hush"}', "PATH is not taken from a secret"),
    ],
)
def test_a_secret_that_cannot_be_used_is_one_line_and_exit_code_2(
    secrets: Secrets, value: str | bytes | None, why: str
) -> None:
    arn = secrets.add(value)
    result = CliRunner(env={"COLUMNS": "500"}).invoke(app, ["settings"])
    assert result.exit_code == 2
    assert why in result.output
    assert arn in result.output
    assert "hush" not in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_a_secret_that_is_not_there_is_exit_code_2(secrets: Secrets) -> None:
    secrets.name("nobody-made-it")
    with pytest.raises(WrongUsageError, match=r"nobody-made-it.*there is no such secret"):
        load_settings({})


def test_no_region_is_told_by_its_variable(
    secrets: Secrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets.name("some")
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(WrongUsageError, match="set AWS_REGION"):
        load_settings({})


def test_a_right_that_is_missing_is_told(secrets: Secrets, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets.name("some")
    with refusing("AccessDeniedException") as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises(WrongUsageError, match="allow secretsmanager:GetSecretValue on it"):
            load_settings({})


def test_what_does_not_answer_is_exit_code_3(
    secrets: Secrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets.name("some")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(OutOfReachError, match="check AWS_REGION, AWS_ENDPOINT_URL and the network"):
        load_settings({})
    result = CliRunner().invoke(app, ["settings"])
    assert result.exit_code == 3


def test_a_name_that_is_not_resolved_is_not_waited_for(
    secrets: Secrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can cancel a resolver: the wait itself has to end."""
    secrets.name("some")
    monkeypatch.setattr(secret_values, "DEADLINE_SECONDS", 0.1)
    released = threading.Event()

    async def texts(_ids: Any) -> list[str]:
        await asyncio.get_running_loop().run_in_executor(None, released.wait, 60)
        return []

    monkeypatch.setattr(secret_values, "_texts", texts)
    try:
        with pytest.raises(OutOfReachError, match="did not answer within"):
            load_settings({})
        assert [thread.name for thread in threading.enumerate()].count("read-secrets") == 1
    finally:
        released.set()
        for thread in threading.enumerate():
            if thread.name == "read-secrets":
                thread.join()


def test_the_list_of_settings_shows_no_value_of_a_secret(secrets: Secrets) -> None:
    secrets.add(
        json.dumps({"BLOOMWEAVER_PINECONE_API_KEY": HUSH, "BLOOMWEAVER_URL": "http://hush.x"})
    )
    result = CliRunner(env={"COLUMNS": "500"}).invoke(app, ["settings"])
    assert result.exit_code == 0
    assert "hush" not in result.output
    assert "BLOOMWEAVER_SECRET_IDS=arn:aws:secretsmanager:" in result.output


def test_the_doctor_tells_names_and_no_values(
    secrets: Secrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CMS_SECRET", "of the environment")
    arn = secrets.add(json.dumps({"BLOOMWEAVER_PINECONE_API_KEY": HUSH, "CMS_SECRET": HUSH}))
    result = CliRunner(env={"COLUMNS": "500"}).invoke(app, ["doctor", "--timeout", "2"])
    [line] = [line for line in result.output.splitlines() if "secrets:" in line]
    assert line.startswith("✓ secrets: ")
    assert f"{arn}: BLOOMWEAVER_PINECONE_API_KEY (the environment itself has CMS_SECRET)" in line
    assert HUSH not in result.output


class Given:
    """What a function opens: the settings that it was given."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.usable = True

    @asynccontextmanager
    async def open(self, settings: Settings) -> AsyncIterator[Settings]:
        assert settings.pinecone_api_key is not None
        self.keys.append(settings.pinecone_api_key.get_secret_value())
        if not self.usable:
            raise OSError(f"no index takes {HUSH}")
        yield settings


async def nothing(_settings: Settings) -> None:
    pass


def test_a_function_reads_them_at_its_start_and_again_when_it_could_not_start(
    secrets: Secrets,
) -> None:
    arn = secrets.add(json.dumps({"BLOOMWEAVER_PINECONE_API_KEY": HUSH}))
    given = Given()
    given.usable = False
    sandbox = Sandbox(given.open)
    try:
        with capture_logs() as lines, pytest.raises(CannotStartError, match="no index takes"):
            sandbox.run(nothing)
        assert HUSH not in str(lines)
        given.usable = True
        secrets.change(arn, json.dumps({"BLOOMWEAVER_PINECONE_API_KEY": "mended"}))
        sandbox.run(nothing)
        secrets.change(arn, json.dumps({"BLOOMWEAVER_PINECONE_API_KEY": "later"}))
        sandbox.run(nothing)
    finally:
        sandbox.close()
    assert given.keys == [HUSH, "mended"], "an event that finds everything open reads nothing"


def test_a_function_that_cannot_read_them_says_why(secrets: Secrets) -> None:
    secrets.name("nobody-made-it")
    sandbox = Sandbox(Given().open)
    try:
        with pytest.raises(CannotStartError, match="there is no such secret"):
            sandbox.run(nothing)
    finally:
        sandbox.close()


@pytest.mark.slow
def test_reading_them_leaves_the_place_of_metrics_open(secrets: Secrets, tmp_path: Path) -> None:
    """prometheus_client reads where metrics are kept when it is imported, and a role says it after
    its settings are loaded."""
    secrets.add(json.dumps({"BLOOMWEAVER_PINECONE_API_KEY": HUSH}))
    code = (
        "import sys\nfrom common.cli.configuration import load_settings\n"
        "assert load_settings({}).pinecone_api_key\nprint('prometheus_client' in sys.modules)"
    )
    root = str(Path(__file__).parents[2])
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **aws_environment(moto().url), "PYTHONPATH": root},
        cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert ended.stdout.strip() == "False"
