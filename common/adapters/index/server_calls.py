"""A call to an index server: bounded, counted, made again if its connection had been closed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Final, TypeVar

import httpx

from common import telemetry
from common.adapters.index.server_errors import NotThereError
from common.ports.errors import TransientError

T = TypeVar("T")

_BROKEN: Final = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
"""A connection that was kept open, and that the server had closed."""


async def answered(
    service: str,
    doing: str,
    make: Callable[[], Awaitable[T]],
    *,
    timeout_seconds: float,
    cause: Callable[[Exception], Exception] = lambda error: error,
) -> T:
    """Every call may be made twice: ids are written with the same record only.

    `cause`: httpx's error in one of the library's. Raises TransientError when there is no answer in
    time, and all else as it comes.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            try:
                return await make()
            except Exception as error:
                if not isinstance(cause(error), _BROKEN):
                    raise
                return await make()
    except (TimeoutError, httpx.TimeoutException) as error:
        line = f"{service}: no answer within {timeout_seconds:g} s to: {doing}"
        raise TransientError(line) from error


async def if_there(reading: Awaitable[T]) -> T | None:
    """None: the server knows no such collection. Raises NotThereError for any other 404: of the
    database, of a proxy, or of another service."""
    try:
        return await reading
    except NotThereError as error:
        if "ollection" not in str(error):
            raise
        return None


def count_request(service: str, request: httpx.Request, operations: Collection[str]) -> None:
    """By the last part of its path, which is a name unless it is one of `operations`."""
    last = request.url.path.rstrip("/").rpartition("/")[2]
    operation = last if last in operations else "collections"
    telemetry.OUTSIDE_CALLS.labels(service, operation).inc()
