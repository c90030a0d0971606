"""A token bucket never gives more than its rate and its burst, and gives all of that back."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from webhook.token_bucket import Rate, TokenBucket

RATES = st.builds(
    lambda rate, seconds: Rate(per_second=rate, burst=max(1.0, rate * seconds)),
    st.floats(0.01, 1e6),
    st.floats(0.1, 100),
)
STEPS = st.lists(st.tuples(st.floats(0, 1000), st.floats(0, 1e7)), max_size=60)
"""Seconds that pass, and how much is then asked for."""


@dataclass
class Taken:
    at: float
    amount: float


def taken(bucket: TokenBucket, steps: list[tuple[float, float]], start: float) -> list[Taken]:
    """What was given of what was asked for."""
    now, given_out = start, []
    for passed, amount in steps:
        now += passed
        if not bucket.wait(amount, now):
            bucket.charge(amount, now)
            given_out.append(Taken(now, amount))
    return given_out


@given(RATES, STEPS, st.floats(0, 1e6))
def test_no_window_gives_more_than_rate_and_burst(
    rate: Rate, steps: list[tuple[float, float]], start: float
) -> None:
    out = taken(TokenBucket(rate), steps, start)
    for first in range(len(out)):
        for last in range(first, len(out)):
            window = out[first : last + 1]
            most = rate.per_second * (window[-1].at - window[0].at) + rate.burst
            # The last may be larger than the burst: it is given from a full bucket alone.
            most += max(0.0, window[-1].amount - rate.burst)
            assert sum(one.amount for one in window) <= most * (1 + 1e-6) + 1e-6


@given(RATES, STEPS, st.floats(0, 1e6))
def test_whoever_waits_as_told_is_given_it(
    rate: Rate, steps: list[tuple[float, float]], start: float
) -> None:
    bucket, now = TokenBucket(rate), start
    for passed, amount in steps:
        now += passed
        if wait := bucket.wait(amount, now):
            assert bucket.wait(amount, now + wait / 2) > 0
            now += wait * (1 + 1e-9) + 1e-6
        assert bucket.wait(amount, now) <= 1e-6 + 1e-9 * now
        bucket.charge(amount, now)


@given(RATES, STEPS)
def test_rest_fills_it_and_no_further(rate: Rate, steps: list[tuple[float, float]]) -> None:
    bucket = TokenBucket(rate)
    out = taken(bucket, steps, 0.0)
    now = (out[-1].at if out else 0.0) + sum(one.amount for one in out) / rate.per_second
    for later in (0.0, 1e6):
        assert math.isclose(bucket.left(now + later), rate.burst, rel_tol=1e-6)


@given(st.integers(1, 10_000))
def test_it_does_not_drift(count: int) -> None:
    """One at a time, just when each may be taken: after n of them, n over the rate have passed."""
    bucket, now = TokenBucket(Rate(per_second=3.0, burst=1.0)), 0.0
    for _ in range(count):
        now += bucket.wait(1, now)
        bucket.charge(1, now)
    assert math.isclose(now, (count - 1) / 3.0, rel_tol=1e-9, abs_tol=1e-9)


@given(st.floats(3, 1e6))
def test_more_than_the_burst_is_given_of_a_full_bucket_alone(amount: float) -> None:
    bucket = TokenBucket(Rate(per_second=1.0, burst=3.0))
    bucket.charge(2, 0.0)
    assert bucket.wait(amount, 0.0) == 2
    assert bucket.wait(amount, 2.0) == 0
    bucket.charge(amount, 2.0)
    assert math.isclose(bucket.left(2.0), 3 - amount, abs_tol=1e-6)
    assert bucket.wait(1, 2.0) > 0 or amount < 3
