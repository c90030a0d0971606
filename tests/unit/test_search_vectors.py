"""Repeated queries are embedded once."""

from __future__ import annotations

import asyncio
from array import array

import pytest

from common.model import Vector
from common.ports.errors import TransientError
from webhook.search_vectors import CachedQueryEmbedder, cached_queries


class Embedder:
    """Embeds a text as its length, when it is let."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.go = asyncio.Event()
        self.go.set()
        self.error: Exception | None = None

    async def embed_query(self, text: str) -> Vector[float]:
        self.asked.append(text)
        await self.go.wait()
        if self.error:
            raise self.error
        return array("f", [float(len(text)), 1.0])


async def test_a_repeated_query_is_embedded_once_and_its_vector_cannot_be_spoilt() -> None:
    embedder = Embedder()
    queries = CachedQueryEmbedder(embedder, entries=10)
    for _ in range(3):
        vector = await queries.embed_query("abc")
        assert vector == array("f", [3.0, 1.0])
        vector[0] = 99.0
    assert await queries.embed_query("abcd") == array("f", [4.0, 1.0])
    assert embedder.asked == ["abc", "abcd"]


async def test_equal_queries_at_one_time_share_an_embedding_but_no_vector() -> None:
    embedder = Embedder()
    embedder.go.clear()
    queries = CachedQueryEmbedder(embedder, entries=10)
    tasks = [asyncio.create_task(queries.embed_query("abc")) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    embedder.go.set()
    await asyncio.wait(tasks)
    first, second = await tasks[1], await tasks[2]
    assert first == second == array("f", [3.0, 1.0])
    assert first is not second
    assert embedder.asked == ["abc"]


async def test_a_failed_embedding_is_tried_again() -> None:
    embedder = Embedder()
    embedder.error = TransientError("away")
    queries = CachedQueryEmbedder(embedder, entries=10)
    with pytest.raises(TransientError):
        await queries.embed_query("abc")
    embedder.error = None
    assert await queries.embed_query("abc") == array("f", [3.0, 1.0])


async def test_few_are_kept() -> None:
    embedder = Embedder()
    queries = CachedQueryEmbedder(embedder, entries=1)
    for text in ("a", "b", "b", "a"):
        await queries.embed_query(text)
    assert embedder.asked == ["a", "b", "a"]


def test_none_are_kept_when_none_are_wanted() -> None:
    embedder = object.__new__(Embedder)
    assert cached_queries(embedder, entries=0) is embedder
