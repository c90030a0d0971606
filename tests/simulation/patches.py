"""Constants of the production code made small, and pure functions that remember, for a run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from unittest import mock

import workers.apply
import workers.collect
import workers.embed
import workers.loop
import workers.packs
from common.adapters.queue import sqs_messages
from common.chunking.chunk import Chunk
from common.pack import Pack, decode
from tests.simulation.changes import chunks_of
from tests.simulation.loop import SimulatedLoop


@contextmanager
def small_batches() -> Iterator[None]:
    """Batches so small that these small documents need several."""
    with (
        mock.patch.object(workers.apply, "UPSERT_RECORDS", 2),
        mock.patch.object(workers.embed, "SLICE_CHUNKS", 2),
        mock.patch.object(workers.collect, "DELETE_IDS", 2),
        mock.patch.object(workers.embed, "make_chunks", _remembered),
        mock.patch.object(workers.loop, "LONG_POLL_SECONDS", 120.0),
        mock.patch.object(workers.packs, "decode", _decoded),
        mock.patch.object(sqs_messages, "secrets", _Counted),
    ):
        yield


class _Counted:
    """In the place of `secrets`: ids that are the same in every run of a seed."""

    @staticmethod
    def token_hex(size: int) -> str:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        return f"{next(loop.tokens):0{2 * size}x}"


def _remembered(content: bytes, content_type: str, tokenizer: object, sizes: object) -> list[Chunk]:
    """Chunking is a pure function and has tests of its own: done once for equal content."""
    return chunks_of(content)


@lru_cache(maxsize=1000)
def _decoded(data: bytes) -> Pack:
    """Also a pure function, and packs are immutable."""
    return decode(data)
