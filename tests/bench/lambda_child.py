"""A function's sandbox for `tests.bench.lambda_cold`: a fresh process, one cold event, warm ones.

Prints one JSON object: seconds of the import, of the first event and of each later one, the CPU
seconds of import, of the process until its first answer and of a warm event, and megabytes.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from tests.lambda_events import FunctionContext, failed, http_event, record_of, sqs_event

Event = dict[str, Any]
NAMESPACE = "bench"


def main(function: str, warm: int) -> None:
    module, events = _FUNCTIONS[function]
    prepared = events(1 + warm)
    began, began_cpu = time.perf_counter(), time.process_time()
    handler = getattr(importlib.import_module(module), _handler(function))
    imported, imported_cpu = time.perf_counter(), time.process_time() - began_cpu
    took, cpu = [], []
    for event in prepared:
        before = time.perf_counter()
        _check(handler(event, FunctionContext(60)))
        took.append(time.perf_counter() - before)
        cpu.append(time.process_time())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    measured = {
        "import": imported - began, "import_cpu": imported_cpu, "first": took[0], "warm": took[1:],
        "cpu": cpu[0], "warm_cpu": (cpu[-1] - cpu[0]) / max(len(cpu) - 1, 1), "mb": peak,
    }  # fmt: skip
    print(json.dumps(measured))


def _handler(function: str) -> str:
    return "handler" if function in ("webhook", "query") else function


def _check(answer: Event) -> None:
    """A measure of failures would be none."""
    if answer.get("statusCode", 200) >= 300 or failed({"batchItemFailures": [], **answer}):
        raise SystemExit(f"the function failed: {answer}")


def _changes(count: int) -> list[Event]:
    target = f"/v1/namespaces/{NAMESPACE}/documents/webhook/"
    return [
        http_event("PUT", f"{target}{uuid4().hex}.md", body=b"# A document\n\nOf two lines.")
        for _ in range(count)
    ]


def _searches(count: int) -> list[Event]:
    headers = {"Content-Type": "application/json"}
    target = f"/v1/namespaces/{NAMESPACE}/search"
    bodies = [json.dumps({"query": f"what says number {n}", "top_k": 5}) for n in range(count)]
    return [http_event("POST", target, headers=headers, body=body.encode()) for body in bodies]


def _batches(count: int) -> list[Event]:
    """Of one message each, as the mapping would have received them. This loads the SDK for its own
    use, so the process that is measured gets them over standard input."""
    return [sqs_event(record_of(message)) for message in json.loads(sys.stdin.read())[:count]]


_FUNCTIONS: dict[str, tuple[str, Callable[[int], list[Event]]]] = {
    "webhook": ("webhook.lambda_entry", _changes),
    "query": ("webhook.lambda_entry", _searches),
    "create": ("workers.lambda_entry", _batches),
    "sweep": ("workers.lambda_entry", lambda count: [{} for _ in range(count)]),
}


async def received(queue_name: str, count: int) -> list[Event]:
    """For the parent: messages of a queue, in hand for long."""
    from common.aws.clients import shared_clients

    clients = shared_clients()
    try:
        sqs = await clients.client("sqs")
        url = (await sqs.get_queue_url(QueueName=queue_name))["QueueUrl"]
        found: list[Event] = []
        while len(found) < count:
            got = await sqs.receive_message(
                QueueUrl=url, MaxNumberOfMessages=min(count - len(found), 10),
                VisibilityTimeout=600, MessageAttributeNames=["All"], AttributeNames=["All"],
            )  # fmt: skip
            found += got.get("Messages", [])
            await asyncio.sleep(0)
        return found
    finally:
        await clients.release()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
