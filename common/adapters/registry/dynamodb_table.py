"""The table's shape, in one place: tests create it from here, infrastructure code mirrors it, and
`check` compares what it finds with it.

Two indexes, since two questions are asked. `status-updated_at-index` holds every row by its
status: for counts, and for listings by status. The sweeper asks for rows that have something open,
whatever their status (a COMPLETED one may have garbage), the longest due first: the second index
holds only rows that have a `sweep_at`, and is empty when nothing is open.

What they bear: one partition of an index, as of a table, takes about 1,000 write units a second,
and an index that is behind throttles its table. A status is one partition, so that about 1,000 rows
a second can change it; an embedded document's writes change it four times, to three statuses. The
sweep index spreads over SWEEP_SHARDS partitions by a hash. Rows of a namespace share a partition
key; DynamoDB splits such a collection by its sort key when it is busy (no local index forbids it),
which does not help where new ids are always the last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from common.aws.table_calls import PARTITION, SORT

STATUS_INDEX = "status-updated_at-index"
SWEEP_INDEX = "sweep_shard-sweep_at-index"
SWEEP_SHARDS = 4
"""Each is one query a pass of the sweeper. More may be added, but none may be taken away."""

_ATTRIBUTES = {
    PARTITION: "S",
    SORT: "S",
    "status": "S",
    "updated_at": "N",
    "sweep_shard": "N",
    "sweep_at": "N",
}
_KEYS: dict[str | None, tuple[str, str]] = {
    None: (PARTITION, SORT),
    STATUS_INDEX: ("status", "updated_at"),
    SWEEP_INDEX: ("sweep_shard", "sweep_at"),
}
_PROJECTED: dict[str, Sequence[str]] = {
    STATUS_INDEX: ("chunk_count", "size_bytes"),
    SWEEP_INDEX: (),
}
_USABLE = ("ACTIVE", "UPDATING")


def definition(name: str) -> dict[str, Any]:
    """What CreateTable takes: on-demand capacity."""
    return {
        "TableName": name,
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [
            {"AttributeName": attribute, "AttributeType": kind}
            for attribute, kind in _ATTRIBUTES.items()
        ],
        "KeySchema": _key_schema(None),
        "GlobalSecondaryIndexes": [
            {"IndexName": index, "KeySchema": _key_schema(index), "Projection": _projection(named)}
            for index, named in _PROJECTED.items()
        ],
    }


def faults_of(described: Mapping[str, Any]) -> list[str]:
    """What is wrong with a table as DescribeTable tells it, each in words."""
    faults = []
    if described.get("TableStatus") not in _USABLE:
        faults.append(f"the table is {described.get('TableStatus')}")
    faults += _faults_of_keys(None, described)
    indexes = {index["IndexName"]: index for index in described.get("GlobalSecondaryIndexes", [])}
    for name in _PROJECTED:
        if name not in indexes:
            faults.append(f"it has no index {name}")
        else:
            faults += _faults_of_index(name, indexes[name], described)
    return faults


def _faults_of_index(name: str, index: Mapping[str, Any], table: Mapping[str, Any]) -> list[str]:
    keys = {**index, "AttributeDefinitions": table.get("AttributeDefinitions", [])}
    faults = _faults_of_keys(name, keys)
    if index.get("IndexStatus", "ACTIVE") not in _USABLE:
        faults.append(f"its index {name} is {index['IndexStatus']}")
    projection = index.get("Projection", {})
    held = projection.get("NonKeyAttributes", [])
    missing = [wanted for wanted in _PROJECTED[name] if wanted not in held]
    if missing and projection.get("ProjectionType") != "ALL":
        faults.append(f"its index {name} does not include {', '.join(missing)}")
    return faults


def _faults_of_keys(index: str | None, described: Mapping[str, Any]) -> list[str]:
    kinds = {a["AttributeName"]: a["AttributeType"] for a in described["AttributeDefinitions"]}
    found = [(k["AttributeName"], k["KeyType"]) for k in described.get("KeySchema", [])]
    found = [(name, role) for name, role in found if kinds.get(name) == _ATTRIBUTES.get(name)]
    if sorted(found) == sorted((k["AttributeName"], k["KeyType"]) for k in _key_schema(index)):
        return []
    partition, sort = _KEYS[index]
    what = f"its index {index}" if index else "it"
    wanted = f"{partition} ({_ATTRIBUTES[partition]}) and {sort} ({_ATTRIBUTES[sort]})"
    return [f"{what} is not keyed by {wanted}"]


def _key_schema(index: str | None) -> list[dict[str, str]]:
    partition, sort = _KEYS[index]
    return [
        {"AttributeName": partition, "KeyType": "HASH"},
        {"AttributeName": sort, "KeyType": "RANGE"},
    ]


def _projection(attributes: Sequence[str]) -> dict[str, Any]:
    if not attributes:
        return {"ProjectionType": "KEYS_ONLY"}
    return {"ProjectionType": "INCLUDE", "NonKeyAttributes": list(attributes)}
