"""The embedder port: texts to vectors, and the tokens they are measured in."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from common.model import EmbeddingProfile, Vector
from common.ports.errors import PermanentError, TransientError

__all__ = [
    "CalibratingEmbedder",
    "Embedder",
    "ModelUnavailableError",
    "NoModelError",
    "Passage",
    "TokenIds",
    "Tokenizer",
    "TransientError",
]

TokenIds = array  # of int ("i"): a text's ids in the model's vocabulary, no special tokens


class ModelUnavailableError(PermanentError):
    """The model cannot be loaded; the message says what to install or set."""


class NoModelError(ModelUnavailableError):
    """This process was given a model's profile, not the model: it accepts, and embeds nothing."""


@dataclass(frozen=True, slots=True)
class Passage:
    """What is embedded, without the model's document prefix.

    `token_ids` are those of `text` in the model's own tokenizer: where they are given, an embedder
    that runs the model itself need not tokenise again. Others go by the text.
    """

    text: str
    token_ids: TokenIds[int] | None = None


class Tokenizer(Protocol):
    """The model's own. Synchronous and CPU-bound: call it in a thread."""

    @property
    def separable(self) -> bool:
        """Whether a text's tokens are those of its blank-separated parts, put together.

        So it is with BERT's WordPiece; not where a token may begin with the blank before it.
        """

    def encode(self, texts: Sequence[str]) -> list[TokenIds[int]]:
        """The ids of each text, special tokens not included, in full whatever the window."""

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

    async def tokenizer(self) -> Tokenizer:
        """Does not load the model's weights."""

    async def embed_documents(self, passages: Sequence[Passage]) -> list[Vector[float]]:
        """One vector a passage, in order; the document prefix is added here.

        Any number of calls may be under way; they share batches. Passages over the window are
        cut. A call that is cancelled leaves the others alone.
        """

    async def embed_query(self, text: str) -> Vector[float]:
        """The query prefix is added here; a text over the window is truncated."""

    async def close(self) -> None: ...


@runtime_checkable
class PreparingEmbedder(Protocol):
    """An embedder that can make its model faster for those who embed many documents."""

    async def prepare(self) -> None:
        """Once for a machine, in seconds; at once if it was done. What is loaded later uses it.

        May be cancelled. What fails is logged, and costs speed and nothing else.
        """


@runtime_checkable
class CalibratingEmbedder(Protocol):
    """An embedder that can find out what suits the machine it runs on."""

    async def calibrate(self) -> None:
        """Measure in moments without work, however long these take to come; at once if known."""
