"""No second sees more than Pinecone's published rates, whatever is asked for and when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.adapters.index.pinecone_rates import RATES, Pacer
from tests.servers.pinecone_faults import RATES as PUBLISHED

ROUNDING = 1e-6

gaps = st.sampled_from([0.0, 0.0, 0.0, 0.001, 0.05, 0.5, 3.0])


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def most_in_a_second(sent: list[tuple[float, float]]) -> float:
    """Of amounts with their times, sorted."""
    return max(
        sum(amount for at, amount in sent if start <= at < start + 1 - ROUNDING)
        for start, _ in sent
    )


@given(st.lists(st.tuples(gaps, st.sampled_from([1, 100, 500])), min_size=1, max_size=120))
def test_deletes_stay_within_requests_and_records_a_second(
    deletes: list[tuple[float, int]],
) -> None:
    clock, sent = Clock(), list[tuple[float, int]]()
    pacer = Pacer(clock)
    for gap, count in deletes:
        clock.now += gap
        amounts = {"delete": 1.0, "deleted_records": float(count)}
        sent.append((clock.now + pacer.reserve("docs", amounts, 1e9), count))
    sent.sort()
    assert most_in_a_second([(at, 1.0) for at, _ in sent]) <= PUBLISHED["delete"]
    assert most_in_a_second([(at, float(n)) for at, n in sent]) <= PUBLISHED["deleted_records"]


@given(st.lists(st.tuples(gaps, st.integers(1, 2_000_000)), min_size=1, max_size=120))
def test_upserts_stay_within_bytes_a_second(upserts: list[tuple[float, int]]) -> None:
    clock, sent = Clock(), list[tuple[float, float]]()
    pacer = Pacer(clock)
    for gap, size in upserts:
        clock.now += gap
        amounts = {"upsert": 1.0, "upserted_bytes": float(size)}
        sent.append((clock.now + pacer.reserve("docs", amounts, 1e9), float(size)))
    assert most_in_a_second(sorted(sent)) <= PUBLISHED["upserted_bytes"]


def test_steady_work_gets_nine_tenths_of_the_rate() -> None:
    clock = Clock()
    pacer = Pacer(clock)
    sent = [pacer.reserve("docs", {"query": 1.0}, 1e9) for _ in range(910)]
    assert 9.9 < max(sent) < 10.1
    assert most_in_a_second([(at, 1.0) for at in sent]) <= PUBLISHED["query"]


def test_a_namespace_does_not_wait_for_another() -> None:
    pacer = Pacer(Clock())
    for _ in range(500):
        pacer.reserve("busy", {"query": 1.0}, 1e9)
    assert pacer.reserve("idle", {"query": 1.0}, 0) == 0
    assert pacer.reserve("busy", {"upsert": 1.0}, 0) == 0


def test_a_wait_that_is_too_long_reserves_nothing() -> None:
    pacer = Pacer(Clock())
    for _ in range(100):
        pacer.reserve("docs", {"query": 1.0}, 1e9)
    refused = [pacer.reserve("docs", {"query": 1.0}, 0.5) for _ in range(5)]
    assert min(refused) > 0.5
    assert len(set(refused)) == 1


def test_who_was_asked_to_wait_waits() -> None:
    clock = Clock()
    pacer = Pacer(clock)
    pacer.hold("docs", {"upsert": 1.0}, 20.0)
    assert pacer.reserve("docs", {"upsert": 1.0}, 1e9) >= 20
    clock.now += 40
    assert pacer.reserve("docs", {"upsert": 1.0}, 0) == 0


def test_our_rates_are_none_but_published_ones() -> None:
    for name in RATES.keys() & PUBLISHED.keys():
        assert RATES[name] <= PUBLISHED[name]
