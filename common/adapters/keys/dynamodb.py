"""API keys in the registry's table: `BLOOMWEAVER_KEYS_URL=dynamodb:TABLE`.

They are items of the partition "$keys", which is none of the registry's, and have none of the
attributes its indexes are keyed by: no listing, count or sweep meets them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from common.aws.errors import AwsSetupError
from common.aws.table_calls import PARTITION, SORT, ConditionFailedError, Item, TableCalls
from common.ports.keys import StoredKey
from common.settings import Settings

_KEYS = {"S": "$keys"}


class DynamoDbKeyStore:
    """Implements KeyStore and Checkable. Reads are strongly consistent."""

    def __init__(self, table: str, *, deadline_seconds: float) -> None:
        self._calls = TableCalls(table, deadline_seconds)

    async def close(self) -> None:
        await self._calls.close()

    async def check(self) -> str:
        """Raises AwsSetupError for a table that is missing."""
        await self._calls.describe()
        return f"{len(await self.list()):,} in {self._calls.name}"

    async def add(self, key: StoredKey) -> bool:
        try:
            await self._calls.put(
                _item_of(key),
                ConditionExpression=f"attribute_not_exists({PARTITION})",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except ConditionFailedError as failed:
            # An earlier try of this very call may have written it.
            return failed.item is not None and _key_of(failed.item) == key
        return True

    async def get(self, key_id: str) -> StoredKey | None:
        item = await self._calls.get(_place_of(key_id))
        return None if item is None else _key_of(item)

    async def list(self) -> list[StoredKey]:
        pages = self._calls.query(
            "list API keys",
            KeyConditionExpression=f"{PARTITION} = :keys",
            ExpressionAttributeValues={":keys": _KEYS},
            ConsistentRead=True,
        )
        found = [_key_of(item) async for page in pages for item in page]
        return sorted(found, key=lambda key: (key.created_at, key.id))

    async def revoke(self, key_id: str, *, at: float) -> bool:
        name = self._calls.name
        try:
            await self._calls.call(
                "revoke an API key",
                lambda db: db.update_item(
                    TableName=name,
                    Key=_place_of(key_id),
                    UpdateExpression="SET revoked_at = if_not_exists(revoked_at, :at)",
                    ConditionExpression=f"attribute_exists({PARTITION})",
                    ExpressionAttributeValues={":at": _time(at)},
                ),
            )
        except ConditionFailedError:
            return False
        return True


def _place_of(key_id: str) -> Item:
    return {PARTITION: _KEYS, SORT: {"S": key_id}}


def _item_of(key: StoredKey) -> Item:
    item: Item = {
        **_place_of(key.id),
        "name": {"S": key.name},
        "salt": {"B": key.salt},
        "digest": {"B": key.digest},
        "scopes": {"S": json.dumps(key.scopes)},
        "namespaces": {"S": json.dumps(key.namespaces)},
        "created_at": _time(key.created_at),
    }
    times = {"expires_at": key.expires_at, "revoked_at": key.revoked_at}
    return item | {name: _time(at) for name, at in times.items() if at is not None}


def _key_of(item: Mapping[str, Any]) -> StoredKey:
    return StoredKey(
        id=item[SORT]["S"],
        name=item["name"]["S"],
        salt=bytes(item["salt"]["B"]),
        digest=bytes(item["digest"]["B"]),
        scopes=tuple(json.loads(item["scopes"]["S"])),
        namespaces=tuple(json.loads(item["namespaces"]["S"])),
        created_at=float(item["created_at"]["S"]),
        expires_at=_time_of(item.get("expires_at")),
        revoked_at=_time_of(item.get("revoked_at")),
    )


def _time(seconds: float) -> dict[str, str]:
    """As text, so that it comes back exactly."""
    return {"S": repr(seconds)}


def _time_of(value: Mapping[str, str] | None) -> float | None:
    return None if value is None else float(value["S"])


def connect(url: str, settings: Settings, receiver: str) -> DynamoDbKeyStore:
    """`dynamodb:TABLE`; region and credentials as for every AWS program."""
    table = url.partition(":")[2]
    if not table:
        raise AwsSetupError(
            f"BLOOMWEAVER_KEYS_URL={url!r} names no table: set it to dynamodb:TABLE"
        )
    return DynamoDbKeyStore(table, deadline_seconds=settings.request_timeout_seconds)
