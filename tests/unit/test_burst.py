"""How long the newest version of a burst waits: until its document is quiet, a bounded time."""

from __future__ import annotations

import asyncio

import pytest

from tests.builders import desired
from workers.burst import Burst, BurstWait, Patience, places_of, seconds_to_wait, seen

PATIENCE = Patience(quiet_seconds=0.5, wait_seconds=10.0)


@pytest.mark.parametrize(
    ("began", "edited_at", "now", "seconds"),
    [
        (100.0, 100.0, 100.0, 0.5),  # an edit just now
        (100.0, 99.8, 100.0, 0.3),  # some of the quiet has passed
        (100.0, 99.0, 100.0, 0.0),  # quiet since before the embedding ended
        (100.0, 104.0, 104.25, 0.25),  # counted from the newest edit
        (100.0, 109.75, 109.875, 0.125),  # not beyond the longest wait
        (100.0, 110.0, 110.0, 0.0),  # the longest wait is over, the burst is not
        (100.0, 110.0, 120.0, 0.0),
        (100.0, 100.0, 100.5 - 1e-12, 0.0),  # rounding: no time would pass until the next look
        (100.0, 100.0, 40.0, 0.0),  # the clock was set back by a minute
    ],
)
def test_it_waits_for_quiet_and_not_for_ever(
    began: float, edited_at: float, now: float, seconds: float
) -> None:
    burst = Burst(began, 2, edited_at)
    assert seconds_to_wait(burst, now, PATIENCE) == pytest.approx(seconds)


@pytest.mark.parametrize("patience", [Patience(0.0, 10.0), Patience(0.5, 0.0)])
def test_either_setting_at_nought_turns_the_wait_off(patience: Patience) -> None:
    assert seconds_to_wait(Burst(100.0, 2, 100.0), 100.0, patience) == 0.0


def test_a_newer_edit_begins_the_quiet_anew_but_not_the_burst() -> None:
    first = seen(None, desired(version=2, accepted_at=99.75), 100.0)
    assert first == Burst(began=100.0, version=2, edited_at=99.75)
    assert seen(first, desired(version=2, accepted_at=99.75), 100.25) == first
    later = seen(first, desired(version=3, accepted_at=100.5), 100.75)
    assert later == Burst(began=100.0, version=3, edited_at=100.5)


def test_an_accepting_clock_that_is_ahead_lengthens_no_wait() -> None:
    """By three seconds: a single edit found at 100 would else be waited for until 103.5."""
    first = seen(None, desired(version=2, accepted_at=103.0), 100.0)
    assert seconds_to_wait(first, 100.0, PATIENCE) == 0.5
    again = seen(first, desired(version=2, accepted_at=103.0), 100.5)
    assert seconds_to_wait(again, 100.5, PATIENCE) == 0.0


@pytest.mark.parametrize(("concurrency", "places"), [(1, 0), (2, 1), (4, 2), (5, 2)])
def test_half_of_the_places_may_wait_and_never_the_only_one(concurrency: int, places: int) -> None:
    assert places_of(concurrency) == places


def test_a_place_comes_back_however_the_wait_ends() -> None:
    bursts = BurstWait(places=1)
    with bursts.place():
        assert not bursts.has_place()
    with pytest.raises(RuntimeError), bursts.place():
        raise RuntimeError
    assert bursts.has_place()


async def test_a_drain_ends_a_wait_at_once() -> None:
    bursts = BurstWait()
    wait = asyncio.create_task(bursts.for_seconds(3600))
    await asyncio.sleep(0)
    assert not wait.done()
    bursts.stop.set()
    async with asyncio.timeout(20):
        await wait


async def test_it_lasts_no_longer_than_it_should() -> None:
    async with asyncio.timeout(20):
        await BurstWait().for_seconds(0.001)
