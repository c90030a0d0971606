"""The product under measurement: `bloomweaver up` on a temporary folder, and what /proc says."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.acceptance.service import Service, wait_until

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
START_PATIENCE_SECONDS = 60.0


class MeasuredService(Service):
    """Starts any role, and tells how long that took and what its processes use."""

    def start_role(self, role: str = "up") -> float:
        """Seconds from the start of the process to the first 200 of /readyz."""
        began = time.perf_counter()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(role),
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        while not self._ready():
            if time.perf_counter() - began > START_PATIENCE_SECONDS:
                raise AssertionError(f"not ready after {START_PATIENCE_SECONDS:g} s: {self.tail()}")
            time.sleep(0.01)
        return time.perf_counter() - began

    def applied(self, namespace: str) -> int:
        """Documents of the namespace that show what was sent last."""
        for found in self.get("/v1/stats")["namespaces"]:
            if found["namespace"] == namespace:
                return int(found["documents"].get("COMPLETED", 0))
        return 0

    def wait_applied(self, namespace: str, count: int, seconds: float = 300.0) -> None:
        """Looks every 0.1 s only towards the end: a look takes some 4 ms of CPU time, which is
        2 % of a small machine's when it is done all the while."""
        began = time.monotonic()
        while (done := self.applied(namespace)) < count:
            passed = time.monotonic() - began
            if passed > seconds:
                raise AssertionError(f"{namespace}: not {count} documents in {seconds:g} s")
            expected = passed * (count - done) / done if done else 1.0
            time.sleep(min(max(expected / 4, 0.1), 1.0))

    def warm_workers(self, count: int) -> None:
        """Wait until so many workers have loaded the model and joined the queue."""
        wait_until(
            f"{count} workers are ready",
            lambda: self.log.read_text(errors="replace").count("worker.ready") >= count,
        )

    def without_workers(self) -> None:
        wait_until("no worker is left", lambda: not self.workers())

    def freshness_ms(self) -> list[float]:
        """From accept to commit, of each applied change, as the service logs it."""
        lines = self.log.read_text(errors="replace").splitlines()
        entries = [json.loads(line) for line in lines if '"document.applied"' in line]
        return [1000 * float(entry["freshness_seconds"]) for entry in entries]

    def processes(self) -> dict[int, str]:
        """The process group: ids, and what each of them is."""
        assert self.process
        return {self.process.pid: "service"} | dict.fromkeys(self.workers(), "embedding worker")

    def cpu_seconds(self) -> dict[int, float]:
        """User and system time of each process so far."""
        used = {}
        for pid in self.processes():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                used[pid] = cpu_seconds_of(pid)
        return used

    def peak_megabytes(self) -> list[tuple[str, float]]:
        """The high-water mark of each process' resident memory."""
        return [(name, _peak_megabytes(pid)) for pid, name in self.processes().items()]


def cpu_seconds_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def _peak_megabytes(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


@contextlib.contextmanager
def service(role: str = "up", **settings: object) -> Iterator[MeasuredService]:
    """Started and ready; killed with its workers on the way out, whatever happened."""
    with stopped_service(**settings) as measured:
        measured.start_role(role)
        yield measured


@contextlib.contextmanager
def stopped_service(**settings: object) -> Iterator[MeasuredService]:
    with tempfile.TemporaryDirectory(
        prefix="bloomweaver-bench-", ignore_cleanup_errors=True
    ) as folder:
        measured = MeasuredService(Path(folder), **settings)
        try:
            yield measured
        finally:
            measured.close()
