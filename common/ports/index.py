"""The index port: records under ids that are never used twice."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from common.model import Match, Record, Vector
from common.ports.errors import PermanentError, TransientError

__all__ = [
    "Comparison",
    "DimensionMismatchError",
    "FieldFilter",
    "Filter",
    "FreshnessToken",
    "Index",
    "IndexUnavailableError",
    "LaggingIndex",
    "MetadataFilter",
    "TransientError",
]

FreshnessToken = str
"""Opaque: names a moment in the index's history of writes. Empty: visible at once."""


class DimensionMismatchError(PermanentError):
    """The namespace holds vectors of another dimension."""


class IndexUnavailableError(PermanentError):
    """This process cannot reach the index (the embedded one lives in a single process)."""


@dataclass(frozen=True, slots=True)
class FieldFilter:
    """A condition on one metadata field. `op`: eq, ne, in, nin, gt, gte, lt, lte, exists.

    A list field matches eq and in if any of its items does, as in Pinecone and Qdrant;
    ne and nin match what eq and in do not, records without the field included.
    """

    field: str
    op: str
    value: str | int | float | bool | tuple[str | int | float | bool, ...]


@dataclass(frozen=True, slots=True)
class Filter:
    """`all`: every part matches; `any`: at least one does."""

    mode: str
    parts: tuple[MetadataFilter, ...]


MetadataFilter = FieldFilter | Filter
Comparison = FieldFilter


class Index(Protocol):
    """Vectors have the dimension the namespace was first written with, or that of the whole index
    where a service has one for all namespaces; the metric is cosine. Reads may lag writes; only
    `wait_visible` tells when queries show one.

    Raises TransientError when out of reach, DimensionMismatchError, IndexUnavailableError.
    """

    async def upsert(self, namespace: str, records: Sequence[Record]) -> FreshnessToken:
        """Durable when it returns; visible once wait_visible(token) returns."""

    async def wait_visible(
        self, namespace: str, token: FreshnessToken, *, timeout_seconds: float
    ) -> None:
        """Return when queries see the write. Raises TransientError after `timeout_seconds`."""

    async def delete(self, namespace: str, ids: Sequence[str]) -> None:
        """Missing ids and a namespace never written are no error."""

    async def query(
        self,
        namespace: str,
        vector: Vector[float],
        *,
        top_k: int,
        where: MetadataFilter | None = None,
    ) -> list[Match]:
        """The `top_k` nearest, best first; [] for a namespace never written.

        Fewer of them where a service cannot send so many in one answer.
        """

    async def fetch(self, namespace: str, ids: Sequence[str]) -> list[Record]:
        """The records of these ids, in any order; missing ids are absent.

        A vector's length may differ from the one written; its direction does not.
        """

    def list_ids(self, namespace: str, prefix: str = "") -> AsyncIterator[str]:
        """Ids that begin with `prefix`, in any order."""

    async def count(self, namespace: str) -> int: ...

    async def namespaces(self) -> list[str]: ...

    async def close(self) -> None: ...


@runtime_checkable
class LaggingIndex(Protocol):
    """An index whose fetches and listings may lag writes and deletes."""

    @property
    def lag_seconds(self) -> float:
        """By so much at most, as far as anybody knows: after it a scrub believes what it sees."""
