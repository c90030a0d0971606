"""Whether the queues are there and set up as the adapter needs them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from botocore.exceptions import ClientError

from common.adapters.queue.sqs_api import SqsApi
from common.aws.errors import AwsSetupError, at_start, code_of

if TYPE_CHECKING:
    from collections.abc import Sequence

SHORTEST_VISIBILITY_SECONDS = 30
"""Of a queue itself: what a Lambda function has, and what looks at the dead letters by hand."""

LONGEST_RETENTION_SECONDS = 14 * 86400
"""SQS's own limit. Lost work is woken again from the registry; a lost dead letter is not."""

MISSING_QUEUE = frozenset({"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"})

Attributes = Mapping[str, str]


class Names(Protocol):
    """Which queue is for what."""

    @property
    def dead_letters(self) -> str: ...

    @property
    def every(self) -> Sequence[str]: ...


async def checked(api: SqsApi, name: str, setting: str) -> Attributes:
    """The queue's attributes. Raises PermanentError for what must be mended.

    `setting` is told where there is no such queue: the variable that names it.
    """
    try:
        attributes = await api.attributes(name, at_start)
    except AwsSetupError as error:
        cause = error.__cause__
        if isinstance(cause, ClientError) and code_of(cause) in MISSING_QUEUE:
            raise AwsSetupError(f"{error}: {setting}={name}") from cause
        raise
    if attributes.get("FifoQueue") == "true":
        raise AwsSetupError(f"{name} is a FIFO queue: create a standard queue instead")
    return attributes


def line_of(
    found: Mapping[str, Attributes],
    names: Names,
    max_receives: int,
    visibility_seconds: float,
) -> str:
    told = [
        f"{_short(name)}: {attributes.get('ApproximateNumberOfMessages', '?')} waiting"
        for name, attributes in found.items()
    ]
    warnings = [
        f"{_short(name)} {warning}"
        for name, attributes in found.items()
        for warning in warnings_of(
            attributes,
            letters_arn=found[names.dead_letters].get("QueueArn", ""),
            is_letters=name == names.dead_letters,
            max_receives=max_receives,
            visibility_seconds=visibility_seconds,
        )
    ]
    return ", ".join(told) + "".join(f"; warning: {warning}" for warning in warnings)


def warnings_of(
    attributes: Attributes,
    *,
    letters_arn: str,
    is_letters: bool,
    max_receives: int,
    visibility_seconds: float,
) -> list[str]:
    """What works, but not as well as it could; each completes '<queue> …'."""
    shortest = SHORTEST_VISIBILITY_SECONDS if is_letters else visibility_seconds
    return [
        *_of_times(attributes, max(shortest, SHORTEST_VISIBILITY_SECONDS)),
        *_of_redrive(attributes, letters_arn, is_letters, max_receives),
    ]


def _of_times(attributes: Attributes, shortest: float) -> Iterator[str]:
    visibility = int(attributes.get("VisibilityTimeout", 0))
    if visibility < shortest:
        yield f"has a visibility timeout of {visibility} s: {shortest:g} at least"
    retention = int(attributes.get("MessageRetentionPeriod", LONGEST_RETENTION_SECONDS))
    if retention < LONGEST_RETENTION_SECONDS:
        yield f"keeps messages for {retention} s: set {LONGEST_RETENTION_SECONDS} (14 days)"


def _of_redrive(
    attributes: Attributes, letters_arn: str, is_letters: bool, max_receives: int
) -> Iterator[str]:
    redrive = _redrive_of(attributes)
    if is_letters:
        if redrive:
            yield "has a redrive policy: letters that are looked at would move on"
    elif redrive.get("deadLetterTargetArn") != letters_arn:
        yield (
            "has no redrive policy to the dead-letter queue: a message whose workers die "
            "comes back until one of them lives to give it up"
        )
    elif int(redrive.get("maxReceiveCount", 0)) < max_receives:
        yield (
            f"moves messages after {redrive.get('maxReceiveCount')} receives, before "
            f"BLOOMWEAVER_MAX_RECEIVES={max_receives} is reached"
        )


def _redrive_of(attributes: Attributes) -> dict[str, str]:
    policy = attributes.get("RedrivePolicy")
    return dict(json.loads(policy)) if policy else {}


def _short(name: str) -> str:
    return name.rpartition("/")[2]
