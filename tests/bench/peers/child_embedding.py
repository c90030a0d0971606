"""fastembed on the packaged model's folder, for tools that know models by name only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import fastembed
import numpy as np
from fastembed.common.model_description import ModelSource, PoolingType
from tokenizers import Tokenizer

DIMENSION = 384
NAME = "bench/packaged"
WINDOW_TOKENS = 510
"""The model's window of 512 less the two special tokens."""


class Counted:
    """What went through the model. Tokens are counted afterwards, so that no clock sees it."""

    def __init__(self, folder: Path, on_texts: Callable[[int], None]) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._texts: list[str] = []
        self._on_texts = on_texts

    def add(self, text: str) -> None:
        self._texts.append(text)
        self._on_texts(len(self._texts))

    def take(self) -> tuple[int, int]:
        """Texts and tokens since the last call."""
        texts, self._texts = self._texts, []
        return len(texts), sum(self.token_counts(texts))

    def token_counts(self, texts: list[str]) -> list[int]:
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [min(len(encoding.ids), WINDOW_TOKENS) for encoding in encodings]


def install(folder: Path, inference: bool, on_texts: Callable[[int], None]) -> Counted:
    """Put a TextEmbedding in fastembed's place that loads `folder` and counts what it is given."""
    counted = Counted(folder, on_texts)
    fastembed.TextEmbedding.add_custom_model(
        model=NAME,
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(url="https://localhost/unused"),
        dim=DIMENSION,
        model_file="model.onnx",
    )

    class PackagedTextEmbedding(fastembed.TextEmbedding):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options, specific_model_path=str(folder), lazy_load=not inference)

        def embed(
            self, documents: Any, batch_size: int = 256, parallel: Any = None, **options: Any
        ) -> Iterator[Any]:
            texts = [documents] if isinstance(documents, str) else list(documents)
            if inference:
                vectors: Iterable[Any] = super().embed(texts, batch_size, parallel, **options)
            else:
                vectors = map(hash_vector, texts)
            for text, vector in zip(texts, vectors, strict=True):
                counted.add(text)
                yield vector

    fastembed.TextEmbedding = PackagedTextEmbedding  # type: ignore[misc, assignment]
    return counted


def hash_vector(text: str) -> Any:
    """Unit length and the same for the same text."""
    seed = int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8])
    vector = np.random.default_rng(seed).standard_normal(DIMENSION).astype(np.float32)
    return vector / np.linalg.norm(vector)
