"""An index whose reads lag its writes, in the order of the writes, as Pinecone's do."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from common.model import Match, Record, Vector
from common.ports.errors import TransientError
from common.ports.index import FreshnessToken, MetadataFilter
from tests.fakes.index import MemoryIndex

_Write = tuple[int, str, str, Record | None]


class LaggingIndex(MemoryIndex):
    """`lag()` seconds pass until a write shows in queries; the rest of the port is up to date.

    `later(seconds, callback, until)` calls back whatever becomes of the writer.
    """

    def __init__(
        self,
        lag: Callable[[], float],
        later: Callable[[float, Callable[[int], None], int], object],
    ) -> None:
        super().__init__()
        self._lag, self._later = lag, later
        self._shown: dict[str, dict[str, Record]] = {}
        self._hidden: deque[_Write] = deque()
        self._last = 0
        self._shown_until = 0
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    @property
    def up_to_date(self) -> bool:
        return not self._hidden

    async def upsert(self, namespace: str, records: Sequence[Record]) -> FreshnessToken:
        await super().upsert(namespace, records)
        for record in records:
            self._log(namespace, record.id, record)
        self._show_later()
        return str(self._last)

    async def delete(self, namespace: str, ids: Sequence[str]) -> None:
        await super().delete(namespace, ids)
        for record_id in ids:
            self._log(namespace, record_id, None)
        self._show_later()

    async def wait_visible(
        self, namespace: str, token: FreshnessToken, *, timeout_seconds: float
    ) -> None:
        wanted = int(token or 0)
        if self._shown_until >= wanted:
            return
        shown: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, shown))
        try:
            async with asyncio.timeout(timeout_seconds):
                await shown
        except TimeoutError:
            raise TransientError("the index does not show the write yet") from None

    async def query(
        self,
        namespace: str,
        vector: Vector[float],
        *,
        top_k: int,
        where: MetadataFilter | None = None,
    ) -> list[Match]:
        written, self.records[namespace] = self.records[namespace], self._shown.get(namespace, {})
        try:
            return await super().query(namespace, vector, top_k=top_k, where=where)
        finally:
            self.records[namespace] = written

    def _log(self, namespace: str, record_id: str, record: Record | None) -> None:
        self._last += 1
        self._hidden.append((self._last, namespace, record_id, record))

    def _show_later(self) -> None:
        seconds = self._lag()
        if seconds <= 0:
            self._show(self._last)
        else:
            self._later(seconds, self._show, self._last)

    def _show(self, until: int) -> None:
        while self._hidden and self._hidden[0][0] <= until:
            number, namespace, record_id, record = self._hidden.popleft()
            shown = self._shown.setdefault(namespace, {})
            if record is None:
                shown.pop(record_id, None)
            else:
                shown[record_id] = record
            self._shown_until = number
        for wanted, waiting in self._waiting:
            if wanted <= self._shown_until and not waiting.done():
                waiting.set_result(None)
        self._waiting = [w for w in self._waiting if not w[1].done()]
