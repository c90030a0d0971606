"""Sends changes and times the answers, in a process of its own.

Arguments: URL, `single` or `ndjson`, number of changes, connections, namespace. Prints JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import aiohttp

HEADERS = {"Content-Type": "application/json"}


def change(namespace: str, number: int) -> bytes:
    """A tiny document unlike the others."""
    value = {
        "change_type": "insert",
        "namespace": namespace,
        "document_id": f"tiny-{number}",
        "content": f"The value of setting {number} is {number * number}.",
    }
    return json.dumps(value).encode()


async def single(url: str, count: int, connections: int, namespace: str) -> dict[str, object]:
    latencies: list[float] = []
    todo = iter(range(count))

    async def work(session: aiohttp.ClientSession) -> None:
        for number in todo:
            body = change(namespace, number)
            began = time.perf_counter()
            async with session.post(f"{url}/v1/changes", data=body, headers=HEADERS) as answer:
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
    run = {"single": single, "ndjson": ndjson}[how]
    print(json.dumps(asyncio.run(run(url, int(count), int(connections), namespace))))


if __name__ == "__main__":
    main()
