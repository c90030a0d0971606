"""A role made of tasks that run until they are asked to stop: what workers without a model are."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import structlog

from common import telemetry
from common.checks import require_usable
from common.composition import ConfigurationError, open_ports
from common.parts import Ports
from common.ports.index import Index
from common.runner import run_until_signal
from common.settings import Settings
from common.starting import REFUSED_BY_MACHINE, exit_code_of

log = structlog.get_logger(__name__)

Work = Coroutine[Any, Any, None]
Tasks = Callable[[Ports, Index, asyncio.Event], Mapping[str, Work]]
"""By name; each ends by itself once the event is set, and what it has in hand is done."""


def run_tasks(role: str, settings: Settings, tasks: Tasks) -> int:
    """Exit code: 0 after a drain, 1 when a task failed; else as `exit_code_of` says."""
    telemetry.configure_logging(settings.log_format, settings.log_level)
    try:
        return exit_code_of(
            "worker",
            settings,
            lambda: run_until_signal(lambda stop: _serve(role, settings, tasks, stop)),
        )
    except ExceptionGroup as errors:
        log.error("worker.failed", role=role, exc_info=errors)
        return REFUSED_BY_MACHINE


async def _serve(role: str, settings: Settings, tasks: Tasks, stop: asyncio.Event) -> None:
    receiver = f"{role}-{os.getpid()}"
    async with open_ports(settings, receiver=receiver, own_index=True) as ports:
        if ports.index is None:
            raise ConfigurationError("this worker needs an index: set BLOOMWEAVER_INDEX_URL")
        await require_usable(ports)
        work = tasks(ports, ports.index, stop)
        log.info("worker.ready", role=role, pid=os.getpid())
        async with asyncio.TaskGroup() as group:
            for name, task in work.items():
                group.create_task(task, name=name)
    log.info("worker.stopped", role=role)
