"""Which errors get another try."""

from __future__ import annotations

import random

from common.extraction.extract import UnreadableDocument
from common.ports.errors import PermanentError, TransientError
from workers.outcome import GiveUp, Retry
from workers.retry import LONGEST_DELAY_SECONDS, PermanentFailureError, decide


def test_what_cannot_be_mended_by_waiting_is_given_up_at_once() -> None:
    for error in (PermanentError("no"), PermanentFailureError("no"), UnreadableDocument("no")):
        assert decide(error, 1, 3, random.Random(1)) == GiveUp("no")


def test_others_are_tried_again_until_the_last_receive() -> None:
    error = TransientError("index away")
    assert isinstance(decide(error, 1, 3, random.Random(1)), Retry)
    assert isinstance(decide(error, 2, 3, random.Random(1)), Retry)
    last = decide(error, 3, 3, random.Random(1))
    assert isinstance(last, GiveUp)
    assert "failed 3 times" in last.reason
    assert "index away" in last.reason


def test_delays_are_spread_and_bounded() -> None:
    jitter = random.Random(1)
    delays = [decide(ValueError("x"), 50, 99, jitter) for _ in range(200)]
    seconds = [d.delay_seconds for d in delays if isinstance(d, Retry)]
    assert len(seconds) == 200
    assert max(seconds) <= LONGEST_DELAY_SECONDS
    assert max(seconds) - min(seconds) > LONGEST_DELAY_SECONDS / 2
