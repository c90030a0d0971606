"""The index in this process: Qdrant's engine as a library, one shard folder a namespace.

    root/owner.lock                          held by the one process that may open the shards
    root/<namespace key>/namespace.json      {"format", "namespace", "dimension"}
    root/<namespace key>/shard/              the engine's own files

Durability. The engine's update() appends to a write-ahead log in a mapped file without syncing it:
that survives the death of the process, not a loss of power. So a write returns after an fsync of
the log's files, which on Linux writes back mapped pages too; one fsync serves every write that was
waiting by then. flush() syncs the segments as well and lets the log drop what they hold; it takes
some 60 ms at 20,000 records, so it runs every FLUSH_WRITES writes, which keeps the log at two to
three files of 32 MB, and at close.

Full disks. The engine writes to sparse files that are mapped into memory. When the disk has no room
for a page the kernel sends SIGBUS, which ends the process (it does so at a write, at creating a
shard and at opening one). No exception tells before, so what writes looks first, and refuses with
TransientError below RESERVE_BYTES. What was open is still searched, and nothing has to be
restarted when there is room again. Another program that takes the last bytes between the look and
the write can still do harm; the data outlive that.

Search is exact: some 0.2 ms per thousand records of 384 dimensions, linear. No graph is built,
because optimize() holds the interpreter's lock from beginning to end (6 s for 10,000 records),
which would stop the whole process. Without a graph it only rewrites segments of which a fifth is
deleted (some 0.2 s per 10,000 records), and that is done at close, when nobody waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
import threading
import uuid
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import qdrant_edge as qdrant

from common.identity import DOCUMENT_KEY_LENGTH, namespace_key
from common.model import Match, MetadataValue, Record, Vector
from common.ports.errors import PermanentError, PortError, TransientError
from common.ports.index import (
    DimensionMismatchError,
    FieldFilter,
    Filter,
    FreshnessToken,
    IndexUnavailableError,
    MetadataFilter,
)
from common.settings import Settings
from common.storage.free_space import free_bytes, free_bytes_beside

if sys.platform != "win32":
    import fcntl

__all__ = ["QdrantEdgeIndex", "connect"]

_FORMAT: Final = 1
_PAGE: Final = 1000
FLUSH_WRITES: Final = 256
RESERVE_BYTES: Final = 64 * 1024 * 1024
"""Room for a request's records, for the log's next file and for what others write meanwhile."""
_EXACT_FLOAT: Final = 2**53
"""Above it integers have no exact float, and ranges compare floats."""

T = TypeVar("T")
Condition = Any


@dataclass(slots=True)
class _Job:
    """One write and who waits for it."""

    operations: Callable[[], list[qdrant.UpdateOperation]]
    done: Future[None] = field(default_factory=Future)


@dataclass(slots=True)
class _Shard:
    engine: qdrant.EdgeShard
    namespace: str
    dimension: int
    log: Path
    unflushed: int = 0
    """Writes since the last flush."""


class QdrantEdgeIndex:
    """Implements the index port and CapacityAware in the one process that owns the folder `root`.

    Nothing is opened before the first call. Calls run in threads (the engine is thread-safe and
    releases the interpreter's lock): one for writes, `readers` for the rest.
    """

    def __init__(self, root: Path, *, readers: int = 2, reserve_bytes: int = RESERVE_BYTES) -> None:
        self._root = root
        self._reserve_bytes = reserve_bytes
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="index-writer")
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="index-reader")
        self._guard = threading.Lock()
        self._shards: dict[str, _Shard] = {}
        self._pending: dict[str, list[_Job]] = {}
        self._owner: int | None = None
        self._closed = False

    async def free_bytes(self) -> int:
        return await free_bytes_beside(self._root)

    async def upsert(self, namespace: str, records: Sequence[Record]) -> FreshnessToken:
        """Survives a loss of power when it returns. Vectors must be finite."""
        if records:
            dimension = _common_dimension(namespace, records)

            def operations() -> list[qdrant.UpdateOperation]:
                self._shard(namespace, dimension)
                return [qdrant.UpdateOperation.upsert_points([_point(r) for r in records])]

            await self._write(namespace, operations)
        return ""

    async def wait_visible(
        self, namespace: str, token: FreshnessToken, *, timeout_seconds: float
    ) -> None:
        """Writes are visible when they return."""

    async def delete(self, namespace: str, ids: Sequence[str]) -> None:
        """Survives a loss of power when it returns."""

        def operations() -> list[qdrant.UpdateOperation]:
            if self._shard(namespace) is None:
                return []
            return [qdrant.UpdateOperation.delete_points([_point_id(i) for i in ids])]

        if ids:
            await self._write(namespace, operations)

    async def query(
        self,
        namespace: str,
        vector: Vector[float],
        *,
        top_k: int,
        where: MetadataFilter | None = None,
    ) -> list[Match]:
        """Exact. Raises DimensionMismatchError when `vector` has another dimension."""

        def search() -> list[Match]:
            shard = self._shard(namespace)
            if shard is None or top_k < 1:
                return []
            _require_dimension(shard, len(vector))
            request = qdrant.SearchRequest(
                query=qdrant.Query.Nearest(vector.tolist()),
                limit=top_k,
                filter=None if where is None else qdrant.Filter(must=[_condition(where)]),
                with_payload=True,
            )
            return [_match(point) for point in shard.engine.search(request)]

        return await self._read(search)

    async def fetch(self, namespace: str, ids: Sequence[str]) -> list[Record]:
        """Vectors come back normalised."""

        def fetch() -> list[Record]:
            shard = self._shard(namespace)
            if shard is None or not ids:
                return []
            points: list[qdrant.PointId] = [_point_id(i) for i in dict.fromkeys(ids)]
            found = shard.engine.retrieve(points, with_payload=True, with_vector=True)
            return [_record(point) for point in found]

        return await self._read(fetch)

    async def list_ids(self, namespace: str, prefix: str = "") -> AsyncIterator[str]:
        """Pages through the shard; a prefix that holds a document key reads that document only."""
        offset: qdrant.PointId | None = None
        while True:
            page, offset = await self._read(partial(self._page, namespace, prefix, offset))
            for record_id in page:
                yield record_id
            if offset is None:
                return

    async def count(self, namespace: str) -> int:
        def count() -> int:
            shard = self._shard(namespace)
            return 0 if shard is None else shard.engine.count(qdrant.CountRequest(exact=True))

        return await self._read(count)

    async def namespaces(self) -> list[str]:
        """In order of name."""
        return await self._read(self._names)

    async def close(self) -> None:
        """Finish the writes under way, reclaim deleted space, sync, release the folder."""
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(None, self._shut)

    # Calls go to threads here; every error leaves as one of the port's.

    async def _read(self, call: Callable[[], T]) -> T:
        self._require_open()
        return await asyncio.get_running_loop().run_in_executor(self._readers, _translated, call)

    async def _write(
        self, namespace: str, operations: Callable[[], list[qdrant.UpdateOperation]]
    ) -> None:
        self._require_open()
        job = _Job(operations)
        with self._guard:
            jobs = self._pending.setdefault(namespace, [])
            jobs.append(job)
            first = len(jobs) == 1
        if first:
            self._writer.submit(self._drain, namespace)
        await asyncio.wrap_future(job.done)

    def _drain(self, namespace: str) -> None:
        """Apply all writes that wait for this namespace, in order, then sync them at once."""
        with self._guard:
            jobs = self._pending.pop(namespace, [])
        running = [job for job in jobs if job.done.set_running_or_notify_cancel()]
        applied = [
            job for job in running if self._settle([job], partial(self._apply, namespace, job))
        ]
        if self._settle(applied, partial(self._sync, namespace)):
            for job in applied:
                job.done.set_result(None)

    def _settle(self, jobs: list[_Job], call: Callable[[], None]) -> bool:
        """Whether `call` succeeded; if not, the jobs are told why."""
        try:
            _translated(call)
        except PortError as error:
            for job in jobs:
                job.done.set_exception(error)
            return False
        return True

    def _apply(self, namespace: str, job: _Job) -> None:
        self._require_room()
        operations = job.operations()
        shard = self._shards.get(namespace)
        for operation in operations:
            if shard is not None:
                shard.engine.update(operation)
                shard.unflushed += 1

    def _sync(self, namespace: str) -> None:
        shard = self._shards.get(namespace)
        if shard is None:
            return
        if shard.unflushed < FLUSH_WRITES:
            _sync_tree(shard.log)
        else:
            shard.engine.flush()
            shard.unflushed = 0

    def _require_room(self) -> None:
        """Call before whatever makes the engine write. Raises TransientError."""
        free = free_bytes(self._root)
        if free < self._reserve_bytes:
            raise TransientError(
                f"the disk that holds the index has {free:,} bytes left, of which "
                f"{self._reserve_bytes:,} are kept free: free some space on it"
            )

    def _require_open(self) -> None:
        if self._closed:
            raise IndexUnavailableError("the index was closed")

    # Shards: opened when first used, created by the first write.

    def _shard(self, namespace: str, create_dimension: int | None = None) -> _Shard | None:
        """The open shard; None if the namespace was never written and is not to be created."""
        with self._guard:
            self._own()
            shard = self._shards.get(namespace)
            if shard is None and (shard := self._load(namespace, create_dimension)) is not None:
                self._shards[namespace] = shard
        if shard is not None and create_dimension is not None:
            _require_dimension(shard, create_dimension)
        return shard

    def _load(self, namespace: str, create_dimension: int | None) -> _Shard | None:
        folder = self._root / namespace_key(namespace)
        if folder.exists() and _never_written(folder):
            shutil.rmtree(folder)
        if not folder.exists():
            if create_dimension is None:
                return None
            _create(self._root, folder, namespace, create_dimension)
        description = _description(folder)
        self._require_room()  # opening one replays its log
        engine = _opened(folder)
        return _Shard(engine, namespace, description["dimension"], folder / "shard" / "wal")

    def _own(self) -> None:
        """Take the folder for this process, once; sweep up what a killed creation left."""
        if self._owner is not None:
            return
        self._root.mkdir(parents=True, exist_ok=True)
        self._owner = _lock(self._root / "owner.lock")
        for leftover in self._root.glob(".new-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _names(self) -> list[str]:
        with self._guard:
            self._own()
        folders = [f for f in self._root.iterdir() if (f / "namespace.json").exists()]
        return sorted(_description(f)["namespace"] for f in folders)

    def _page(
        self, namespace: str, prefix: str, offset: qdrant.PointId | None
    ) -> tuple[list[str], qdrant.PointId | None]:
        shard = self._shard(namespace)
        if shard is None:
            return [], None
        request = qdrant.ScrollRequest(
            offset=offset, limit=_PAGE, filter=_prefix_filter(prefix), with_payload=["id"]
        )
        points, following = shard.engine.scroll(request)
        ids = [str(_payload(point)["id"]) for point in points]
        return [i for i in ids if i.startswith(prefix)], following

    def _close_shard(self, shard: _Shard) -> None:
        """Deleted space is reclaimed by writing what is kept once more; that needs room first.

        What cannot be flushed for want of room is no loss: the log, which was synced, has it.
        """
        folder = shard.log.parent
        free = free_bytes(folder)
        if free < self._reserve_bytes:
            with contextlib.suppress(Exception):
                shard.engine.close()
            return
        needed = sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))
        if free >= needed + self._reserve_bytes:
            shard.engine.optimize()
        shard.engine.flush()
        shard.engine.close()

    def _shut(self) -> None:
        self._writer.shutdown(wait=True)
        self._readers.shutdown(wait=True)
        try:
            for shard in self._shards.values():
                _translated(partial(self._close_shard, shard))
        finally:
            self._shards.clear()
            if self._owner is not None:
                os.close(self._owner)
                self._owner = None


def _opened(folder: Path) -> qdrant.EdgeShard:
    """A damaged shard is an outage: nothing is given up while a person mends it."""
    try:
        return qdrant.EdgeShard.load(str(folder / "shard"))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a Rust panic is no Exception
        if "WouldBlock" in str(error):
            raise
        raise TransientError(
            f"the index cannot open {folder} ({error}); if that folder is damaged, remove it while "
            "nothing runs, start again and let `bloomweaver scrub --repair` write it anew"
        ) from error


def _lock(path: Path) -> int:
    """A descriptor that keeps other processes out until it is closed, by death too."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise _held_elsewhere() from error
    return descriptor


def _held_elsewhere() -> IndexUnavailableError:
    return IndexUnavailableError(
        "another process holds the index: `bloomweaver up` owns it; "
        "ask that one over HTTP, or stop it first"
    )


def _create(root: Path, folder: Path, namespace: str, dimension: int) -> None:
    """Make the shard under another name and rename it: it is there whole or not at all."""
    draft = Path(tempfile.mkdtemp(prefix=".new-", dir=root))
    engine = qdrant.EdgeShard.create(str(draft / "shard"), _config(dimension))
    engine.update(qdrant.UpdateOperation.create_field_index("dk", qdrant.PayloadSchemaType.Keyword))
    engine.flush()
    engine.close()
    text = json.dumps({"format": _FORMAT, "namespace": namespace, "dimension": dimension})
    with (draft / "namespace.json").open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    _sync_tree(draft)
    draft.rename(folder)
    _sync_folder(root)


def _config(dimension: int) -> qdrant.EdgeConfig:
    vectors = qdrant.EdgeVectorParams(size=dimension, distance=qdrant.Distance.Cosine)
    # 0: never build a graph; one segment, so that a query makes one pass.
    optimizers = qdrant.EdgeOptimizersConfig(indexing_threshold=0, default_segment_number=1)
    return qdrant.EdgeConfig(vectors=vectors, optimizers=optimizers)


def _sync_tree(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        _sync_folder(path)


def _sync_folder(path: Path) -> None:
    if sys.platform != "win32":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _never_written(folder: Path) -> bool:
    """A folder without description and segments held no record: something died creating it."""
    described = (folder / "namespace.json").exists()
    return not described and not any((folder / "shard" / "segments").glob("*/segment.json"))


def _description(folder: Path) -> dict[str, Any]:
    try:
        description: dict[str, Any] = json.loads((folder / "namespace.json").read_bytes())
    except (OSError, ValueError) as error:
        raise PermanentError(
            f"the index folder {folder.name} has no readable namespace.json: restore it"
        ) from error
    if description.get("format") != _FORMAT:
        raise PermanentError(
            f"the index folder {folder.name} has format {description.get('format')}; "
            f"this version reads {_FORMAT}"
        )
    return description


def _translated(call: Callable[[], T]) -> T:
    """Run `call`; what the engine raises (a plain Exception, or a panic) leaves as a port error."""
    try:
        return call()
    except PortError:
        raise
    except (KeyboardInterrupt, SystemExit):
        raise
    except (TypeError, ValueError) as error:
        raise PermanentError(f"the index cannot hold or compare this value: {error}") from error
    except BaseException as error:  # a Rust panic is no Exception
        if "WouldBlock" in str(error):
            raise _held_elsewhere() from error
        raise TransientError(f"the index failed: {error}") from error


# Records.


def _common_dimension(namespace: str, records: Sequence[Record]) -> int:
    dimension = len(records[0].vector)
    for record in records:
        if len(record.vector) != dimension:
            raise _mismatch(namespace, dimension, len(record.vector))
        if not math.isfinite(sum(record.vector)):
            raise PermanentError(f"the vector of record {record.id} is not finite")
    return dimension


def _require_dimension(shard: _Shard, dimension: int) -> None:
    if shard.dimension != dimension:
        raise _mismatch(shard.namespace, shard.dimension, dimension)


def _mismatch(namespace: str, held: int, given: int) -> DimensionMismatchError:
    return DimensionMismatchError(
        f"namespace {namespace!r} holds vectors of {held} dimensions, this one has {given}"
    )


def _point_id(record_id: str) -> uuid.UUID:
    """The engine takes integers and UUIDs; the same id always gives the same one."""
    return uuid.UUID(bytes=hashlib.sha256(record_id.encode()).digest()[:16])


def _point(record: Record) -> qdrant.Point:
    payload = {
        "id": record.id,
        "dk": record.id[:DOCUMENT_KEY_LENGTH],
        "document_id": record.document_id,
        "generation": record.generation,
        "number": record.number,
        "doc_hash": record.doc_hash,
        "heading_path": list(record.heading_path),
        "text": record.text,
        "metadata": {_stored_name(k): _stored(k, v) for k, v in record.metadata.items()},
    }
    # The engine reads some floats back with another last digit: filters can live with that.
    if exact := {k: repr(v) for k, v in record.metadata.items() if isinstance(v, float)}:
        payload["floats"] = exact
    return qdrant.Point(_point_id(record.id), record.vector.tolist(), payload)


def _match(point: qdrant.ScoredPoint) -> Match:
    # Rounding takes the cosine of equal vectors a little over 1.
    return Match(score=max(-1.0, min(1.0, point.score)), **_fields(_payload(point)))


def _record(point: qdrant.Record) -> Record:
    vector = np.asarray(point.vector, dtype=np.float32)
    return Record(vector=array("f", vector.tobytes()), **_fields(_payload(point)))


def _fields(payload: dict[str, Any]) -> dict[str, Any]:
    """What a match and a record have in common."""
    metadata = payload["metadata"].items()
    return {
        "id": payload["id"],
        "document_id": payload["document_id"],
        "generation": payload["generation"],
        "number": payload["number"],
        "doc_hash": payload["doc_hash"],
        "heading_path": tuple(payload["heading_path"]),
        "text": payload["text"],
        "metadata": {
            **{_user_name(k): v if v != {} else [] for k, v in metadata},
            **{k: float(v) for k, v in payload.get("floats", {}).items()},
        },
    }


def _payload(point: qdrant.ScoredPoint | qdrant.Record) -> dict[str, Any]:
    if point.payload is None:
        raise PermanentError(f"point {point.id} in the index has no payload")
    return point.payload


# A quoted path takes any character but these two, and knows no escape for them.
_ESCAPES: Final = (("%", "%25"), ('"', "%22"), ("\\", "%5C"))


def _stored_name(name: str) -> str:
    for character, escape in _ESCAPES:
        name = name.replace(character, escape)
    return name


def _user_name(name: str) -> str:
    for character, escape in reversed(_ESCAPES):
        name = name.replace(escape, character)
    return name


def _stored(name: str, value: MetadataValue) -> object:
    """The engine takes an empty list for no value; an empty object, never a user's, exists."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise PermanentError(f"metadata field {name!r}: integers must fit 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise PermanentError(f"metadata field {name!r}: numbers must be finite")
    return {} if value == [] else value


# Filters.


def _prefix_filter(prefix: str) -> qdrant.Filter | None:
    """By the indexed document key where the prefix holds one; else every record is looked at."""
    if len(prefix) < DOCUMENT_KEY_LENGTH:
        return None
    key = qdrant.MatchValue(prefix[:DOCUMENT_KEY_LENGTH])
    return qdrant.Filter(must=[qdrant.FieldCondition(key="dk", match=key)])


def _condition(where: MetadataFilter) -> Condition:
    if isinstance(where, FieldFilter):
        return _field_condition(where)
    return _combined(where)


def _combined(where: Filter) -> Condition:
    parts = [_condition(part) for part in where.parts]
    if where.mode == "all":
        return qdrant.Filter(must=parts)
    if where.mode == "any":
        return _any_of(parts)
    raise PermanentError(f"unknown filter mode {where.mode!r}: all and any are known")


def _any_of(conditions: list[Condition]) -> qdrant.Filter:
    """An empty `should` would match everything; none of nothing must match nothing."""
    return qdrant.Filter(min_should=qdrant.MinShould(conditions, 1))


def _field_condition(where: FieldFilter) -> Condition:
    key = f'metadata."{_stored_name(where.field)}"'
    value = where.value
    if where.op in {"eq", "ne"}:
        equal = _equals(key, value)
        return equal if where.op == "eq" else _not(equal)
    if where.op in {"in", "nin"}:
        values = value if isinstance(value, tuple) else (value,)
        among = _any_of(_memberships(key, values))
        return among if where.op == "in" else _not(among)
    if where.op == "exists":
        empty = qdrant.IsEmptyCondition(key)
        return _not(empty) if value else empty
    return _range(key, where.op, value)


def _memberships(key: str, values: Sequence[object]) -> list[Condition]:
    """One condition for all strings together: a thousand of them cost one look-up a record."""
    texts = [item for item in values if isinstance(item, str)]
    others = [_equals(key, item) for item in values if not isinstance(item, str)]
    if texts:
        others.append(qdrant.FieldCondition(key=key, match=qdrant.MatchAny(texts)))
    return others


def _not(condition: Condition) -> qdrant.Filter:
    return qdrant.Filter(must_not=[condition])


def _equals(key: str, value: object) -> Condition:
    return qdrant.FieldCondition(key=key, **_equality(value))


def _equality(value: object) -> dict[str, Any]:
    if isinstance(value, bool):
        # The binding takes Python's bool for the integer it also is; numpy's is none.
        return {"match": qdrant.MatchValue(np.bool_(value))}  # type: ignore[arg-type]
    if isinstance(value, str):
        return {"match": qdrant.MatchValue(value)}
    if isinstance(value, int) and abs(value) >= _EXACT_FLOAT:
        return {"match": qdrant.MatchValue(value)}
    if isinstance(value, int | float):
        # An integer match would miss 1.0 for 1, and there is no match for floats.
        return {"range": qdrant.RangeFloat(gte=float(value), lte=float(value))}
    raise PermanentError(f"a filter cannot compare with {value!r}")


def _range(key: str, op: str, value: object) -> Condition:
    if op not in {"gt", "gte", "lt", "lte"}:
        raise PermanentError(f"unknown filter operator {op!r}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PermanentError(f"{op} compares numbers, not {value!r}")
    return qdrant.FieldCondition(key=key, range=qdrant.RangeFloat(**{op: float(value)}))


def connect(url: str, settings: Settings, receiver: str) -> QdrantEdgeIndex:
    """`qdrant-edge:` keeps the index in the data folder, `qdrant-edge:/a/folder` elsewhere."""
    path = url.partition(":")[2]
    return QdrantEdgeIndex(Path(path) if path else settings.data_dir / "index")
