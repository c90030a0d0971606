"""Sends changes and times the answers, in a process of its own.

Arguments: URL, `single`, `unsigned`, `signed` (posts to the sources of tests/bench/signed.py) or
`ndjson`, number of changes, connections, namespace. Prints JSON.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import sys
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import aiohttp

HEADERS = {"Content-Type": "application/json"}
SECRET = "whsec_" + "Ymxvb213ZWF2ZXItYmVuY2htYXJrcy1vbmx5"
"""Of the signed source; good for nothing else."""


def change(namespace: str, number: int) -> bytes:
    """A tiny document unlike the others."""
    value = {
        "change_type": "insert",
        "namespace": namespace,
        "document_id": f"tiny-{number}",
        "content": f"The value of setting {number} is {number * number}.",
    }
    return json.dumps(value).encode()


def signed(body: bytes, delivery_id: str) -> dict[str, str]:
    """The headers of Standard Webhooks, as a sender adds them."""
    told = str(int(time.time()))
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    mac = hmac.digest(key, f"{delivery_id}.{told}.".encode() + body, hashlib.sha256)
    signature = "v1," + base64.b64encode(mac).decode()
    own = {"webhook-id": delivery_id, "webhook-timestamp": told, "webhook-signature": signature}
    return {**HEADERS, **own}


async def single(
    url: str, count: int, connections: int, namespace: str, *, path: str = "/v1/changes"
) -> dict[str, object]:
    latencies: list[float] = []
    todo = iter(range(count))

    async def work(session: aiohttp.ClientSession) -> None:
        for number in todo:
            body = change(namespace, number)
            is_signed = path.endswith("/signed")
            headers = signed(body, f"{namespace}-{number}") if is_signed else HEADERS
            began = time.perf_counter()
            async with session.post(url + path, data=body, headers=headers) as answer:
                await answer.read()
                answer.raise_for_status()
            latencies.append(time.perf_counter() - began)

    connector = aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(connector=connector) as session:
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(work(session))
        return {"seconds": time.perf_counter() - began, "latencies": latencies}


async def ndjson(url: str, count: int, _: int, namespace: str) -> dict[str, object]:
    body = b"\n".join(change(namespace, number) for number in range(count))
    headers = {"Content-Type": "application/x-ndjson"}
    accepted = 0
    async with aiohttp.ClientSession() as session:
        began = time.perf_counter()
        async with session.post(f"{url}/v1/changes", data=body, headers=headers) as answer:
            async for line in answer.content:
                accepted += json.loads(line).get("outcome") == "accepted"
        seconds = time.perf_counter() - began
    if accepted != count:
        raise RuntimeError(f"{accepted} of {count} were accepted")
    return {"seconds": seconds, "latencies": []}


def main() -> None:
    url, how, count, connections, namespace = sys.argv[1:]
    ways: dict[str, Callable[..., Coroutine[Any, Any, dict[str, object]]]] = {
        "single": single,
        "unsigned": partial(single, path="/v1/sources/unsigned"),
        "signed": partial(single, path="/v1/sources/signed"),
        "ndjson": ndjson,
    }
    print(json.dumps(asyncio.run(ways[how](url, int(count), int(connections), namespace))))


if __name__ == "__main__":
    main()
