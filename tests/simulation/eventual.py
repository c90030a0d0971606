"""An index that is eventually consistent, as Pinecone is: numbered writes, replicas that show them
later and each at its own pace, and requests that land once more long after they were answered."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field

from common.model import Match, Record, Vector
from common.ports.errors import TransientError
from common.ports.index import FreshnessToken, MetadataFilter
from tests.fakes.index import MemoryIndex
from tests.simulation.network import Network, turn

LIST_PAGE = 2
LATEST_REPOST_SECONDS = 400.0
"""Longer than any lease and grace together."""

_Write = tuple[float, str, str, Record | None]


@dataclass(slots=True)
class Replica:
    """What one replica shows; it takes the writes in their order."""

    lag_seconds: float
    shown: dict[str, dict[str, Record]] = field(default_factory=dict)
    _due: deque[_Write] = field(default_factory=deque)
    _last: float = 0.0

    def take(self, at: float, namespace: str, record_id: str, record: Record | None) -> float:
        """When the write will show: never before those that came before it."""
        self._last = max(self._last, at)
        self._due.append((self._last, namespace, record_id, record))
        return self._last

    def at(self, now: float) -> dict[str, dict[str, Record]]:
        while self._due and self._due[0][0] <= now:
            _, namespace, record_id, record = self._due.popleft()
            shown = self.shown.setdefault(namespace, {})
            if record is None:
                shown.pop(record_id, None)
            else:
                shown[record_id] = record
        return self.shown

    def is_behind(self, now: float) -> bool:
        self.at(now)
        return bool(self._due)


class EventualIndex(MemoryIndex):
    """`records` is what was written. `wait_visible` is the only promise: every later query, fetch
    and count, of whichever replica, shows the write. `listing_lag_seconds` on top of it for fetches
    and listings, of which nobody promises anything.

    A request is posted again with the chance `reposts`, as by an SDK that missed its answer: an old
    write lands after newer ones. `excused` gets the ids that come back so after their delete.
    """

    def __init__(
        self,
        network: Network,
        *,
        replica_lags: Sequence[float],
        listing_lag_seconds: float,
        reposts: float,
        excused: set[str],
    ) -> None:
        super().__init__()
        self._network = network
        self._replicas = [Replica(lag) for lag in replica_lags]
        self._listing = Replica(listing_lag_seconds)
        self._reposts = reposts
        self._excused = excused
        self._shown_at: list[list[float]] = [[0.0] * len(replica_lags)]
        """By the number of a write, when each replica shows it."""

    @property
    def _now(self) -> float:
        return self._network.loop.time()

    @property
    def lag_seconds(self) -> float:
        """As `LaggingIndex` says."""
        return max(one.lag_seconds for one in [*self._replicas, self._listing])

    @property
    def up_to_date(self) -> bool:
        now = self._now
        return not any(replica.is_behind(now) for replica in [*self._replicas, self._listing])

    # --- writing ------------------------------------------------------------------------------

    async def upsert(self, namespace: str, records: Sequence[Record]) -> FreshnessToken:
        await super().upsert(namespace, records)
        self._log(namespace, ((record.id, record) for record in records))
        if self._network.chance(self._reposts):
            self._later(self._upsert_again, namespace, records)
        return str(len(self._shown_at) - 1)

    async def delete(self, namespace: str, ids: Sequence[str]) -> None:
        await super().delete(namespace, ids)
        self._log(namespace, ((record_id, None) for record_id in ids))
        if self._network.chance(self._reposts):
            self._later(self._delete_again, namespace, ids)

    def _later(self, again: object, namespace: str, what: object) -> None:
        net = self._network
        net.under_way += 1
        seconds = net.random.uniform(0.0, LATEST_REPOST_SECONDS)
        net.later(seconds, self._land_again, again, namespace, what)

    def _land_again(self, again: object, namespace: str, what: object) -> None:
        self._network.under_way -= 1
        if not self._network.over:
            assert callable(again)
            again(namespace, what)

    def _upsert_again(self, namespace: str, records: Sequence[Record]) -> None:
        gone = {record.id for record in records} - self.records[namespace].keys()
        self._network.tell("upsert again after its delete" if gone else "upsert again")
        self._excused |= gone
        self.records[namespace].update({record.id: record for record in records})
        self._log(namespace, ((record.id, record) for record in records))

    def _delete_again(self, namespace: str, ids: Sequence[str]) -> None:
        self._network.tell("delete again")
        for record_id in ids:
            self.records[namespace].pop(record_id, None)
        self._log(namespace, ((record_id, None) for record_id in ids))

    def _log(self, namespace: str, writes: Iterable[tuple[str, Record | None]]) -> None:
        """One request is one number; each replica shows it at once, and when it comes to it."""
        now, shown_at = self._now, self._shown_at[-1]
        writes = list(writes)
        for replica in [*self._replicas, self._listing]:
            at = now + self._lag(replica.lag_seconds)
            for record_id, record in writes:
                at = replica.take(at, namespace, record_id, record)
        shown_at = [replica._last for replica in self._replicas]
        self._shown_at.append(shown_at)

    def _lag(self, most: float) -> float:
        net = self._network
        return net.random.uniform(0.0, most) if most and not net.calm else 0.0

    # --- reading ------------------------------------------------------------------------------

    async def wait_visible(
        self, namespace: str, token: FreshnessToken, *, timeout_seconds: float
    ) -> None:
        left = self._seen_by(self._shown_at[int(token or 0)]) - self._now
        if left > timeout_seconds:
            await asyncio.sleep(timeout_seconds)
            raise TransientError("the index does not show the write yet")
        if left > 0:
            await asyncio.sleep(left)

    def _seen_by(self, shown_at: Sequence[float]) -> float:
        """When every replica shows what each shows at its time."""
        return max(shown_at)

    async def query(
        self,
        namespace: str,
        vector: Vector[float],
        *,
        top_k: int,
        where: MetadataFilter | None = None,
    ) -> list[Match]:
        written, self.records[namespace] = self.records[namespace], self._read(namespace)
        try:
            found = await super().query(namespace, vector, top_k=top_k, where=where)
        finally:
            self.records[namespace] = written
        self._network.random.shuffle(found)
        return found

    async def fetch(self, namespace: str, ids: Sequence[str]) -> list[Record]:
        held = self._read_listing(namespace)
        return [held[record_id] for record_id in dict.fromkeys(ids) if record_id in held]

    async def list_ids(self, namespace: str, prefix: str = "") -> AsyncIterator[str]:
        """Each page from another replica."""
        last = ""
        while page := self._page(namespace, prefix, last):
            for record_id in page:
                yield record_id
            last = page[-1]
            await turn()

    def _page(self, namespace: str, prefix: str, after: str) -> list[str]:
        held = self._read_listing(namespace)
        return sorted(i for i in held if i > after and i.startswith(prefix))[:LIST_PAGE]

    async def count(self, namespace: str) -> int:
        return len(self._read(namespace))

    def _read(self, namespace: str) -> dict[str, Record]:
        replica = self._network.random.choice(self._replicas)
        return replica.at(self._now).get(namespace, {})

    def _read_listing(self, namespace: str) -> dict[str, Record]:
        if not self._listing.lag_seconds:
            return self._read(namespace)
        return self._listing.at(self._now).get(namespace, {})
