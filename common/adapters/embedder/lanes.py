"""Runs inferences side by side in one process, over whatever passages wait.

A lane is a thread that takes the passage whose turn it is, fills its batch with others of similar
length, runs the model and goes on until nothing waits. Nothing lingers for company: a lone
passage starts at once when a lane is free, and otherwise as soon as one is and its turn has come.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

from common.batching import Turns, choose_batch
from common.model import Vector
from common.ports.embedder import TransientError
from common.ports.errors import PortError

LOOK_AHEAD_BATCHES: Final = 4
"""So many full batches of waiting passages are looked at for those of similar length."""
MOST_IN_A_BATCH: Final = 256
SHORTEST_TOKENS: Final = 8


class Work(Protocol):
    """A passage as the model takes it. Equal `key`s have equal vectors."""

    @property
    def key(self) -> Hashable: ...

    @property
    def kind(self) -> str:
        """Works of two kinds are never in one batch."""

    @property
    def length(self) -> int:
        """In tokens."""


W = TypeVar("W", bound=Work)
T = TypeVar("T")
Outcome: TypeAlias = "Vector[float] | Exception"


@dataclass(eq=False, slots=True)
class _Job(Generic[W]):
    """One inference to be made, for everyone who waits for it."""

    work: W
    waiters: list[tuple[_Call[W], int]] = field(default_factory=list)
    in_flight: bool = False


@dataclass(eq=False, slots=True)
class _Call(Generic[W]):
    """One caller's passages."""

    future: asyncio.Future[list[Vector[float]]]
    missing: int
    vectors: dict[int, Vector[float]] = field(default_factory=dict)
    jobs: list[_Job[W]] = field(default_factory=list)

    def settle(self, place: int, outcome: Outcome) -> None:
        if self.future.done():
            return
        if isinstance(outcome, Exception):
            self.future.set_exception(outcome)
            return
        self.vectors[place] = outcome
        self.missing -= 1
        if not self.missing:
            self.future.set_result([self.vectors[n] for n in range(len(self.vectors))])


class Lanes(Generic[W]):
    """`compute` gets works of one kind and returns their vectors; called in `count` threads.

    Belongs to the event loop that awaits it. `max_padded_tokens` may be changed at any time.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[W]], Sequence[Vector[float]]],
        *,
        count: int,
        max_padded_tokens: int,
    ) -> None:
        self.max_padded_tokens = max_padded_tokens
        self._compute = compute
        self._count = count
        self._executor = ThreadPoolExecutor(count, thread_name_prefix="lane")
        self._lock = threading.Lock()
        self._turns: Turns[_Job[W]] = Turns()
        self._jobs: dict[Hashable, _Job[W]] = {}
        self._busy = 0
        self._arrivals = 0
        self._closed = False

    async def embed(self, works: Sequence[W]) -> list[Vector[float]]:
        """In order. Raises TransientError. Cancelled, it takes away what nobody else waits for."""
        if not works:
            return []
        call: _Call[W] = _Call(asyncio.get_running_loop().create_future(), len(works))
        self._enqueue(works, call)
        try:
            return await call.future
        finally:
            self._withdraw(call)

    async def try_while_idle(self, run: Callable[[], T]) -> T | None:
        """What `run` returns in a lane while no other works; None where that was not so."""
        with self._lock:
            if self._jobs or self._busy or self._closed:
                return None
            self._busy += 1
            before = self._arrivals
            running = self._executor.submit(self._run_aside, run)
        # Shielded: a run that was cancelled before it began would keep its lane for ever.
        result = await asyncio.shield(asyncio.wrap_future(running))
        return result if self._arrivals == before else None

    async def close(self) -> None:
        """Wait for the inferences under way; calls that still wait end with a TransientError."""
        with self._lock:
            self._closed = True
            waiting = self._turns.first(len(self._turns))
            for job in waiting:
                self._forget(job)
        error = TransientError("the embedder is closed")
        _settle([(job, error) for job in waiting])
        await asyncio.to_thread(self._executor.shutdown)

    def _enqueue(self, works: Sequence[W], call: _Call[W]) -> None:
        with self._lock:
            if self._closed:
                raise TransientError("the embedder is closed")
            self._arrivals += 1
            for place, work in enumerate(works):
                job = self._jobs.setdefault(work.key, _Job(work))
                job.waiters.append((call, place))
                call.jobs.append(job)
            self._turns.add(job for job in call.jobs if not job.in_flight)
            self._start_lanes()

    def _withdraw(self, call: _Call[W]) -> None:
        """What is in flight goes on: it ends soon, and someone may come to wait for it."""
        if not call.missing:
            return
        with self._lock:
            for job in call.jobs:
                job.waiters = [waiter for waiter in job.waiters if waiter[0] is not call]
                if not job.waiters and job in self._turns:
                    self._forget(job)

    def _forget(self, job: _Job[W]) -> None:
        self._turns.remove(job)
        del self._jobs[job.work.key]

    def _start_lanes(self) -> None:
        for _ in range(min(self._count - self._busy, len(self._turns))):
            self._busy += 1
            self._executor.submit(self._work)

    def _run_aside(self, run: Callable[[], T]) -> T:
        try:
            return run()
        finally:
            with self._lock:
                self._busy -= 1
                self._start_lanes()

    def _work(self) -> None:
        while batch := self._next_batch():
            self._hand_over(list(zip(batch, self._outcomes(batch), strict=True)))

    def _next_batch(self) -> list[_Job[W]]:
        """Empty when nothing waits; the lane is free then."""
        with self._lock:
            budget = self.max_padded_tokens
            most = max(1, min(budget // SHORTEST_TOKENS, MOST_IN_A_BATCH))
            waiting = self._turns.first(most * LOOK_AHEAD_BATCHES)
            if not waiting:
                self._busy -= 1
                return []
            alike = [job for job in waiting if job.work.kind == waiting[0].work.kind]
            places = choose_batch([job.work.length for job in alike], budget, most)
            batch = [alike[place] for place in places]
            self._turns.take(batch)
            for job in batch:
                job.in_flight = True
        return batch

    def _outcomes(self, batch: Sequence[_Job[W]]) -> list[Outcome]:
        """A batch that fails is done again one by one, so that nobody fails for a neighbour."""
        try:
            return self._computed(batch)
        except Exception as error:
            if len(batch) == 1:
                return [_translated(error)]
        return [outcome for job in batch for outcome in self._outcomes([job])]

    def _computed(self, batch: Sequence[_Job[W]]) -> list[Outcome]:
        made: list[Outcome] = list(self._compute([job.work for job in batch]))
        if len(made) != len(batch):  # a lane that ended here would never be free again
            raise ValueError(f"{len(made)} vectors for {len(batch)} passages")
        return made

    def _hand_over(self, done: list[tuple[_Job[W], Outcome]]) -> None:
        with self._lock:
            for job, _ in done:
                del self._jobs[job.work.key]
            loop = next(
                (call.future.get_loop() for job, _ in done for call, _ in job.waiters), None
            )
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it was closed: nobody waits any more
                loop.call_soon_threadsafe(_settle, done)


def _settle(done: Sequence[tuple[_Job[W], Outcome]]) -> None:
    for job, outcome in done:
        for call, place in job.waiters:
            call.settle(place, outcome)


def _translated(error: Exception) -> Exception:
    return error if isinstance(error, PortError) else TransientError(f"embedding failed: {error}")
