"""When a consumer takes trouble for an outage."""

from __future__ import annotations

import random
from dataclasses import replace

from common.model import QueueName
from common.ports.queue import Delivery
from tests.builders import delivery
from workers.outage import DOCUMENTS, LONGEST_PAUSE_SECONDS, RECENT_SECONDS, Outage

DRAWS = 200


def of(document_id: str) -> Delivery:
    made = delivery(QueueName.CHANGE)
    wake_up = replace(made.wake_up, document_id=document_id)
    return replace(made, message_id=f"m-{document_id}", wake_up=wake_up)


def failing(*names: str, at: float = 0.0) -> Outage:
    outage = Outage()
    for name in names:
        outage.failed(of(name), at)
    return outage


DOWN = [str(number) for number in range(DOCUMENTS)]


def longest_pause(outage: Outage) -> float:
    return max(outage.pause_seconds(random.Random(seed)) for seed in range(DRAWS))


def test_one_documents_trouble_is_no_outage() -> None:
    outage = failing(*["a"] * 100)
    assert not outage.evident
    assert not outage.widespread(0.0)
    assert longest_pause(outage) == 0.0


def test_several_documents_in_a_row_are() -> None:
    assert not failing(*DOWN[1:]).evident
    assert failing(*DOWN).evident


def test_one_success_ends_it() -> None:
    outage = failing(*DOWN)
    outage.passed(of("b"))
    assert not outage.evident
    assert longest_pause(outage) == 0.0


def test_a_success_of_something_else_does_not_hide_that_many_suffer() -> None:
    outage = failing(*DOWN, at=100.0)
    outage.passed(of("b"))
    assert outage.widespread(100.0)
    assert not outage.widespread(100.0 + RECENT_SECONDS)


def test_pauses_grow_to_a_limit_and_are_drawn_from_zero() -> None:
    first, late = failing(*DOWN), failing(*DOWN * 10)
    assert 0.5 < longest_pause(first) <= 1.0
    assert LONGEST_PAUSE_SECONDS * 0.9 < longest_pause(late) <= LONGEST_PAUSE_SECONDS
    assert min(late.pause_seconds(random.Random(seed)) for seed in range(DRAWS)) < 1.0


def test_a_messages_trouble_is_counted_from_its_first_error() -> None:
    outage = Outage()
    assert outage.failed(of("a"), 100.0) == 0.0
    assert outage.failed(of("b"), 150.0) == 0.0
    assert outage.failed(of("a"), 160.0) == 60.0
    outage.passed(of("a"))
    assert outage.failed(of("a"), 170.0) == 0.0


def test_a_message_that_was_given_up_begins_anew() -> None:
    outage = failing("a")
    outage.forget(of("a"))
    assert outage.failed(of("a"), 900.0) == 0.0
