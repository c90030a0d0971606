"""Calls of one table: each with a deadline, throttling waited out within it, errors translated."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import ClientError
from tenacity import AsyncRetrying, retry_if_exception, wait_random_exponential

from common.aws.clients import AwsClients, shared_clients
from common.aws.errors import SDK_ERRORS, at_start, code_of, transient
from common.ports.errors import TransientError

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb.client import DynamoDBClient

T = TypeVar("T")

Item = dict[str, Any]
"""Attributes as DynamoDB takes them: {"revision": {"N": "7"}}."""

PARTITION, SORT = "pk", "sk"
"""The keys of the one table that all stores share. Partitions that begin with "$" belong to stores
beside the registry, whose own begin with a letter."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 5.0
KEYS_PER_GET, KEYS_PER_DELETE = 100, 25
BATCHES_AT_ONCE = 8
_THROTTLED = (
    "ProvisionedThroughputExceededException",
    "ThrottlingException",
    "RequestLimitExceeded",
)


class ConditionFailedError(Exception):
    """A conditional write that changed nothing.

    `item`: what is stored, None if nothing is. `repeated`: it had been tried before, and that try
    may have taken effect.
    """

    def __init__(self, item: Item | None, *, repeated: bool) -> None:
        super().__init__("the condition of a write failed")
        self.item = item
        self.repeated = repeated


class TableCalls:
    """Opens its client at the first call."""

    def __init__(self, name: str, deadline_seconds: float) -> None:
        self.name = name
        self._deadline = deadline_seconds
        self._clients: AwsClients | None = None

    async def client(self) -> DynamoDBClient:
        if self._clients is None:
            self._clients = shared_clients()
        client: DynamoDBClient = await self._clients.client("dynamodb")
        return client

    async def close(self) -> None:
        if self._clients is not None:
            clients, self._clients = self._clients, None
            await clients.release()

    async def call(self, doing: str, ask: Callable[[DynamoDBClient], Awaitable[T]]) -> T:
        """Raises ConditionFailedError, and TransientError for all else."""
        asked = 0
        try:
            async with asyncio.timeout(self._deadline):
                client = await self.client()

                async def once() -> T:  # A retried function must be a coroutine function itself.
                    nonlocal asked
                    asked += 1
                    return await ask(client)

                return await _patiently()(once)
        except ClientError as error:
            if code_of(error) == "ConditionalCheckFailedException":
                raise _condition_failed(error, asked) from error
            raise transient(error, f"{doing} ({self.name})") from error
        except TimeoutError as error:
            line = (
                f"cannot {doing} ({self.name}): no answer, or throttled, for {self._deadline:g} s"
            )
            raise TransientError(line) from error
        except SDK_ERRORS as error:
            raise transient(error, f"{doing} ({self.name})") from error

    async def get(self, key: Item) -> Item | None:
        """A strongly consistent read."""
        answer = await self.call(
            "read a row",
            lambda db: db.get_item(TableName=self.name, Key=key, ConsistentRead=True),
        )
        return answer.get("Item")

    async def get_many(self, keys: Sequence[Item]) -> list[Item]:
        """Those that exist, in any order; strongly consistent. The keys must differ."""
        places = asyncio.Semaphore(BATCHES_AT_ONCE)

        async def part(some: Sequence[Item]) -> list[Item]:
            async with places:
                return await self._get_batch(some)

        parts = [keys[n : n + KEYS_PER_GET] for n in range(0, len(keys), KEYS_PER_GET)]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(part(some)) for some in parts]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [item for task in tasks for item in task.result()]

    async def _get_batch(self, keys: Sequence[Item]) -> list[Item]:
        found: list[Item] = []
        left: Sequence[Any] = keys
        async for _ in self._rounds("read rows"):
            wanted: Any = {self.name: {"Keys": left, "ConsistentRead": True}}
            answer = await self.call("read rows", partial(_get_batch, wanted))
            found += answer["Responses"].get(self.name, [])
            left = answer.get("UnprocessedKeys", {}).get(self.name, {}).get("Keys", [])
            if not left:
                break
        return found

    async def delete_many(self, keys: Sequence[Item]) -> None:
        """Without condition; what is not there is fine."""
        for n in range(0, len(keys), KEYS_PER_DELETE):
            left: Any = [{"DeleteRequest": {"Key": k}} for k in keys[n : n + KEYS_PER_DELETE]]
            async for _ in self._rounds("delete items"):
                answer = await self.call("delete items", partial(_write_batch, {self.name: left}))
                left = answer.get("UnprocessedItems", {}).get(self.name, [])
                if not left:
                    break

    async def put(self, item: Item, **condition: Any) -> None:
        await self.call(
            "write a row",
            lambda db: db.put_item(TableName=self.name, Item=item, **condition),
        )

    async def query(self, doing: str, **query: Any) -> AsyncIterator[list[Item]]:
        """Page by page; each call has the deadline."""
        found, following = await self.query_page(doing, **query)
        yield found
        while following:
            found, following = await self.query_page(doing, ExclusiveStartKey=following, **query)
            yield found

    async def query_page(self, doing: str, **query: Any) -> tuple[list[Item], Item]:
        """At most a megabyte, and where the next page begins ({}: this is the last)."""
        answer = await self.call(doing, lambda db: db.query(TableName=self.name, **query))
        return answer["Items"], answer.get("LastEvaluatedKey", {})

    async def describe(self) -> Mapping[str, Any]:
        """Raises what `common.aws.errors.at_start` makes of a failure."""
        try:
            async with asyncio.timeout(self._deadline):
                client = await self.client()
                return (await client.describe_table(TableName=self.name))["Table"]
        except SDK_ERRORS as error:
            raise at_start(error, f"find the table {self.name}") from error

    async def _rounds(self, doing: str) -> AsyncIterator[None]:
        """For what a batch leaves over when it is throttled: full jitter, within the deadline."""
        pause = FIRST_PAUSE_SECONDS
        ends = asyncio.get_running_loop().time() + self._deadline
        while True:
            yield
            wait = random.uniform(0, pause)  # noqa: S311 - spreads retries, protects nothing
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            if asyncio.get_running_loop().time() + wait > ends:
                raise TransientError(f"cannot {doing} ({self.name}): throttled for too long")
            await asyncio.sleep(wait)


def _get_batch(wanted: Any, client: DynamoDBClient) -> Awaitable[Any]:
    return client.batch_get_item(RequestItems=wanted)


def _write_batch(wanted: Any, client: DynamoDBClient) -> Awaitable[Any]:
    return client.batch_write_item(RequestItems=wanted)


def _patiently() -> AsyncRetrying:
    """Full jitter, for as long as the caller's deadline allows."""
    return AsyncRetrying(
        retry=retry_if_exception(_is_throttled),
        wait=wait_random_exponential(multiplier=FIRST_PAUSE_SECONDS, max=LONGEST_PAUSE_SECONDS),
        reraise=True,
    )


def _is_throttled(error: BaseException) -> bool:
    return isinstance(error, ClientError) and code_of(error) in _THROTTLED


def _condition_failed(error: ClientError, asked: int) -> ConditionFailedError:
    """`asked`: how often the SDK was, which counts the tries of the last time only."""
    response: Mapping[str, Any] = error.response
    tries = response.get("ResponseMetadata", {}).get("RetryAttempts", 0)
    return ConditionFailedError(response.get("Item"), repeated=tries > 0 or asked > 1)
