"""What every embedder adapter promises; one line in FACTORIES adds another."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from common.adapters.embedder.fastembed import FastembedEmbedder
from common.model import Vector
from common.ports.embedder import Embedder, Passage

FACTORIES: dict[str, Callable[[Path], Embedder]] = {
    "fastembed": lambda folder: FastembedEmbedder("all-MiniLM-L6-v2-int8", cache_folder=folder),
}


@pytest.fixture(params=FACTORIES)
async def embedder(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Embedder]:
    made = FACTORIES[request.param](tmp_path)
    yield made
    await made.close()


def passages(*texts: str) -> list[Passage]:
    return [Passage(text) for text in texts]


def cosine(a: Vector[float], b: Vector[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


async def test_vectors_have_the_profiles_dimension_and_length_one(embedder: Embedder) -> None:
    vectors = await embedder.embed_documents(
        passages("one", "", "a longer text\x00 with odd bytes ✓" * 9)
    )
    for vector in [*vectors, await embedder.embed_query("")]:
        assert vector.typecode == "f"
        assert len(vector) == embedder.profile.dimension
        assert math.hypot(*vector) == pytest.approx(1.0, abs=1e-5)


async def test_what_means_the_same_is_nearer(embedder: Embedder) -> None:
    cat, kitten, car = await embedder.embed_documents(passages("cat", "kitten", "car"))
    assert cosine(cat, kitten) > cosine(cat, car) + 0.1
    query = await embedder.embed_query("a young cat")
    assert cosine(query, kitten) > cosine(query, car) + 0.1


async def test_the_order_is_that_of_the_texts(embedder: Embedder) -> None:
    texts = [f"number {n} " + "word " * (n * 37 % 90) for n in range(20)]
    together = await embedder.embed_documents(passages(*texts))
    for text, vector in zip(texts, together, strict=True):
        (alone,) = await embedder.embed_documents(passages(text))
        assert cosine(alone, vector) > 0.9999


async def test_no_text_no_vector(embedder: Embedder) -> None:
    assert await embedder.embed_documents([]) == []


async def test_a_text_over_the_window_is_cut(embedder: Embedder) -> None:
    window = embedder.profile.max_tokens
    texts = ["cat " * window, "cat " * window + "dog " * 50]
    long, longer = await embedder.embed_documents(passages(*texts))
    assert cosine(long, longer) > 0.9999


async def test_tokens_are_counted_and_placed(embedder: Embedder) -> None:
    tokenizer = await embedder.tokenizer()
    text = "Unbelievably short."
    spans = tokenizer.offsets(text)
    assert [len(ids) for ids in tokenizer.encode([text, "", "cat"])] == [len(spans), 0, 1]
    assert "".join(text[a:b] for a, b in spans) == text.replace(" ", "")


async def test_given_tokens_give_the_vectors_of_the_text(embedder: Embedder) -> None:
    texts = ["cat", "", "naïve 日本語 [MASK] x_y", "a longer text, " * 40, "over " * 700]
    tokenizer = await embedder.tokenizer()
    ready = [Passage(t, ids) for t, ids in zip(texts, tokenizer.encode(texts), strict=True)]
    with_ids = await embedder.embed_documents([*ready, Passage("dog")])
    for text, vector in zip([*texts, "dog"], with_ids, strict=True):
        (alone,) = await embedder.embed_documents(passages(text))
        assert cosine(alone, vector) > 0.99999


async def test_calls_share_the_model_and_one_may_be_cancelled(embedder: Embedder) -> None:
    await embedder.load()
    shared = passages("cat", "a text of some length " * 9)
    calls = [
        asyncio.create_task(embedder.embed_documents([*shared, Passage(f"dog {n}")]))
        for n in range(4)
    ]
    await asyncio.sleep(0)
    calls[0].cancel()
    query = await embedder.embed_query("cat")
    found = [await call for call in calls[1:]]
    assert all(cosine(vectors[0], query) > 0.9999 for vectors in found)
    assert len({tuple(vectors[2]) for vectors in found}) == 3
    with pytest.raises(asyncio.CancelledError):
        await calls[0]


async def test_the_profile_is_the_same_before_and_after_loading(embedder: Embedder) -> None:
    before = embedder.profile
    await embedder.load()
    assert embedder.profile == before
    assert before.dimension > 0
    assert before.max_tokens > 0
    assert before.fingerprint
