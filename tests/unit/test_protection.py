"""When an Auto Scaling group is told to spare an instance, and when not to any more."""

from __future__ import annotations

import asyncio

from structlog.testing import capture_logs

from common.ports.errors import TransientError
from workers.protection import Guard, Protection


def test_the_first_message_protects_and_a_minute_without_work_ends_it() -> None:
    state = Protection(idle_since=0.0, idle_seconds=60.0, told=False)
    assert (state.due(500), state.rest_seconds(500)) == (None, None), "an idle worker asks nothing"
    state.took(1, 500)
    assert state.due(500) is True
    state.told = True
    state.took(2, 501)
    state.took(0, 510)
    assert (state.due(569.9), state.rest_seconds(540)) == (None, 30.0)
    assert state.due(570) is False
    state.told = False
    assert (state.due(600), state.rest_seconds(600)) == (None, None)


def test_messages_that_follow_each_other_cost_one_request() -> None:
    state = Protection(idle_since=0.0, idle_seconds=60.0)
    asked = []
    for second in range(0, 3600, 5):
        state.took(1, second)
        asked.append(state.due(second))
        state.told = True
        state.took(0, second + 1)
        asked.append(state.due(second + 1))
    assert asked[0] is True
    assert set(asked[1:]) == {None}


def test_what_an_earlier_process_left_protected_is_freed() -> None:
    state = Protection(idle_since=0.0, idle_seconds=60.0)
    assert (state.due(59), state.rest_seconds(0)) == (None, 60.0)
    assert state.due(60) is False


class Group:
    """Records what it is told; fails as often as it is set to."""

    def __init__(self, failures: int = 0) -> None:
        self.told: asyncio.Queue[bool] = asyncio.Queue()
        self.failures = failures

    async def protect(self, protected: bool) -> None:
        if self.failures:
            self.failures -= 1
            raise TransientError("ValidationError: not in InService")
        self.told.put_nowait(protected)


async def test_the_guard_follows_the_work() -> None:
    group = Group()
    guard = Guard(group.protect, idle_seconds=0.01)
    running = asyncio.create_task(guard.run())
    guard.took(1)
    assert await group.told.get() is True
    guard.took(0)
    assert await group.told.get() is False
    running.cancel()


async def test_a_failure_is_logged_and_tried_again() -> None:
    group = Group(failures=1)
    guard = Guard(group.protect, idle_seconds=60, pause_seconds=0.001)
    with capture_logs() as logs:
        guard.took(1)
        running = asyncio.create_task(guard.run())
        assert await group.told.get() is True
        running.cancel()
    assert [line["event"] for line in logs] == ["instance.protection_failed", "instance.protection"]


async def test_a_worker_that_ends_frees_its_instance_at_once() -> None:
    group = Group()
    guard = Guard(group.protect, idle_seconds=3600)
    guard.took(1)
    running = asyncio.create_task(guard.run())
    assert await group.told.get() is True
    running.cancel()
    await guard.release()
    assert group.told.get_nowait() is False


async def test_a_worker_that_ends_while_the_group_is_told_frees_its_instance_too() -> None:
    group = Group()
    answered = asyncio.Event()

    async def protect_and_answer_late(protected: bool) -> None:
        await group.protect(protected)
        if protected:
            await answered.wait()

    guard = Guard(protect_and_answer_late, idle_seconds=0)
    running = asyncio.create_task(guard.run())
    assert await group.told.get() is False
    guard.took(1)
    assert await group.told.get() is True
    running.cancel()
    await guard.release()
    assert group.told.get_nowait() is False
