"""What an instance runs to sign in to ECR and pull its image: bash and curl, no AWS CLI."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.deploy.terraform import SOURCE

pytestmark = pytest.mark.deploy

SCRIPT = SOURCE / "modules/workers/templates/pull-image.sh"
HOST = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
IMAGE = f"{HOST}/bloomweaver-test/worker-cpu@sha256:{'0' * 64}"
KEY, SECRET, SESSION = "AKIDEXAMPLE", "secret/with+signs", "session/token+=="
PASSWORD = "the registry's password"


@dataclass
class Endpoints:
    """The instance's metadata and ECR's API; `asked` is what came to ECR."""

    status: int = 200
    asked: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    address: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> tuple[int, str]:
        match request.command, request.path:
            case "PUT", "/latest/api/token":
                return 200, "metadata-token"
            case "GET", path if request.headers["X-aws-ec2-metadata-token"] == "metadata-token":
                roles = "/latest/meta-data/iam/security-credentials/"
                keys = {"AccessKeyId": KEY, "SecretAccessKey": SECRET, "Token": SESSION}
                return 200, {roles: "worker", f"{roles}worker": json.dumps(keys, indent=2)}[path]
            case "POST", "/":
                length = int(request.headers["Content-Length"])
                headers = {name.lower(): value for name, value in request.headers.items()}
                self.asked.append((headers, request.rfile.read(length)))
                token = base64.b64encode(f"AWS:{PASSWORD}".encode()).decode()
                told = {"authorizationData": [{"authorizationToken": token, "expiresAt": 1.0}]}
                return self.status, json.dumps(told)
        return 401, ""


@pytest.fixture
def endpoints() -> Iterator[Endpoints]:
    served = Endpoints()

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            status, text = served.answer(self)
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_PUT = do_POST = _handle  # noqa: N815 - the names that http.server looks for

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            """Not to the test's output."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served.address = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield served
        server.shutdown()
        thread.join()


def _pull(image: str, endpoints: Endpoints, folder: Path) -> tuple[int, list[str]]:
    """The exit code, and each call of Docker with what it was given on standard input."""
    for program in ("bash", "curl"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not on this machine: the sign-in to ECR was not checked")
    calls, docker = folder / "calls", folder / "docker"
    docker.write_text(
        f'#!/bin/bash\necho "$*" >> {calls}\n[[ $1 != login ]] || echo "$(cat)" >> {calls}\n'
    )
    docker.chmod(0o755)
    environment = {
        "PATH": f"{folder}:/usr/bin:/bin",
        "BLOOMWEAVER_METADATA": endpoints.address,
        "BLOOMWEAVER_ECR": endpoints.address,
    }
    done = subprocess.run(
        ["bash", SCRIPT, image], env=environment, capture_output=True, timeout=60, check=False
    )
    assert SECRET.encode() not in done.stdout + done.stderr
    return done.returncode, calls.read_text().splitlines() if calls.exists() else []


def _signature(headers: dict[str, str], body: bytes, url: str) -> tuple[str, str]:
    """The one that was given, and the one that AWS would want of the headers that it names."""
    parts = dict(
        part.strip().split("=", 1)
        for part in headers["authorization"].removeprefix("AWS4-HMAC-SHA256 ").split(",")
    )
    signed = {name: headers[name] for name in parts["SignedHeaders"].split(";")}
    request = AWSRequest("POST", url, headers=signed, data=body)
    request.context["timestamp"] = headers["x-amz-date"]
    auth = SigV4Auth(Credentials(KEY, SECRET, SESSION), "ecr", "eu-west-1")
    canonical = auth.canonical_request(request)
    return parts["Signature"], auth.signature(auth.string_to_sign(request, canonical), request)


def test_it_signs_in_and_pulls(endpoints: Endpoints, tmp_path: Path) -> None:
    code, calls = _pull(IMAGE, endpoints, tmp_path)
    assert code == 0
    assert calls == [f"login --username AWS --password-stdin {HOST}", PASSWORD, f"pull {IMAGE}"]
    [(headers, body)] = endpoints.asked
    assert headers["x-amz-target"].endswith(".GetAuthorizationToken")
    given, wanted = _signature(headers, body, endpoints.address + "/")
    assert given == wanted
    credential = headers["authorization"]
    assert f"Credential={KEY}/" in credential
    assert "/eu-west-1/ecr/aws4_request" in credential
    assert headers["x-amz-security-token"] == SESSION
    assert "x-amz-security-token" in credential


def test_without_permission_it_pulls_nothing(endpoints: Endpoints, tmp_path: Path) -> None:
    endpoints.status = 400
    code, calls = _pull(IMAGE, endpoints, tmp_path)
    assert code != 0
    assert calls == []


def test_other_registries_are_not_signed_in_to(endpoints: Endpoints, tmp_path: Path) -> None:
    code, calls = _pull("registry.example.org/worker:1", endpoints, tmp_path)
    assert (code, calls) == (0, ["pull registry.example.org/worker:1"])
    assert endpoints.asked == []
