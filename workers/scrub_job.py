"""Scrubs of one process: one at a time, on request and by the clock."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import structlog

from common.parts import Ports, timers_of
from common.ports.index import Index
from common.scrubbing import OnProgress, ScrubBusyError, ScrubReport
from workers.scrub import Scrubber

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class ScrubJob:
    """Implements ScrubService."""

    scrubber: Scrubber
    last: ScrubReport | None = None
    last_of_all: ScrubReport | None = None
    _running: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def running(self) -> bool:
        return self._running.locked()

    async def __call__(
        self, *, namespace: str | None, repair: bool, progress: OnProgress | None = None
    ) -> ScrubReport:
        if self._running.locked():
            raise ScrubBusyError
        async with self._running:
            report = await self.scrubber.scrub(
                namespace=namespace, repair=repair, progress=progress
            )
            self.last = report
            if namespace is None:
                self.last_of_all = report
        _tell(report)
        return report

    async def run(self, stop: asyncio.Event, interval_seconds: float) -> None:
        """A scrub of everything that repairs nothing, each interval, until `stop` is set."""
        while not await _is_set_within(stop, interval_seconds):
            scrub = asyncio.create_task(self._unattended())
            stopped = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait((scrub, stopped), return_when=asyncio.FIRST_COMPLETED)
            finally:
                scrub.cancel()
                stopped.cancel()
                await asyncio.gather(scrub, stopped, return_exceptions=True)

    async def _unattended(self) -> None:
        """Whatever happens to it, the process goes on."""
        try:
            await self(namespace=None, repair=False)
        except ScrubBusyError:
            log.info("scrub.skipped", why="one is running")
        except Exception as error:
            log.error("scrub.failed", error=str(error), exc_info=error)


def scrub_job_of(ports: Ports, index: Index) -> ScrubJob:
    return ScrubJob(
        Scrubber(
            registry=ports.registry,
            blobs=ports.blobs,
            index=index,
            queue=ports.queue,
            timers=timers_of(ports.settings),
            timeout_seconds=ports.settings.request_timeout_seconds,
        )
    )


def _tell(report: ScrubReport) -> None:
    tell = log.info if report.clean else log.warning
    tell(
        "scrub.done",
        documents=report.documents_checked,
        records=report.records_checked,
        findings=report.findings_total,
        repaired=report.repaired_total,
        in_motion=report.documents_in_motion,
        seconds=round(report.took_seconds, 3),
        **{kind.value: count for kind, count in report.counts.items()},
    )


async def _is_set_within(stop: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return False
    return True
