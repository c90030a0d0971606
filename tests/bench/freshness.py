"""Freshness: from POST to found by a search, with a warm worker and from none at all."""

from __future__ import annotations

import http.client
import json
import time
from statistics import median
from typing import Any

from tests.bench.corpus import passages
from tests.bench.report import Line, Options, at_most, percentile, progress, spread
from tests.bench.service import service

TOKENS = 200
WARM, COLD = 100, 5
UNMEASURED = 5
WARM_P50_MS, WARM_P99_MS, COLD_SECONDS = 150.0, 500.0, 3.0
BETWEEN_SECONDS = 0.05
PATIENCE_SECONDS = 30.0
QUERY_CHARACTERS = 60


class RefusedError(RuntimeError):
    """An answer that is an error; `status` is its code."""

    def __init__(self, line: str, status: int) -> None:
        super().__init__(line)
        self.status = status


class Client:
    """One connection that is kept. Raises RefusedError."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def post(self, path: str, body: object) -> Any:
        headers = {"Content-Type": "application/json"}
        self._connection.request("POST", path, json.dumps(body), headers)
        response = self._connection.getresponse()
        value = json.loads(response.read())
        if response.status >= 300:
            raise RefusedError(f"{path} answered {response.status}: {value}", response.status)
        return value


def measure(options: Options) -> list[Line]:
    """A search that waits for the accepted version (`min_version`): one request, one answer."""
    del options  # the numbers of documents are part of the targets
    texts = passages(WARM + UNMEASURED + COLD, TOKENS - 2)
    return [*_warm(texts[: WARM + UNMEASURED]), *_cold(texts[-COLD:])]


def _warm(texts: list[str]) -> list[Line]:
    accepted, found = [], []
    with service(workers_min=1, workers_max=1) as product:
        product.warm_workers(1)
        client = Client(product.port)
        for number, text in enumerate(texts):
            times = _until_found(client, f"document-{number}", text)
            time.sleep(BETWEEN_SECONDS)
            if number >= UNMEASURED:
                accepted.append(times[0] * 1000)
                found.append(times[1] * 1000)
        applied = product.freshness_ms()[UNMEASURED:]
    p50, p99 = median(found), percentile(found, 0.99)
    progress(f"freshness: warm p50 {p50:.0f} ms, p99 {p99:.0f} ms")
    return [
        at_most(f"freshness: warm, p50 of {WARM}", p50, WARM_P50_MS, f"{p50:.0f} ms", " ms"),
        at_most(f"freshness: warm, p99 of {WARM}", p99, WARM_P99_MS, f"{p99:.0f} ms", " ms"),
        Line("freshness: of it until accepted, p50", f"{median(accepted):.0f} ms"),
        Line("freshness: of it until applied, p50", f"{median(applied):.0f} ms"),
    ]


def _cold(texts: list[str]) -> list[Line]:
    found = []
    with service(worker_idle_seconds=0, workers_max=1) as product:
        client = Client(product.port)
        for number, text in enumerate(texts):
            product.without_workers()
            found.append(_until_found(client, f"document-{number}", text)[1])
            progress(f"freshness: cold {found[-1]:.2f} s")
    result = spread(found, 2, " s")
    return [
        at_most(f"freshness: cold, median of {COLD}", median(found), COLD_SECONDS, result, " s")
    ]


def _until_found(client: Client, document_id: str, text: str) -> tuple[float, float]:
    """Seconds from the POST until it was accepted, and until a search answered with it."""
    change = {"change_type": "insert", "document_id": document_id, "content": text}
    began = time.perf_counter()
    version = client.post("/v1/changes", change)["version"]
    accepted = time.perf_counter() - began
    query = {
        "query": text[:QUERY_CHARACTERS],
        "min_version": {document_id: version},
        "wait": PATIENCE_SECONDS,
    }
    while time.perf_counter() - began < PATIENCE_SECONDS:
        hits = client.post("/v1/namespaces/default/search", query)["hits"]
        if any(hit["document_id"] == document_id for hit in hits):
            return accepted, time.perf_counter() - began
        query["query"] = text  # a query too general to find it among the others
    raise RuntimeError(f"no search found {document_id}")
