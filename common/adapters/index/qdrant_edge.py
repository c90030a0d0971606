"""The embedded index: one Qdrant Edge shard per namespace, in the process that owns the folder.

Qdrant Edge is synchronous, so its calls run in threads: one writer per namespace keeps writes in
order, queries run beside it. Every update goes to the shard's write-ahead log before it returns;
the log survives SIGKILL, and `flush` makes the segments durable and lets the log be cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import qdrant_edge as qe

from common.identity import DOCUMENT_KEY_LENGTH, namespace_key
from common.model import Match, MetadataValue, Record, Vector
from common.ports.errors import PermanentError, TransientError
from common.ports.index import (
    DimensionMismatchError,
    FieldFilter,
    FreshnessToken,
    IndexUnavailableError,
    MetadataFilter,
)
from common.settings import Settings

__all__ = ["QdrantEdgeIndex", "connect"]

T = TypeVar("T")

QUERY_THREADS = 4
SCROLL_RECORDS = 1000
FLUSH_OPERATIONS = 256
"""Updates after which the segments are flushed, so that the log is cut and reopening is quick."""
OPTIMIZE_OPERATIONS = 4096
"""Updates after which segments are merged and vacuumed, in the background."""
_BOOLEAN_WORDS = {True: "\0true", False: "\0false"}
_BOOLEANS = {word: value for value, word in _BOOLEAN_WORDS.items()}
_ID_SPACE = uuid.UUID("8a6f5c0e-3f63-5f0c-9d5b-5d1f4f1d9a11")


def connect(url: str, settings: Settings, receiver: str) -> QdrantEdgeIndex:
    """`qdrant-edge:` keeps the index in the data folder, `qdrant-edge:/a/folder` elsewhere."""
    _, _, path = url.partition(":")
    return QdrantEdgeIndex(Path(path) if path else settings.data_dir / "index")


@dataclass(slots=True)
class _Shard:
    """An open shard; `writes` counts updates since the last flush."""

    shard: qe.EdgeShard
    dimension: int
    writer: ThreadPoolExecutor
    writes: int = 0
    total_writes: int = 0


class QdrantEdgeIndex:
    """Vectors of any dimension, one per namespace; cosine; exact search while shards are small."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._root.mkdir(parents=True, exist_ok=True)
        self._readers = ThreadPoolExecutor(QUERY_THREADS, thread_name_prefix="index-query")
        self._opening = threading.Lock()
        self._shards: dict[str, _Shard] = {}
        for folder in self._root.glob("*.new"):
            shutil.rmtree(folder, ignore_errors=True)

    # --- writes

    async def upsert(self, namespace: str, records: Sequence[Record]) -> FreshnessToken:
        if not records:
            return ""
        dimension = len(records[0].vector)
        shard = await self._read(lambda: self._open_or_create(namespace, dimension))
        for record in records:
            if len(record.vector) != shard.dimension:
                raise DimensionMismatchError(
                    f"namespace {namespace!r} holds vectors of {shard.dimension} dimensions, "
                    f"record {record.id} has {len(record.vector)}"
                )
        points = await self._read(lambda: [_point(record) for record in records])
        await self._write(shard, qe.UpdateOperation.upsert_points(points))
        return ""

    async def wait_visible(
        self, namespace: str, token: FreshnessToken, *, timeout_seconds: float
    ) -> None:
        """A write is visible when upsert returns."""

    async def delete(self, namespace: str, ids: Sequence[str]) -> None:
        shard = await self._read(lambda: self._open(namespace))
        if shard is None or not ids:
            return
        points: list[Any] = [_point_id(record_id) for record_id in ids]
        await self._write(shard, qe.UpdateOperation.delete_points(points))

    # --- reads

    async def query(
        self,
        namespace: str,
        vector: Vector[float],
        *,
        top_k: int,
        where: MetadataFilter | None = None,
    ) -> list[Match]:
        def run() -> list[Match]:
            shard = self._open(namespace)
            if shard is None:
                return []
            if len(vector) != shard.dimension:
                raise DimensionMismatchError(
                    f"namespace {namespace!r} holds vectors of {shard.dimension} dimensions, "
                    f"the query has {len(vector)}"
                )
            request = qe.QueryRequest(
                query=qe.Query.Nearest(list(vector)),
                limit=top_k,
                filter=_filter(where),
                with_payload=True,
            )
            return [_match(point) for point in shard.shard.query(request)]

        return await self._read(run)

    async def list_ids(self, namespace: str, prefix: str = "") -> AsyncIterator[str]:
        shard = await self._read(lambda: self._open(namespace))
        where = _document_filter(prefix)
        offset: Any = None
        while shard is not None:
            request = qe.ScrollRequest(
                limit=SCROLL_RECORDS, offset=offset, filter=where, with_payload=["id"]
            )
            records, offset = await self._read(partial(shard.shard.scroll, request))
            for record in records:
                record_id = (record.payload or {})["id"]
                if record_id.startswith(prefix):
                    yield record_id
            if offset is None:
                break

    async def count(self, namespace: str) -> int:
        def run() -> int:
            shard = self._open(namespace)
            return shard.shard.count(qe.CountRequest(exact=True)) if shard else 0

        return await self._read(run)

    async def namespaces(self) -> list[str]:
        def run() -> list[str]:
            names = [json.loads(f.read_text())["namespace"] for f in self._root.glob("*/ns.json")]
            return sorted(names)

        return await self._read(run)

    async def close(self) -> None:
        """Flush and release the folder; what is under way is finished first."""
        await asyncio.to_thread(self._close)

    # --- inside

    def _close(self) -> None:
        self._readers.shutdown()
        with self._opening:
            shards, self._shards = list(self._shards.values()), {}
        for shard in shards:
            shard.writer.shutdown()
            with contextlib.suppress(Exception):  # the log holds what a failed flush does not
                shard.shard.flush()
            shard.shard.close()

    async def _read(self, call: Callable[[], T]) -> T:
        return await _in_thread(self._readers, call)

    async def _write(self, shard: _Shard, operation: qe.UpdateOperation) -> None:
        def run() -> None:
            shard.shard.update(operation)
            shard.writes += 1
            shard.total_writes += 1
            if shard.writes >= FLUSH_OPERATIONS:
                shard.shard.flush()
                shard.writes = 0
            if shard.total_writes % OPTIMIZE_OPERATIONS == 0:
                shard.shard.optimize()

        await _in_thread(shard.writer, run)

    def _open(self, namespace: str) -> _Shard | None:
        """None when the namespace was never written."""
        with self._opening:
            known = self._shards.get(namespace)
            folder = self._root / namespace_key(namespace)
            if known is None and folder.exists():
                known = self._shards[namespace] = _load(folder)
            return known

    def _open_or_create(self, namespace: str, dimension: int) -> _Shard:
        shard = self._open(namespace)
        if shard is not None:
            return shard
        with self._opening:
            folder = self._root / namespace_key(namespace)
            if not folder.exists():  # two first upserts may race for it
                self._create(folder, namespace, dimension)
            if namespace not in self._shards:
                self._shards[namespace] = _load(folder)
            return self._shards[namespace]

    def _create(self, folder: Path, namespace: str, dimension: int) -> None:
        """Whole or not at all: a half-made shard never has the folder's final name."""
        temporary = folder.with_suffix(".new")
        shutil.rmtree(temporary, ignore_errors=True)
        vectors = qe.EdgeVectorParams(size=dimension, distance=qe.Distance.Cosine)
        shard = qe.EdgeShard.create(str(temporary), qe.EdgeConfig(vectors=vectors))
        shard.update(qe.UpdateOperation.create_field_index("dk", qe.PayloadSchemaType.Keyword))
        shard.flush()
        shard.close()
        facts = {"namespace": namespace, "dimension": dimension}
        (temporary / "ns.json").write_text(json.dumps(facts))
        _sync(temporary / "ns.json")
        temporary.rename(folder)
        _sync(self._root)


def _load(folder: Path) -> _Shard:
    facts = json.loads((folder / "ns.json").read_text())
    try:
        shard = qe.EdgeShard.load(str(folder))
    except Exception as error:  # the library raises nothing narrower
        if "WouldBlock" in str(error):
            raise IndexUnavailableError(
                "another process holds the embedded index: it lives in the process that runs "
                "`bloomweaver up`; stop that one, or set BLOOMWEAVER_INDEX_URL to an index server"
            ) from error
        raise PermanentError(f"the index in {folder} cannot be opened: {error}") from error
    writer = ThreadPoolExecutor(1, thread_name_prefix="index-write")
    return _Shard(shard, facts["dimension"], writer)


async def _in_thread(pool: ThreadPoolExecutor, call: Callable[[], T]) -> T:
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, call)
    except (PermanentError, TransientError):
        raise
    except Exception as error:  # the library raises nothing narrower; the call may be repeated
        raise TransientError(f"the embedded index failed: {error}") from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- records and points


def _point_id(record_id: str) -> str:
    """Qdrant takes UUIDs only; the record id itself is in the payload."""
    return str(uuid.uuid5(_ID_SPACE, record_id))


def _point(record: Record) -> qe.Point:
    payload = {
        "id": record.id,
        "dk": record.id.partition("#")[0],
        "document_id": record.document_id,
        "generation": record.generation,
        "number": record.number,
        "doc_hash": record.doc_hash,
        "heading_path": list(record.heading_path),
        "text": record.text,
        "metadata": {_escaped(k): _stored(v) for k, v in record.metadata.items()},
    }
    return qe.Point(_point_id(record.id), record.vector.tolist(), payload)


def _escaped(name: str) -> str:
    """Qdrant's paths know no escape inside quotes, so such characters are stored encoded."""
    return name.replace("%", "%25").replace('"', "%22").replace("\\", "%5C")


def _unescaped(name: str) -> str:
    return name.replace("%5C", "\\").replace("%22", '"').replace("%25", "%")


def _stored(value: MetadataValue) -> MetadataValue:
    """Qdrant Edge's Python binding matches no booleans, so they are stored as words."""
    return _BOOLEAN_WORDS[value] if isinstance(value, bool) else value


def _restored(value: MetadataValue) -> MetadataValue:
    return _BOOLEANS.get(value, value) if isinstance(value, str) else value


def _match(point: qe.ScoredPoint) -> Match:
    payload = point.payload or {}
    return Match(
        id=payload["id"],
        # Rounding can carry the cosine of equal vectors past one.
        score=max(-1.0, min(1.0, point.score)),
        document_id=payload["document_id"],
        generation=payload["generation"],
        number=payload["number"],
        doc_hash=payload["doc_hash"],
        heading_path=tuple(payload["heading_path"]),
        text=payload["text"],
        metadata={_unescaped(k): _restored(v) for k, v in payload["metadata"].items()},
    )


# --- filters


def _document_filter(prefix: str) -> qe.Filter | None:
    key = prefix.partition("#")[0]
    if len(key) < DOCUMENT_KEY_LENGTH:
        return None
    return qe.Filter(must=[qe.FieldCondition("dk", match=qe.MatchValue(key))])


def _filter(where: MetadataFilter | None) -> qe.Filter | None:
    if where is None:
        return None
    if isinstance(where, FieldFilter):
        return _field_filter(where)
    parts: list[Any] = [_filter(part) for part in where.parts]
    return qe.Filter(must=parts) if where.mode == "all" else qe.Filter(should=parts)


def _field_filter(where: FieldFilter) -> qe.Filter:
    path = f'metadata."{_escaped(where.field)}"'
    match where.op:
        case "eq":
            return qe.Filter(must=[_equals(path, where.value)])
        case "ne":
            return qe.Filter(must_not=[_equals(path, where.value)])
        case "in":
            return _any_of(path, where.value)
        case "nin":
            return qe.Filter(must_not=[_any_of(path, where.value)])
        case "exists":
            empty = qe.IsEmptyCondition(path)
            return qe.Filter(must_not=[empty]) if where.value else qe.Filter(must=[empty])
        case _:
            condition = qe.RangeFloat(**{where.op: float(where.value)})  # type: ignore[arg-type]
            return qe.Filter(must=[qe.FieldCondition(path, range=condition)])


def _equals(path: str, value: Any) -> qe.FieldCondition:
    if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool)):
        # A number matches whether it was stored as an integer or as a float.
        condition = qe.RangeFloat(gte=float(value), lte=float(value))
        return qe.FieldCondition(path, range=condition)
    word: Any = _stored(value)
    return qe.FieldCondition(path, match=qe.MatchValue(word))


def _any_of(path: str, values: Any) -> qe.Filter:
    return qe.Filter(should=[_equals(path, value) for value in values])
