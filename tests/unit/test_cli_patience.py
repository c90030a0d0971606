"""Backoff, resuming and waiting, on a clock of the test's own."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from typing import Any, cast

import pytest

from common.cli.client import Client
from common.cli.patience import Patience
from common.cli.problems import ApiError, Problem, UnreachableError
from common.cli.sending import Line, Sender
from common.cli.waiting import Waiter

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


class Scripted:
    """A client whose connections each give so many results and then break."""

    url = "http://x"

    def __init__(self, results: list[int]) -> None:
        self.results = results
        self.firsts: list[int] = []

    async def changes(self, lines: AsyncIterator[bytes]) -> AsyncGenerator[JSON, None]:
        left = self.results.pop(0)
        first = True
        async for line in lines:
            change = json.loads(line)
            if first:
                self.firsts.append(change["n"])
                first = False
            if left == 0:
                raise GONE
            left -= 1
            key = {"namespace": "n", "document_id": "d"}
            yield {**key, "outcome": "accepted", "version": change["n"]}


def numbered(count: int) -> Any:
    def lines(start: int) -> Generator[Line, None, None]:
        for number in range(start, count + 1):
            yield Line(number, "d", json.dumps({"n": number}).encode())

    return lines


async def test_each_connection_begins_at_the_first_line_without_a_result() -> None:
    clock = Clock()
    client = Scripted([2, 0, 0, 3, 99])
    sender = Sender(cast("Client", client), numbered(7), clock.patience(60))
    delivery = await sender.send()
    assert client.firsts == [1, 3, 3, 3, 6]
    assert delivery.outcomes == {"accepted": 7}
    assert delivery.versions == {("n", "d"): 7}
    # Progress starts the backoff anew.
    assert clock.pauses == [0.1, 0.2, 0.4, 0.1]


async def test_patience_counts_from_the_last_result() -> None:
    clock = Clock()
    sender = Sender(cast("Client", Scripted([1] + [0] * 99)), numbered(2), clock.patience(3))
    with pytest.raises(UnreachableError):
        await sender.send()
    assert sender.delivery.answered == 1
    assert 3 <= clock.now < 6


class Rows:
    """A client that has the given row at each look; the last one stays."""

    def __init__(self, *rows: JSON | Exception | None) -> None:
        self.rows = [*rows]

    async def document(self, _namespace: str, _document_id: str) -> JSON | None:
        row = self.rows.pop(0) if len(self.rows) > 1 else self.rows[0]
        if isinstance(row, Exception):
            raise row
        return row


def row(status: str, applied: int, **members: Any) -> JSON:
    return {"document_id": "d", "status": status, "applied_version": applied, **members}


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
    client = cast("Client", Rows(*rows))
    waiter = Waiter(client, {("n", "d"): 2, ("n", "never"): 0}, clock.patience(9), clock.sleep)
    await waiter.wait()
    assert (waiter.total, waiter.done) == (1, 1)
    assert [failure.error for failure in waiter.failures] == (["broken"] if failed else [])
