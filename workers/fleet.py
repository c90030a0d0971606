"""The fleet: embedding workers as child processes, 0 to N by the backlog of the change queue."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import structlog
from prometheus_client import multiprocess
from pydantic import SecretStr

from common.model import QueueName
from common.parts import FleetStatus, Ports
from common.ports.errors import TransientError
from common.ports.queue import ReclaimingQueue, WatchableQueue
from common.settings import Settings
from workers.loop import LONG_POLL_SECONDS
from workers.preparation import prepare
from workers.scaling import ScaleLimits, desired_workers
from workers.unforeseen import tell

log = structlog.get_logger(__name__)

WATCH_SECONDS = 0.5
IDLE_WATCH_SECONDS = 2.0
QUICK_DEATH_SECONDS = 30.0
LONGEST_RESTART_DELAY_SECONDS = 30.0


@dataclass(slots=True)
class _Worker:
    process: asyncio.subprocess.Process
    receiver: str
    started_at: float
    watcher: asyncio.Task[None] | None = None


class FleetPart:
    """Supervises the workers of this machine; a worker that dies frees its leases at once."""

    def __init__(self, ports: Ports) -> None:
        settings = ports.settings
        self._ports = ports
        self._limits = ScaleLimits(
            minimum=settings.workers_min,
            maximum=settings.workers_max,
            idle_seconds=settings.worker_idle_seconds,
            backlog_per_worker=settings.backlog_per_worker,
        )
        self._workers: dict[str, _Worker] = {}
        self._task: asyncio.Task[None] | None = None
        self._preparing: asyncio.Task[None] | None = None
        self._peak = 0
        self._started_total = 0
        self._quick_deaths = 0
        self._start_not_before = 0.0

    async def start(self) -> None:
        self._ports.fleet_status = self.status
        self._task = asyncio.create_task(self._run(), name="fleet")
        # So that the first worker, and with it the first document, need not wait for it.
        preparing = prepare(self._ports.embedder)
        self._preparing = asyncio.create_task(preparing, name="prepare-model")

    def tasks(self) -> list[asyncio.Task[None]]:
        return [self._task] if self._task else []

    def status(self) -> FleetStatus:
        return FleetStatus(
            running=len(self._workers),
            peak=self._peak,
            maximum=self._limits.maximum,
            started_total=self._started_total,
        )

    async def stop(self) -> None:
        ending = [task for task in (self._task, self._preparing) if task]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await self._stop_workers(list(self._workers.values()))

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        last_busy = loop.time()
        while True:
            try:
                backlog = await self._backlog()
                if backlog:
                    last_busy = loop.time()
                await self._scale(backlog, loop.time() - last_busy)
                await self._pause(backlog)
            except (TransientError, OSError) as error:
                log.warning("fleet.unable_to_scale", error=str(error))
                await asyncio.sleep(WATCH_SECONDS)
            except Exception as error:
                tell("fleet", error)
                await asyncio.sleep(WATCH_SECONDS)

    async def _backlog(self) -> int:
        depth = await self._ports.queue.depth(QueueName.CHANGE)
        return depth.waiting + depth.in_flight

    async def _scale(self, backlog: int, idle_for_seconds: float) -> None:
        running = len(self._workers)
        wanted = desired_workers(
            running=running,
            backlog=backlog,
            idle_for_seconds=idle_for_seconds,
            limits=self._limits,
        )
        if wanted < running:
            log.info("fleet.scale_down", running=running, wanted=wanted)
            await self._stop_workers(list(self._workers.values())[wanted:])
        if asyncio.get_running_loop().time() < self._start_not_before:
            return
        for _ in range(wanted - running):
            await self._start_worker()

    async def _pause(self, backlog: int) -> None:
        """Without workers nobody receives: the queue itself tells of the first message."""
        if backlog:
            await asyncio.sleep(WATCH_SECONDS)
        elif self._workers:
            await asyncio.sleep(IDLE_WATCH_SECONDS)
        elif isinstance(self._ports.queue, WatchableQueue):
            await self._ports.queue.wait_for_message(
                QueueName.CHANGE, timeout_seconds=LONG_POLL_SECONDS
            )
        else:
            await asyncio.sleep(IDLE_WATCH_SECONDS)

    async def _start_worker(self) -> None:
        self._started_total += 1
        receiver = f"embed-{os.getpid()}-{self._started_total}"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "common.cli.main",
            "worker",
            "embed",
            stdin=asyncio.subprocess.PIPE,
            env=worker_environment(self._ports.settings, os.environ, receiver),
        )
        worker = _Worker(process, receiver, asyncio.get_running_loop().time())
        self._workers[receiver] = worker
        self._peak = max(self._peak, len(self._workers))
        worker.watcher = asyncio.create_task(self._watch(worker))
        log.info("fleet.worker_started", pid=process.pid, running=len(self._workers))

    async def _watch(self, worker: _Worker) -> None:
        code = await worker.process.wait()
        self._workers.pop(worker.receiver, None)
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            multiprocess.mark_process_dead(worker.process.pid)  # type: ignore[no-untyped-call]
        if code == 0:
            self._quick_deaths = 0
            # What a receive took in the moment it was cancelled: nobody has seen it.
            await self._free_leases(worker, refund=True)
            log.info("fleet.worker_stopped", pid=worker.process.pid, running=len(self._workers))
            return
        freed = await self._free_leases(worker, refund=False)
        lived = asyncio.get_running_loop().time() - worker.started_at
        self._delay_restart(lived)
        log.error("fleet.worker_died", pid=worker.process.pid, exit_code=code, freed_messages=freed)

    async def _free_leases(self, worker: _Worker, *, refund: bool) -> int:
        """The dead worker's receive counts: a document that kills its worker is given up."""
        queue = self._ports.queue
        if not isinstance(queue, ReclaimingQueue):
            return 0
        try:
            return await queue.reclaim(receiver=worker.receiver, refund=refund)
        except TransientError as error:
            log.warning("fleet.leases_not_freed", error=str(error))
        except Exception as error:
            tell("fleet", error)
        return 0

    def _delay_restart(self, lived_seconds: float) -> None:
        """Workers that die young are started ever more slowly."""
        if lived_seconds >= QUICK_DEATH_SECONDS:
            self._quick_deaths = 0
            return
        self._quick_deaths += 1
        delay = min(0.5 * 2.0**self._quick_deaths, LONGEST_RESTART_DELAY_SECONDS)
        self._start_not_before = asyncio.get_running_loop().time() + delay

    async def _stop_workers(self, workers: list[_Worker]) -> None:
        """SIGTERM drains; what outlives the drain timeout by far is killed."""
        for worker in workers:
            if worker.process.returncode is None:
                worker.process.send_signal(signal.SIGTERM)
        watchers = [w.watcher for w in workers if w.watcher]
        if not watchers:
            return
        patience = self._ports.settings.drain_timeout_seconds + 5.0
        _, late = await asyncio.wait(watchers, timeout=patience)
        for worker in workers:
            if worker.watcher in late and worker.process.returncode is None:
                log.error("fleet.worker_killed", pid=worker.process.pid)
                worker.process.kill()
        if late:
            await asyncio.wait(late)


def worker_environment(
    settings: Settings, environment: Mapping[str, str], receiver: str
) -> dict[str, str]:
    """The child sees the parent's settings, however the parent came by them."""
    child = dict(environment)
    for name, value in settings.model_dump(mode="json").items():
        if value is not None:
            shown = json.dumps(value) if isinstance(value, dict) else str(value)
            child[f"BLOOMWEAVER_{name.upper()}"] = shown
    for name, secret in settings:
        if isinstance(secret, SecretStr):  # dumped as asterisks
            child[f"BLOOMWEAVER_{name.upper()}"] = secret.get_secret_value()
    child["BLOOMWEAVER_DATA_DIR"] = str(settings.data_dir.absolute())
    child["BLOOMWEAVER_RECEIVER"] = receiver
    child["BLOOMWEAVER_START_CHECKS"] = "false"  # made when the fleet's own process started
    child["TOKENIZERS_PARALLELISM"] = "false"
    return child
