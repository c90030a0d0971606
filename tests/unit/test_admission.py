"""When changes are refused, and how seldom is looked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from common.model import DocumentKey, QueueName
from common.ports.errors import TransientError
from common.ports.queue import Delivery, Depth
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


class Fair(Watched):
    """Its namespaces take turns; `docs` has `few` messages, the others have none."""

    fair_between_namespaces = True
    few = 0

    async def receive_of_others(self, queue: QueueName, **_: object) -> list[Delivery]:
        raise NotImplementedError

    async def backlog_of(self, namespace: str, *, at_most: int) -> int:
        if self.hold:
            await self.hold.wait()
        if self.error:
            raise self.error
        return min(self.few if namespace == KEY.namespace else 0, at_most)


def admission_of(watched: Any, limits: Limits = LIMITS, **seconds: float) -> Admission:
    return Admission(watched, [watched, object()], limits, **seconds)


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


MANY = Limits(max_backlog_messages=100_000, min_free_disk_bytes=1000)
OTHER = Change(key=DocumentKey("other", "a"), change_type=ChangeType.INSERT, content=b"x")


async def refusals(
    watched: Watched, backlog: int, limits: Limits = MANY, change: Change = INSERT
) -> str:
    watched.backlog = backlog
    admission = admission_of(watched, limits)
    try:
        return await refused(admission, change)
    finally:
        await admission.close()


async def test_a_full_queue_lets_those_in_of_whom_hardly_anything_waits() -> None:
    watched = Fair()
    watched.few = 100

    assert await refusals(watched, 100_000) == "backlog"
    assert await refusals(watched, 100_000, change=OTHER) == ""
    watched.few = 99
    assert await refusals(watched, 100_000) == ""


async def test_nobody_is_let_in_beyond_twice_the_limit_or_onto_a_full_disk() -> None:
    watched = Fair()

    assert await refusals(watched, 199_999) == ""
    assert await refusals(watched, 200_000) == "backlog"
    watched.free = 999
    assert await refusals(watched, 100_000) == "disk"


async def test_few_is_a_small_part_of_the_limit() -> None:
    watched = Fair()
    watched.few = 10
    limits = Limits(max_backlog_messages=1000, min_free_disk_bytes=0)

    assert await refusals(watched, 1000, limits) == "backlog"
    watched.few = 9
    assert await refusals(watched, 1000, limits) == ""
    assert await refusals(watched, 99, Limits(max_backlog_messages=99, min_free_disk_bytes=0)) == (
        "backlog"
    )


async def test_a_queue_without_turns_refuses_all_alike() -> None:
    assert await refusals(Watched(), 100_000) == "backlog"


@pytest.mark.parametrize("error", [TransientError("locked"), None])
async def test_what_cannot_be_counted_is_not_few(error: TransientError | None) -> None:
    watched = Fair()
    watched.backlog = 100_000
    admission = admission_of(watched, MANY, look_seconds=60, patience_seconds=0.01)
    assert await refused(admission) == ""

    watched.error, watched.hold = error, None if error else asyncio.Event()

    assert await refused(admission) == "backlog"
    await admission.close()
