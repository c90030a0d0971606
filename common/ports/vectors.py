"""The vector cache port: vectors of chunks that were embedded before, whatever became of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from common.model import Vector
from common.ports.errors import PermanentError, TransientError

__all__ = ["PermanentError", "TransientError", "VectorCache"]


class VectorCache(Protocol):
    """Vectors by namespace, embedding profile and chunk hash.

    What a chunk's text and headings are is in its hash (`Chunk.hash`), so equal hashes have equal
    vectors. Tenants never share: a namespace sees only what was put under its own name. Anything
    may be forgotten at any time: the cache is bounded, and what nobody asked for in a long while is
    dropped, so that vectors of deleted texts do not live for ever.

    Raises TransientError and PermanentError; callers take either for a miss (`workers/reuse.py`).
    """

    async def get_many(
        self, namespace: str, profile_id: str, hashes: Sequence[str]
    ) -> dict[str, Vector[float]]:
        """The known ones of `hashes`, each as it was put."""

    async def put_many(
        self, namespace: str, profile_id: str, vectors: Mapping[str, Vector[float]]
    ) -> None:
        """Remember float32 vectors by chunk hash. A full disk or a full cache is no error."""

    async def close(self) -> None: ...
