"""Receipts in the registry's table: `BLOOMWEAVER_RECEIPTS_URL=dynamodb:TABLE`.

Each is an item of a partition of its own that begins with "$receipts", so that none is busy, and
has none of the attributes the registry's indexes are keyed by. DynamoDB removes what has expired
where time to live is switched on for the attribute `ttl`; what is still there is passed over.
"""

from __future__ import annotations

import hashlib
import json
import math

from common.aws.errors import AwsSetupError
from common.aws.table_calls import PARTITION, SORT, ConditionFailedError, Item, TableCalls
from common.clock import Clock, system_clock
from common.ports.receipts import Receipt
from common.settings import Settings

TTL = "ttl"
"""A whole number of seconds, as DynamoDB's time to live needs it."""


class DynamoDbReceipts:
    """Implements Receipts and Checkable. Reads are strongly consistent."""

    def __init__(self, table: str, *, deadline_seconds: float, clock: Clock = system_clock) -> None:
        self._calls = TableCalls(table, deadline_seconds)
        self._clock = clock

    async def close(self) -> None:
        await self._calls.close()

    async def check(self) -> str:
        """Raises AwsSetupError for a table that is missing."""
        await self._calls.describe()
        return f"receipts in the table {self._calls.name}"

    async def find(self, scope: str, delivery_id: str, *, now: float) -> Receipt | None:
        item = await self._calls.get(_place_of(scope, delivery_id))
        if item is None:
            return None
        receipt = _receipt_of(item)
        return receipt if receipt.expires_at > now else None

    async def keep(self, scope: str, delivery_id: str, receipt: Receipt) -> bool:
        try:
            await self._calls.put(
                {**_place_of(scope, delivery_id), **_item_of(receipt)},
                ConditionExpression=f"attribute_not_exists({PARTITION}) OR expires_at <= :now",
                ExpressionAttributeValues={":now": {"N": repr(self._clock())}},
            )
        except ConditionFailedError:
            return False  # the first one stays
        return True


def _place_of(scope: str, delivery_id: str) -> Item:
    digest = hashlib.sha256(json.dumps([scope, delivery_id]).encode()).hexdigest()
    return {PARTITION: {"S": f"$receipts#{digest}"}, SORT: {"S": "r"}}


def _item_of(receipt: Receipt) -> Item:
    return {
        "fingerprint": {"S": receipt.fingerprint},
        "status_code": {"N": str(receipt.status)},
        "body": {"B": receipt.body},
        "expires_at": {"N": repr(receipt.expires_at)},
        TTL: {"N": str(math.ceil(receipt.expires_at))},
    }


def _receipt_of(item: Item) -> Receipt:
    return Receipt(
        fingerprint=item["fingerprint"]["S"],
        status=int(item["status_code"]["N"]),
        body=bytes(item["body"]["B"]),
        expires_at=float(item["expires_at"]["N"]),
    )


def connect(url: str, settings: Settings, receiver: str) -> DynamoDbReceipts:
    """`dynamodb:TABLE`; region and credentials as for every AWS program."""
    table = url.partition(":")[2]
    if not table:
        raise AwsSetupError(
            f"BLOOMWEAVER_RECEIPTS_URL={url!r} names no table: set it to dynamodb:TABLE"
        )
    return DynamoDbReceipts(table, deadline_seconds=settings.request_timeout_seconds)
