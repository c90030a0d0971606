"""Offers changes at a steady rate, whatever the answers take, in a process of its own.

A request is sent when it is due, not when the one before was answered, and its latency counts from
when it was due: a service that stalls cannot hide it by being asked less. Arguments: URL, requests
a second, seconds, namespace. Prints JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter

import aiohttp

from tests.bench.accept_client import HEADERS, change

PATIENCE_SECONDS = 30.0
"""An answer that takes longer is none."""


async def offer(url: str, rate: float, seconds: float, namespace: str) -> dict[str, object]:
    """`latencies`: seconds, of what was accepted; `seconds`: until the last answer."""
    now = asyncio.get_running_loop().time
    latencies: list[float] = []
    outcomes: Counter[str] = Counter()

    async def send(number: int, due: float) -> None:
        body = change(namespace, number)
        try:
            async with session.post(f"{url}/v1/changes", data=body, headers=HEADERS) as answer:
                await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            outcomes[type(error).__name__] += 1
            return
        outcomes[str(answer.status)] += 1
        if answer.status < 300:
            latencies.append(now() - due)

    connector = aiohttp.TCPConnector(limit=256)
    timeout = aiohttp.ClientTimeout(total=PATIENCE_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        began = now()
        async with asyncio.TaskGroup() as group:
            for number in range(round(rate * seconds)):
                due = began + number / rate
                if (early := due - now()) > 0:
                    await asyncio.sleep(early)
                group.create_task(send(number, due))
        took = now() - began
    return {"seconds": took, "latencies": latencies, "outcomes": outcomes}


def main() -> None:
    url, rate, seconds, namespace = sys.argv[1:]
    print(json.dumps(asyncio.run(offer(url, float(rate), float(seconds), namespace))))


if __name__ == "__main__":
    main()
