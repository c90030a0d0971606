"""The images of docker/, built and started: read-only, without root, and doing their work.

The base image is a stand-in (tests/deploy/buildah.py), so that nothing here tells of the real one's
size or faults. The GPU image is not built: its packages are 3 GB, and there is no GPU.
"""

from __future__ import annotations

import asyncio
import json
import stat
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.aws.clients import shared_clients
from tests.acceptance.aws_installation import AwsInstallation, pinecone_server
from tests.acceptance.service import free_port, wait_until
from tests.deploy.buildah import ROOT, Builder, CannotBuildError, Image
from tests.deploy.containers import Container, function, started
from tests.deploy.locks import locked
from tests.lambda_events import Event, body_of, failed, http_event, record_of, sqs_event
from tests.servers.aws import aws_environment, ministack
from tests.servers.provision import provision

pytestmark = pytest.mark.deploy

UNCHECKED = (
    "not checked: that the images of docker/ build, hold what their locks name and nothing more, "
    "start without root on a read-only file system, answer Lambda's runtime interface, embed, and "
    "end on SIGTERM"
)
LISTED = """
import json, platform, sys
from importlib.metadata import distributions
found = {d.metadata["Name"]: d.version for d in distributions(path=sys.argv[1:])}
print(json.dumps([platform.python_version(), found]))
"""
ROLES = ("functions", "worker-cpu")


@pytest.fixture(scope="module")
def builder() -> Iterator[Builder]:
    made = Builder(Path(tempfile.mkdtemp(prefix="bloomweaver-images-")))
    try:
        try:
            made.prepare()
        except CannotBuildError as error:
            pytest.skip(f"{error}; {UNCHECKED}")
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def images(builder: Builder) -> dict[str, Image]:
    return {role: builder.build(role, REVISION="0123abc") for role in ROLES}


@pytest.fixture(params=ROLES)
def image(request: pytest.FixtureRequest, images: dict[str, Image]) -> Image:
    return images[request.param]


# --- what is inside ------------------------------------------------------------------------------


def test_an_image_tells_what_it_is_and_runs_as_nobody_in_particular(image: Image) -> None:
    assert image.config["User"] == "10001:10001"
    labels = image.config["Labels"]
    assert labels["org.opencontainers.image.revision"] == "0123abc"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert all(not part.startswith("/bin/sh") for part in image.config["Entrypoint"])


def test_an_image_holds_exactly_what_its_lock_names(image: Image, tmp_path: Path) -> None:
    (packages,) = (image.root / "opt/bloomweaver/lib").glob("python3.*/site-packages")
    inside = f"/{packages.relative_to(image.root)}"
    log = tmp_path / "log"
    python = ["/opt/bloomweaver/bin/python"]
    with started(image, log, "-c", LISTED, inside, environment={}, entrypoint=python) as ran:
        assert ran.process.wait(60) == 0, ran.said()
    version, found = json.loads(log.read_text())
    role = image.name.removeprefix("bloomweaver-")
    wanted = locked(ROOT / f"docker/requirements-{role}.txt", python=version)
    assert _by_name(found) == _by_name(wanted) | {"bloomweaver": "0.1.0"}


def _by_name(versions: dict[str, str]) -> dict[str, str]:
    return {name.lower().replace("_", "-").replace(".", "-"): v for name, v in versions.items()}


def test_an_image_holds_no_compiler_no_cache_and_nothing_of_the_build(image: Image) -> None:
    gone = ["build", "opt/tools", "root/.cache", "run/secrets", "etc/pip.conf", "usr/bin/cc"]
    gone += ["usr/bin/gcc", "opt/bloomweaver/bin/pip"]
    assert [path for path in gone if (image.root / path).exists()] == []
    assert "pip.conf" not in json.dumps(image.manifest["Docker"]["config"])


def test_everything_of_the_product_can_be_read_and_nothing_written_by_its_user(
    image: Image,
) -> None:
    unreadable, writable = [], []
    for path in (image.root / "opt/bloomweaver").rglob("*"):
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode):
            continue
        needed = 0o5 if path.is_dir() else 0o4
        if found.st_mode & needed != needed:
            unreadable.append(str(path))
        if found.st_uid == 10001 or found.st_gid == 10001 or found.st_mode & 0o2:
            writable.append(str(path))
    assert (unreadable[:5], writable[:5]) == ([], [])


def test_bytecode_is_there_for_what_is_imported_at_the_start(image: Image) -> None:
    """Without it each start would compile anew: nothing can be kept on a read-only file system."""
    (packages,) = (image.root / "opt/bloomweaver/lib").glob("python3.*/site-packages")
    sources = list((packages / "common").rglob("*.py"))
    compiled = {path.name.split(".")[0] for path in (packages / "common").rglob("*.pyc")}
    assert sources
    assert {path.stem for path in sources} <= compiled


# --- the worker ----------------------------------------------------------------------------------


@pytest.fixture
def serving(images: dict[str, Image], tmp_path: Path) -> Iterator[tuple[Container, int]]:
    port = free_port()
    given = {"BLOOMWEAVER_SERVE_PORT": str(port)}
    command = ("worker", "serve", "--no-queue")
    with started(images["worker-cpu"], tmp_path / "log", *command, environment=given) as container:
        wait_until("the worker answers", lambda: _answers(container, port))
        yield container, port


def test_the_worker_embeds_without_root_and_without_writing(
    serving: tuple[Container, int],
) -> None:
    container, port = serving
    asked = {"model": "all-MiniLM-L6-v2-int8", "input": ["Deletes are kept."]}
    answer = _posted(f"http://127.0.0.1:{port}/v1/embeddings", asked)
    assert len(answer["data"][0]["embedding"]) == 384
    status = Path(f"/proc/{container.pid}/status").read_text()
    assert "\nUid:\t10001\t10001\t10001\t10001\n" in status
    for folder in ("/opt/bloomweaver", "/opt/bloomweaver/models", "/etc"):
        assert container.run("/usr/bin/touch", f"{folder}/x").returncode != 0
    # What the build prepared is used: nothing was assembled or made faster anew.
    assert "graph_fused" not in container.said()
    assert "not_fused" not in container.said()
    assert "not_prepared" not in container.said()


def test_the_worker_ends_on_sigterm(serving: tuple[Container, int]) -> None:
    container, _ = serving
    assert container.stop() == 0, container.said()


def test_nothing_outlives_what_is_started(images: dict[str, Image], tmp_path: Path) -> None:
    """Of these tests: what it starts has another user, and hears of no parent's death."""
    command = ("worker", "serve", "--no-queue")
    given = {"BLOOMWEAVER_SERVE_PORT": str(free_port())}
    with started(images["worker-cpu"], tmp_path / "log", *command, environment=given) as container:
        wait_until("it is started as its user", lambda: _user_of(container) == "10001")
        number = container.pid
    assert not Path(f"/proc/{number}").exists()


def _user_of(container: Container) -> str:
    try:
        status = Path(f"/proc/{container.pid}/status").read_text()
    except (OSError, ValueError):
        return ""
    return status.partition("\nUid:\t")[2].partition("\t")[0]


def test_the_health_check_follows_the_server(serving: tuple[Container, int]) -> None:
    container, _ = serving
    kind, *command = container.image.config["Healthcheck"]["Test"]
    assert kind == "CMD"
    healthy = container.run(*command)
    assert healthy.returncode == 0, healthy.stderr
    with_other_port = container.run("/usr/bin/env", "BLOOMWEAVER_SERVE_PORT=1", *command)
    assert with_other_port.returncode == 1
    assert "port 1 does not answer" in with_other_port.stderr


# --- all together --------------------------------------------------------------------------------


@pytest.fixture
def installation(tmp_path: Path) -> AwsInstallation:
    """Its settings alone: the processes are the images'."""
    pinecone = pinecone_server(lag_seconds=0.0)
    made = AwsInstallation(tmp_path, ministack().url, pinecone.url, {"auth": "off"})
    asyncio.run(provision(made.aws_url, made.product_settings))
    return made


def test_documents_pass_through_the_images_and_are_found(
    installation: AwsInstallation, images: dict[str, Image], tmp_path: Path
) -> None:
    """Accepted by a function, embedded by a worker, written and deleted by functions, found by a
    function with its own model. The mappings' part is played here: receive, call, delete."""
    mine = {"BLOOMWEAVER_DATA_DIR", "BLOOMWEAVER_MODEL_CACHE_DIR"}
    settings = {k: v for k, v in installation.product_settings.items() if k not in mine}
    given = {**settings, **aws_environment(installation.aws_url)}
    functions, worker = images["functions"], images["worker-cpu"]
    document = "/v1/namespaces/kb/documents/a.md"
    text = b"The otter keeps its favourite stone in a pocket of skin."
    with (
        function(
            functions, tmp_path / "webhook", "webhook.lambda_entry.handler", environment=given
        ) as webhook,
        function(
            functions, tmp_path / "create", "workers.lambda_entry.create", environment=given
        ) as create,
        function(
            functions, tmp_path / "delete", "workers.lambda_entry.delete", environment=given
        ) as delete,
        started(worker, tmp_path / "embed", "worker", "embed", environment=given) as embedding,
    ):
        headers = {"Content-Type": "text/markdown"}
        assert webhook.invoke(http_event("GET", "/healthz"))["statusCode"] == 200
        accepted = webhook.invoke(http_event("PUT", document, headers=headers, body=text))
        assert accepted["statusCode"] == 202, accepted
        batch = asyncio.run(_received(given, "create"))
        assert failed(create.invoke(batch)) == []
        assert _found(webhook.invoke(_search("where do otters keep stones"))) == ["a.md"]
        assert webhook.invoke(http_event("DELETE", document))["statusCode"] == 202
        assert failed(delete.invoke(asyncio.run(_received(given, "delete")))) == []
        assert _found(webhook.invoke(_search("where do otters keep stones"))) == []
        assert embedding.stop() == 0, embedding.said()


def _search(query: str) -> Event:
    body = json.dumps({"query": query, "top_k": 1}).encode()
    headers = {"Content-Type": "application/json"}
    return http_event("POST", "/v1/namespaces/kb/search", headers=headers, body=body)


def _found(answer: Event) -> list[str]:
    assert answer["statusCode"] == 200, answer
    return [hit["document_id"] for hit in json.loads(body_of(answer))["hits"]]


async def _received(environment: dict[str, str], kind: str) -> Event:
    """The next message of a queue, as its mapping hands it to a function."""
    queue = environment[f"BLOOMWEAVER_{kind.upper()}_QUEUE_NAME"]
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        clients = shared_clients()
        try:
            sqs = await clients.client("sqs")
            url = (await sqs.get_queue_url(QueueName=queue))["QueueUrl"]
            got: dict[str, Any] = {}
            for _ in range(6):
                got = await sqs.receive_message(
                    QueueUrl=url, WaitTimeSeconds=10, MaxNumberOfMessages=10,
                    MessageAttributeNames=["All"], AttributeNames=["All"],
                )  # fmt: skip
                if got.get("Messages"):
                    break
            assert got.get("Messages"), f"nothing came to {queue}"
            return sqs_event(*map(record_of, got["Messages"]))
        finally:
            await clients.release()


def _answers(container: Container, port: int) -> bool:
    assert container.process.poll() is None, container.said()
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).close()
    except (urllib.error.URLError, ConnectionError):
        return False
    return True


def _posted(url: str, body: object) -> Any:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)
