"""What a wrong configuration gets: one line that says what to mend, an exit code, and nothing else.

Most cases run the webhook's own `run` in this process; two run the command as a user does.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from common import telemetry
from common.settings import Settings
from tests.acceptance.service import MODELS, PATIENCE_SECONDS, free_port
from tests.servers.aws import aws_environment, moto
from tests.servers.pinecone import PineconeServer
from tests.servers.queues import TestQueues
from tests.servers.refusing import refusing
from tests.servers.tables import create_table
from webhook import role

pytestmark = pytest.mark.slow

KEY, HUSH = "pinecone-hush", "aws-hush"
WRONG, UNREACHABLE = 2, 3


@dataclass
class Given:
    """A configuration that works, until a case breaks it."""

    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str | None] = field(default_factory=dict)
    stack: ExitStack = field(default_factory=ExitStack)

    def aws(self, url: str) -> None:
        self.environment |= aws_environment(url) | {"AWS_SECRET_ACCESS_KEY": HUSH}

    def on_moto(self) -> None:
        self.aws(moto().url)

    def queues(self) -> TestQueues:
        self.on_moto()
        queues = _queues()
        self.settings |= queues.settings
        return queues

    def pinecone(self, **more: Any) -> PineconeServer:
        server = self.stack.enter_context(PineconeServer(**({"dimension": 384} | more)))
        server.api_key = server.served.api_key = KEY
        self.settings |= {"index_url": f"pinecone:{server.url}", "pinecone_api_key": KEY}
        return server

    def refusing(self, code: str) -> None:
        self.aws(self.stack.enter_context(refusing(code)))


@cache
def _queues() -> TestQueues:
    return TestQueues(moto().url)


Break = Callable[[Given], None]


def missing_region(given: Given) -> None:
    given.queues()
    given.environment |= {"AWS_REGION": None, "AWS_DEFAULT_REGION": None}


def another_region(given: Given) -> None:
    given.queues()
    given.environment |= {"AWS_REGION": "us-west-2", "AWS_DEFAULT_REGION": "us-west-2"}


def missing_queue(given: Given) -> None:
    given.queues()
    given.settings["update_queue_name"] = "NoSuchQueue"


def missing_queue_of_a_variant(given: Given) -> None:
    given.queues()
    variant = {"namespaces": ["kb-*"], "change_queue_name": "NoSuchQueue"}
    variants = {"large": variant | {"embedder_url": "fastembed:all-MiniLM-L6-v2-int8"}}
    given.settings["embedding_variants"] = variants


def missing_credentials(given: Given) -> None:
    given.queues()
    given.environment |= {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}


def missing_table(given: Given) -> None:
    given.on_moto()
    given.settings["registry_url"] = "dynamodb:no-such-table"


def missing_bucket(given: Given) -> None:
    given.on_moto()
    given.settings["blobs_url"] = "s3://no-such-bucket-anywhere/blobs"


def refused(setting: dict[str, str], code: str) -> Break:
    def broken(given: Given) -> None:
        given.refusing(code)
        given.settings |= setting

    return broken


def nobody_there(setting: dict[str, str]) -> Break:
    def broken(given: Given) -> None:
        given.aws(f"http://127.0.0.1:{free_port()}")
        given.settings |= setting

    return broken


def other_dimension(given: Given) -> None:
    given.pinecone(dimension=1536)


def other_metric(given: Given) -> None:
    given.pinecone(metric="euclidean")


def other_key(given: Given) -> None:
    given.pinecone().served.api_key = "the-right-one"


def missing_key(given: Given) -> None:
    given.pinecone()
    given.environment["PINECONE_API_KEY"] = None
    del given.settings["pinecone_api_key"]


def no_index(url: str) -> Break:
    def broken(given: Given) -> None:
        index_url = url.format(port=free_port())
        given.settings |= {"index_url": index_url, "pinecone_api_key": KEY}
        given.settings["check_timeout_seconds"] = 2

    return broken


def unknown_scheme(given: Given) -> None:
    given.settings["queue_url"] = "kafka://me:queue-hush@host"


SQS, DYNAMODB, S3 = {"queue_url": "sqs:"}, {"registry_url": "dynamodb:t"}, {"blobs_url": "s3://b/p"}

CASES: dict[str, tuple[Break, int, tuple[str, ...]]] = {
    # what is broken: the exit code, and what the line says
    "no region": (missing_region, WRONG, ("BLOOMWEAVER_QUEUE_URL", "set AWS_REGION")),
    "another region": (another_region, WRONG, ("no such queue in this region", "AWS_REGION")),
    "a missing queue": (
        missing_queue, WRONG, ("create it, or check", "BLOOMWEAVER_UPDATE_QUEUE_NAME=NoSuchQueue"),
    ),
    "a missing queue of a variant": (
        missing_queue_of_a_variant, WRONG, ("BLOOMWEAVER_EMBEDDING_VARIANTS=NoSuchQueue",),
    ),
    "no credentials": (missing_credentials, WRONG, ("set AWS_ACCESS_KEY_ID", "AWS_PROFILE")),
    "a missing table": (missing_table, WRONG, ("BLOOMWEAVER_REGISTRY_URL", "no such table")),
    "a missing bucket": (missing_bucket, WRONG, ("BLOOMWEAVER_BLOBS_URL", "no such bucket")),
    "no permission, SQS": (
        refused(SQS, "AccessDeniedException"), WRONG, ("BLOOMWEAVER_QUEUE_URL", "allow Get"),
    ),
    "no permission, DynamoDB": (
        refused(DYNAMODB, "AccessDeniedException"), WRONG, ("allow DescribeTable",),
    ),
    "no permission, S3": (refused(S3, "AccessDenied"), WRONG, ("allow ListObjectsV2",)),
    "expired credentials, SQS": (
        refused(SQS, "ExpiredTokenException"), WRONG, ("credentials have expired: renew them",),
    ),
    "expired credentials, DynamoDB": (
        refused(DYNAMODB, "ExpiredTokenException"), WRONG, ("credentials have expired",),
    ),
    "expired credentials, S3": (refused(S3, "ExpiredToken"), WRONG, ("have expired",)),
    "a wrong clock, S3": (refused(S3, "RequestTimeTooSkewed"), WRONG, ("clock is wrong: set it",)),
    "a wrong clock, DynamoDB": (
        refused(DYNAMODB, "InvalidSignatureException"), WRONG, ("and the clock",),
    ),
    "AWS out of reach": (nobody_there(SQS), UNREACHABLE, ("AWS_ENDPOINT_URL", "network")),
    "DynamoDB out of reach": (nobody_there(DYNAMODB), UNREACHABLE, ("AWS_ENDPOINT_URL",)),
    "S3 out of reach": (nobody_there(S3), UNREACHABLE, ("AWS_ENDPOINT_URL",)),
    "an index of another dimension": (
        other_dimension, WRONG, ("1536", "384", "BLOOMWEAVER_INDEX_URL"),
    ),
    "an index of another metric": (other_metric, WRONG, ("euclidean", "needs cosine")),
    "another Pinecone key": (other_key, WRONG, ("BLOOMWEAVER_PINECONE_API_KEY",)),
    "no Pinecone key": (missing_key, WRONG, ("set BLOOMWEAVER_PINECONE_API_KEY",)),
    "Pinecone out of reach": (
        no_index("pinecone:http://127.0.0.1:{port}"), UNREACHABLE, ("BLOOMWEAVER_INDEX_URL",),
    ),
    "Qdrant out of reach": (
        no_index("qdrant:http://127.0.0.1:{port}"), UNREACHABLE, ("BLOOMWEAVER_INDEX_URL",),
    ),
    "Chroma out of reach": (
        no_index("chroma:http://127.0.0.1:{port}"), UNREACHABLE, ("BLOOMWEAVER_INDEX_URL",),
    ),
    "an adapter nobody knows": (
        unknown_scheme, WRONG, ("BLOOMWEAVER_QUEUE_URL", "no queue adapter 'kafka'"),
    ),
}  # fmt: skip


@pytest.fixture
def given() -> Iterator[Given]:
    made = Given()
    with made.stack:
        yield made


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    monkeypatch.setattr(telemetry, "configure_logging", lambda *_: None)
    with capture_logs() as captured:
        yield captured


@pytest.mark.parametrize("case", list(CASES))
def test_one_line_says_what_to_mend(
    case: str, given: Given, logs: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    broken, code, said = CASES[case]
    broken(given)
    for name, value in given.environment.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    port, data_dir = free_port(), tmp_path / "data"
    more: dict[str, Any] = {"data_dir": data_dir, "port": port, "model_cache_dir": MODELS}
    more["check_timeout_seconds"] = PATIENCE_SECONDS
    settings = Settings(_env_file=None, **(more | given.settings))
    assert role.run(settings) == code
    [error] = [line for line in logs if line["log_level"] not in ("info", "debug")]
    assert error["event"] == "webhook.cannot_start"
    for part in said:
        assert part in error["error"]
    assert "\n" not in error["error"]
    assert "hush" not in json.dumps(logs, default=str)
    assert not (data_dir / "run" / "address").exists()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize(
    ("case", "command"), [("a missing queue", ["up"]), ("AWS out of reach", ["worker", "embed"])]
)
def test_the_command_ends_so_too(
    case: str, command: list[str], given: Given, tmp_path: Path
) -> None:
    broken, code, said = CASES[case]
    broken(given)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("BLOOMWEAVER_")}
    settings = {f"BLOOMWEAVER_{name.upper()}": str(v) for name, v in given.settings.items()}
    own = {
        "BLOOMWEAVER_DATA_DIR": str(tmp_path / "data"),
        "BLOOMWEAVER_MODEL_CACHE_DIR": str(MODELS),
        "BLOOMWEAVER_PORT": str(free_port()),
        "BLOOMWEAVER_LOG_FORMAT": "json",
        "BLOOMWEAVER_CHECK_TIMEOUT_SECONDS": str(PATIENCE_SECONDS),
    }
    set_ = {name: value for name, value in given.environment.items() if value is not None}
    ended = subprocess.run(
        [sys.executable, "-m", "common.cli.main", *command],
        env=inherited | own | settings | set_, cwd=tmp_path, capture_output=True, text=True,
        timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    assert ended.returncode == code, ended.stderr
    assert ended.stdout == ""
    [line] = ended.stderr.splitlines()
    for part in said:
        assert part in json.loads(line)["error"]
    assert "Traceback" not in ended.stderr
    assert "hush" not in ended.stderr


def test_a_configuration_that_is_right_passes_them_all(
    given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or every case above would fail for a reason of its own."""
    given.queues()
    given.pinecone()
    for name, value in given.environment.items():
        monkeypatch.setenv(name, value or "")
    table = asyncio.run(create_table())
    more: dict[str, Any] = {"data_dir": tmp_path / "data", "registry_url": f"dynamodb:{table}"}
    settings = Settings(_env_file=None, **(more | given.settings))
    assert asyncio.run(_found(settings)) == ["QUEUE", "REGISTRY", "INDEX"]


async def _found(settings: Settings) -> list[str]:
    from common.checks import require_usable
    from common.composition import open_ports

    with capture_logs() as logs:
        async with open_ports(settings, receiver="r", own_index=True) as ports:
            await require_usable(ports)
    return [line["setting"].split("_")[1] for line in logs if line["event"] == "start.checked"]
