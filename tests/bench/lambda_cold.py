"""`python -m tests.bench.lambda_cold`: cold and warm latency of the functions, on this machine.

AWS is ministack and Pinecone the test server, both beside it: what is measured is the product's
part, a fresh interpreter to its first answer, and answers after. CPU seconds tell it without the
load of others. Lambda adds its own start of a sandbox, and the way to the services.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from tests.acceptance.aws_installation import AwsInstallation, pinecone_server
from tests.acceptance.service import wait_until
from tests.bench.lambda_child import NAMESPACE, received
from tests.bench.report import progress, spread
from tests.servers.aws import aws_environment, ministack
from tests.servers.provision import provision

COLD, WARM = 3, 5
FUNCTIONS = ("webhook", "create", "query", "sweep")
HEADER = (
    "| function | import s | its CPU s | cold: process to answer s | its CPU s | warm ms "
    "| its CPU ms | MB |"
)


def main() -> int:
    emulator, index = ministack(), pinecone_server(lag_seconds=0)
    with TemporaryDirectory() as folder:
        installation = AwsInstallation(
            Path(folder), aws_url=emulator.url, pinecone_url=index.url,
        )  # fmt: skip
        os.environ |= aws_environment(emulator.url) | installation.product_settings
        asyncio.run(provision(emulator.url, installation.product_settings))
        try:
            _embed(installation, COLD * (WARM + 1))
            profile = installation.run("profile").stdout.strip()
            rows = [_row(name, profile) for name in FUNCTIONS]
        finally:
            installation.close()
            index.stop()
    print("\n".join([HEADER, "|---|---|---|---|---|---|---|---|", *rows]))
    return 0


def _embed(installation: AwsInstallation, count: int) -> None:
    """So many documents wait in the create queue."""
    installation.start(roles=(("embed", "worker", "embed"),))
    changes = [
        {
            "change_type": "insert", "namespace": NAMESPACE, "document_id": f"d{n}.md",
            "content_type": "text/markdown", "content": f"# Number {n}\n\nIt says {n} times {n}.",
        }
        for n in range(count)
    ]  # fmt: skip
    request = urllib.request.Request(
        installation.url + "/v1/changes", data=json.dumps({"changes": changes}).encode(),
        headers={"Content-Type": "application/json"},
    )  # fmt: skip
    urllib.request.urlopen(request, timeout=120).close()
    wait_until("all is embedded", lambda: _waiting(installation) == count, 300)
    installation.stop()


def _waiting(installation: AwsInstallation) -> int:
    waiting: int = installation.get("/v1/stats")["queues"]["create"]["waiting"]
    return waiting


def _row(name: str, profile: str) -> str:
    runs = [_run(name, profile) for _ in range(COLD)]
    progress(f"{name}: cold {median(run['process'] for run in runs):.2f} s")
    warm = [1000 * seconds for run in runs for seconds in run["warm"]]
    columns = [
        spread([run["import"] for run in runs], 2),
        f"{median(run['import_cpu'] for run in runs):.2f}",
        spread([run["process"] for run in runs], 2),
        f"{median(run['cpu'] for run in runs):.2f}",
        spread(warm, 1),
        f"{1000 * median(run['warm_cpu'] for run in runs):.1f}",
        f"{max(run['mb'] for run in runs):.0f}",
    ]
    return f"| {name} | {' | '.join(columns)} |"


def _run(name: str, profile: str) -> dict[str, Any]:
    """`process`: from the start of a fresh interpreter to the first answer, in seconds."""
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "BLOOMWEAVER_AUTH": "off"}
    if name != "query":
        environment["BLOOMWEAVER_EMBEDDER_URL"] = profile
    queue = os.environ["BLOOMWEAVER_CREATE_QUEUE_NAME"]
    given = asyncio.run(received(queue, WARM + 1)) if name == "create" else []
    began = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.bench.lambda_child", name, str(WARM)],
        env=environment, input=json.dumps(given), capture_output=True, text=True, check=False,
    )  # fmt: skip
    took = time.perf_counter() - began
    if ended.returncode:
        raise SystemExit(f"{name}: {ended.stderr[-3000:]}")
    measured: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return {**measured, "process": took - sum(measured["warm"])}


if __name__ == "__main__":
    raise SystemExit(main())
