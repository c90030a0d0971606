"""Backoff, resuming and waiting, on a clock of the test's own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any

import pytest

from common.client.errors import ApiError, NoAnswerInTimeError, Problem, UnreachableError
from common.client.feeding import Feed, Window
from common.client.patience import Deadline, Patience
from common.client.results import ChangeResult, Summary
from common.client.waiting import Waiter

JSON = dict[str, Any]
GONE = UnreachableError("http://x", "gone")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def patience(self, seconds: float) -> Patience:
        return Patience(seconds, clock=lambda: self.now, sleep=self.sleep)


async def always(error: Exception, patience: Patience) -> None:
    async for attempt in patience.attempts():
        with attempt:
            raise error


async def test_pauses_grow_to_a_cap_and_end() -> None:
    clock = Clock()
    with pytest.raises(UnreachableError):
        await always(GONE, clock.patience(20))
    assert clock.pauses[:4] == [0.1, 0.2, 0.4, 0.8]
    assert max(clock.pauses) == 5.0
    assert 20 <= clock.now < 25


async def test_a_clear_no_is_not_tried_again() -> None:
    clock = Clock()
    with pytest.raises(ApiError):
        await always(ApiError(Problem(status=409, title="no")), clock.patience(20))
    assert clock.pauses == []


async def test_pauses_are_as_long_as_the_service_asks_for() -> None:
    clock = Clock()
    told: list[BaseException] = []
    full = Problem.from_json(
        {"status": 503, "detail": "the backlog is full", "retry_after_seconds": 7}
    )
    patience = Patience(20, clock=lambda: clock.now, sleep=clock.sleep, on_retry=told.append)
    with pytest.raises(ApiError, match="backlog is full"):
        await always(ApiError(full), patience)
    assert clock.pauses == [7.0, 7.0, 7.0]
    assert [str(error) for error in told] == ["the backlog is full"]


@pytest.mark.parametrize(
    ("asked", "pause"), [(None, 0.1), ("soon", 0.1), ("-9", 0.1), ("3", 3.0), (10**9, 30.0)]
)
async def test_what_is_asked_for_is_believed_within_reason(asked: Any, pause: float) -> None:
    clock = Clock()
    problem = Problem.from_json({"status": 503, "retry_after_seconds": asked})
    with pytest.raises(ApiError):
        await always(ApiError(problem), clock.patience(0.05))
    assert clock.pauses[:1] in ([], [pause])
    with pytest.raises(ApiError):
        await always(ApiError(problem), clock.patience(1))
    assert clock.pauses[0] == pause


# --- one request ---------------------------------------------------------------------------------


def deadline(clock: Clock, seconds: float) -> Deadline:
    return Deadline(seconds, clock=lambda: clock.now, sleep=clock.sleep)


async def test_nothing_begins_after_the_deadline() -> None:
    clock = Clock()
    with pytest.raises(UnreachableError):
        await always(GONE, deadline(clock, 20))
    assert clock.now < 20
    assert 0.05 <= clock.pauses[0] <= 0.1
    assert 2.5 <= max(clock.pauses) <= 5.0


@pytest.mark.parametrize(("asked", "pauses"), [(7, [7.0, 7.0]), (45, []), (0, None)])
async def test_who_is_asked_to_come_back_too_late_hears_it_at_once(
    asked: float, pauses: list[float] | None
) -> None:
    clock = Clock()
    problem = Problem.from_json({"status": 429, "retry_after_seconds": asked})
    with pytest.raises(ApiError):
        await always(ApiError(problem), deadline(clock, 20))
    assert pauses is None or clock.pauses == pauses
    assert clock.pauses or asked


@pytest.mark.parametrize(("seconds", "attempts"), [(60, 2), (0, 1)])
async def test_an_attempt_that_took_all_the_time_is_tried_once_more(
    seconds: float, attempts: int
) -> None:
    """As with the defaults, whose attempts may take as long as all of them."""
    clock, begun = Clock(), 0

    async def silence() -> None:
        nonlocal begun
        begun += 1
        clock.now += 60
        raise NoAnswerInTimeError("http://x")

    with pytest.raises(NoAnswerInTimeError):
        await deadline(clock, seconds).attempts()(silence)
    assert begun == attempts


# --- feeds ---------------------------------------------------------------------------------------


class Scripted:
    """A service whose connections each give so many results and then break."""

    url = "http://x"

    def __init__(self, results: list[int]) -> None:
        self.results = results
        self.firsts: list[int] = []
        self.problems: dict[int, JSON] = {}
        """By change: what it is answered with, once."""

    async def feed(self, lines: AsyncIterator[bytes]) -> AsyncGenerator[JSON, None]:
        left = self.results.pop(0)
        first, number = True, 0
        async for line in lines:
            change = json.loads(line)
            if first:
                self.firsts.append(change["n"])
                first = False
            if left == 0:
                raise GONE
            left -= 1
            number += 1
            if (problem := self.problems.pop(change["n"], None)) is not None:
                yield problem
                continue
            key = {"namespace": "n", "document_id": "d"}
            told = {"line": number, "outcome": "accepted", "version": change["n"]}
            yield {**key, **told}


def numbered(count: int) -> Iterator[JSON]:
    return ({"n": number} for number in range(1, count + 1))


async def fed(feed: Feed, seen: list[int] | None = None) -> list[int]:
    """Versions that were made, and the negative number of each change that was refused; also in
    `seen`, should the feed end badly."""
    numbers = [] if seen is None else seen
    async for result in feed.results():
        numbers += [result.version if isinstance(result, ChangeResult) else -result.line]
    return numbers


async def test_each_connection_begins_at_the_first_change_without_a_result() -> None:
    clock = Clock()
    service = Scripted([2, 0, 0, 3, 99])
    assert await fed(Feed(service, numbered(7), clock.patience(60))) == [1, 2, 3, 4, 5, 6, 7]
    assert service.firsts == [1, 3, 3, 3, 6]
    # Progress starts the backoff anew.
    assert clock.pauses == [0.1, 0.2, 0.4, 0.1]


async def test_patience_counts_from_the_last_result() -> None:
    clock = Clock()
    seen: list[int] = []
    feed = Feed(Scripted([1] + [0] * 99), numbered(2), clock.patience(3))
    with pytest.raises(UnreachableError):
        await fed(feed, seen)
    assert seen == [1]
    assert 3 <= clock.now < 6


async def test_what_may_pass_is_sent_again_and_a_no_stays_with_its_change() -> None:
    clock = Clock()
    service = Scripted([99, 99])
    service.problems = {2: {"error": {"status": 422}}, 3: {"error": {"status": 503}}}
    assert await fed(Feed(service, numbered(4), clock.patience(9))) == [1, -2, 3, 4]
    assert service.firsts == [1, 3]


async def test_a_feed_that_is_ended_for_good_ends() -> None:
    """Its reason is no change's own: the change was not looked at."""
    service = Scripted([99])
    service.problems = {2: {"error": {"status": 403, "title": "no more"}, "feed_ended": True}}
    with pytest.raises(ApiError, match="no more"):
        await fed(Feed(service, numbered(4), Clock().patience(9)))


async def test_what_the_source_raises_comes_after_the_results() -> None:
    def broken() -> Iterator[JSON]:
        yield from numbered(2)
        raise OSError("the disk is gone")

    seen: list[int] = []
    with pytest.raises(OSError, match="disk is gone"):
        await fed(Feed(Scripted([99]), broken(), Clock().patience(9)), seen)
    assert seen == [1, 2]


async def test_a_source_is_not_read_further_than_the_window(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However often its turn comes: here nothing is ever answered."""
    monkeypatch.setattr("common.client.feeding.WINDOW_LINES", 8)
    taken = 0

    def counted() -> Iterator[JSON]:
        nonlocal taken
        for change in numbered(100):
            taken += 1
            yield change

    window = Window(counted())
    reading = asyncio.create_task(window.read())
    for _ in range(300):
        await asyncio.sleep(0)
    assert taken == 9
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


class Listening(Scripted):
    """Tells when a connection begins and when the body of one ends."""

    def __init__(self, results: list[int]) -> None:
        super().__init__(results)
        self.begun = 0
        self.began_again = asyncio.Event()
        self.body_ended = asyncio.Event()

    async def feed(self, lines: AsyncIterator[bytes]) -> AsyncGenerator[JSON, None]:
        self.begun += 1
        if self.begun == 2:
            self.began_again.set()
        async for result in super().feed(lines):
            yield result
            if self.results and self.results[0] == -1:
                self.results.pop(0)
                raise GONE
        self.body_ended.set()


async def test_a_source_that_rests_ends_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service gives a body up that stops for long."""
    monkeypatch.setattr("common.client.feeding.IDLE_SECONDS", 0.01)
    clock, service = Clock(), Listening([99, 99])

    async def resting() -> AsyncIterator[JSON]:
        yield {"n": 1}
        await service.body_ended.wait()
        yield {"n": 2}

    assert await fed(Feed(service, resting(), clock.patience(9))) == [1, 2]
    assert (service.firsts, clock.pauses) == ([1, 2], [])


async def test_a_broken_connection_does_not_disturb_the_source() -> None:
    """Which is waiting for something of its own meanwhile."""
    service = Listening([99, -1, 99])

    async def slow() -> AsyncIterator[JSON]:
        yield {"n": 1}
        await service.began_again.wait()
        yield {"n": 2}

    assert await fed(Feed(service, slow(), Clock().patience(9))) == [1, 2]
    assert service.firsts == [1, 2]


async def test_a_connection_that_lingers_takes_no_changes() -> None:
    """Its body is still being read when the next one has begun."""
    window = Window(numbered(3))
    await window.read()
    window.rewind()
    old = window.unsent()
    assert await anext(old) == b'{"n":1}\n'
    window.rewind()
    new = window.unsent()
    assert [line async for line in old] == []
    assert [line async for line in new] == [b'{"n":1}\n', b'{"n":2}\n', b'{"n":3}\n']


async def test_what_the_consumer_takes_is_no_silence_of_the_service() -> None:
    clock, numbers = Clock(), []
    async for result in Feed(Scripted([1, 99]), numbered(2), clock.patience(3)).results():
        numbers.append(result.line)
        for _ in range(20):
            # Until the next change waits to be sent.
            await asyncio.sleep(0)
        clock.now += 60
    assert numbers == [1, 2]


async def test_what_the_source_takes_is_no_silence_of_the_service() -> None:
    """When all that it gave is answered."""
    clock, service = Clock(), Listening([1, 99])
    answered = asyncio.Event()

    async def slow() -> AsyncIterator[JSON]:
        yield {"n": 1}
        await answered.wait()
        clock.now += 60
        yield {"n": 2}

    numbers = []
    async for result in Feed(service, slow(), clock.patience(3)).results():
        numbers.append(result.line)
        answered.set()
    assert numbers == [1, 2]


async def test_lines_that_are_blank_shift_no_result() -> None:
    lines = [b'{"n":1}\n', b"", b" \r\n", b'{"n":2}']
    assert await fed(Feed(Scripted([1, 99]), lines, Clock().patience(9))) == [1, 2]
    window = Window(lines)
    await window.read()
    window.rewind()
    assert [line async for line in window.unsent()] == [b'{"n":1}\n', b'{"n":2}\n']


async def test_bytes_of_two_lines_are_no_change() -> None:
    seen: list[int] = []
    lines = [b'{"n":1}', b'{"n":2}\n{"n":3}', b'{"n":4}']
    with pytest.raises(ValueError, match="one line"):
        await fed(Feed(Scripted([99]), lines, Clock().patience(9)), seen)
    assert seen == [1]


async def test_a_result_of_another_line_is_no_match() -> None:
    service = Scripted([99])
    service.problems = {2: {"line": 3, "error": {"status": 422}}}
    seen: list[int] = []
    with pytest.raises(ApiError, match="answered line 3 instead of 2"):
        await fed(Feed(service, numbered(3), Clock().patience(9)), seen)
    assert seen == [1]


async def test_a_feed_of_nothing_asks_nothing() -> None:
    service = Scripted([])
    assert await fed(Feed(service, [], Clock().patience(9))) == []


# --- waiting -------------------------------------------------------------------------------------


class Rows:
    """A registry that has the given row at each look; the last one stays."""

    def __init__(self, *rows: Summary | Exception | None) -> None:
        self.rows = [*rows]

    async def look(self, _namespace: str, _document_id: str) -> Summary | None:
        row = self.rows.pop(0) if len(self.rows) > 1 else self.rows[0]
        if isinstance(row, Exception):
            raise row
        return row

    def look_through(self, _namespace: str, _prefix: str) -> AsyncGenerator[Summary, None]:
        raise NotImplementedError


def row(status: str, applied: int, **members: Any) -> Summary:
    told = {"document_id": "d", "status": status, "applied_version": applied, **members}
    return Summary.model_validate(told)


@pytest.mark.parametrize(
    ("rows", "failed"),
    [
        ([row("PENDING", 1), GONE, row("PROCESSING", 1), row("COMPLETED", 2)], False),
        ([row("PENDING", 1), row("FAILED", 1, error="broken")], True),
        # A later version failed; the one that was sent had been applied.
        ([row("FAILED", 2, error="broken")], False),
        ([row("PENDING", 0), row("DELETED", 0)], False),
        ([None], False),
    ],
)
async def test_waiting_ends_with_what_the_registry_says(rows: list[Any], failed: bool) -> None:
    clock = Clock()
    versions = {("n", "d"): 2, ("n", "never"): 0}
    waiter = Waiter(Rows(*rows), versions, clock.patience(9), clock.sleep)
    await waiter.wait()
    assert (waiter.total, waiter.done) == (1, 1)
    assert [failure.error for failure in waiter.failures] == (["broken"] if failed else [])
