"""A scrub for the command line: of a data folder that nobody has open, or of what servers keep."""

from __future__ import annotations

import os
from contextlib import nullcontext

from common import telemetry
from common.composition import open_ports
from common.ports.index import Index, IndexUnavailableError
from common.ports.registry import Registry
from common.scrubbing import OnProgress, ScrubReport, UnknownNamespacesError
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

    Raises DataFolderError when a process has the folder open, UnknownNamespacesError for a repair
    of everything with a registry that may be another index's, and what `Scrubber.scrub` raises.
    """
    telemetry.configure_logging(settings.log_format, "error")
    if kept_by_servers(settings):  # the cache may lie in a folder; a scrub has no use for it
        settings = settings.model_copy(update={"vectors_url": "none:"})
    folder = nullcontext() if kept_by_servers(settings) else DataFolder(settings.data_dir).own()
    with folder:
        receiver = f"scrub-{os.getpid()}"
        async with open_ports(settings, receiver=receiver, own_index=True) as ports:
            if ports.index is None:
                raise IndexUnavailableError("the index could not be opened")
            if repair and namespace is None and kept_by_servers(settings):
                await _refuse_unknown(ports.registry, ports.index)
            return await scrub_job_of(ports, ports.index)(
                namespace=namespace, repair=repair, progress=progress
            )


async def _refuse_unknown(registry: Registry, index: Index) -> None:
    """Which registry belongs to which index only the settings say. With the wrong one every record
    is left over, and would be removed."""
    known = {*await registry.namespaces(), *(one.namespace for one in await registry.counts())}
    if unknown := sorted(set(await index.namespaces()) - known):
        raise UnknownNamespacesError(unknown)
