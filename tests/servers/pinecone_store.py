"""What the Pinecone test server holds: per namespace a log of writes, what was written (the truth),
and what reads show of it: the log up to the entry that is indexed by now."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

FIRST_LSN = 1000
"""Not 0 or 1, so that a client that counts for itself is found out."""


@dataclass(frozen=True, slots=True)
class Stored:
    values: tuple[float, ...]
    metadata: Mapping[str, Any] | None


Change = tuple[str, Stored | None]
"""An id and what it holds from now on; None: deleted."""


@dataclass(slots=True)
class Namespace:
    lsn: int = FIRST_LSN
    indexed: int = FIRST_LSN
    truth: dict[str, Stored] = field(default_factory=dict)
    shown: dict[str, Stored] = field(default_factory=dict)
    pending: deque[tuple[int, float, Sequence[Change]]] = field(default_factory=deque)
    matrix: tuple[list[str], NDArray[np.float64]] | None = None
    """Ids and unit vectors of what is shown; None: to be made again."""

    def write(self, changes: Sequence[Change], due: float) -> int:
        self.lsn += 1
        _apply(self.truth, changes)
        self.pending.append((self.lsn, due, changes))
        return self.lsn

    def catch_up(self, now: float) -> None:
        while self.pending and self.pending[0][1] <= now:
            self.index_one()

    def index_one(self) -> None:
        """Show the oldest write that waits, if one does."""
        if self.pending:
            self.indexed, _, changes = self.pending.popleft()
            _apply(self.shown, changes)
            self.matrix = None


def _apply(records: dict[str, Stored], changes: Iterable[Change]) -> None:
    for record_id, stored in changes:
        if stored is None:
            records.pop(record_id, None)
        else:
            records[record_id] = stored


@dataclass(slots=True, kw_only=True)
class Store:
    """One index. `index_lag_seconds` pass until a write shows in reads."""

    name: str
    dimension: int
    metric: str
    index_lag_seconds: float = 0.0
    clock: Callable[[], float] = time.monotonic
    namespaces: defaultdict[str, Namespace] = field(default_factory=lambda: defaultdict(Namespace))

    def write(self, namespace: str, changes: Sequence[Change]) -> int:
        """The write's log sequence number."""
        due = self.clock() + self.index_lag_seconds
        return self.namespaces[namespace].write(changes, due)

    def read(self, namespace: str) -> Namespace:
        """As reads see it now; an empty one where nothing was ever written."""
        if namespace not in self.namespaces:
            return Namespace()
        held = self.namespaces[namespace]
        held.catch_up(self.clock())
        return held

    def index_everything(self) -> None:
        self.index_next()

    def index_next(self, writes: int | None = None) -> None:
        """So many writes of each namespace; all of them if None."""
        for held in self.namespaces.values():
            for _ in range(len(held.pending) if writes is None else writes):
                held.index_one()

    def scored(self, namespace: str, vector: Sequence[float]) -> Iterable[tuple[str, float]]:
        """Ids and scores of all that is shown, in no order."""
        held = self.read(namespace)
        if not held.shown:
            return []
        if held.matrix is None:
            rows = np.array([stored.values for stored in held.shown.values()], np.float64)
            held.matrix = list(held.shown), self._prepared(rows)
        ids, rows = held.matrix
        query = self._prepared(np.array([vector], np.float64))[0]
        return zip(ids, (self._scores(rows, query)).tolist(), strict=True)

    def _prepared(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.metric != "cosine":
            return rows
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.asarray(rows / np.where(lengths > 0, lengths, 1.0), np.float64)

    def _scores(self, rows: NDArray[np.float64], query: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.metric == "euclidean":
            return np.asarray(((rows - query) ** 2).sum(axis=1), np.float64)
        return np.asarray(rows @ query, np.float64)
