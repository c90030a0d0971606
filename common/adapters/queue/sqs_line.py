"""One queue of SQS: what is sent, deleted and hidden goes in batches that callers share."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from common.adapters.queue.sqs_api import SqsApi
from common.adapters.queue.sqs_batches import Batcher, Failure
from common.adapters.queue.sqs_messages import Envelope, entry_of
from common.ports.queue import LeaseLostError

if TYPE_CHECKING:
    from types_aiobotocore_sqs.type_defs import (
        MessageTypeDef,
        SendMessageBatchRequestEntryTypeDef,
    )

LONGEST_POLL_SECONDS = 20
LONGEST_DELAY_SECONDS = 900
LONGEST_VISIBILITY_SECONDS = 12 * 3600
MOST_RECEIVED = 10
MARGIN_SECONDS = 0.1
"""A batch does not wait for company beyond so long before a lease in it ends."""

_LATE = Failure(LeaseLostError("the lease ran out before the queue was asked"))

Item = TypeVar("Item")
Held = tuple[str, float]
"""A receipt, and until when (loop time) it may be used."""


class SqsLine:
    """`name` is the queue's name or URL. All waits are in seconds, all times the loop's."""

    def __init__(
        self, api: SqsApi, name: str, *, timeout_seconds: float, shortest_wait_seconds: float
    ) -> None:
        self.name = name
        self._api = api
        self._timeout_seconds = timeout_seconds
        self._sends: Batcher[SendMessageBatchRequestEntryTypeDef] = Batcher(
            lambda entries: api.send(name, entries), shortest_wait_seconds
        )
        self._deletes: Batcher[Held] = Batcher(self._delete, shortest_wait_seconds)
        self._hides: Batcher[tuple[Held, int]] = Batcher(self._hide, shortest_wait_seconds)

    async def close(self) -> None:
        await asyncio.gather(*[b.close() for b in (self._sends, self._deletes, self._hides)])

    async def send(
        self, envelope: Envelope, *, delay_seconds: float = 0.0, longest_wait_seconds: float = 0.0
    ) -> None:
        """The delay is rounded up to whole seconds, and 900 at most."""
        delay = min(math.ceil(delay_seconds), LONGEST_DELAY_SECONDS)
        await self._sends.do(
            entry_of(envelope, delay),
            size_bytes=envelope.size_bytes,
            longest_wait_seconds=longest_wait_seconds,
            deadline=_now() + self._timeout_seconds,
        )

    async def delete(
        self, receipt: str, until: float, *, longest_wait_seconds: float = 0.0
    ) -> None:
        """Raises LeaseLostError when `until` passes before the request is made."""
        await self._deletes.do(
            (receipt, until),
            longest_wait_seconds=longest_wait_seconds,
            deadline=_now() + self._timeout_seconds,
            latest=until - MARGIN_SECONDS,
        )

    async def hide(
        self,
        receipt: str,
        until: float,
        seconds: float,
        *,
        longest_wait_seconds: float = 0.0,
        lease_bound: bool = False,
    ) -> None:
        """For `seconds` from now, rounded up. `lease_bound`: it is worth nothing after `until`."""
        deadline = _now() + self._timeout_seconds
        await self._hides.do(
            ((receipt, until), min(math.ceil(seconds), LONGEST_VISIBILITY_SECONDS)),
            longest_wait_seconds=longest_wait_seconds,
            deadline=min(deadline, until) if lease_bound else deadline,
            latest=until - MARGIN_SECONDS,
        )

    async def receive(
        self, *, limit: int, visibility_seconds: float, wait_seconds: float
    ) -> tuple[list[MessageTypeDef], float]:
        """One call, of ten messages at most; until when they are surely ours."""
        before = _now()
        messages = await self._api.receive(
            self.name,
            limit=min(limit, MOST_RECEIVED),
            visibility_seconds=min(math.ceil(visibility_seconds), LONGEST_VISIBILITY_SECONDS),
            wait_seconds=min(math.ceil(wait_seconds), LONGEST_POLL_SECONDS),
        )
        return messages, before + visibility_seconds

    async def attributes(self) -> dict[str, str]:
        return await self._api.attributes(self.name)

    async def _delete(self, held: Sequence[Held]) -> Sequence[Failure | None]:
        return await _of_the_live(
            held,
            [until for _, until in held],
            lambda live: self._api.delete(self.name, [receipt for receipt, _ in live]),
        )

    async def _hide(self, held: Sequence[tuple[Held, int]]) -> Sequence[Failure | None]:
        return await _of_the_live(
            held,
            [until for (_, until), _ in held],
            lambda live: self._api.hide(self.name, [(lease[0], s) for lease, s in live]),
        )


async def _of_the_live(
    items: Sequence[Item],
    untils: Sequence[float],
    call: Callable[[Sequence[Item]], Awaitable[Sequence[Failure | None]]],
) -> Sequence[Failure | None]:
    """A receipt whose lease ended while it waited is not used any more."""
    now = _now()
    live = [item for item, until in zip(items, untils, strict=True) if until > now]
    outcomes = iter(await call(live) if live else ())
    return [next(outcomes) if until > now else _LATE for until in untils]


def _now() -> float:
    return asyncio.get_running_loop().time()
