"""The calls of SQS that the adapter makes: their deadlines, and their errors in our words."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from common.adapters.queue.sqs_batches import Failure
from common.aws.clients import AwsClients, shared_clients
from common.aws.errors import SDK_ERRORS, transient
from common.ports.errors import PermanentError, PortError, TransientError
from common.ports.queue import LeaseLostError

if TYPE_CHECKING:
    from types_aiobotocore_sqs.client import SQSClient
    from types_aiobotocore_sqs.type_defs import (
        BatchResultErrorEntryTypeDef,
        MessageTypeDef,
        SendMessageBatchRequestEntryTypeDef,
    )

Translation = Callable[[Exception, str], PortError]
"""Of an SDK's error and what was being done."""

_GONE = frozenset({"ReceiptHandleIsInvalid", "MessageNotInflight", "InvalidParameterValue"})
_BEYOND_TWELVE_HOURS = "beyond the limit"
"""What SQS says in an InvalidParameterValue of a message that was in hand for twelve hours."""
_UNSENDABLE = frozenset({"InvalidMessageContents", "InvalidParameterValue", "BatchRequestTooLong"})


class SqsApi:
    """One per adapter. Every call ends within `timeout_seconds`, a long poll after its wait.

    Raises TransientError; client() also PermanentError when region or endpoint are not set.
    """

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._clients: AwsClients | None = None
        self._urls: dict[str, str] = {}
        self._asking = asyncio.Lock()

    async def client(self) -> SQSClient:
        if self._clients is None:
            self._clients = shared_clients()
        client: SQSClient = await self._clients.client("sqs")
        return client

    async def close(self) -> None:
        clients, self._clients = self._clients, None
        if clients is not None:
            await clients.release()

    async def url_of(self, name: str, told: Translation = transient) -> str:
        """Asked for once. A setting may hold the URL itself.

        Requests go to the region's endpoint or to AWS_ENDPOINT_URL, whatever host the URL names.
        """
        if name.startswith(("https://", "http://")):
            return name
        async with self._asking:
            if name not in self._urls:
                async with self._calling(f"find the queue {name}", told=told):
                    answer = await (await self.client()).get_queue_url(QueueName=name)
                self._urls[name] = answer["QueueUrl"]
        return self._urls[name]

    async def receive(
        self, name: str, *, limit: int, visibility_seconds: int, wait_seconds: int
    ) -> list[MessageTypeDef]:
        url = await self.url_of(name)
        async with self._calling(f"receive from {name}", wait_seconds):
            answer = await (await self.client()).receive_message(
                QueueUrl=url,
                MaxNumberOfMessages=limit,
                VisibilityTimeout=visibility_seconds,
                WaitTimeSeconds=wait_seconds,
                MessageSystemAttributeNames=["All"],
                MessageAttributeNames=["All"],
            )
        return answer.get("Messages", [])

    async def send(
        self, name: str, entries: Sequence[SendMessageBatchRequestEntryTypeDef]
    ) -> list[Failure | None]:
        url = await self.url_of(name)
        numbered = [{**entry, "Id": str(n)} for n, entry in enumerate(entries)]
        async with self._calling(f"send to {name}"):
            answer = await (await self.client()).send_message_batch(
                QueueUrl=url,
                Entries=numbered,  # type: ignore[arg-type]  # a spread TypedDict is a dict to mypy
            )
        return _outcomes(answer, len(entries), lambda failed: _unsent(failed, name))

    async def delete(self, name: str, receipts: Sequence[str]) -> list[Failure | None]:
        url = await self.url_of(name)
        async with self._calling(f"delete messages of {name}"):
            answer = await (await self.client()).delete_message_batch(
                QueueUrl=url,
                Entries=[{"Id": str(n), "ReceiptHandle": r} for n, r in enumerate(receipts)],
            )
        return _outcomes(answer, len(receipts), lambda failed: _not_ours(failed, name))

    async def hide(self, name: str, receipts: Sequence[tuple[str, int]]) -> list[Failure | None]:
        """Each receipt's message for so many seconds from now; 0: it is deliverable at once."""
        url = await self.url_of(name)
        async with self._calling(f"change visibility in {name}"):
            answer = await (await self.client()).change_message_visibility_batch(
                QueueUrl=url,
                Entries=[
                    {"Id": str(n), "ReceiptHandle": receipt, "VisibilityTimeout": seconds}
                    for n, (receipt, seconds) in enumerate(receipts)
                ],
            )
        return _outcomes(answer, len(receipts), lambda failed: _not_ours(failed, name))

    async def attributes(self, name: str, told: Translation = transient) -> dict[str, str]:
        """All attributes of the queue. Raises what `told` makes of an error."""
        url = await self.url_of(name, told)
        async with self._calling(f"look at {name}", told=told):
            answer = await (await self.client()).get_queue_attributes(
                QueueUrl=url, AttributeNames=["All"]
            )
        return {str(key): value for key, value in answer["Attributes"].items()}

    @contextlib.asynccontextmanager
    async def _calling(
        self, doing: str, longer_seconds: float = 0.0, told: Translation = transient
    ) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout_seconds + longer_seconds):
                yield
        except SDK_ERRORS as error:
            raise told(error, doing) from error


def _outcomes(
    answer: Mapping[str, Any],
    count: int,
    failure: Callable[[BatchResultErrorEntryTypeDef], Failure],
) -> list[Failure | None]:
    """Entry by entry. One that the answer does not name at all may be tried again."""
    untold = Failure(TransientError("SQS said nothing of an entry of a batch"), again=True)
    outcomes: list[Failure | None] = [untold] * count
    for done in answer.get("Successful", []):
        outcomes[int(done["Id"])] = None
    for failed in answer.get("Failed", []):
        outcomes[int(failed["Id"])] = failure(failed)
    return outcomes


def _unsent(failed: BatchResultErrorEntryTypeDef, name: str) -> Failure:
    line = f"cannot send to {name}: {_told(failed)}"
    if _code(failed) in _UNSENDABLE:
        return Failure(PermanentError(line))
    return Failure(TransientError(line), again=not failed["SenderFault"])


def _not_ours(failed: BatchResultErrorEntryTypeDef, name: str) -> Failure:
    """Of a delete or a change of visibility."""
    line = f"cannot change a message of {name}: {_told(failed)}"
    if _code(failed) in _GONE and _BEYOND_TWELVE_HOURS not in failed.get("Message", ""):
        return Failure(LeaseLostError(line))
    return Failure(TransientError(line), again=not failed["SenderFault"])


def _code(failed: BatchResultErrorEntryTypeDef) -> str:
    """Some answers say `AWS.SimpleQueueService.MessageNotInflight`."""
    return failed["Code"].rpartition(".")[2]


def _told(failed: BatchResultErrorEntryTypeDef) -> str:
    return f"{failed['Code']}: {failed.get('Message', '')}".rstrip(": ")
