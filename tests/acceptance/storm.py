"""A storm of faults over the processes of a running service, drawn from one seed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from tests.acceptance.disk import Disk
from tests.acceptance.service import Service

SHORTEST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 9.0
"""Longer than a lease and a grace of the test's settings together: some owners wake as zombies."""


class Move(StrEnum):
    KILL = "SIGKILL"
    TERMINATE = "SIGTERM"
    PAUSE = "SIGSTOP"
    KILL_ALL = "SIGKILL to all"
    FILL_DISK = "full disk"


_REPEATED = (Move.KILL, Move.TERMINATE, Move.PAUSE, Move.PAUSE, Move.PAUSE, Move.KILL_ALL)


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens when. Who is hit depends on who is alive by then."""

    at_seconds: float
    move: Move
    aim: float
    """0 to 1; below 0.4 it hits `up` itself, above one of its workers if there is one."""
    seconds: float = 0.0
    """How long a pause or a full disk lasts."""


def draw_faults(drawn: random.Random, seconds: float) -> list[Fault]:
    """A full disk in the middle; every move aimed at `up` and at a worker once, then at random."""
    disk_at = seconds * drawn.uniform(0.3, 0.6)
    faults = [Fault(disk_at, Move.FILL_DISK, 0.0, drawn.uniform(4.0, 6.0))]
    signals = (Move.KILL, Move.TERMINATE, Move.PAUSE)
    certain = [(move, aim) for move in signals for aim in (0.0, 1.0)] + [(Move.KILL_ALL, 0.0)]
    drawn.shuffle(certain)
    at = drawn.uniform(2.0, 5.0)
    while at < seconds:
        move, aim = certain.pop() if certain else (drawn.choice(_REPEATED), drawn.random())
        pause = drawn.uniform(SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        faults.append(Fault(at, move, aim, pause if move is Move.PAUSE else 0.0))
        at += drawn.uniform(0.5, 3.0)
    return sorted(faults, key=lambda fault: fault.at_seconds)


@dataclass(slots=True)
class Storm:
    """Sends the faults, starts `up` again when it ended, and keeps a log of both."""

    service: Service
    disk: Disk
    log: list[str] = field(default_factory=list)
    sent: Counter[Move] = field(default_factory=Counter)
    _began: float = field(default_factory=time.monotonic)
    _told_to_stop: set[int] = field(default_factory=set)

    async def blow(self, faults: Sequence[Fault]) -> None:
        """Returns when the last fault is over: nothing is paused, the disk has room."""
        async with asyncio.TaskGroup() as under_way:
            for fault in faults:
                await asyncio.sleep(self._began + fault.at_seconds - time.monotonic())
                under_way.create_task(self._strike(fault))

    async def supervise(self) -> None:
        """Until cancelled: `up` is started again whenever it ended."""
        while True:
            process = self.service.process
            if process is None or process.poll() is not None:
                if process is not None:
                    self._note(f"up {process.pid} ended with {process.returncode}")
                self.service.launch()
                assert self.service.process
                self._note(f"up {self.service.process.pid} started")
            await asyncio.sleep(0.2)

    def leaving(self) -> str:
        """The `up` that runs now, if it was told to stop or has ended."""
        process = self.service.process
        if process is None or process.poll() is not None:
            return "no up"
        return f"up {process.pid}" if process.pid in self._told_to_stop else ""

    def orphans(self) -> list[int]:
        """Workers that outlive their `up`."""
        process = self.service.process
        mine = process.pid if process else 0
        return [pid for pid in self.service.alive() if os.getpgid(pid) != mine]

    async def _strike(self, fault: Fault) -> None:
        self.sent[fault.move] += 1
        if fault.move is Move.FILL_DISK:
            await self._fill_disk(fault.seconds)
            return
        target = self._target(fault.aim)
        if target is None:
            self._note(f"{fault.move} found nobody")
        elif fault.move is Move.PAUSE:
            await self._pause(target, fault.seconds)
        elif fault.move is Move.KILL_ALL:
            for pid in self.service.alive():
                self._signal(pid, signal.SIGKILL)
        else:
            self._signal(target, signal.SIGKILL if fault.move is Move.KILL else signal.SIGTERM)

    def _target(self, aim: float) -> int | None:
        process = self.service.process
        if process is None or process.poll() is not None:
            return None
        workers = [pid for pid in self.service.alive() if pid != process.pid]
        if aim < 0.4 or not workers:
            return process.pid
        return workers[min(int((aim - 0.4) / 0.6 * len(workers)), len(workers) - 1)]

    async def _pause(self, pid: int, seconds: float) -> None:
        self._signal(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            if pid in self.service.alive():
                self._signal(pid, signal.SIGCONT)

    async def _fill_disk(self, seconds: float) -> None:
        """Once `up` answers: a start on a full disk fails at once and shows little."""
        while not await asyncio.to_thread(self._answers):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.1)
        self._note(f"the disk is full for {seconds:.1f} s")
        until = time.monotonic() + seconds
        try:
            while time.monotonic() < until:
                await asyncio.to_thread(self.disk.fill)
                await asyncio.sleep(0.05)
        finally:
            self.disk.free()
            self._note("the disk has room again")

    def _answers(self) -> bool:
        try:
            return self.service.get("/healthz") is not None
        except (OSError, ValueError):
            return False

    def _signal(self, pid: int, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            if number is signal.SIGTERM:
                self._told_to_stop.add(pid)
            up = self.service.process
            self._note(f"{number.name} to {'up' if up and up.pid == pid else 'worker'} {pid}")

    def _note(self, what: str) -> None:
        self.log.append(f"{time.monotonic() - self._began:7.2f} s  {what}")


@contextlib.contextmanager
def told_on_failure(storm: Storm) -> Iterator[None]:
    """What was sent to whom, and what the service said, when the test fails."""
    try:
        yield
    except BaseException:
        print("\n".join(storm.log))
        print(f"the end of the service's log:\n{storm.service.tail()}")
        raise
