"""A proxy of the test process in front of an AWS emulator: what was asked, and what is refused."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tests.servers.threads import servers_loop
from tests.servers.unruly import CALM, Unruly

LONGEST_SECONDS = 10


@dataclass(frozen=True, slots=True)
class WatchedAws:
    url: str
    _proxy: Unruly

    def refuse(self, service: str, code: str) -> None:
        """Every request from now on, of `sqs`, `dynamodb` or `s3`."""
        self._proxy.refused[service] = code

    @property
    def asked(self) -> set[str]:
        """The operations that were called: `sqs.ReceiveMessage`, of S3 the methods: `s3.GET`."""
        counts = [name.rpartition(".") for name in list(self._proxy.counts)]
        return {operation for operation, _, what in counts if what == "requests" and operation}


@contextmanager
def watched(upstream: str) -> Iterator[WatchedAws]:
    proxy = Unruly(upstream, CALM, random.Random(1))
    # A client that goes away ends its long poll.
    runner = web.AppRunner(proxy.app(), access_log=None, handler_cancellation=True)
    try:
        yield WatchedAws(f"http://127.0.0.1:{_done(_started(runner))}", proxy)
    finally:
        _done(runner.cleanup())


async def _started(runner: web.AppRunner) -> int:
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return int(runner.addresses[0][1])


def _done(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run_coroutine_threadsafe(work, servers_loop()).result(LONGEST_SECONDS)
