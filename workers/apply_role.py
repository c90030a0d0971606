"""The apply consumers as processes of their own, one queue each or all three in one.

For an index that is a server: the embedded one lives in the process of `bloomweaver up`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from common.model import QueueName
from common.parts import Ports
from common.ports.index import Index
from common.settings import Settings
from workers.consumers import consumer_of, handlers_of
from workers.tasks_role import Tasks, Work, run_tasks

APPLY_QUEUES = (QueueName.CREATE, QueueName.UPDATE, QueueName.DELETE)


def run(settings: Settings) -> int:
    """All three queues."""
    return run_tasks("apply", settings, consuming(APPLY_QUEUES))


def run_create(settings: Settings) -> int:
    return run_tasks("create", settings, consuming([QueueName.CREATE]))


def run_update(settings: Settings) -> int:
    return run_tasks("update", settings, consuming([QueueName.UPDATE]))


def run_delete(settings: Settings) -> int:
    return run_tasks("delete", settings, consuming([QueueName.DELETE]))


def consuming(names: Iterable[QueueName]) -> Tasks:
    """Tasks that work these queues, each with places of its own."""

    def tasks(ports: Ports, index: Index, stop: asyncio.Event) -> dict[str, Work]:
        handlers, places = handlers_of(ports, index), ports.settings.apply_concurrency
        return {
            f"{name}-consumer": consumer_of(ports, name, handlers[name], places).run(stop)
            for name in names
        }

    return tasks
