"""BloomWeaver under the same load: `bloomweaver up` over HTTP, as a user runs it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from common.settings import Settings
from tests.acceptance.truth import assert_true_to
from tests.bench.peers.feed import content_type
from tests.bench.peers.job import Edit, Job, Phase, last_revision
from tests.bench.report import progress
from tests.bench.service import MeasuredService, service

WAIT_SECONDS = 120.0
SETTLE_SECONDS = 0.1
SPECIAL_TOKENS = 2
"""In front of and behind each text; they are counted nowhere here."""


@dataclass(slots=True)
class ProductRun:
    """`failure` is empty when the index ended up true. Memory in MB, the worst worker's."""

    phases: dict[str, Phase] = field(default_factory=dict)
    failure: str = ""
    worker_megabytes: float = 0.0
    service_megabytes: float = 0.0


@dataclass(slots=True)
class _Client:
    """One connection that is kept."""

    connection: http.client.HTTPConnection

    def ask(self, method: str, path: str, body: bytes = b"", kind: str = "") -> bytes:
        self.connection.request(method, path, body or None, {"Content-Type": kind} if kind else {})
        response = self.connection.getresponse()
        answer = response.read()
        if response.status >= 300:
            raise RuntimeError(f"{method} {path} answered {response.status}: {answer[:300]!r}")
        return answer


def int8_graph(folder: Path) -> Path:
    """A model folder in `folder`, as `bloomweaver optimize` makes it for anyone (half a minute)."""
    target = folder / "int8-graph"
    words = ["optimize", "--out", str(target), "--data-dir", str(folder / "int8-data"), "--json"]
    command = [sys.executable, "-m", "common.cli.main", *words]
    made = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    progress(f"peers: {json.loads(made.stdout)['agreement']}")
    return target


def run_product(job: Job, *, one_by_one: bool, model: Path | None = None) -> ProductRun:
    """`one_by_one`: each edit is posted once the one before it is visible. Otherwise all are
    posted as fast as they are accepted, and later edits of a document overtake earlier ones.
    `model`: a model folder; None: the packaged one."""
    workers = Settings().workers_max
    run = ProductRun()
    settings = {"embedder_url": f"fastembed:{model}"} if model else {}
    with service(workers_min=workers, workers_max=workers, **settings) as product:
        product.warm_workers(workers)
        client = _Client(http.client.HTTPConnection("127.0.0.1", product.port, timeout=600))
        with _phase("bulk", product, run):
            _post(client, [Edit(*document) for document in job.documents])
            _wait_quiet(product)
        if job.edits:
            with _phase("replay", product, run):
                if one_by_one:
                    for edit in job.edits:
                        _post_and_wait(client, edit)
                else:
                    _post(client, job.edits)
                _wait_quiet(product)
        for name, size in product.peak_megabytes():
            if name == "service":
                run.service_megabytes = size
            else:
                run.worker_megabytes = max(run.worker_megabytes, size)
        product.stop()
        _compare(product, last_revision(job), run)
    return run


def _compare(product: MeasuredService, alive: dict[str, str], run: ProductRun) -> None:
    """Texts, ids, manifests and what scrub says; the first thing that is wrong is the failure."""
    name = list(run.phases)[-1]
    try:
        held = asyncio.run(assert_true_to(alive, product.data_dir))
    except AssertionError as error:
        run.failure = f"not true at the end: {str(error)[:300]}"
    else:
        run.phases[name] = replace(run.phases[name], held=held, stale=0, missing=0)


@contextlib.contextmanager
def _phase(name: str, product: MeasuredService, run: ProductRun) -> Iterator[None]:
    before = _totals(product)
    began = time.perf_counter()
    yield
    seconds = time.perf_counter() - began
    after = _totals(product)
    used = {key: int(after[key] - before.get(key, 0.0)) for key in after}
    chunks, tokens = used["chunks_embedded"], used["embedded_tokens"]
    run.phases[name] = Phase(
        name=name,
        seconds=seconds,
        chunks=chunks,
        tokens=tokens - SPECIAL_TOKENS * chunks,
        records=used.get("records_written", 0),
        held=None,
        stale=None,
        missing=None,
        peak_megabytes=sum(size for _, size in product.peak_megabytes()),
    )


def _totals(product: MeasuredService) -> dict[str, float]:
    totals: dict[str, float] = product.get("/v1/stats")["totals"]
    return totals


def _post(client: _Client, edits: list[Edit]) -> None:
    lines = "\n".join(json.dumps(_change(edit)) for edit in edits).encode()
    answer = client.ask("POST", "/v1/changes", lines, "application/x-ndjson")
    results = [json.loads(line) for line in answer.splitlines()]
    refused = [result for result in results if "error" in result]
    if refused or len(results) != len(edits):
        raise RuntimeError(f"{len(results)} of {len(edits)} answered, refused: {refused[:1]}")


def _post_and_wait(client: _Client, edit: Edit) -> None:
    body = json.dumps(_change(edit)).encode()
    accepted = json.loads(client.ask("POST", "/v1/changes", body, "application/json"))
    if accepted["outcome"] != "accepted":
        return
    path = f"/v1/namespaces/default/documents/{quote(edit.document_id)}"
    wait = f"?min_version={accepted['version']}&wait={WAIT_SECONDS:g}"
    shown = json.loads(client.ask("GET", path + wait))
    if shown["status"] == "FAILED":
        raise RuntimeError(f"{edit.document_id} failed: {shown['error']}")


def _change(edit: Edit) -> dict[str, Any]:
    if edit.content is None:
        return {"change_type": "delete", "document_id": edit.document_id}
    return {
        "change_type": "insert",
        "document_id": edit.document_id,
        "content": edit.content,
        "content_type": content_type(edit.document_id),
    }


def _wait_quiet(product: MeasuredService) -> None:
    """Until every document shows what was sent last, and nothing is queued. It looks often only
    towards the end: a look takes some 4 ms of CPU time, which the embedding needs."""
    began = time.monotonic()
    while True:
        stats = product.get("/v1/stats")
        statuses = [
            status for ns in stats["namespaces"] for status, n in ns["documents"].items() if n
        ]
        if "FAILED" in statuses:
            raise RuntimeError(f"documents failed: {stats['namespaces']}")
        queues = stats["queues"].values()
        waiting = sum(q["waiting"] + q["in_flight"] + q["delayed"] for q in queues)
        if statuses and not waiting and not {"PENDING", "PROCESSING"} & set(statuses):
            return
        time.sleep(_pause(stats, time.monotonic() - began))


def _pause(stats: dict[str, Any], passed: float) -> float:
    """A quarter of the time that the rest should take."""
    counts = [ns["documents"] for ns in stats["namespaces"]]
    done = sum(each.get("COMPLETED", 0) for each in counts)
    rest = sum(each.get(status, 0) for each in counts for status in ("PENDING", "PROCESSING"))
    expected = passed * rest / done if done else 1.0
    return min(max(expected / 4, SETTLE_SECONDS), 1.0)
