"""What a message looks like on SQS: the wake-up as its body, its story in message attributes.

SQS cannot lower a receive count and gives every copy a new id, so that the id, the time of the
first send and the receives of earlier copies travel with the message. SQS allows ten attributes:
a message has five of them, a dead letter eight.

Its group is its namespace: a standard queue that knows its tenants is a fair one. Copies and dead
letters have the group of the message.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from common.identity import namespace_key
from common.model import QueueName, WakeUp
from common.ports.queue import DeadLetter, Delivery
from common.wire import DamagedDataError, wake_up_from_json, wake_up_to_json

if TYPE_CHECKING:
    from types_aiobotocore_sqs.type_defs import (
        MessageAttributeValueTypeDef,
        SendMessageBatchRequestEntryTypeDef,
    )

LONGEST_REASON_CHARACTERS = 4096

_ID = "message_id"
_QUEUE = "queue"
_SENT_AT = "sent_at"
_RECEIVED_BEFORE = "received_before"
_TRACEPARENT = "traceparent"
_REASON = "reason"
_RECEIVE_COUNT = "receive_count"
_DIED_AT = "died_at"
_FIRST_RECEIVED = "ApproximateFirstReceiveTimestamp"
_MOVED_FROM_ARN = "DeadLetterQueueSourceArn"

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""SQS refuses a message that holds one of these."""
_GROUP = re.compile("[!-~]{1,128}")
"""What SQS takes as a group: ASCII letters, digits and punctuation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A message or, with a `reason`, a dead letter. The body may be unreadable."""

    message_id: str
    queue: QueueName
    """Of a dead letter: where it came from."""
    body: str
    traceparent: str
    sent_at: float
    """Of the first copy."""
    received_before: int = 0
    """Receives of earlier copies, as far as they count."""
    receive_count: int = 0
    """1 at the first delivery; of a dead letter, when it died."""
    receipt: str = ""
    reason: str | None = None
    died_at: float = 0.0
    moved_from: str = ""
    """Of a dead letter: the name of the queue that SQS itself moved it from, where SQS says so."""

    def wake_up(self) -> WakeUp:
        """Raises DamagedDataError."""
        return wake_up_from_json(self.body)

    @property
    def size_bytes(self) -> int:
        """What SQS counts: the body, and names, types and values of the attributes."""
        attributes = attributes_of(self).items()
        return len(self.body.encode()) + sum(
            len((name + a["DataType"] + a.get("StringValue", "")).encode())
            for name, a in attributes
        )


def new_message(queue: QueueName, wake_up: WakeUp, now: float) -> Envelope:
    """With an id that sorts by age, as far as clocks agree."""
    return Envelope(
        message_id=f"{int(now * 1_000_000):014x}{secrets.token_hex(8)}",
        queue=queue,
        body=_body_of(wake_up),
        traceparent=wake_up.traceparent,
        sent_at=now,
    )


def copy_of(delivery: Delivery) -> Envelope:
    """To be sent in its place: the receive that led to it does not count."""
    return Envelope(
        message_id=delivery.message_id,
        queue=delivery.queue,
        body=_body_of(delivery.wake_up),
        traceparent=delivery.wake_up.traceparent,
        sent_at=delivery.sent_at,
        received_before=max(delivery.receive_count - 1, 0),
        receive_count=delivery.receive_count,
    )


def letter_of(envelope: Envelope, reason: str, now: float) -> Envelope:
    """Its receives are forgiven for when it is sent to its queue again, by whatever means."""
    return replace(envelope, reason=reason, died_at=now, received_before=0, receipt="")


def revived(letter: Envelope, now: float) -> Envelope:
    return replace(letter, reason=None, sent_at=now, received_before=0, receive_count=0, receipt="")


def entry_of(envelope: Envelope, delay_seconds: int = 0) -> SendMessageBatchRequestEntryTypeDef:
    """Without its number in the batch."""
    entry: SendMessageBatchRequestEntryTypeDef = {
        "Id": "",
        "MessageBody": envelope.body,
        "MessageAttributes": attributes_of(envelope),
    }
    if delay_seconds:
        entry["DelaySeconds"] = delay_seconds
    if group := _group_of(envelope):
        entry["MessageGroupId"] = group
    return entry


def attributes_of(envelope: Envelope) -> dict[str, MessageAttributeValueTypeDef]:
    attributes = {
        _ID: _text(envelope.message_id),
        _QUEUE: _text(envelope.queue.value),
        _SENT_AT: _number(envelope.sent_at),
        _RECEIVED_BEFORE: _number(envelope.received_before),
    }
    traceparent = _FORBIDDEN.sub("", envelope.traceparent)
    if traceparent:  # an empty attribute is refused
        attributes[_TRACEPARENT] = _text(traceparent)
    if envelope.reason is not None:
        reason = _FORBIDDEN.sub("\ufffd", envelope.reason)[:LONGEST_REASON_CHARACTERS]
        attributes[_REASON] = _text(reason or "no reason was given")
        attributes[_RECEIVE_COUNT] = _number(envelope.receive_count)
        attributes[_DIED_AT] = _number(envelope.died_at)
    return attributes


def opened(message: Mapping[str, Any], queue: QueueName) -> Envelope:
    """What ReceiveMessage answered. What lacks our attributes was sent by someone else."""
    given, system = _texts_of(message), message.get("Attributes", {})
    before = int(_number_in(given, _RECEIVED_BEFORE, 0.0))
    return Envelope(
        message_id=given.get(_ID) or message["MessageId"],
        queue=queue,
        body=message["Body"],
        traceparent=given.get(_TRACEPARENT, ""),
        sent_at=_number_in(given, _SENT_AT, _number_in(system, "SentTimestamp", 0.0) / 1000),
        received_before=before,
        receive_count=before + int(_number_in(system, "ApproximateReceiveCount", 1.0)),
        receipt=message["ReceiptHandle"],
    )


def opened_letter(message: Mapping[str, Any], max_receives: int) -> Envelope:
    """A dead letter. Without a reason it was moved by SQS itself, after `max_receives`."""
    given, envelope = _texts_of(message), opened(message, QueueName.CHANGE)
    system = message.get("Attributes", {})
    first_received = _number_in(system, _FIRST_RECEIVED, 0.0) / 1000
    return replace(
        envelope,
        queue=_source_of(message),
        receive_count=int(_number_in(given, _RECEIVE_COUNT, max_receives)),
        reason=given.get(_REASON),
        died_at=_number_in(given, _DIED_AT, first_received),  # nearer is not known of a moved one
        moved_from=system.get(_MOVED_FROM_ARN, "").rpartition(":")[2],
    )


def delivery_of(envelope: Envelope) -> Delivery:
    """Raises DamagedDataError."""
    return Delivery(
        queue=envelope.queue,
        message_id=envelope.message_id,
        receipt=envelope.receipt,
        wake_up=envelope.wake_up(),
        receive_count=envelope.receive_count,
        sent_at=envelope.sent_at,
    )


def dead_letter_of(letter: Envelope) -> DeadLetter:
    try:
        wake_up = letter.wake_up()
    except DamagedDataError:
        wake_up = WakeUp(namespace="", document_id=letter.body, version=0)  # for people to look at
    return DeadLetter(
        message_id=letter.message_id,
        source=letter.queue,
        wake_up=wake_up,
        reason=letter.reason or _reason_of_moved(letter),
        receive_count=letter.receive_count,
        sent_at=letter.sent_at,
        died_at=letter.died_at,
    )


def _reason_of_moved(letter: Envelope) -> str:
    whence = f" from {letter.moved_from}" if letter.moved_from else ""
    return f"moved by SQS{whence} after {letter.receive_count} receives"


def _group_of(envelope: Envelope) -> str:
    """Empty for what cannot be read: SQS takes each such message for a tenant of its own."""
    try:
        namespace = envelope.wake_up().namespace
    except DamagedDataError:
        return ""
    return namespace if _GROUP.fullmatch(namespace) else namespace_key(namespace)


def _source_of(message: Mapping[str, Any]) -> QueueName:
    named = _texts_of(message).get(_QUEUE, "")
    return QueueName(named) if named in set(QueueName) else QueueName.CHANGE


def _body_of(wake_up: WakeUp) -> str:
    """Within a JSON text every character that SQS refuses can be written as an escape."""
    return _FORBIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", wake_up_to_json(wake_up))


def _texts_of(message: Mapping[str, Any]) -> dict[str, str]:
    attributes = message.get("MessageAttributes", {})
    return {name: value.get("StringValue", "") for name, value in attributes.items()}


def _text(value: str) -> MessageAttributeValueTypeDef:
    return {"DataType": "String", "StringValue": value}


def _number(value: float) -> MessageAttributeValueTypeDef:
    return {"DataType": "Number", "StringValue": repr(value)}


def _number_in(texts: Mapping[str, str], name: str, otherwise: float) -> float:
    try:
        value = float(texts[name])
    except (KeyError, ValueError):
        return otherwise
    return value if math.isfinite(value) else otherwise
