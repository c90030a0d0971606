"""The landing zone's intake as a function: S3 tells a queue, whose mapping hands the message on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog

from common.lambda_sqs import Record, answer_naming
from common.ports.errors import PortError
from webhook.intake import IntakeHandler
from webhook.problems import Problem

log = structlog.get_logger(__name__)


async def take_batch(
    handler: IntakeHandler, records: Sequence[Record], seconds: float
) -> dict[str, Any]:
    """Takes all in at once; names those that failed, or were not done in time. They come back after
    the queue's visibility timeout, and what never succeeds ends with its dead letters."""
    tasks = {record["messageId"]: asyncio.create_task(_take(handler, record)) for record in records}
    try:
        if tasks:
            await asyncio.wait(tasks.values(), timeout=seconds)
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
    return answer_naming([name for name, task in tasks.items() if not _succeeded(task)])


def _succeeded(task: asyncio.Task[bool]) -> bool:
    return not task.cancelled() and task.exception() is None and task.result()


async def _take(handler: IntakeHandler, record: Record) -> bool:
    try:
        await handler.take_event(record["body"])
    except (PortError, Problem) as error:
        log.warning("intake.failed", message=record["messageId"], error=str(error))
        return False
    except Exception as error:
        log.error("intake.failed", message=record["messageId"], exc_info=error)
        return False
    return True
