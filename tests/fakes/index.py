"""An index in a dictionary: exact cosine search, every write visible at once."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence

from common.model import Match, MetadataValue, Record, Vector
from common.ports.index import DimensionMismatchError, FieldFilter, FreshnessToken, MetadataFilter


class MemoryIndex:
    """`before_write` is called at each upsert and delete; tests hook faults and rivals in there."""

    def __init__(self) -> None:
        self.records: dict[str, dict[str, Record]] = defaultdict(dict)
        self.before_write: Callable[[str], None] = lambda what: None
        self.upserted: list[str] = []

    async def upsert(self, namespace: str, records: Sequence[Record]) -> FreshnessToken:
        self.before_write("upsert")
        known = next(iter(self.records[namespace].values()), None)
        for record in records:
            known = known or record
            if len(record.vector) != len(known.vector):
                raise DimensionMismatchError(
                    f"{namespace} has {len(known.vector)} dimensions, not {len(record.vector)}"
                )
        self.records[namespace].update({record.id: record for record in records})
        self.upserted += [record.id for record in records]
        return ""

    async def wait_visible(
        self, namespace: str, token: FreshnessToken, *, timeout_seconds: float
    ) -> None:
        return None

    async def delete(self, namespace: str, ids: Sequence[str]) -> None:
        self.before_write("delete")
        for record_id in ids:
            self.records[namespace].pop(record_id, None)

    async def query(
        self,
        namespace: str,
        vector: Vector[float],
        *,
        top_k: int,
        where: MetadataFilter | None = None,
    ) -> list[Match]:
        found = [r for r in self.records[namespace].values() if matches(r.metadata, where)]
        scored = sorted(((_cosine(vector, r.vector), r) for r in found), key=lambda s: -s[0])
        return [_match(score, record) for score, record in scored[:top_k]]

    async def fetch(self, namespace: str, ids: Sequence[str]) -> list[Record]:
        held = self.records[namespace]
        return [held[record_id] for record_id in dict.fromkeys(ids) if record_id in held]

    async def list_ids(self, namespace: str, prefix: str = "") -> AsyncIterator[str]:
        for record_id in list(self.records[namespace]):
            if record_id.startswith(prefix):
                yield record_id

    async def count(self, namespace: str) -> int:
        return len(self.records[namespace])

    async def namespaces(self) -> list[str]:
        return [name for name, records in self.records.items() if records]

    async def close(self) -> None:
        return None


def matches(metadata: dict[str, MetadataValue], where: MetadataFilter | None) -> bool:
    """Brute-force reading of the filter's definition in the port."""
    if where is None:
        return True
    if not isinstance(where, FieldFilter):
        results = (matches(metadata, part) for part in where.parts)
        return all(results) if where.mode == "all" else any(results)
    if where.op == "exists":
        return (where.field in metadata) == where.value
    if where.op in ("ne", "nin"):
        positive = FieldFilter(where.field, {"ne": "eq", "nin": "in"}[where.op], where.value)
        return not matches(metadata, positive)
    if where.field not in metadata:
        return False
    value = metadata[where.field]
    items = value if isinstance(value, list) else [value]
    return any(_compare(item, where) for item in items)


def _compare(item: object, where: FieldFilter) -> bool:
    value = where.value
    if where.op == "in":
        return isinstance(value, tuple) and any(_same(item, one) for one in value)
    if where.op == "eq":
        return _same(item, value)
    if not _number(item) or not _number(value):
        return False
    left, right = float(item), float(value)  # type: ignore[arg-type]
    return {"gt": left > right, "gte": left >= right, "lt": left < right, "lte": left <= right}[
        where.op
    ]


def _same(left: object, right: object) -> bool:
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cosine(a: Vector[float], b: Vector[float]) -> float:
    norm = math.hypot(*a) * math.hypot(*b)
    return sum(x * y for x, y in zip(a, b, strict=True)) / norm if norm else 0.0


def _match(score: float, record: Record) -> Match:
    return Match(
        id=record.id,
        score=score,
        document_id=record.document_id,
        generation=record.generation,
        number=record.number,
        doc_hash=record.doc_hash,
        heading_path=record.heading_path,
        text=record.text,
        metadata=record.metadata,
    )
