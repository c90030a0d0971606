"""Fairness: how long a small tenant's edit takes while another tenant imports many documents.

Four services in turn, each with one warm worker: without an import, with one, with one of a few
large documents that hold all places of the worker, and with one in the order of releases before
namespaces took turns. That order is made from outside: a trigger in the
queue's file puts every message into one line, which is what the queue was then.
"""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from statistics import median

from tests.bench.corpus import passages
from tests.bench.freshness import Client, RefusedError
from tests.bench.report import Line, Options, at_most, percentile, progress, spread
from tests.bench.service import MeasuredService, service

IMPORTED = 3000
EDITS = 50
DOCUMENTS = 5
"""Of the small tenant; each is edited again and again."""
UNMEASURED = DOCUMENTS
TOKENS = 100
BEHIND = 300
"""The import is under way when so many of its documents wait, and for as long as so many do."""
MORE_SECONDS = 3.0
"""What an import may add to the slowest edits."""
PATIENCE_SECONDS = 900.0
QUERY_CHARACTERS = 60
QUIET, FAIR, ONE_LINE = "without an import", "with an import", "with an import, oldest first"
LARGE = "beside large documents"
LARGE_DOCUMENTS, LARGE_SENTENCES = 8, 10_000
EDITS_BESIDE_LARGE = 15

_ALL_IN_ONE_LINE = """
    CREATE TRIGGER all_in_one_line AFTER INSERT ON messages BEGIN
        UPDATE messages SET namespace = '-' WHERE id = new.id;
        INSERT INTO lines (queue, namespace, turn, next_at) VALUES (new.queue, '-', 1, 0)
            ON CONFLICT DO UPDATE SET turn = 1, next_at = 0;
    END;
"""


@dataclass(frozen=True, slots=True)
class Edit:
    """Seconds from the POST."""

    accepted: float
    found: float
    """By a search."""


@dataclass(slots=True)
class Rounds:
    edits: list[list[Edit]] = field(default_factory=list)

    def found(self, share: float) -> list[float]:
        return [percentile([edit.found for edit in edits], share) for edits in self.edits]

    def accepted(self, share: float) -> list[float]:
        return [percentile([edit.accepted for edit in edits], share) for edits in self.edits]


def measure(options: Options) -> list[Line]:
    texts = passages(EDITS + UNMEASURED, TOKENS)
    rounds = {how: Rounds() for how in (QUIET, FAIR, LARGE, ONE_LINE)}
    for number in range(options.repeat):
        for how, measured in rounds.items():
            measured.edits.append(_round(how, texts))
            p50, p99 = measured.found(0.5)[-1], measured.found(0.99)[-1]
            count = len(measured.edits[-1])
            told = f"{count} edits, p50 {p50:.2f} s, p99 {p99:.2f} s"
            progress(f"fairness: round {number + 1}, {how}: {told}")
    return _lines(rounds)


def _lines(rounds: dict[str, Rounds]) -> list[Line]:
    lines = []
    for how, measured in rounds.items():
        edits = sum(map(len, measured.edits))
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            result = spread(measured.found(share), 2, " s")
            lines.append(Line(f"fairness: {how}, {name} of {edits} edits", result))
        accepted = spread(measured.accepted(0.99), 2, " s")
        lines.append(Line(f"fairness: {how}, until accepted, p99", accepted))
    quiet, fair = rounds[QUIET].found(0.99), rounds[FAIR].found(0.99)
    for name, beside in (
        ("an import adds", fair),
        ("large documents add", rounds[LARGE].found(0.99)),
    ):
        more = [one - without for one, without in zip(beside, quiet, strict=True)]
        text = spread(more, 2, " s")
        lines.append(
            at_most(f"fairness: what {name} to p99", median(more), MORE_SECONDS, text, " s")
        )
    return lines


def _round(how: str, texts: list[str]) -> list[Edit]:
    with service(workers_min=1, workers_max=1) as product:
        product.warm_workers(1)
        client = Client(product.port)
        for number, text in enumerate(texts[:UNMEASURED]):
            _edit(client, number, text)
        if how == ONE_LINE:
            _put_all_in_one_line(product)
        if how == LARGE:
            _post_large_documents(product, client)
            return [*_edits(product, client, texts[UNMEASURED:][:EDITS_BESIDE_LARGE], how)]
        with contextlib.nullcontext() if how == QUIET else _import(product):
            return list(_edits(product, client, texts[UNMEASURED:], how))


def _edits(product: MeasuredService, client: Client, texts: list[str], how: str) -> Iterator[Edit]:
    """Until all are done, or the import nearly is: an edit beside an idle import tells nothing."""
    for number, text in enumerate(texts):
        yield _edit(client, number, text)
        if how in {FAIR, ONE_LINE} and _done(product) > IMPORTED - BEHIND:
            break
    if how == LARGE and _done(product) > LARGE_DOCUMENTS // 2:
        raise RuntimeError("the large documents were done too early to be in the way")


def _edit(client: Client, number: int, text: str) -> Edit:
    name = f"note-{number % DOCUMENTS}"
    change = {"change_type": "update", "namespace": "small", "document_id": name, "content": text}
    began = time.perf_counter()
    version = client.post("/v1/changes", change)["version"]
    accepted = time.perf_counter() - began
    query = {"query": text[:QUERY_CHARACTERS], "min_version": {name: version}, "wait": 20}
    while time.perf_counter() - began < PATIENCE_SECONDS:
        if name in _found(client, query):
            return Edit(accepted, time.perf_counter() - began)
    raise RuntimeError(f"no search found version {version} of {name}")


def _found(client: Client, query: object) -> set[str]:
    """Document ids. None while the version is not there: the search has waited for it."""
    try:
        answer = client.post("/v1/namespaces/small/search", query)
    except RefusedError as error:
        if error.status == HTTPStatus.GATEWAY_TIMEOUT:
            return set()
        raise
    return {hit["document_id"] for hit in answer["hits"]}


@contextlib.contextmanager
def _import(product: MeasuredService) -> Iterator[None]:
    """Another process sends the documents as one feed. Begins when enough of them wait."""
    arguments = [product.url, "ndjson", str(IMPORTED), "1", "large"]
    command = [sys.executable, "-m", "tests.bench.accept_client", *arguments]
    importer = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while _waiting(product) < BEHIND:
            if importer.poll() or time.monotonic() > deadline:
                raise RuntimeError("the import did not begin")
            time.sleep(0.05)
        yield
    finally:
        importer.kill()
        importer.wait()


def _post_large_documents(product: MeasuredService, client: Client) -> None:
    """Returns when as many as the worker has places are being embedded."""
    for number in range(LARGE_DOCUMENTS):
        sentences = [
            f"Setting {number}-{n} is {n * n}, and not {n}.\n\n" for n in range(LARGE_SENTENCES)
        ]
        change = {"change_type": "insert", "namespace": "large", "document_id": str(number)}
        client.post("/v1/changes", {**change, "content": "".join(sentences)})
    deadline = time.monotonic() + PATIENCE_SECONDS
    while product.get("/v1/stats")["queues"]["change"]["in_flight"] < LARGE_DOCUMENTS // 2:
        if time.monotonic() > deadline:
            raise RuntimeError("the large documents were not begun")
        time.sleep(0.05)


def _done(product: MeasuredService) -> int:
    return product.applied("large")


def _waiting(product: MeasuredService) -> int:
    for found in product.get("/v1/stats")["namespaces"]:
        if found["namespace"] == "large":
            return int(found["documents"].get("PENDING", 0))
    return 0


def _put_all_in_one_line(product: MeasuredService) -> None:
    path = product.data_dir / "queue.sqlite"
    with contextlib.closing(sqlite3.connect(path, timeout=30.0)) as db:
        db.executescript(_ALL_IN_ONE_LINE)
