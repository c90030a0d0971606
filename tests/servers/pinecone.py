"""A strict server of Pinecone's protocol for tests: one index in memory, exact search.

It is written from the protocol, not from the adapter: it knows nothing of BloomWeaver. What the
service enforces is enforced (headers, members, limits, rates), what it does not promise is not
given (order of matches, writes that show at once). `PineconeServer` serves from a thread of the
test process; `python -m tests.servers.pinecone --port 5081` is the same as a process.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping
from types import TracebackType

from aiohttp import web

from tests.servers.pinecone_app import Served, build_app
from tests.servers.pinecone_faults import Fault, FaultKind, Faults, Rates
from tests.servers.pinecone_store import Store
from tests.servers.threads import servers_loop

API_KEY = "test-key"
INDEX_NAME = "documents"
HOST = "127.0.0.1"

__all__ = ["API_KEY", "INDEX_NAME", "Fault", "FaultKind", "PineconeServer"]


class PineconeServer:
    """Serves from its construction until `stop`. `served` may be looked at and changed any time."""

    def __init__(
        self,
        *,
        dimension: int = 3,
        metric: str = "cosine",
        index_lag_seconds: float = 0.0,
        rates: Mapping[str, float] | None = None,
        port: int = 0,
    ) -> None:
        store = Store(
            name=INDEX_NAME,
            dimension=dimension,
            metric=metric,
            index_lag_seconds=index_lag_seconds,
        )
        self.api_key = API_KEY
        self.served = Served(store, API_KEY)
        self.served.rates.per_second.update(rates or {})
        # A client that goes away ends what still waits to answer it.
        self._runner = web.AppRunner(
            build_app(self.served), access_log=None, handler_cancellation=True
        )
        self.port = asyncio.run_coroutine_threadsafe(self._start(port), servers_loop()).result(10)
        self.url = self.served.url = f"http://{HOST}:{self.port}"

    async def _start(self, port: int) -> int:
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, port).start()
        return int(self._runner.addresses[0][1])

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), servers_loop()).result(10)

    def fail(self, *faults: Fault) -> None:
        """The next requests meet these, one each."""
        self.served.faults.script.extend(faults)

    def __enter__(self) -> PineconeServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Pinecone's protocol, in memory, for tests.")
    parser.add_argument("--host", default=HOST)
    parser.add_argument("--port", type=int, default=5081)
    parser.add_argument("--name", default=INDEX_NAME)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--metric", choices=("cosine", "dotproduct", "euclidean"), default="cosine")
    parser.add_argument("--index-lag-seconds", type=float, default=0.0)
    parser.add_argument("--api-key", default=API_KEY)
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="PROBABILITY:KIND[:OPERATION]",
        help=f"may be given often; kinds: {', '.join(FaultKind)}",
    )
    return parser.parse_args()


def _by_chance(text: str) -> tuple[float, Fault]:
    probability, kind, operation, *_ = [*text.split(":"), ""]
    return float(probability), Fault(kind=FaultKind(kind), operation=operation, retry_after=1.0)


def main() -> None:
    options = _options()
    store = Store(
        name=options.name,
        dimension=options.dimension,
        metric=options.metric,
        index_lag_seconds=options.index_lag_seconds,
    )
    faults = Faults(by_chance=[_by_chance(text) for text in options.fault])
    served = Served(store, options.api_key, faults, Rates())
    served.url = f"http://{options.host}:{options.port}"
    web.run_app(
        build_app(served), host=options.host, port=options.port, access_log=None, print=None
    )


if __name__ == "__main__":
    main()
