"""Which errors get another try."""

from __future__ import annotations

import random

from common.extraction.extract import UnreadableDocument
from common.model import QueueName
from common.ports.errors import PermanentError, TransientError
from tests.builders import delivery
from workers.outcome import GiveUp, Retry
from workers.retry import (
    LONGEST_DELAY_SECONDS,
    OUTAGE_PATIENCE_SECONDS,
    PermanentFailureError,
    decide,
)

SENT_AT = 100.0


def decided(
    error: Exception, *, receives: int = 1, age: float = 0.0, seed: int = 1
) -> Retry | GiveUp:
    received = delivery(QueueName.CHANGE, receive_count=receives)
    return decide(error, received, max_receives=3, now=SENT_AT + age, jitter=random.Random(seed))


def test_what_cannot_be_mended_by_waiting_is_given_up_at_once() -> None:
    for error in (PermanentError("no"), PermanentFailureError("no"), UnreadableDocument("no")):
        assert decided(error) == GiveUp("no")


def test_others_are_tried_again_until_the_last_receive() -> None:
    for receives in (1, 2):
        again = decided(ValueError("odd"), receives=receives)
        assert isinstance(again, Retry)
        assert again.counted
    last = decided(ValueError("odd"), receives=3)
    assert isinstance(last, GiveUp)
    assert "failed 3 times" in last.reason
    assert "odd" in last.reason


def test_an_outage_is_not_held_against_the_message() -> None:
    early, late = decided(TransientError("index away")), decided(TransientError("x"), age=900)
    assert isinstance(early, Retry)
    assert isinstance(late, Retry)
    assert not early.counted
    assert early.delay_seconds <= 1.0
    assert LONGEST_DELAY_SECONDS / 2 <= late.delay_seconds <= LONGEST_DELAY_SECONDS


def test_an_outage_without_end_is_given_up() -> None:
    ended = decided(TransientError("index away"), age=OUTAGE_PATIENCE_SECONDS)
    assert isinstance(ended, GiveUp)


def test_delays_are_spread_and_bounded() -> None:
    delays = [decided(ValueError("x"), receives=2, seed=seed) for seed in range(200)]
    seconds = [d.delay_seconds for d in delays if isinstance(d, Retry)]
    assert len(seconds) == 200
    assert max(seconds) <= 4.0
    assert max(seconds) - min(seconds) > 2.0
