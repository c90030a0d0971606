"""The blob port: bytes under a key; raw documents and packs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from common.ports.errors import PortError, TransientError

__all__ = ["BlobInfo", "BlobNotFoundError", "BlobStore", "TransientError"]


class BlobNotFoundError(PortError):
    """There is no blob under this key."""


@dataclass(frozen=True, slots=True)
class BlobInfo:
    key: str
    size_bytes: int
    modified_at: float
    """When it was last put, at the latest: where a store's clock is coarse, a little later."""


class BlobStore(Protocol):
    """Keys are ASCII path segments joined by '/'. Raises TransientError when out of reach."""

    async def put(self, key: str, data: bytes) -> bool:
        """Store whole or not at all. When it returns the bytes survive a loss of power.

        False: the very same bytes were there before.

        Putting a key again refreshes its modification time: blob collection spares the young.
        """

    async def get(self, key: str) -> bytes:
        """Raises BlobNotFoundError."""

    async def exists(self, key: str) -> bool: ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Missing keys are no error."""

    async def delete_if_older(self, keys: Sequence[str], *, before: float) -> int:
        """Delete those last put before `before` (seconds since the epoch); how many.

        A put that runs meanwhile is never undone: its bytes are there when both are over. A store
        that cannot promise this deletes nothing, and says so in its log and its check.
        """

    def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        """All blobs whose key begins with `prefix` (whole path segments), in any order."""

    async def close(self) -> None: ...
