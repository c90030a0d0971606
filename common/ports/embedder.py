"""The embedder port: texts to vectors, and the tokens they are measured in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from common.model import EmbeddingProfile, Vector
from common.ports.errors import PermanentError, TransientError

__all__ = ["Embedder", "ModelUnavailableError", "TokenCounter", "TransientError"]


class ModelUnavailableError(PermanentError):
    """The model cannot be loaded; the message says what to install or set."""


class TokenCounter(Protocol):
    """Counts in the model's own tokenizer. Synchronous and CPU-bound: call it in a thread."""

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special tokens not included."""

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """The character span of every token of `text`, in order."""


class Embedder(Protocol):
    """Vectors are L2-normalised float32 of `profile.dimension` components.

    Raises ModelUnavailableError, TransientError.
    """

    @property
    def profile(self) -> EmbeddingProfile: ...

    async def load(self) -> None:
        """Make the model ready; the first embed does it otherwise."""

    async def token_counter(self) -> TokenCounter:
        """The model's tokenizer; does not load the model's weights."""

    async def embed_documents(self, texts: Sequence[str]) -> list[Vector[float]]:
        """One vector a text, in order; the document prefix is added here.

        One call is one batch as far as fairness goes: keep it to a second or so of work.
        """

    async def embed_query(self, text: str) -> Vector[float]:
        """The query prefix is added here; a text over the window is truncated."""

    async def close(self) -> None: ...
