"""The scrub of a data folder that nobody has open, for the command line."""

from __future__ import annotations

import os

from common import telemetry
from common.composition import open_ports
from common.ports.index import IndexUnavailableError
from common.scrubbing import OnProgress, ScrubReport
from common.settings import Settings
from common.storage.data_folder import DataFolder
from workers.scrub_job import scrub_job_of


async def run(
    settings: Settings,
    *,
    namespace: str | None,
    repair: bool,
    progress: OnProgress | None = None,
) -> ScrubReport:
    """Owns the folder meanwhile. What a repair leaves to do, the next `bloomweaver up` does.

    Raises DataFolderError when a process has it open, and what `Scrubber.scrub` raises.
    """
    telemetry.configure_logging(settings.log_format, "error")
    with DataFolder(settings.data_dir).own():
        receiver = f"scrub-{os.getpid()}"
        async with open_ports(settings, receiver=receiver, own_index=True) as ports:
            if ports.index is None:
                raise IndexUnavailableError("the index could not be opened")
            return await scrub_job_of(ports, ports.index)(
                namespace=namespace, repair=repair, progress=progress
            )
