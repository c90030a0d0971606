"""Starts what an image says, as an engine would start it with --read-only and without privileges.

Namespaces of its own for mounts and processes, the image's root file system mounted read-only, its
volumes and /tmp as empty file systems, the image's user, entry point and environment. The network
is the machine's, nothing limits memory, and the kernel's capabilities are dropped with root.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any, ClassVar
from uuid import uuid4

from tests.deploy.buildah import Image
from tests.lambda_events import Event

PATIENCE_SECONDS = 60.0
_PATH = "/2018-06-01/runtime/"


@dataclass
class Container:
    image: Image
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """Of the process that is number 1 inside."""
        own = self.process.pid
        (child,) = Path(f"/proc/{own}/task/{own}/children").read_text().split()
        return int(child)

    def said(self) -> str:
        return self.log.read_text()[-3000:]

    def stop(self) -> int:
        """Its exit code after SIGTERM."""
        os.kill(self.pid, signal.SIGTERM)
        return self.process.wait(PATIENCE_SECONDS)

    def kill(self) -> None:
        """Number 1 inside, which has the others go with it. The death of what started it tells it
        nothing: the kernel forgets that wish when a process takes another user."""
        try:
            os.kill(self.pid, signal.SIGKILL)
        except (OSError, ValueError):  # it ended, or was never there
            self.process.kill()
        self.process.wait(PATIENCE_SECONDS)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Beside it, as `docker exec` and health checks do."""
        user, group = self.image.config["User"].split(":")
        entered = ["nsenter", "--target", str(self.pid), "--mount", "--pid", "--root", "--wd"]
        return subprocess.run(
            [*entered, "--setuid", user, "--setgid", group, *command],
            env=self._environment(), capture_output=True, text=True, check=False,
            timeout=PATIENCE_SECONDS,
        )  # fmt: skip

    def _environment(self) -> dict[str, str]:
        content = Path(f"/proc/{self.pid}/environ").read_text()
        return dict(entry.split("=", 1) for entry in content.split("\0") if entry)


@contextmanager
def started(
    image: Image,
    log: Path,
    *command: str,
    environment: Mapping[str, str],
    entrypoint: Sequence[str] | None = None,
) -> Iterator[Container]:
    """`command`: in place of the image's own."""
    first = list(entrypoint or image.config["Entrypoint"])
    program = [*first, *(command or image.config["Cmd"] or [])]
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork",
             "/bin/sh", "-ec", _mounting(image), "sh", *program],
            env={**image.environment, **environment},
            cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    container = Container(image, process, log)
    try:
        yield container
    finally:
        container.kill()


def _mounting(image: Image) -> str:
    root = shlex.quote(str(image.root))
    lines = [
        f"mount --bind {root} {root}",
        f"mount -t proc proc {root}/proc",
        f"mount --rbind /dev {root}/dev",
        f"mount -t tmpfs -o mode=1777 tmpfs {root}/tmp",
    ]
    for volume in image.config.get("Volumes") or {}:
        # As an engine does: it belongs to whom the folder in the image belongs to.
        owner = (image.root / volume.lstrip("/")).stat()
        options = f"uid={owner.st_uid},gid={owner.st_gid},mode={owner.st_mode & 0o777:o}"
        lines.append(f"mount -t tmpfs -o {options} tmpfs {root}{shlex.quote(volume)}")
    lines.append(f"mount -o remount,bind,ro {root}")
    user = image.config["User"]
    lines.append(f'exec chroot --userspec={user} --groups= {root} "$@"')
    return "\n".join(lines)


class RuntimeApi:
    """AWS Lambda's runtime interface, as documented: the function asks for the next event."""

    def __init__(self) -> None:
        self.waiting: Queue[tuple[str, Event] | None] = Queue()
        self.answers: dict[str, Queue[tuple[str, Any]]] = {}
        handler = type("Handler", (_RuntimeHandler,), {"api": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def invoke(self, event: Event) -> Any:
        """What the function returned; AssertionError with what it raised."""
        request_id = str(uuid4())
        answer = self.answers[request_id] = Queue()
        self.waiting.put((request_id, event))
        kind, value = answer.get(timeout=PATIENCE_SECONDS)
        assert kind == "response", value
        return value

    def close(self) -> None:
        self.waiting.put(None)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _RuntimeHandler(BaseHTTPRequestHandler):
    api: ClassVar[RuntimeApi]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        assert self.path == f"{_PATH}invocation/next", self.path
        handed = self.api.waiting.get()
        if handed is None:
            self.close_connection = True
            return
        request_id, event = handed
        headers = {
            "Lambda-Runtime-Aws-Request-Id": request_id,
            "Lambda-Runtime-Deadline-Ms": str(2**42),  # the year 2109
            # The client ends with a segmentation fault without them; AWS always sends them.
            "Content-Type": "application/json",
            "Lambda-Runtime-Trace-Id": "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Sampled=0",
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:eu-central-1:1:function:f",
        }
        self._answer(200, json.dumps(event).encode(), headers)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"null")
        *_, request_id, kind = self.path.removeprefix(_PATH).split("/")
        if request_id in self.api.answers:
            self.api.answers[request_id].put((kind, body))
        else:  # it could not even begin: whoever waits learns why
            for answer in self.api.answers.values():
                answer.put(("init error", body))
        self._answer(202, b"{}", {})

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: pytest's output is the tests'."""


@contextmanager
def function(
    image: Image, log: Path, handler: str, *, environment: Mapping[str, str]
) -> Iterator[RuntimeApi]:
    """One sandbox of AWS Lambda."""
    api = RuntimeApi()
    lambda_environment = {
        "AWS_LAMBDA_RUNTIME_API": api.address,
        "AWS_LAMBDA_FUNCTION_NAME": "bloomweaver",
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1024",
        "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/bloomweaver",
        "AWS_LAMBDA_LOG_STREAM_NAME": "stream",
    }
    try:
        with started(image, log, handler, environment={**environment, **lambda_environment}):
            yield api
    finally:
        api.close()
