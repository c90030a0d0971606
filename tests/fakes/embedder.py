"""An embedder without a model: a text's vector counts its words by hash. Same text, same vector."""

from __future__ import annotations

import hashlib
import math
import re
from array import array
from collections.abc import Sequence

from common.model import EmbeddingProfile, Vector

DIMENSION = 32


class WordCounter:
    """One token a word; the chunker needs no more."""

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(self.offsets(text)) for text in texts]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        return [match.span() for match in re.finditer(r"\S+", text)]


class HashEmbedder:
    """Remembers every text it embedded, so that tests can tell what was reused."""

    def __init__(self) -> None:
        self.profile = EmbeddingProfile(
            model="words", fingerprint="1", dimension=DIMENSION, max_tokens=512
        )
        self.embedded: list[str] = []

    async def load(self) -> None:
        return None

    async def token_counter(self) -> WordCounter:
        return WordCounter()

    async def embed_documents(self, texts: Sequence[str]) -> list[Vector[float]]:
        self.embedded += texts
        return [word_vector(text) for text in texts]

    async def embed_query(self, text: str) -> Vector[float]:
        return word_vector(text)

    async def close(self) -> None:
        return None


def word_vector(text: str) -> Vector[float]:
    sums = [1e-6] * DIMENSION
    for word in re.findall(r"\w+", text.lower()):
        sums[hashlib.sha256(word.encode()).digest()[0] % DIMENSION] += 1.0
    norm = math.hypot(*sums)
    return array("f", [value / norm for value in sums])
