"""The events of SQS event source mappings, and the answer that they take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]
"""A message as it stands in the event: messageId, receiptHandle, body, attributes …"""


class NotABatchError(ValueError):
    """The function is called by something else than an event source mapping."""


def records_of(event: object) -> list[Record]:
    """Raises NotABatchError."""
    records = event.get("Records") if isinstance(event, Mapping) else None
    if not isinstance(records, list) or not all(_is_message(record) for record in records):
        raise NotABatchError("the event is no batch of an SQS event source mapping")
    return records


def _is_message(record: object) -> bool:
    return isinstance(record, Mapping) and record.get("eventSource") == "aws:sqs"


def message_of(record: Record) -> dict[str, Any]:
    """The record in the form of ReceiveMessage's answer: the same, otherwise capitalised."""
    attributes = record.get("messageAttributes", {})
    return {
        "MessageId": record["messageId"],
        "ReceiptHandle": record["receiptHandle"],
        "Body": record["body"],
        "Attributes": record.get("attributes", {}),
        "MessageAttributes": {
            name: {"DataType": value["dataType"], "StringValue": value.get("stringValue") or ""}
            for name, value in attributes.items()
        },
    }


def answer_naming(failed: Sequence[str]) -> dict[str, Any]:
    """What the mapping takes with ReportBatchItemFailures; [] when all is well."""
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in failed]}
