"""Which errors get another try."""

from __future__ import annotations

import random
from typing import Any

import pytest

from common.extraction.extract import UnreadableDocument
from common.model import QueueName
from common.ports.errors import PermanentError, TransientError
from common.ports.index import IndexUnavailableError
from tests.builders import delivery
from workers.outcome import GiveUp, Retry
from workers.retry import (
    FIRST_DELAY_SECONDS,
    LONGEST_DELAY_SECONDS,
    LONGEST_RETRY_AFTER_SECONDS,
    OUTAGE_PATIENCE_SECONDS,
    PermanentFailureError,
    decide,
)

SEEDS = range(300)


def decided(
    error: Exception,
    *,
    receives: int = 1,
    failing: float = 0.0,
    widespread: bool = False,
    seed: int = 1,
) -> Retry | GiveUp:
    return decide(
        error,
        delivery(QueueName.CHANGE, receive_count=receives),
        max_receives=3,
        jitter=random.Random(seed),
        failing_seconds=failing,
        widespread=widespread,
    )


def delays(error: Exception, **more: Any) -> list[float]:
    drawn = [decided(error, **more, seed=seed) for seed in SEEDS]
    return [d.delay_seconds for d in drawn if isinstance(d, Retry)]


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
    away = (TransientError("index away"), IndexUnavailableError("held by another process"))
    for error in away:
        again = decided(error, receives=3)
        assert isinstance(again, Retry)
        assert not again.counted


@pytest.mark.parametrize(
    ("failing", "bound"), [(0.0, FIRST_DELAY_SECONDS), (9.0, 10.0), (3600.0, LONGEST_DELAY_SECONDS)]
)
def test_outages_are_waited_for_with_full_jitter(failing: float, bound: float) -> None:
    seconds = delays(TransientError("x"), failing=failing)
    assert len(seconds) == len(SEEDS)
    assert 0.0 <= min(seconds) < bound / 10
    assert bound * 0.9 < max(seconds) <= bound


def test_what_the_other_side_asks_for_is_honoured() -> None:
    seconds = delays(TransientError("throttled", retry_after_seconds=30))
    assert 30.0 <= min(seconds) < max(seconds) <= 30.0 + FIRST_DELAY_SECONDS
    absurd = delays(TransientError("throttled", retry_after_seconds=1e9))
    assert max(absurd) <= LONGEST_RETRY_AFTER_SECONDS + FIRST_DELAY_SECONDS
    assert min(delays(TransientError("x", retry_after_seconds=-5))) >= 0.0


def test_what_fails_for_ever_is_given_up_unless_others_fail_too() -> None:
    alone = decided(TransientError("index away"), failing=OUTAGE_PATIENCE_SECONDS)
    assert isinstance(alone, GiveUp)
    assert "6.0 hours" in alone.reason
    assert isinstance(
        decided(
            TransientError("index away"), failing=10 * OUTAGE_PATIENCE_SECONDS, widespread=True
        ),
        Retry,
    )


def test_delays_are_spread_and_bounded() -> None:
    seconds = delays(ValueError("x"), receives=2)
    assert len(seconds) == len(SEEDS)
    assert max(seconds) <= 4.0
    assert max(seconds) - min(seconds) > 2.0
