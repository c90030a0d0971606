"""What every embedder adapter promises; one line in FACTORIES adds another."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from common.adapters.embedder.fastembed import FastembedEmbedder
from common.model import Vector
from common.ports.embedder import Embedder

FACTORIES: dict[str, Callable[[Path], Embedder]] = {
    "fastembed": lambda folder: FastembedEmbedder("all-MiniLM-L6-v2-int8", cache_folder=folder),
}


@pytest.fixture(params=FACTORIES)
async def embedder(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Embedder]:
    made = FACTORIES[request.param](tmp_path)
    yield made
    await made.close()


def cosine(a: Vector[float], b: Vector[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


async def test_vectors_have_the_profiles_dimension_and_length_one(embedder: Embedder) -> None:
    vectors = await embedder.embed_documents(["one", "", "a longer text\x00 with odd bytes ✓" * 9])
    for vector in [*vectors, await embedder.embed_query("")]:
        assert vector.typecode == "f"
        assert len(vector) == embedder.profile.dimension
        assert math.hypot(*vector) == pytest.approx(1.0, abs=1e-5)


async def test_what_means_the_same_is_nearer(embedder: Embedder) -> None:
    cat, kitten, car = await embedder.embed_documents(["cat", "kitten", "car"])
    assert cosine(cat, kitten) > cosine(cat, car) + 0.1
    query = await embedder.embed_query("a young cat")
    assert cosine(query, kitten) > cosine(query, car) + 0.1


async def test_the_order_is_that_of_the_texts(embedder: Embedder) -> None:
    texts = [f"number {n} " + "word " * (n * 37 % 90) for n in range(20)]
    together = await embedder.embed_documents(texts)
    for text, vector in zip(texts, together, strict=True):
        (alone,) = await embedder.embed_documents([text])
        assert cosine(alone, vector) > 0.9999


async def test_no_text_no_vector(embedder: Embedder) -> None:
    assert await embedder.embed_documents([]) == []


async def test_a_text_over_the_window_is_cut(embedder: Embedder) -> None:
    window = embedder.profile.max_tokens
    long, longer = await embedder.embed_documents(["cat " * window, "cat " * window + "dog " * 50])
    assert cosine(long, longer) > 0.9999


async def test_tokens_are_counted_and_placed(embedder: Embedder) -> None:
    counter = await embedder.token_counter()
    text = "Unbelievably short."
    spans = counter.offsets(text)
    assert counter.count([text, "", "cat"]) == [len(spans), 0, 1]
    assert "".join(text[a:b] for a, b in spans) == text.replace(" ", "")


async def test_the_profile_is_the_same_before_and_after_loading(embedder: Embedder) -> None:
    before = embedder.profile
    await embedder.load()
    assert embedder.profile == before
    assert before.dimension > 0
    assert before.max_tokens > 0
    assert before.fingerprint
