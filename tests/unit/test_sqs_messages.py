"""How wake-ups and dead letters travel as SQS messages."""

from __future__ import annotations

import re
from typing import Any

import pytest

from common.adapters.queue.sqs_messages import (
    LONGEST_REASON_CHARACTERS,
    Envelope,
    attributes_of,
    copy_of,
    dead_letter_of,
    delivery_of,
    entry_of,
    letter_of,
    new_message,
    opened,
    opened_letter,
    revived,
)
from common.model import QueueName, WakeUp
from common.wire import DamagedDataError

ALLOWED = re.compile("[\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")
"""What SQS takes, as its API reference says."""

WAKE_UP = WakeUp(
    namespace="docs", document_id="a\0\ufffe\uffff\U0001f33c", version=3, traceparent="00-ab-cd-01"
)


def received(envelope: Envelope, *, times: int = 1) -> dict[str, Any]:
    """What ReceiveMessage answers once `envelope` was sent."""
    entry = entry_of(envelope)
    return {
        "MessageId": "of-sqs",
        "ReceiptHandle": "receipt",
        "Body": entry["MessageBody"],
        "MessageAttributes": entry["MessageAttributes"],
        "Attributes": {"ApproximateReceiveCount": str(times), "SentTimestamp": "999000"},
    }


def test_a_wake_up_survives_with_its_story() -> None:
    sent = new_message(QueueName.UPDATE, WAKE_UP, 1234.5)
    delivery = delivery_of(opened(received(sent, times=2), QueueName.UPDATE))

    assert delivery.wake_up == WAKE_UP
    assert (delivery.message_id, delivery.sent_at) == (sent.message_id, 1234.5)
    assert (delivery.receive_count, delivery.receipt) == (2, "receipt")


def group_of(envelope: Envelope) -> str | None:
    return entry_of(envelope).get("MessageGroupId")


def of_namespace(namespace: str) -> Envelope:
    wake_up = WakeUp(namespace=namespace, document_id="d", version=1)
    return new_message(QueueName.CHANGE, wake_up, 1.0)


def test_a_message_and_all_that_becomes_of_it_have_the_namespace_for_a_group() -> None:
    sent = of_namespace("acme-1.docs_x")
    delivery = delivery_of(opened(received(sent), QueueName.CHANGE))
    letter = letter_of(copy_of(delivery), "broken", 2.0)
    seen = opened_letter(received(letter), max_receives=3)

    groups = [group_of(one) for one in (sent, copy_of(delivery), letter, revived(seen, 3.0))]

    assert groups == ["acme-1.docs_x"] * 4


@pytest.mark.parametrize("namespace", ["x" * 129, "a b", "añb", ""])
def test_a_namespace_that_sqs_refuses_as_a_group_is_hashed(namespace: str) -> None:
    group = group_of(of_namespace(namespace))

    assert group is not None
    assert re.fullmatch("[a-z2-7]{26}", group)
    assert group != group_of(of_namespace(namespace + "y"))


def test_what_cannot_be_read_has_no_group() -> None:
    damaged = Envelope(
        message_id="m", queue=QueueName.CHANGE, body="{}", traceparent="", sent_at=1.0
    )

    assert group_of(damaged) is None


def test_the_trace_is_an_attribute_and_left_out_when_empty() -> None:
    with_trace = new_message(QueueName.CHANGE, WAKE_UP, 1.0)
    without = new_message(QueueName.CHANGE, WakeUp(namespace="n", document_id="d", version=1), 1.0)

    assert attributes_of(with_trace)["traceparent"] == {
        "DataType": "String",
        "StringValue": "00-ab-cd-01",
    }
    assert "traceparent" not in attributes_of(without)


def test_a_copy_keeps_id_and_time_and_forgets_one_receive() -> None:
    first = new_message(QueueName.CHANGE, WAKE_UP, 1234.5)
    delivery = delivery_of(opened(received(first, times=2), QueueName.CHANGE))

    again = delivery_of(opened(received(copy_of(delivery)), QueueName.CHANGE))

    assert (again.message_id, again.sent_at) == (delivery.message_id, 1234.5)
    assert again.receive_count == 2


def test_a_message_of_somebody_else_is_told_by_what_sqs_says() -> None:
    body = entry_of(new_message(QueueName.CHANGE, WAKE_UP, 1.0))["MessageBody"]
    message = {
        "MessageId": "of-sqs",
        "ReceiptHandle": "r",
        "Body": body,
        "Attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "999000"},
        "MessageAttributes": {"sent_at": {"StringValue": "nan"}, "received_before": {}},
    }

    delivery = delivery_of(opened(message, QueueName.CHANGE))

    assert (delivery.message_id, delivery.sent_at, delivery.receive_count) == ("of-sqs", 999.0, 1)


@pytest.mark.parametrize("reason", ["", "broken\0\ufffe", "x" * 100_000])
def test_sqs_takes_every_letter(reason: str) -> None:
    letter = letter_of(new_message(QueueName.CHANGE, WAKE_UP, 1.0), reason, 2.0)
    entry = entry_of(letter)
    values = [a["StringValue"] for a in attributes_of(letter).values()]

    assert all(ALLOWED.fullmatch(text) for text in [entry["MessageBody"], *values])
    assert all(values)
    assert len(values) <= 10
    assert letter.size_bytes < 20_000
    assert len(attributes_of(letter)["reason"]["StringValue"]) <= LONGEST_REASON_CHARACTERS


def test_a_letter_tells_its_story_and_can_be_sent_again() -> None:
    first = new_message(QueueName.DELETE, WAKE_UP, 1234.5)
    delivery = delivery_of(opened(received(first, times=3), QueueName.DELETE))
    found = opened_letter(received(letter_of(copy_of(delivery), "why", 2000.0), times=7), 9)

    told = dead_letter_of(found)
    assert (told.message_id, told.source, told.reason) == (
        first.message_id,
        QueueName.DELETE,
        "why",
    )
    assert (told.receive_count, told.sent_at, told.died_at) == (3, 1234.5, 2000.0)

    again = delivery_of(opened(received(revived(found, 3000.0)), QueueName.DELETE))
    assert (again.message_id, again.sent_at, again.receive_count) == (
        first.message_id,
        3000.0,
        1,
    )
    assert "reason" not in attributes_of(revived(found, 3000.0))


def test_a_letter_that_somebody_moves_back_by_hand_starts_anew() -> None:
    first = new_message(QueueName.CHANGE, WAKE_UP, 1.0)
    copied = copy_of(delivery_of(opened(received(first, times=3), QueueName.CHANGE)))

    moved = delivery_of(opened(received(letter_of(copied, "why", 2.0)), QueueName.CHANGE))

    assert (moved.message_id, moved.receive_count) == (first.message_id, 1)


def test_a_letter_without_a_reason_was_moved_by_sqs() -> None:
    found = opened_letter(received(new_message(QueueName.CREATE, WAKE_UP, 1.0), times=5), 3)

    assert (found.reason, found.queue, found.receive_count) == (None, QueueName.CREATE, 3)
    assert "moved by SQS after 3 receives" in dead_letter_of(found).reason


def test_an_unreadable_body_can_be_looked_at() -> None:
    message = {**received(new_message(QueueName.CHANGE, WAKE_UP, 1.0)), "Body": "no JSON"}

    with pytest.raises(DamagedDataError):
        delivery_of(opened(message, QueueName.CHANGE))
    assert dead_letter_of(opened_letter(message, 3)).wake_up.document_id == "no JSON"
