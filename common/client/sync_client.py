"""The client for code without asyncio.

It is `AsyncClient` on an event loop in a thread of its own, and has no code of its own about HTTP:
each method is made of its asynchronous twin, with its signature and its docstring. So there is one
behaviour to test and to trust, and it works where an event loop runs already, in a notebook say,
which a client that calls `asyncio.run` does not.
"""

from __future__ import annotations

import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

from common.client.async_client import (
    RETRY_SECONDS,
    TIMEOUT_SECONDS,
    AsyncClient,
    OnRetry,
)
from common.client.changes import AnyChange
from common.client.handed_feed import HandedFeed, until_broken
from common.client.loop_thread import LoopThread
from common.client.patience import Patience
from common.client.results import ChangeRefused, ChangeResult

P = ParamSpec("P")
T = TypeVar("T")


def _calling(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Client, P], T]:
    """Returns what the coroutine returns."""

    @wraps(method)
    def call(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._thread.run(method(self._client, *args, **kwargs))

    return call


def _iterating(
    method: Callable[Concatenate[AsyncClient, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[Client, P], Iterator[T]]:
    """Gives item by item what the generator gives."""

    @wraps(method)
    def iterate(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return self._each(method(self._client, *args, **kwargs))

    return iterate


class Client:
    """Speaks to one service, and blocks until it answers.

        with Client() as client:
            client.insert("guide/start.md", "# Start", wait=True)
            for hit in client.search("how do I begin?").hits:
                print(hit.document_id, hit.text)

    The methods are `AsyncClient`'s, and so are the retries. It may be used by several threads at
    once. Callbacks are called in a thread of the client's.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
        on_retry: OnRetry | None = None,
    ) -> None:
        """As `AsyncClient`. Raises ConfigurationError."""
        self._client = AsyncClient(
            url, api_key=api_key, timeout_seconds=timeout_seconds, retry_seconds=retry_seconds,
            on_retry=on_retry,
        )  # fmt: skip
        self._thread = LoopThread(self._client.close)
        # Also for who never closes it: the sockets are closed with the client's last reference.
        self._end = weakref.finalize(self, self._thread.stop)

    @property
    def url(self) -> str:
        """Of the service."""
        return self._client.url

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections and ends the thread, for good."""
        self._end()

    insert = _calling(AsyncClient.insert)
    upsert = _calling(AsyncClient.upsert)
    update = _calling(AsyncClient.update)
    delete = _calling(AsyncClient.delete)
    change = _calling(AsyncClient.change)
    submit = _calling(AsyncClient.submit)
    wait_searchable = _calling(AsyncClient.wait_searchable)
    document = _calling(AsyncClient.document)
    document_if_changed = _calling(AsyncClient.document_if_changed)
    documents = _iterating(AsyncClient.documents)
    content = _calling(AsyncClient.content)
    chunks = _iterating(AsyncClient.chunks)
    history = _iterating(AsyncClient.history)
    search = _calling(AsyncClient.search)
    stats = _calling(AsyncClient.stats)
    ready = _calling(AsyncClient.ready)
    ping = _calling(AsyncClient.ping)
    dead_letters = _iterating(AsyncClient.dead_letters)
    dead_letter = _calling(AsyncClient.dead_letter)
    redrive = _calling(AsyncClient.redrive)
    discard = _calling(AsyncClient.discard)
    scrub = _calling(AsyncClient.scrub)
    last_scrub = _calling(AsyncClient.last_scrub)
    audit = _iterating(AsyncClient.audit)

    def feed(
        self,
        changes: Iterable[AnyChange | bytes],
        *,
        wait: bool | float = False,
        patience: Patience | None = None,
    ) -> Iterator[ChangeResult | ChangeRefused]:
        """As `AsyncClient.feed`. The changes are read in the thread that asks for the results, so
        they may come from a database cursor; while they are waited for no result is given."""
        run = self._thread.run
        feed: HandedFeed[AnyChange | bytes, ChangeResult | ChangeRefused] = HandedFeed(
            lambda source: self._client.feed(source, wait=wait, patience=patience)
        )
        try:
            for change in until_broken(changes):
                yield from run(feed.hand(change))
                if feed.over:
                    break
            yield from run(feed.hand(None))
            while results := run(feed.more()):
                yield from results
        finally:
            run(feed.close())

    def _each(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        async def step() -> tuple[T] | None:
            try:
                return (await anext(items),)
            except StopAsyncIteration:
                return None

        try:
            while (item := self._thread.run(step())) is not None:
                yield item[0]
        finally:
            self._thread.run(_closed(items))


async def _closed(items: AsyncGenerator[Any, None]) -> None:
    await items.aclose()
