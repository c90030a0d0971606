"""A change as one conditional UpdateItem that needs no read before it.

The condition lets through what `common.transitions.accept` answers with ACCEPTED, and nothing else:
no row yet (unless it is a delete that has nothing to remember), or a row that says something else
and whose `source_version` is unknown or smaller. It also refuses what this write could not express;
the caller then goes on with the row that comes back with the refusal.

`sweep_at` of the result is `min(earliest garbage, now + stale_after_seconds)`. `accept` would write
the same, or later by what is left of a claim: a sweep that comes early finds the document as it is,
wakes it or not by its own rules, and sets the time anew; so only a later time could do harm.
Garbage does not change here, so its earliest end, `garbage_at`, is still that of the last full
write; where it ends later than the document is to be swept, the condition refuses and the full
write decides.
"""

from __future__ import annotations

from typing import Any

from common.adapters.registry.dynamodb_item import (
    ACCEPTED_BYTES,
    FORMAT,
    Change,
    fingerprint,
    is_comparable,
    number,
    pack_accepted,
    row_key,
    sweep_shard,
)
from common.aws.table_calls import PARTITION
from common.model import Desired, DocumentKey, Status

MOST_CHANGES = 16
"""Accepted unread in a row; the next one is read, and its full write takes them all in. Each makes
the item some 70 bytes larger, and writes are paid by the kilobyte."""

_NAMES = (
    "format",
    "life",
    "revision",
    "version",
    "fingerprint",
    "accepted",
    "changes",
    "status",
    "updated_at",
    "chunk_count",
    "size_bytes",
    "sweep_shard",
    "sweep_at",
    "garbage_at",
    "source_version",
    "closed",
)
_SET = (
    "#format = :format",
    "#life = if_not_exists(#life, :write)",
    "#revision = if_not_exists(#revision, :zero) + :one",
    "#version = if_not_exists(#version, :zero) + :one",
    "#fingerprint = :fingerprint",
    "#accepted = :accepted",
    "#changes = list_append(if_not_exists(#changes, :none), :change)",
    "#status = :pending",
    "#updated_at = :now",
    "#chunk_count = if_not_exists(#chunk_count, :zero)",
    "#size_bytes = :size_bytes",
    "#sweep_shard = :shard",
    "#sweep_at = if_not_exists(#garbage_at, :stale)",
)
_KNOWN = (
    "#format = :format",
    "attribute_not_exists(#closed)",
    "(attribute_not_exists(#changes) OR size(#changes) < :most)",
    "(attribute_not_exists(#garbage_at) OR #garbage_at <= :stale)",
    "#fingerprint <> :fingerprint",
)
_NEWER = "(attribute_not_exists(#source_version) OR #source_version < :source_version)"
_UNKNOWN = f"attribute_not_exists({PARTITION})"


def accept_request(
    key: DocumentKey, change: Desired, *, write: str, now: float, stale_at: float
) -> dict[str, Any] | None:
    """What UpdateItem takes, but for the table; None: such a change cannot be accepted unread.

    Raises ValueError for what could not be read again.
    """
    accepted = pack_accepted(key, change)
    if len(accepted) > ACCEPTED_BYTES or not is_comparable(change.source_version):
        return None
    sets, condition = _expressions(change)
    values = _values(key, change, write, now, stale_at) | {":accepted": {"B": accepted}}
    expressions = f"{sets} {condition}"
    names = {f"#{name}": name for name in _NAMES if f"#{name}" in expressions}
    return {
        "Key": row_key(key),
        "UpdateExpression": sets,
        "ConditionExpression": condition,
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": values,
        "ReturnValues": "UPDATED_NEW",
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }


def _expressions(change: Desired) -> tuple[str, str]:
    sets, known = list(_SET), list(_KNOWN)
    if change.source_version is not None:
        sets.append("#source_version = :source_version")
        known.append(_NEWER)
    both = " AND ".join(known)
    has_nothing_to_say = change.tombstone and change.source_version is None
    condition = both if has_nothing_to_say else f"{_UNKNOWN} OR ({both})"
    return "SET " + ", ".join(sets), condition


def _values(
    key: DocumentKey, change: Desired, write: str, now: float, stale_at: float
) -> dict[str, Any]:
    line = Change(
        write,
        now,
        change.tombstone,
        change.size_bytes,
        change.content_type,
        change.source_version,
    ).line()
    values: dict[str, Any] = {
        ":format": {"N": FORMAT},
        ":write": {"S": write},
        ":zero": {"N": "0"},
        ":one": {"N": "1"},
        ":fingerprint": {"B": fingerprint(change)},
        ":none": {"L": []},
        ":change": {"L": [{"S": line}]},
        ":pending": {"S": Status.PENDING.value},
        ":now": number(now),
        ":stale": number(stale_at),
        ":shard": {"N": str(sweep_shard(key))},
        ":size_bytes": {"N": str(change.size_bytes)},
        ":most": {"N": str(MOST_CHANGES)},
    }
    if change.source_version is not None:
        values[":source_version"] = {"N": str(change.source_version)}
    return values
