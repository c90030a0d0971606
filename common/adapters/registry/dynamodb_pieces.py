"""Parts of rows that are too large for an item: in pieces beside it, in the same table.

In the table and not in a blob, since they are as consistent as the row, need no second service, and
nobody else collects them. They are written under an id that is new, before the row that names them;
a part that did not change is named again and not written again. A reader that finds pieces missing
has read a row that was replaced since, and reads it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from common.adapters.registry.dynamodb_item import (
    Part,
    Spilled,
    beside,
    digest_of,
    new_id,
    parts_of_item,
)
from common.aws.table_calls import PARTITION, SORT, Item, TableCalls
from common.model import DocumentKey

PIECE_BYTES = 350_000
_ABOVE_SORT_KEYS = "\x7f"
_BESIDE = f"{PARTITION} = :partition AND {SORT} BETWEEN :low AND :high"


class PiecesGoneError(Exception):
    """The row was replaced after it was read, and its pieces removed."""


async def write_part(calls: TableCalls, key: DocumentKey, life: str, part: bytes) -> Spilled:
    pieces = [part[n : n + PIECE_BYTES] for n in range(0, len(part), PIECE_BYTES)]
    spilled = Spilled(new_id(), len(pieces), digest_of(part))
    for sort, piece in zip(_sort_keys(life, spilled), pieces, strict=True):
        await calls.put(beside(key, sort) | {"piece": {"B": piece}})
    return spilled


async def read_parts(
    calls: TableCalls, key: DocumentKey, item: Mapping[str, Any]
) -> dict[str, bytes]:
    """All parts in full, by name. Raises PiecesGoneError."""
    parts: Mapping[str, Part] = parts_of_item(item)
    return {
        name: await _read_part(calls, key, item["life"]["S"], part)
        if isinstance(part, Spilled)
        else part
        for name, part in parts.items()
    }


async def _read_part(calls: TableCalls, key: DocumentKey, life: str, spilled: Spilled) -> bytes:
    names = _sort_keys(life, spilled)
    found = await items_beside(calls, key, names[0], names[-1])
    part = b"".join(bytes(item["piece"]["B"]) for item in found)
    if hashlib.sha256(part).hexdigest() != spilled.digest:
        raise PiecesGoneError
    return part


async def remove_parts(
    calls: TableCalls, key: DocumentKey, life: str, parts: Iterable[Spilled]
) -> None:
    names = [name for spilled in parts for name in _sort_keys(life, spilled)]
    await calls.delete_many([beside(key, name) for name in names])


async def remove_all_beside(calls: TableCalls, key: DocumentKey, life: str) -> None:
    """Pages and pieces of a row that is gone, also those that an attempt which died left."""
    names = {
        ":partition": beside(key, "")[PARTITION],
        ":low": {"S": life},
        ":high": {"S": life + _ABOVE_SORT_KEYS},
    }
    pages = calls.query(
        "find what belongs to a row",
        KeyConditionExpression=_BESIDE,
        ExpressionAttributeValues=names,
        ProjectionExpression=f"{PARTITION}, {SORT}",
        ConsistentRead=True,
    )
    async for found in pages:
        await calls.delete_many(found)


async def items_beside(calls: TableCalls, key: DocumentKey, first: str, last: str) -> list[Item]:
    """What lies beside a row from one sort key to another, both included; strongly consistent."""
    pages = calls.query(
        "read what belongs to a row",
        KeyConditionExpression=_BESIDE,
        ExpressionAttributeValues={
            ":partition": beside(key, "")[PARTITION],
            ":low": {"S": first},
            ":high": {"S": last},
        },
        ConsistentRead=True,
    )
    return [item async for page in pages for item in page]


def _sort_keys(life: str, spilled: Spilled) -> list[str]:
    return [f"{life}o{spilled.id}{n:06d}" for n in range(spilled.pieces)]
