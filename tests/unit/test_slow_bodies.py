"""Bodies that never stop coming, measured by what was sent and not by what it unfolds to."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import Mock

import pytest
from aiohttp.test_utils import make_mocked_request

from webhook.bodies import read_body
from webhook.problems import Problem

STALL_SECONDS = 0.2
READS = 200


class Trickle:
    """A few bytes a second that unfold to a megabyte each."""

    total_raw_bytes = 0

    def __init__(self, bytes_a_read: int) -> None:
        self._bytes_a_read = bytes_a_read
        self._reads = 0

    async def readany(self) -> bytes:
        await asyncio.sleep(STALL_SECONDS / 20)
        self._reads += 1
        self.total_raw_bytes += self._bytes_a_read
        return b"x" * 1024 * 1024 if self._reads < READS else b""

    def __getattr__(self, name: str) -> Any:
        return Mock()


async def test_a_few_bytes_that_unfold_to_much_are_as_slow_as_they_are() -> None:
    request = make_mocked_request("POST", "/", payload=Trickle(1))  # type: ignore[arg-type]
    with pytest.raises(Problem, match="bytes a second"):
        await read_body(request, 1 << 40, stall_seconds=STALL_SECONDS)


async def test_what_is_sent_in_time_is_read_whole() -> None:
    request = make_mocked_request("POST", "/", payload=Trickle(4096))  # type: ignore[arg-type]
    body = await read_body(request, 1 << 40, stall_seconds=STALL_SECONDS)
    assert len(body) == (READS - 1) * 1024 * 1024
