"""The intake as a process of its own, and its handler for whoever has the messages already."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

import structlog

from common import telemetry
from common.aws.event_queue import SqsEventQueue
from common.checks import require_usable
from common.composition import ConfigurationError, connect, open_ports
from common.ports.landing import Landing
from common.runner import run_until_signal
from common.settings import Settings
from common.starting import exit_code_of
from webhook.intake import IntakeHandler
from webhook.intake_listing import IntakeListing, list_regularly
from webhook.intake_loop import IntakeLoop
from webhook.opened import open_auditing
from webhook.quotas import quotas_of
from webhook.role import acceptor_of, admission_of

log = structlog.get_logger(__name__)


def run(settings: Settings) -> int:
    """Exit code: 0 after a drain; others as `exit_code_of` says."""
    telemetry.configure_logging(settings.log_format, settings.log_level)
    return exit_code_of(
        "intake", settings, lambda: run_until_signal(lambda stop: _serve(settings, stop))
    )


@contextlib.asynccontextmanager
async def open_intake(
    settings: Settings, queue: SqsEventQueue | None = None
) -> AsyncIterator[IntakeHandler]:
    """Everything an intake needs, checked. Raises PermanentError, TransientError.

    `queue`: where the events come from; None where they are handed in.
    """
    async with contextlib.AsyncExitStack() as stack:
        landing = _landing(settings)
        stack.push_async_callback(landing.close)
        receiver = f"intake-{os.getpid()}"
        ports = await stack.enter_async_context(
            open_ports(settings, receiver=receiver, own_index=False)
        )
        await require_usable(
            ports,
            {"BLOOMWEAVER_LANDING_URL": landing, "BLOOMWEAVER_INTAKE_QUEUE_NAME": queue},
        )
        admission = admission_of(ports)
        stack.push_async_callback(admission.close)
        # In a thread: the profile of a model may have to be read from its files.
        acceptor = await asyncio.to_thread(acceptor_of, ports)
        auditing = await stack.enter_async_context(open_auditing(settings, receiver=receiver))
        yield IntakeHandler(
            landing=landing,
            acceptor=acceptor,
            settings=settings,
            admission=admission,
            quotas=quotas_of(settings, ports.registry),
            auditing=auditing,
        )


def _landing(settings: Settings) -> Landing:
    if not settings.landing_url:
        raise ConfigurationError(
            "BLOOMWEAVER_LANDING_URL is not set: say which bucket files are put into, as s3://BUCKET"
        )
    landing: Landing = connect("landing", settings.landing_url, settings, "intake")
    return landing


async def _serve(settings: Settings, stop: asyncio.Event) -> None:
    queue = SqsEventQueue(
        settings.intake_queue_name,
        visibility_seconds=settings.visibility_timeout_seconds,
        timeout_seconds=settings.request_timeout_seconds,
    )
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(queue.close)
        handler = await stack.enter_async_context(open_intake(settings, queue))
        loop = IntakeLoop(
            queue=queue,
            take=handler.take_event,
            concurrency=settings.intake_concurrency,
            visibility_seconds=settings.visibility_timeout_seconds,
            drain_seconds=settings.drain_timeout_seconds,
        )
        log.info("intake.ready", queue=settings.intake_queue_name, landing=settings.landing_url)
        async with asyncio.TaskGroup() as group:
            group.create_task(loop.run(stop))
            group.create_task(list_regularly(IntakeListing(handler=handler), stop))
