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
from common.ports.check import Checkable
from common.ports.landing import Landing
from common.runner import run_until_signal
from common.settings import Settings
from common.starting import exit_code_of
from webhook.intake import IntakeHandler
from webhook.intake_loop import IntakeLoop
from webhook.role import acceptor_of, admission_of

log = structlog.get_logger(__name__)


def run(settings: Settings) -> int:
    """Exit code: 0 after a drain; others as `exit_code_of` says."""
    telemetry.configure_logging(settings.log_format, settings.log_level)
    return exit_code_of(
        "intake", settings, lambda: run_until_signal(lambda stop: _serve(settings, stop))
    )


@contextlib.asynccontextmanager
async def open_intake(settings: Settings) -> AsyncIterator[IntakeHandler]:
    """Everything an intake needs, checked. Raises PermanentError, TransientError."""
    async with contextlib.AsyncExitStack() as stack:
        landing = _landing(settings)
        stack.push_async_callback(landing.close)
        receiver = f"intake-{os.getpid()}"
        ports = await stack.enter_async_context(
            open_ports(settings, receiver=receiver, own_index=False)
        )
        if settings.start_checks:
            await require_usable(ports)
            await _checked(landing)
        admission = admission_of(ports)
        stack.push_async_callback(admission.close)
        # In a thread: the profile of a model may have to be read from its files.
        acceptor = await asyncio.to_thread(acceptor_of, ports)
        yield IntakeHandler(
            landing=landing, acceptor=acceptor, settings=settings, admission=admission
        )


def _landing(settings: Settings) -> Landing:
    if not settings.landing_url:
        raise ConfigurationError(
            "BLOOMWEAVER_LANDING_URL is not set: say which bucket files are put into, as s3://BUCKET"
        )
    landing: Landing = connect("landing", settings.landing_url, settings, "intake")
    return landing


async def _checked(adapter: object) -> None:
    if isinstance(adapter, Checkable):
        log.info("intake.checked", found=await adapter.check())


async def _serve(settings: Settings, stop: asyncio.Event) -> None:
    queue = SqsEventQueue(
        settings.intake_queue_name,
        visibility_seconds=settings.visibility_timeout_seconds,
        timeout_seconds=settings.request_timeout_seconds,
    )
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(queue.close)
        handler = await stack.enter_async_context(open_intake(settings))
        if settings.start_checks:
            await _checked(queue)
        loop = IntakeLoop(
            queue=queue,
            take=handler.take_event,
            concurrency=settings.intake_concurrency,
            visibility_seconds=settings.visibility_timeout_seconds,
            drain_seconds=settings.drain_timeout_seconds,
        )
        log.info("intake.ready", queue=settings.intake_queue_name, landing=settings.landing_url)
        await loop.run(stop)
