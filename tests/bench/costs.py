"""What the flow costs on AWS and Pinecone: the requests of a real run, counted.

Requests to SQS, DynamoDB and S3 are counted by a proxy in front of the emulator, those to Pinecone
by its test server; nothing is taken from the product's own word. What a request of each kind is
taken to cost, and why, is in docs/costs.md.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.acceptance.aws_installation import AwsInstallation, pinecone_server, unruly_server
from tests.acceptance.service import wait_until
from tests.bench.report import Line, Options, progress
from tests.servers.aws import ministack
from tests.servers.provision import provision

DOCUMENTS = 250
SCALE = 1000 / DOCUMENTS
PARAGRAPHS = 4
IDLE_SECONDS = 180.0
PATIENCE_SECONDS = 1800.0

MILLION = 1e6
WRITE_UNIT, READ_UNIT = 0.625 / MILLION, 0.125 / MILLION
"""Of DynamoDB on demand."""
PINECONE_WRITE_UNIT, PINECONE_READ_UNIT = 4.0 / MILLION, 16.0 / MILLION
DOLLARS = {
    "sqs.": 0.40 / MILLION,
    "dynamodb.PutItem": 5 * WRITE_UNIT,
    "dynamodb.UpdateItem": 5 * WRITE_UNIT,
    "dynamodb.DeleteItem": 5 * WRITE_UNIT,
    "dynamodb.GetItem": READ_UNIT,
    "dynamodb.Query": 0.5 * READ_UNIT,
    "dynamodb.BatchGetItem": 20 * READ_UNIT,
    "s3.GET": 0.4 / MILLION,
    "s3.HEAD": 0.4 / MILLION,
    "s3.PUT": 5.0 / MILLION,
    "s3.POST": 5.0 / MILLION,
    "s3.DELETE": 0.0,
    "pinecone.upsert": 9 * PINECONE_WRITE_UNIT,
    "pinecone.delete": 5 * PINECONE_WRITE_UNIT,
    "pinecone.query": 0.25 * PINECONE_READ_UNIT,
    "pinecone.fetch": PINECONE_READ_UNIT,
    "pinecone.list": PINECONE_READ_UNIT,
    "pinecone.stats": 0.0,
}
"""Of one request, by the longest name that fits."""

VOCABULARY = """queue worker vector index document version record lease commit retry message chunk
    embed search storage cluster metric series label scrape alert target rule sample query"""
WORDS = VOCABULARY.split()


def measure(options: Options) -> list[Line]:
    del options  # requests are counted, not timed: one run is enough
    with TemporaryDirectory(prefix="bloomweaver-costs-") as folder:
        return asyncio.run(_measure(Path(folder)))


@dataclass
class _Bench:
    installation: AwsInstallation
    aws_url: str
    index_url: str

    def counts(self) -> Counter[str]:
        """Requests so far, `sqs.SendMessageBatch` and the like."""
        aws = _get(f"{self.aws_url}/_unruly/counts")
        found = Counter(
            {k.removesuffix(".requests"): v for k, v in aws.items() if k.count(".") == 2}
        )
        index = _get(f"{self.index_url}/_test/")["requests"]
        return found + Counter({f"pinecone.{k}": v for k, v in index.items()})

    def during(self, what: Callable[[], None]) -> Counter[str]:
        before = self.counts()
        what()
        return self.counts() - before


async def _measure(folder: Path) -> list[Line]:
    emulator = ministack()
    proxy = unruly_server(emulator.url, seed=1, calm=True)
    index = pinecone_server(lag_seconds=0.5)
    installation = AwsInstallation(folder, aws_url=proxy.url, pinecone_url=index.url)
    await provision(emulator.url, installation.product_settings)
    bench = _Bench(installation, proxy.url, index.url)
    installation.start()
    try:
        return await asyncio.to_thread(_phases, bench)
    finally:
        installation.close()
        proxy.stop()
        index.stop()


def _phases(bench: _Bench) -> list[Line]:
    texts = {f"doc-{n}.md": _text(n) for n in range(DOCUMENTS)}
    edited = {name: text.replace("queue", "backlog", 1) for name, text in texts.items()}
    phases: dict[str, Callable[[], None]] = {
        "inserts": lambda: _send(bench, [_insert(*item) for item in texts.items()]),
        "edits": lambda: _send(bench, [_insert(*item) for item in edited.items()]),
        "deletes": lambda: _send(bench, [_delete(name) for name in texts]),
    }
    lines: list[Line] = []
    for name, phase in phases.items():
        counted = bench.during(phase)
        lines += _lines(f"1,000 {name}", counted, SCALE)
        progress(f"{name}: {dict(counted)}")
    idle = bench.during(lambda: time.sleep(IDLE_SECONDS))
    return lines + _lines("idle day", idle, 86400 / IDLE_SECONDS)


def _send(bench: _Bench, changes: list[dict[str, Any]]) -> None:
    """As a feed of lines, and until every document shows it and the queues are empty."""
    feed = bench.installation.folder / "feed.jsonl"
    feed.write_text("\n".join(map(json.dumps, changes)))
    sent = bench.installation.run("replay", str(feed), timeout_seconds=PATIENCE_SECONDS)
    if sent.returncode:
        raise RuntimeError(sent.stderr[-2000:] + bench.installation.tail())
    wait_until("every queue is empty", lambda: _quiet(bench), PATIENCE_SECONDS)


def _quiet(bench: _Bench) -> bool:
    """Looked at rarely: looking costs requests, too."""
    time.sleep(2.0)
    with suppress(OSError):
        queues = bench.installation.get("/v1/stats")["queues"].values()
        return not any(q["waiting"] + q["in_flight"] + q["delayed"] for q in queues)
    return False


def _lines(phase: str, counted: Counter[str], scale: float) -> list[Line]:
    counts = [
        Line(f"{phase}: {name}", f"{number * scale:,.0f}")
        for name, number in sorted(counted.items())
    ]
    return [*counts, *_dollars(phase, counted, scale)]


def _dollars(phase: str, counted: Counter[str], scale: float) -> list[Line]:
    cents = 100 * scale
    spent: dict[str, float] = dict.fromkeys((name.partition(".")[0] for name in counted), 0.0)
    for name, number in counted.items():
        spent[name.partition(".")[0]] += cents * number * _dollars_of(name)
    lines = [Line(f"{phase}: {name}, cents", f"{value:,.3f}") for name, value in spent.items()]
    return [*lines, Line(f"{phase}: all, cents", f"{sum(spent.values()):,.3f}")]


def _dollars_of(name: str) -> float:
    return DOLLARS[max((known for known in DOLLARS if name.startswith(known)), key=len)]


def _insert(document_id: str, content: str) -> dict[str, Any]:
    return {"change_type": "insert", "document_id": document_id, "content": content}


def _delete(document_id: str) -> dict[str, Any]:
    return {"change_type": "delete", "document_id": document_id}


def _text(number: int) -> str:
    drawn = random.Random(number)
    paragraphs = [" ".join(drawn.choices(WORDS, k=120)) for _ in range(PARAGRAPHS)]
    return f"# Document {number}\n\n" + "\n\n".join(paragraphs)


def _get(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=30) as answer:
        found: dict[str, Any] = json.loads(answer.read())
        return found
