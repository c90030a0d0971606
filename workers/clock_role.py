"""The roles that work by the clock, as processes of their own: the sweeper and the scrub."""

from __future__ import annotations

import asyncio

from common.composition import ConfigurationError
from common.parts import Ports
from common.ports.index import Index
from common.settings import Settings
from workers.consumers import sweeper_of
from workers.scrub_job import scrub_job_of
from workers.tasks_role import Work, run_tasks


def run_sweep(settings: Settings) -> int:
    return run_tasks("sweep", settings, sweeping)


def run_scrub(settings: Settings) -> int:
    """Each interval, the first one after it: `bloomweaver scrub` is for one at once."""
    return run_tasks("scrub", settings, scrubbing)


def sweeping(ports: Ports, _index: Index, stop: asyncio.Event) -> dict[str, Work]:
    return {"sweeper": sweeper_of(ports).run(stop)}


def scrubbing(ports: Ports, index: Index, stop: asyncio.Event) -> dict[str, Work]:
    interval = ports.settings.scrub_interval_seconds
    if not interval:
        raise ConfigurationError(
            "BLOOMWEAVER_SCRUB_INTERVAL_SECONDS=0 means that nothing is scrubbed by the clock: set "
            "how often this worker is to scrub"
        )
    return {"scrub": scrub_job_of(ports, index).run(stop, interval)}
