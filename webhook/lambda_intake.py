"""The landing zone's intake as a function: S3 tells a queue, whose mapping hands the message on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import structlog

from common.aws.event_queue import SqsEventQueue
from common.lambda_sqs import Record, answer_naming
from common.ports.errors import PortError, TransientError
from webhook.intake import IntakeHandler
from webhook.problems import Problem

log = structlog.get_logger(__name__)

DELAY_SECONDS = (5.0, 120.0)
"""Of a message that is put back; drawn from between the two, so that they do not come together."""


async def take_batch(
    handler: IntakeHandler, records: Sequence[Record], seconds: float
) -> dict[str, Any]:
    """Takes all in at once; names those that failed, or were not done in time. They come back after
    the queue's visibility timeout, and what never succeeds ends with its dead letters.

    What failed for something out of reach is sent to the queue anew and counts as done: its
    receives begin again, so that an outage gives nothing up.
    """
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
    except TransientError as error:
        log.warning("intake.put_back", message=record["messageId"], error=str(error))
        return await _sent_again(record, handler.settings.request_timeout_seconds)
    except (PortError, Problem) as error:
        log.warning("intake.failed", message=record["messageId"], error=str(error))
        return False
    except Exception as error:
        log.error("intake.failed", message=record["messageId"], exc_info=error)
        return False
    return True


async def _sent_again(record: Record, timeout_seconds: float) -> bool:
    """False: it comes back by itself, one receive older."""
    name = str(record.get("eventSourceARN", "")).rpartition(":")[2]
    queue = SqsEventQueue(name, visibility_seconds=0, timeout_seconds=timeout_seconds)
    try:
        await queue.send(record["body"], random.uniform(*DELAY_SECONDS))  # noqa: S311 - a pause
    except PortError as error:
        log.warning("intake.not_put_back", message=record["messageId"], error=str(error))
        return False
    finally:
        await queue.close()
    return True
