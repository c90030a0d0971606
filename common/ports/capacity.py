"""Room to write: what an adapter that fills a disk of this machine can tell besides its port."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class CapacityAware(Protocol):
    """Optional; a store that grows by itself does not implement it."""

    async def free_bytes(self) -> int:
        """What can still be written to its disk. Raises TransientError when that is unknown."""
