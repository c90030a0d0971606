"""Each role as the command starts it, with one thing wrong in what it is set to use on AWS: one
line that names the setting, an exit code, and nothing received or written."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from common.adapters.embedder.profile import url_of
from common.model import EmbeddingProfile
from tests.acceptance.service import MODELS, PATIENCE_SECONDS, free_port, wait_until
from tests.servers.aws import aws_environment, moto
from tests.servers.pinecone import API_KEY, PineconeServer
from tests.servers.provision import WORKED_QUEUES, provision
from tests.servers.watched_aws import WatchedAws, watched

pytestmark = pytest.mark.slow

WRONG, UNREACHABLE = 2, 3
PROFILE = EmbeddingProfile(model="some", fingerprint="0123", dimension=8, max_tokens=64)
WITH_A_MODEL = ("embed", "serve")
LOOKS = {"sqs.GetQueueUrl", "sqs.GetQueueAttributes", "dynamodb.DescribeTable", "s3.GET"}
"""All that a role does on AWS before it starts; `s3.GET` lists."""
LOOKS_AT_PINECONE = {"stats", "describe"}
QUEUE, REGISTRY, BLOBS, INDEX, LANDING = (
    f"BLOOMWEAVER_{name}_URL" for name in ("QUEUE", "REGISTRY", "BLOBS", "INDEX", "LANDING")
)
CHANGES, DELETIONS, INTAKE = (
    f"BLOOMWEAVER_{name}_QUEUE_NAME" for name in ("CHANGE", "DELETE", "INTAKE")
)


@cache
def installation() -> dict[str, str]:
    """Settings of an installation on moto that is as it should be; made once."""
    named = {f"BLOOMWEAVER_{name}_QUEUE_NAME": f"bad-start-{name}" for name in WORKED_QUEUES}
    settings = named | {
        "BLOOMWEAVER_DEAD_LETTER_QUEUE_NAME": "bad-start-letters",
        QUEUE: "sqs:",
        REGISTRY: "dynamodb:bad-start",
        BLOBS: "s3://bad-start/blobs",
        LANDING: "s3://bad-start",
    }
    asyncio.run(provision(moto().url, settings))
    return settings


@dataclass(slots=True)
class Start:
    """One role's environment, right until a fault changes it."""

    environment: dict[str, str]
    aws: WatchedAws
    pinecone: PineconeServer


@dataclass(frozen=True, slots=True)
class Fault:
    """`names`: the settings that the line names, where the role uses them; `says`: its words."""

    kind: str
    make: Callable[[Start], None]
    names: frozenset[str]
    says: tuple[str, ...]
    code: int = WRONG


def setting(name: str, value: str) -> Callable[[Start], None]:
    def make(start: Start) -> None:
        start.environment[name] = value

    return make


def no_such_region(start: Start) -> None:
    del start.environment["AWS_ENDPOINT_URL"]
    start.environment["AWS_REGION"] = "eu-central"


def refused(code: str, *services: str) -> Callable[[Start], None]:
    def make(start: Start) -> None:
        for service in services:
            start.aws.refuse(service, code)

    return make


def other_dimension(start: Start) -> None:
    start.pinecone.served.store.dimension = 1536


def other_metric(start: Start) -> None:
    start.pinecone.served.store.metric = "euclidean"


def no_pinecone(start: Start) -> None:
    nobody_at(INDEX, "pinecone:")(start)
    start.environment["BLOOMWEAVER_REQUEST_TIMEOUT_SECONDS"] = "6"


def nobody_at(name: str, prefix: str = "") -> Callable[[Start], None]:
    return setting(name, f"{prefix}http://127.0.0.1:{free_port()}")


ON_AWS = frozenset({QUEUE, REGISTRY, BLOBS, LANDING, INTAKE})
OF_SERVICES = ON_AWS | {INDEX, CHANGES, DELETIONS}


def one(name: str) -> frozenset[str]:
    return frozenset({name})


FAULTS = {
    "no such region": Fault("region", no_such_region, ON_AWS, ("set AWS_REGION", "eu-central-1")),
    "another region": Fault(
        "region", setting("AWS_REGION", "us-west-2"), frozenset({CHANGES, REGISTRY, INTAKE}),
        ("no such queue in this region", "AWS_REGION"),
    ),
    "no such queue": Fault(
        "missing", setting(DELETIONS, "gone"), one(DELETIONS),
        ("no such queue", "create it, or check its name", f"{DELETIONS}=gone"),
    ),
    "no such table": Fault(
        "missing", setting(REGISTRY, "dynamodb:gone"), one(REGISTRY), ("gone", "no such table"),
    ),
    "no such bucket": Fault(
        "missing", setting(BLOBS, "s3://gone-from-here/blobs"), one(BLOBS),
        ("gone-from-here", "no such bucket"),
    ),
    "no such landing zone": Fault(
        "missing", setting(LANDING, "s3://gone-from-here"), one(LANDING),
        ("gone-from-here", "no such bucket"),
    ),
    "no such intake queue": Fault(
        "missing", setting(INTAKE, "gone"), one(INTAKE), ("gone", "no such queue"),
    ),
    "no permission on SQS": Fault(
        "permission", refused("AccessDeniedException", "sqs"), frozenset({QUEUE, INTAKE}),
        ("allow GetQueueUrl",),
    ),
    "no permission on DynamoDB": Fault(
        "permission", refused("AccessDeniedException", "dynamodb"), one(REGISTRY),
        ("allow DescribeTable",),
    ),
    "no permission on S3": Fault(
        "permission", refused("AccessDenied", "s3"), frozenset({BLOBS, LANDING}),
        ("allow ListObjectsV2",),
    ),
    "expired credentials": Fault(
        "credentials", refused("ExpiredToken", "sqs", "dynamodb", "s3"), ON_AWS,
        ("the credentials have expired: renew them",),
    ),
    "an index of another dimension": Fault(
        "index", other_dimension, one(INDEX), ("1536", "8 dimensions"),
    ),
    "an index of another metric": Fault("index", other_metric, one(INDEX), ("needs cosine",)),
    "AWS out of reach": Fault(
        "reach", nobody_at("AWS_ENDPOINT_URL"), ON_AWS, ("AWS_ENDPOINT_URL and the network",),
        UNREACHABLE,
    ),
    "Pinecone out of reach": Fault(
        "reach", no_pinecone, one(INDEX), ("Pinecone",), UNREACHABLE,
    ),
}  # fmt: skip

CASES = [
    ("webhook", "expired credentials"),
    ("webhook", "an index of another metric"),
    ("embed", "no such region"),
    ("embed", "no permission on SQS"),
    ("serve", "no such queue"),
    ("serve", "expired credentials"),
    ("apply", "an index of another dimension"),
    ("apply", "AWS out of reach"),
    ("create", "no permission on DynamoDB"),
    ("create", "Pinecone out of reach"),
    ("update", "an index of another metric"),
    ("update", "no such table"),
    ("delete", "another region"),
    ("delete", "Pinecone out of reach"),
    ("sweep", "no such bucket"),
    ("sweep", "AWS out of reach"),
    ("scrub", "an index of another dimension"),
    ("scrub", "no permission on S3"),
    ("intake", "no such region"),
    ("intake", "no such intake queue"),
    ("intake", "no such landing zone"),
]


def uses(role: str) -> frozenset[str]:
    """The settings of services that the role looks at."""
    with_index = frozenset() if role in (*WITH_A_MODEL, "intake") else one(INDEX)
    of_intake = frozenset({LANDING, INTAKE}) if role == "intake" else frozenset()
    return frozenset({QUEUE, CHANGES, DELETIONS, REGISTRY, BLOBS}) | with_index | of_intake


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:
        settings = installation()
        aws = stack.enter_context(watched(moto().url))
        pinecone = stack.enter_context(PineconeServer(dimension=PROFILE.dimension))
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("BLOOMWEAVER_")}
        own = {
            INDEX: f"pinecone:{pinecone.url}",
            "BLOOMWEAVER_PINECONE_API_KEY": API_KEY,
            "BLOOMWEAVER_LOG_FORMAT": "json",
            "BLOOMWEAVER_MODEL_CACHE_DIR": str(MODELS),
            "BLOOMWEAVER_CHECK_TIMEOUT_SECONDS": str(PATIENCE_SECONDS),
            "BLOOMWEAVER_PORT": "0",
            "BLOOMWEAVER_SERVE_PORT": "0",
        }
        yield Start(inherited | aws_environment(aws.url) | settings | own, aws, pinecone)


@pytest.mark.parametrize(("role", "wrong"), CASES)
def test_a_role_says_what_to_mend_and_starts_nothing(
    role: str, wrong: str, start: Start, tmp_path: Path
) -> None:
    fault = FAULTS[wrong]
    fault.make(start)
    code, output, log = run(role, start, tmp_path)
    assert (code, output) == (fault.code, ""), log
    [line] = log.splitlines()
    told = json.loads(line)
    assert told["event"].endswith(".cannot_start")
    for words in fault.says:
        assert words in told["error"]
    named = set(re.findall(r"\bBLOOMWEAVER_\w+", told["error"]))
    assert named & OF_SERVICES == fault.names & uses(role), "nothing else is wrong"
    assert "Traceback" not in log
    assert start.aws.asked <= LOOKS
    assert start.pinecone.served.requests.keys() <= LOOKS_AT_PINECONE
    assert not (tmp_path / "data" / "run" / "address").exists()


def test_one_where_nothing_is_wrong_goes_to_work(start: Start, tmp_path: Path) -> None:
    """What the others must not do is seen where it is done."""
    with launched("apply", start, tmp_path) as role:
        wait_until("it receives", lambda: "sqs.ReceiveMessage" in start.aws.asked)
        role.send_signal(signal.SIGTERM)
        output, told = role.communicate(timeout=PATIENCE_SECONDS)
    assert (role.returncode, output) == (0, ""), told
    assert "worker.ready" in told


def run(role: str, start: Start, folder: Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    with launched(role, start, folder) as process:
        output, told = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, output, told


@contextmanager
def launched(role: str, start: Start, folder: Path) -> Iterator[subprocess.Popen[str]]:
    words = [role] if role == "webhook" else ["worker", role]
    environment = {**start.environment, "BLOOMWEAVER_DATA_DIR": str(folder / "data")}
    if role not in WITH_A_MODEL:
        environment["BLOOMWEAVER_EMBEDDER_URL"] = url_of(PROFILE)
    with subprocess.Popen(
        [sys.executable, "-m", "common.cli.main", *words], env=environment, cwd=folder,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def test_every_role_meets_two_faults_and_every_kind_of_fault_two_roles() -> None:
    met: dict[str, set[str]] = defaultdict(set)
    for role, wrong in CASES:
        met[role].add(wrong)
        met[FAULTS[wrong].kind].add(role)
    assert all(len(others) >= 2 for others in met.values()), met
    assert {wrong for _, wrong in CASES} == FAULTS.keys()
