"""When changes are refused, and how seldom is looked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from common.model import DocumentKey, QueueName
from common.ports.errors import TransientError
from common.ports.queue import Depth
from webhook.accept import Change, ChangeType
from webhook.admission import Admission, Limits, Refusal, Seen, refusal_of
from webhook.problems import Problem

LIMITS = Limits(max_backlog_messages=10, min_free_disk_bytes=1000)
OFF = Limits(max_backlog_messages=0, min_free_disk_bytes=0)
KEY = DocumentKey("docs", "a")
INSERT = Change(key=KEY, change_type=ChangeType.INSERT, content=b"x")
DELETE = Change(key=KEY, change_type=ChangeType.DELETE)


def reason(seen: Seen, limits: Limits = LIMITS) -> str:
    refusal = refusal_of(seen, limits)
    return refusal.reason if refusal else ""


@pytest.mark.parametrize(
    ("backlog", "free", "refused_for"),
    [
        (9, 1000, ""),
        (10, 1000, "backlog"),
        (9, 999, "disk"),
        (10, 999, "disk"),
        (None, None, ""),
        (None, 999, "disk"),
        (10, None, "backlog"),
    ],
)
def test_refuses_from_the_limits_on_and_not_for_what_it_cannot_tell(
    backlog: int | None, free: int | None, refused_for: str
) -> None:
    assert reason(Seen(backlog_messages=backlog, free_disk_bytes=free)) == refused_for


def test_zero_turns_a_limit_off() -> None:
    assert reason(Seen(backlog_messages=10**9, free_disk_bytes=0), OFF) == ""
    assert reason(Seen(backlog_messages=10**9, free_disk_bytes=0), OFF.for_deletes()) == ""


def test_deletes_are_let_in_for_longer_but_not_for_ever() -> None:
    limits = LIMITS.for_deletes()
    assert reason(Seen(backlog_messages=19, free_disk_bytes=500), limits) == ""
    assert reason(Seen(backlog_messages=20, free_disk_bytes=500), limits) == "backlog"
    assert reason(Seen(backlog_messages=19, free_disk_bytes=499), limits) == "disk"


def test_a_refusal_tells_what_to_do() -> None:
    refusal = refusal_of(Seen(free_disk_bytes=12), LIMITS)
    assert isinstance(refusal, Refusal)
    problem = refusal.problem()
    assert problem.kind.status == 503
    assert problem.headers["Retry-After"] == str(problem.body()["retry_after_seconds"])
    assert (problem.body()["reason"], problem.body()["limit"]) == ("disk", 1000)


class Watched:
    """A queue and a disk whose answers a test decides; counts how often it is asked."""

    def __init__(self) -> None:
        self.backlog = 0
        self.free = 10**9
        self.error: Exception | None = None
        self.hold: asyncio.Event | None = None
        self.asked = 0

    async def depth(self, queue: QueueName) -> Depth:
        self.asked += queue is QueueName.CHANGE
        if self.hold:
            await self.hold.wait()
        if self.error:
            raise self.error
        waiting = self.backlog if queue is QueueName.CHANGE else 0
        return Depth(waiting=waiting, in_flight=0, delayed=0, oldest_age_seconds=0.0)

    async def free_bytes(self) -> int:
        return self.free


def admission_of(watched: Any, **seconds: float) -> Admission:
    return Admission(watched, [watched, object()], LIMITS, **seconds)


async def refused(admission: Admission, change: Change = INSERT) -> str:
    try:
        await admission.admit(change)
    except Problem as problem:
        return str(problem.more["reason"])
    return ""


async def test_many_changes_share_one_look() -> None:
    watched = Watched()
    admission = admission_of(watched, look_seconds=60)
    await asyncio.gather(*(admission.admit(INSERT) for _ in range(500)))
    watched.backlog = 99
    assert await refused(admission) == ""
    assert watched.asked == 1


async def test_each_look_counts_afresh() -> None:
    watched = Watched()
    admission = admission_of(watched, patience_seconds=60)
    watched.backlog = 10
    assert await refused(admission) == "backlog"
    admission._next_look_at = 0.0  # a second later
    watched.backlog = 9
    assert await refused(admission) == ""
    admission._next_look_at = 0.0
    watched.free = 700
    assert (await refused(admission), await refused(admission, DELETE)) == ("disk", "")


@pytest.mark.parametrize("error", [TransientError("locked"), OSError("odd")])
async def test_a_look_that_fails_refuses_nothing(error: Exception) -> None:
    watched = Watched()
    watched.backlog, watched.error = 99, error
    admission = admission_of(watched)
    assert await refused(admission) == ""
    assert admission.seen == Seen(backlog_messages=None, free_disk_bytes=10**9)


async def test_a_look_that_hangs_delays_nobody_for_long_and_is_not_repeated() -> None:
    watched = Watched()
    watched.backlog, watched.hold = 99, asyncio.Event()
    admission = admission_of(watched, look_seconds=0, patience_seconds=0.001, answer_seconds=0.01)
    for _ in range(3):
        assert await refused(admission) == ""
        if admission._look is not None:
            await admission._look
        admission._next_look_at = 0.0
    assert watched.asked == 1
    watched.hold.set()
    await admission.look()
    assert await refused(admission) == "backlog"
    await admission.close()
