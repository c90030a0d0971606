"""A scrub for the command line: of a data folder that nobody has open, or of what servers keep."""

from __future__ import annotations

import os
from contextlib import nullcontext

from common import telemetry
from common.composition import open_ports
from common.ports.index import IndexUnavailableError
from common.scrubbing import OnProgress, ScrubReport
from common.settings import Settings
from common.storage.data_folder import DataFolder
from common.where_kept import kept_by_servers
from workers.scrub_job import scrub_job_of


async def run(
    settings: Settings,
    *,
    namespace: str | None,
    repair: bool,
    progress: OnProgress | None = None,
) -> ScrubReport:
    """Owns the data folder meanwhile, if what is compared lies there: what a repair leaves to do,
    the next `bloomweaver up` does. What servers keep is compared beside all who work on it.

    Raises DataFolderError when a process has the folder open, and what `Scrubber.scrub` raises.
    """
    telemetry.configure_logging(settings.log_format, "error")
    folder = nullcontext() if kept_by_servers(settings) else DataFolder(settings.data_dir).own()
    with folder:
        receiver = f"scrub-{os.getpid()}"
        async with open_ports(settings, receiver=receiver, own_index=True) as ports:
            if ports.index is None:
                raise IndexUnavailableError("the index could not be opened")
            return await scrub_job_of(ports, ports.index)(
                namespace=namespace, repair=repair, progress=progress
            )
