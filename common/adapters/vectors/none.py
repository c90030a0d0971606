"""`none:`: nothing is remembered; chunks are reused from a document's own applied version only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from common.model import Vector
from common.settings import Settings


class NoVectorCache:
    """Implements VectorCache."""

    async def get_many(
        self, namespace: str, profile_id: str, hashes: Sequence[str]
    ) -> dict[str, Vector[float]]:
        return {}

    async def put_many(
        self, namespace: str, profile_id: str, vectors: Mapping[str, Vector[float]]
    ) -> None:
        return None

    async def close(self) -> None:
        return None


def connect(url: str, settings: Settings, receiver: str) -> NoVectorCache:
    return NoVectorCache()
