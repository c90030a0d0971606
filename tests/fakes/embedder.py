"""An embedder without a model: a text's vector counts its words by hash. Same text, same vector."""

from __future__ import annotations

import hashlib
import math
import re
from array import array
from collections.abc import Sequence

from common.model import EmbeddingProfile, Vector
from common.ports.embedder import Passage, TokenIds, Tokenizer

DIMENSION = 32


class WordTokenizer:
    """One token a word; the chunker needs no more."""

    separable = True

    def encode(self, texts: Sequence[str]) -> list[TokenIds[int]]:
        return [array("i", map(_id_of, text.split())) for text in texts]

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

    async def tokenizer(self) -> Tokenizer:
        return WordTokenizer()

    async def embed_documents(self, passages: Sequence[Passage]) -> list[Vector[float]]:
        self.embedded += [passage.text for passage in passages]
        return [word_vector(passage.text) for passage in passages]

    async def embed_query(self, text: str) -> Vector[float]:
        return word_vector(text)

    async def close(self) -> None:
        return None


def _id_of(word: str) -> int:
    return int.from_bytes(hashlib.sha256(word.encode()).digest()[:2], "little")


def word_vector(text: str) -> Vector[float]:
    sums = [1e-6] * DIMENSION
    for word in re.findall(r"\w+", text.lower()):
        sums[hashlib.sha256(word.encode()).digest()[0] % DIMENSION] += 1.0
    norm = math.hypot(*sums)
    return array("f", [value / norm for value in sums])
