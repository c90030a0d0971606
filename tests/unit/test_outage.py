"""When a consumer takes trouble for an outage, and whom it then lets through."""

from __future__ import annotations

import random
from dataclasses import replace

from common.model import QueueName
from common.ports.queue import Delivery
from tests.builders import delivery
from workers.outage import (
    DOCUMENTS,
    FRUITLESS_MESSAGES,
    LONGEST_HAND_BACK_SECONDS,
    LONGEST_PAUSE_SECONDS,
    LONGEST_REST_SECONDS,
    LONGEST_TRY_SECONDS,
    RECENT_SECONDS,
    REMEMBERED_NAMESPACES,
    SHORTEST_HAND_BACK_SECONDS,
    Outage,
    untried,
)

DRAWS = 200
JITTER = random.Random(5)


class Longest(random.Random):
    """Draws every pause at its bound."""

    def uniform(self, a: float, b: float) -> float:
        return b


def of(document_id: str, namespace: str = "docs") -> Delivery:
    made = delivery(QueueName.CHANGE)
    wake_up = replace(made.wake_up, namespace=namespace, document_id=document_id)
    return replace(made, message_id=f"m-{namespace}-{document_id}", wake_up=wake_up)


def failing(*names: str, at: float = 0.0, jitter: random.Random | None = None) -> Outage:
    outage = Outage()
    for name in names:
        outage.failed(of(name), at, jitter or Longest())
    return outage


DOWN = [str(number) for number in range(DOCUMENTS)]


def next_try(outage: Outage) -> float:
    """When a message of the namespace is let through, in steps of 0.1 s from 0 s."""
    moments = (step / 10 for step in range(int(LONGEST_TRY_SECONDS * 10) + 2))
    return next(moment for moment in moments if outage.admits(of("next"), moment))


def test_one_documents_trouble_is_no_outage() -> None:
    outage = failing(*["a"] * 100)
    assert outage.admits(of("b"), 0.0)
    assert not outage.widespread(of("a"), 0.0)


def test_several_documents_in_a_row_are() -> None:
    assert failing(*DOWN[1:]).admits(of("b"), 0.0)
    assert not failing(*DOWN).admits(of("b"), 0.0)


def test_another_namespace_is_let_through() -> None:
    outage = failing(*DOWN * 10)
    assert not outage.admits(of("b"), 0.0)
    assert outage.admits(of("b", "other"), 0.0)


def test_one_success_in_the_namespace_ends_it_and_one_elsewhere_does_not() -> None:
    outage = failing(*DOWN)
    outage.passed(of("b", "other"), 0.0)
    assert not outage.admits(of("b"), 0.0)
    outage.passed(of("b"), 0.0)
    assert outage.admits(of("b"), 0.0)


def test_pauses_between_tries_grow_to_a_limit_and_are_drawn_from_zero() -> None:
    assert 0.9 <= next_try(failing(*DOWN)) <= 1.0
    assert next_try(failing(*DOWN * 10)) == LONGEST_PAUSE_SECONDS
    drawn = [next_try(failing(*DOWN * 10, jitter=random.Random(seed))) for seed in range(DRAWS)]
    assert min(drawn) < 1.0
    assert max(drawn) <= LONGEST_PAUSE_SECONDS


def test_one_try_at_a_time() -> None:
    outage = failing(*DOWN)
    assert outage.admits(of("a"), 20.0)
    assert not outage.admits(of("b"), 20.0)
    assert not outage.admits(of("b"), 20.0 + LONGEST_TRY_SECONDS - 1.0)
    assert outage.admits(of("b"), 20.0 + LONGEST_TRY_SECONDS)  # the first has much to do


def test_what_was_in_hand_before_does_not_let_a_second_try_in() -> None:
    outage = failing(*DOWN)
    assert outage.admits(of("a"), 20.0)
    outage.failed(of("late"), 21.0, JITTER)
    outage.ended(of("late"))
    assert not outage.admits(of("b"), 40.0)


def test_a_try_that_tells_nothing_makes_room_for_the_next() -> None:
    outage = failing(*DOWN)
    assert outage.admits(of("a"), 20.0)
    outage.ended(of("a"))
    assert outage.admits(of("b"), 20.0)


def test_a_try_that_fails_is_followed_by_a_pause() -> None:
    outage = failing(*DOWN * 10)
    assert outage.admits(of("a"), 20.0)
    outage.failed(of("a"), 21.0, Longest())
    outage.ended(of("a"))
    assert not outage.admits(of("b"), 20.9 + LONGEST_PAUSE_SECONDS)
    assert outage.admits(of("b"), 21.0 + LONGEST_PAUSE_SECONDS)


def test_a_clock_that_was_set_back_keeps_nobody_out() -> None:
    assert failing(*DOWN, at=9000.0).admits(of("b"), 100.0)


def test_a_success_does_not_hide_that_many_suffer() -> None:
    outage = failing(*DOWN, at=100.0)
    outage.passed(of("b"), 100.0)
    assert outage.widespread(of("0"), 100.0)
    assert not outage.widespread(of("0"), 100.0 + RECENT_SECONDS)


def test_an_outage_that_is_seldom_tried_is_widespread_still() -> None:
    assert failing(*DOWN, at=100.0).widespread(of("0"), 100.0 + 10 * RECENT_SECONDS)


def test_an_outage_elsewhere_excuses_no_document_whose_neighbours_do_well() -> None:
    outage = failing(*DOWN, at=1000.0)
    alone = of("a", "other")
    outage.passed(of("b", "other"), 900.0)
    outage.failed(alone, 1000.0, JITTER)
    outage.passed(of("b", "other"), 1000.0)
    for name in DOWN:
        outage.failed(of(name), 1000.0, JITTER)
    assert not outage.widespread(alone, 1000.0)


def test_few_documents_of_many_namespaces_that_all_fail_suffer_together() -> None:
    outage = Outage()
    for name in DOWN:
        outage.failed(of("only", name), 1000.0, JITTER)
    assert outage.widespread(of("only", "0"), 1000.0)
    assert not outage.widespread(of("only", "0"), 1000.0 + RECENT_SECONDS)


def test_a_consumer_rests_when_nothing_succeeds_at_all() -> None:
    outage = failing(*DOWN)
    for _ in range(FRUITLESS_MESSAGES - DOCUMENTS - 1):
        assert not outage.admits(of("b"), 0.0)
    assert outage.rest_seconds(Longest()) == 0.0
    assert not outage.admits(of("b"), 0.0)
    assert outage.rest_seconds(Longest()) == LONGEST_REST_SECONDS
    assert outage.rest_seconds(Longest()) == 0.0  # taken


def test_a_consumer_that_succeeds_elsewhere_does_not_rest() -> None:
    outage = failing(*["a"] * FRUITLESS_MESSAGES)
    outage.passed(of("b", "other"), 0.0)
    assert outage.rest_seconds(Longest()) == 0.0


def test_what_is_handed_back_is_spread_and_not_held_against_it() -> None:
    drawn = [untried(random.Random(seed)) for seed in range(DRAWS)]
    assert not any(retry.counted or retry.noted for retry in drawn)
    delays = [retry.delay_seconds for retry in drawn]
    assert SHORTEST_HAND_BACK_SECONDS <= min(delays) < 20.0
    assert 55.0 < max(delays) <= LONGEST_HAND_BACK_SECONDS


def test_a_messages_trouble_is_counted_from_its_first_error() -> None:
    outage = Outage()
    assert outage.failed(of("a"), 100.0, JITTER) == 0.0
    assert outage.failed(of("b"), 150.0, JITTER) == 0.0
    assert outage.failed(of("a"), 160.0, JITTER) == 60.0
    outage.passed(of("a"), 165.0)
    assert outage.failed(of("a"), 170.0, JITTER) == 0.0


def test_a_message_that_was_given_up_begins_anew() -> None:
    outage = failing("a")
    outage.forget(of("a"))
    assert outage.failed(of("a"), 900.0, JITTER) == 0.0


def test_only_so_many_namespaces_are_remembered() -> None:
    outage = failing(*DOWN)
    for number in range(REMEMBERED_NAMESPACES):
        assert len(outage._namespaces) <= REMEMBERED_NAMESPACES
        outage.failed(of("a", f"n{number}"), 0.0, JITTER)
    assert outage.admits(of("b"), 0.0)
