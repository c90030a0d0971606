"""What `terraform apply` makes of an empty account works: a document that is posted to the API's
address is searchable after a while, by functions and queues that nobody but Terraform made.

The emulator runs the functions and the mappings; the embedding worker, which on AWS is an
instance's, is a process of this machine with the settings that Terraform tells of.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.aws_installation import API_KEY, pinecone_server
from tests.acceptance.service import MODELS, PATIENCE_SECONDS, wait_until
from tests.deploy.cloud import Cloud
from tests.deploy.function_zip import function_zip
from tests.servers.aws import fresh_ministack
from tests.servers.process import ServerProcess

pytestmark = pytest.mark.deploy

NAMESPACE = "handbook"
LONG_SECONDS = 240.0
SEARCHING = {
    "BLOOMWEAVER_EMBEDDER_URL": "fastembed:all-MiniLM-L6-v2-int8",
    "BLOOMWEAVER_MODEL_CACHE_DIR": str(MODELS),
}
"""The model is among this Python's packages, as it is in the functions' image."""


@dataclass
class Deployed:
    cloud: Cloud
    index: ServerProcess
    folder: Path
    first_outputs: dict[str, Any]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    key: str = ""

    @property
    def api_url(self) -> str:
        """The emulator's for API Gateway's own."""
        api_id = self.cloud.outputs["api_url"].partition("://")[2].partition(".")[0]
        return f"{self.cloud.endpoint_url}/_aws/execute-api/{api_id}/$default"

    def product(self, settings: str, **more: object) -> dict[str, str]:
        """An environment for the product on this machine; `settings`: the output to take."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("BLOOMWEAVER_", "AWS_"))}
        own = {
            "BLOOMWEAVER_DATA_DIR": str(self.folder / "data"),
            "BLOOMWEAVER_MODEL_CACHE_DIR": str(MODELS),
        }
        given = {name: str(value) for name, value in more.items()}
        return {**kept, **self.cloud.environment, **self.cloud.outputs[settings], **own, **given}

    def run(self, *arguments: str) -> str:
        """As an operator does on a machine of their own."""
        given = {
            "BLOOMWEAVER_SECRET_IDS": self.cloud.outputs["secret_arns"]["pinecone"],
            "BLOOMWEAVER_URL": self.api_url,
            "BLOOMWEAVER_API_KEY": self.key,
        }
        done = subprocess.run(
            _command(*arguments),
            env=self.product("settings", **{name: value for name, value in given.items() if value}),
            text=True,
            capture_output=True,
            check=False,
            timeout=LONG_SECONDS,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def launch(self, *arguments: str, **settings: object) -> None:
        with (self.folder / f"{arguments[-1]}.log").open("ab") as log:
            environment = self.product("worker_settings", **settings)
            started = subprocess.Popen(
                _command(*arguments),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.processes.append(started)

    def request(
        self, method: str, path: str, body: object = None, *, key: str | None = None
    ) -> tuple[int, Any]:
        """Status and JSON of the answer."""
        headers = {"Content-Type": "application/json"}
        if used := self.key if key is None else key:
            headers["Authorization"] = f"Bearer {used}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.api_url + path, data, headers)
        request.method = method
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read() or b"null")

    def change(self, **change: object) -> None:
        status, answer = self.request(
            "POST", "/v1/changes", {"namespace": NAMESPACE, "change_type": "insert", **change}
        )
        assert status == 202, (status, answer)

    def found(self, query: str) -> dict[str, str]:
        """Text of the best hits, by document."""
        status, answer = self.request(
            "POST",
            f"/v1/namespaces/{NAMESPACE}/search",
            {"query": query, "top_k": 3},
        )
        if status != 200:
            return {}
        return {hit["document_id"]: hit["text"] for hit in answer["hits"]}

    def wait_for(self, what: str, query: str, document_id: str, text: str | None) -> None:
        """`text`: part of what is found of the document; None: it is found no more."""

        def holds() -> bool:
            hit = self.found(query).get(document_id)
            return hit is None if text is None else hit is not None and text in hit

        try:
            wait_until(what, holds, LONG_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.tail()}") from None

    def records(self) -> int:
        """In the index, of whatever document."""
        with urllib.request.urlopen(self.index.url + "/_test/records", timeout=10) as answer:
            return sum(map(len, json.loads(answer.read()).values()))

    def invoke(self, role: str, event: object) -> Any:
        name = self.cloud.outputs["functions"][role]
        answer = self.cloud.client("lambda").invoke(
            FunctionName=name, Payload=json.dumps(event).encode()
        )
        told = json.loads(answer["Payload"].read())
        assert "FunctionError" not in answer, told
        return told

    def tail(self) -> str:
        logs = [*sorted(self.folder.glob("*.log")), Path(self.cloud_log)]
        return "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in logs)

    cloud_log: str = ""

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(PATIENCE_SECONDS)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", "common.cli.main", *arguments]


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """As docs/deploy.md has it: apply, the secrets' values, what is to run, apply, a key."""
    folder = tmp_path_factory.mktemp("deployed")
    emulator, index = fresh_ministack(), pinecone_server(lag_seconds=0)
    cloud = Cloud(
        emulator.url,
        "envs/dev",
        {"index_url": f"pinecone:{index.url}", "webhook_settings": SEARCHING},
    )
    try:
        cloud.apply()
        first = cloud.outputs
        put_secrets(cloud)
        cloud.apply(functions_zip=str(function_zip(folder / "functions.zip")))
        here = Deployed(cloud, index, folder, first, cloud_log=str(emulator.log))
        here.key = here.run("keys", "create", "--name", "tests", "--role", "admin")
        here.launch("worker", "embed")
        yield here
        here.stop()
    finally:
        emulator.stop()
        index.stop()
        shutil.rmtree(emulator.folder, ignore_errors=True)


def put_secrets(cloud: Cloud) -> None:
    values = {"pinecone": {"BLOOMWEAVER_PINECONE_API_KEY": API_KEY}, "webhook": {}, "operator": {}}
    for name, arn in cloud.outputs["secret_arns"].items():
        cloud.client("secretsmanager").put_secret_value(
            SecretId=arn, SecretString=json.dumps(values[name])
        )


def test_the_first_apply_makes_what_images_and_secrets_go_into(deployed: Deployed) -> None:
    first = deployed.first_outputs
    assert "api_url" not in first
    assert first["functions"] == {}
    assert set(first["repository_urls"]) >= {"functions", "worker-cpu"}
    assert set(first["secret_arns"]) == {"pinecone", "webhook", "operator"}


def test_the_doctor_finds_everything_well(deployed: Deployed) -> None:
    """The webhook, too, though nobody called it before: it answers once its model is loaded."""
    found = deployed.run("doctor").splitlines()
    assert [line for line in found if not line.startswith("✓")] == []
    told = "\n".join(found)
    for name in ("secrets", "queue", "registry", "blobs", "index", "landing", "webhook"):
        assert f"✓ {name}: " in told


def test_a_caller_without_a_key_is_refused(deployed: Deployed) -> None:
    change = {"change_type": "insert", "document_id": "no.md", "content": "No."}
    status, _ = deployed.request("POST", "/v1/changes", change, key="")
    assert status == 401


def test_a_document_becomes_searchable_is_replaced_and_deleted(deployed: Deployed) -> None:
    deployed.change(document_id="pump.md", content="# Pump\n\nPrime the pump with a litre of oil.")
    deployed.change(document_id="door.md", content="# Door\n\nThe door opens to the north.")
    how = "how do I prime the pump?"
    deployed.wait_for("the pump is found", how, "pump.md", "a litre of oil")
    deployed.wait_for("the door is found", "where does the door open?", "door.md", "north")
    deployed.change(document_id="pump.md", content="# Pump\n\nPrime the pump with clean water.")
    deployed.wait_for("the pump is replaced", how, "pump.md", "clean water")
    status, answer = deployed.request("DELETE", f"/v1/namespaces/{NAMESPACE}/documents/pump.md")
    assert status == 202, answer
    deployed.wait_for("the pump is gone", how, "pump.md", None)
    wait_until("only the door is left in the index", lambda: deployed.records() == 1, LONG_SECONDS)


def test_a_file_in_the_landing_zone_is_indexed(deployed: Deployed) -> None:
    s3, bucket = deployed.cloud.client("s3"), deployed.cloud.outputs["landing_bucket"]
    text = b"# Boiler\n\nThe boiler is bled every spring."
    s3.put_object(Bucket=bucket, Key=f"incoming/{NAMESPACE}/boiler.md", Body=text)
    deployed.wait_for("the boiler is found", "when is the boiler bled?", "boiler.md", "spring")
    kept = [one["Key"] for one in s3.list_objects_v2(Bucket=bucket).get("Contents", ())]
    assert kept == [f"processed/{NAMESPACE}/boiler.md"]


def test_the_canary_passes_through_everything(deployed: Deployed) -> None:
    told = deployed.run("canary", "--namespace", "canary", "--timeout-seconds", "200")
    assert "the canary is well" in told


def test_an_operator_may_scrub_and_repair(deployed: Deployed) -> None:
    assert "nothing is wrong" in deployed.run("scrub", "--repair")


def test_sweep_and_scrub_find_nothing(deployed: Deployed) -> None:
    assert not deployed.invoke("sweep", {})["cut_short"]
    assert deployed.invoke("sweep", {"blobs": True}) == {"blobs": 0, "cut_short": False}
    report = deployed.invoke("scrub", {})
    assert (report["documents"] > 0, report["findings"]) == (True, 0), report


def test_nothing_ended_in_a_dead_letter_queue(deployed: Deployed) -> None:
    sqs, queues = deployed.cloud.client("sqs"), deployed.cloud.outputs["queues"]["queues"]
    for name in ("dead_letter", "intake_dead_letter"):
        got = sqs.get_queue_attributes(QueueUrl=queues[name]["url"], AttributeNames=["All"])
        assert got["Attributes"]["ApproximateNumberOfMessages"] == "0", name


def test_destroy_leaves_nothing(deployed: Deployed) -> None:
    made = deployed.cloud.leftovers()
    kinds = {kind for kind in made if made[kind] != deployed.cloud.before[kind]}
    deployed.stop()
    deployed.cloud.destroy()
    assert deployed.cloud.leftovers() == deployed.cloud.before
    assert kinds >= {"queues", "tables", "buckets", "functions", "apis", "roles", "log groups"}
