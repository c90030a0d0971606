"""Vectors by the product's embedder; each distinct text is embedded once."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.adapters.embedder.fastembed import connect
from common.model import Vector
from common.ports.embedder import Passage, Tokenizer
from common.settings import Settings
from tests.bench.report import progress

Matrix = np.ndarray[Any, np.dtype[np.float32]]
"""A vector a row."""


class Vectors:
    """A context: the default model in memory, and every vector that was made in it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="bloomweaver-quality-")
        settings = Settings(data_dir=Path(self._folder.name))
        self._embedder = connect(settings.embedder_url, settings, "bench")
        self._loop = asyncio.Runner()
        self._known: dict[str, Vector[float]] = {}

    def __enter__(self) -> Vectors:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run(self._embedder.close())
        self._loop.close()
        self._folder.cleanup()

    @property
    def window(self) -> int:
        return self._embedder.profile.max_tokens

    def tokenizer(self) -> Tokenizer:
        return self._loop.run(self._embedder.tokenizer())

    def of_documents(self, texts: Sequence[str]) -> Matrix:
        """Texts that were embedded before, for whatever collection, are not embedded again."""
        new = list({text: None for text in texts if text not in self._known})
        progress(f"quality: {len(new)} of {len(texts)} texts to embed")
        made = self._loop.run(self._embedder.embed_documents([Passage(text) for text in new]))
        self._known.update(zip(new, made, strict=True))
        return _matrix([self._known[text] for text in texts])

    def of_queries(self, texts: Sequence[str]) -> Matrix:
        async def all_of_them() -> list[Vector[float]]:
            return await asyncio.gather(*(self._embedder.embed_query(text) for text in texts))

        return _matrix(self._loop.run(all_of_them()))


def _matrix(vectors: Sequence[Vector[float]]) -> Matrix:
    return np.array([np.frombuffer(vector, np.float32) for vector in vectors])
