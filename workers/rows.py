"""Read, apply a transition, store by compare-and-set; read again when the race is lost."""

from __future__ import annotations

from collections.abc import Callable

from common.model import DocumentKey, Row
from common.ports.errors import TransientError
from common.ports.registry import Registry

RACES_BEFORE_GIVING_UP = 100


async def change_row(
    registry: Registry, key: DocumentKey, transition: Callable[[Row], Row | None]
) -> Row | None:
    """The row as stored; None when there is no row or the transition wants no write.

    Raises TransientError after too many lost races: the message is tried again later.
    """
    for _ in range(RACES_BEFORE_GIVING_UP):
        row = await registry.get(key)
        changed = transition(row) if row else None
        if changed is None:
            return None
        stored = await registry.put_if(changed)
        if stored is not None:
            return stored
    raise TransientError(f"too many writers at once on document {key.document_id!r}")
