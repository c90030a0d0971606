"""The index in this process: Qdrant's engine as a library, one folder of shards a namespace.

    root/owner.lock                  held by the one process that may open the shards
    root/<namespace key>/            see qdrant_edge_namespace

Durability. The engine's update() appends to a write-ahead log in a mapped file without syncing it:
that survives the death of the process, not a loss of power. So a write returns after an fsync of
the log's files, which on Linux writes back mapped pages too; one fsync serves every write that was
waiting by then. flush() syncs the segments as well and lets the log drop what they hold; it stops
the process for some tens of milliseconds, so it runs every FLUSH_RECORDS records, which keeps the
log at two to three files of 32 MB, and at close.

Full disks. The engine writes to sparse files that are mapped into memory. When the disk has no room
for a page the kernel sends SIGBUS, which ends the process (it does so at a write, at creating a
shard and at opening one). No exception tells before, so what writes looks first, and refuses with
TransientError below RESERVE_BYTES. What was open is still searched, and nothing has to be
restarted when there is room again. Another program that takes the last bytes between the look and
the write can still do harm; the data outlive that.

Speed. Comparing with all records takes some 0.15 ms per thousand of 384 dimensions, and the engine
holds the interpreter's lock meanwhile. So every `limit` records become a shard with a graph, built
by a child process of the lowest priority while the old shards serve (qdrant_edge_merge). What is
left to this process is to open the result (50 ms per 100,000 records, once per merge). A
merge that fails changes nothing; it is tried again at a write after a pause that doubles.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import structlog

from common.adapters.index.dimensions import common_dimension, require_dimension
from common.adapters.index.qdrant_edge_filters import condition, prefix_filter
from common.adapters.index.qdrant_edge_merge import Build, ChildBuild
from common.adapters.index.qdrant_edge_namespace import (
    Merge,
    Namespace,
    create_namespace,
    is_namespace,
    never_written,
    read_description,
    remove,
)
from common.adapters.index.qdrant_edge_records import match, payload_of, point, record
from common.adapters.index.qdrant_edge_shard import (
    RESERVE_BYTES,
    Shard,
    held_elsewhere,
    require_room,
    translated,
)
from common.adapters.index.qdrant_payload import point_id
from common.identity import namespace_key
from common.model import Match, Record, Vector
from common.ports.errors import PortError
from common.ports.index import FreshnessToken, Index, IndexUnavailableError, MetadataFilter
from common.query_cache import cached
from common.settings import Settings
from common.storage.free_space import free_bytes_beside

if sys.platform != "win32":
    import fcntl

__all__ = ["QdrantEdgeIndex", "connect"]

log = structlog.get_logger(__name__)

SEAL_RECORDS: Final = 5000
"""So many are compared with every query; a tenth of that takes nearly as long in a graph."""
FIRST_PAUSE_SECONDS: Final = 60.0
LONGEST_PAUSE_SECONDS: Final = 3600.0

T = TypeVar("T")


@dataclass(slots=True)
class _Job:
    """One write and who waits for it."""

    apply: Callable[[], None]
    done: Future[None] = field(default_factory=Future)


@dataclass(slots=True)
class _Pause:
    """After merges that failed."""

    seconds: float = 0.0
    until: float = 0.0

    def lengthen(self) -> None:
        self.seconds = min(LONGEST_PAUSE_SECONDS, 2 * self.seconds or FIRST_PAUSE_SECONDS)
        self.until = time.monotonic() + self.seconds


class QdrantEdgeIndex:
    """Implements the index port and CapacityAware in the one process that owns the folder `root`.

    Nothing is opened before the first call. One thread writes, one reads (the engine would not let
    a second one run), one looks after merges. Shards that were replaced are closed by the thread
    that reads, so that no read finds them closed.
    """

    def __init__(
        self,
        root: Path,
        *,
        reserve_bytes: int = RESERVE_BYTES,
        seal_records: int = SEAL_RECORDS,
        build: Build | None = None,
    ) -> None:
        self._root = root
        self._reserve_bytes = reserve_bytes
        self._seal_records = seal_records
        self._build = build or ChildBuild()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="index-writer")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="index-reader")
        self._merger = ThreadPoolExecutor(1, thread_name_prefix="index-merger")
        self._guard = threading.Lock()  # held for moments: the event loop takes it too
        self._opening = threading.Lock()  # held while files are opened, by threads only
        self._namespaces: dict[str, Namespace] = {}
        self._pending: dict[str, list[_Job]] = {}
        self._merging: dict[str, Future[None]] = {}
        self._pauses: dict[str, _Pause] = {}
        self._owner: int | None = None
        self._closed = False

    async def free_bytes(self) -> int:
        return await free_bytes_beside(self._root)

    async def upsert(self, namespace: str, records: Sequence[Record]) -> FreshnessToken:
        """Survives a loss of power when it returns. Vectors must be finite."""
        if records:
            dimension = common_dimension(namespace, records)

            def apply() -> None:
                held = self._require(namespace, dimension)
                held.upsert([point(record) for record in records])

            await self._write(namespace, apply)
        return ""

    async def wait_visible(
        self, namespace: str, token: FreshnessToken, *, timeout_seconds: float
    ) -> None:
        """Writes are visible when they return."""

    async def delete(self, namespace: str, ids: Sequence[str]) -> None:
        """Survives a loss of power when it returns."""

        def apply() -> None:
            if (held := self._namespace(namespace)) is not None:
                held.delete([point_id(i) for i in ids])

        if ids:
            await self._write(namespace, apply)

    async def query(
        self,
        namespace: str,
        vector: Vector[float],
        *,
        top_k: int,
        where: MetadataFilter | None = None,
    ) -> list[Match]:
        """Raises DimensionMismatchError when `vector` has another dimension.

        Exact among the newest records, nearly so among the others.
        """

        def search() -> list[Match]:
            held = self._namespace(namespace)
            if held is None or top_k < 1:
                return []
            require_dimension(namespace, held.dimension, len(vector))
            wanted = None if where is None else condition(where)
            return [match(found) for found in held.nearest(vector, top_k, wanted)]

        return await self._read(search)

    async def fetch(self, namespace: str, ids: Sequence[str]) -> list[Record]:
        """Vectors come back normalised."""

        def fetch() -> list[Record]:
            held = self._namespace(namespace)
            if held is None or not ids:
                return []
            return [
                record(found) for found in held.fetch([point_id(i) for i in dict.fromkeys(ids)])
            ]

        return await self._read(fetch)

    async def list_ids(self, namespace: str, prefix: str = "") -> AsyncIterator[str]:
        """In pages; a prefix that holds a document key reads that document only."""
        offset: uuid.UUID | None = None
        while True:
            page, offset = await self._read(partial(self._page, namespace, prefix, offset))
            for record_id in page:
                yield record_id
            if offset is None:
                return

    async def count(self, namespace: str) -> int:
        def count() -> int:
            held = self._namespace(namespace)
            return 0 if held is None else held.count()

        return await self._read(count)

    async def namespaces(self) -> list[str]:
        """In order of name."""
        return await self._read(self._names)

    async def settled(self) -> None:
        """Return when no merge is under way and none is due but those that failed a moment ago."""
        while not self._closed:
            await asyncio.wrap_future(self._writer.submit(lambda: None))
            with self._guard:
                merging = list(self._merging.values())
            if not merging:
                return
            await asyncio.wait([asyncio.wrap_future(merge) for merge in merging])

    async def close(self) -> None:
        """Finish the writes under way, end a merge, reclaim deleted space, sync, release."""
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(None, self._shut)

    # Calls go to threads here; every error leaves as one of the port's.

    async def _read(self, call: Callable[[], T]) -> T:
        self._require_open()
        return await asyncio.get_running_loop().run_in_executor(self._reader, translated, call)

    async def _write(self, namespace: str, apply: Callable[[], None]) -> None:
        self._require_open()
        job = _Job(apply)
        with self._guard:
            jobs = self._pending.setdefault(namespace, [])
            jobs.append(job)
            first = len(jobs) == 1
        if first:
            try:
                self._writer.submit(self._drain, namespace)
            except RuntimeError as error:
                raise IndexUnavailableError("the index was closed") from error
        await asyncio.wrap_future(job.done)

    def _drain(self, namespace: str) -> None:
        """Apply all writes that wait for this namespace, in order, then sync them at once."""
        with self._guard:
            jobs = self._pending.pop(namespace, [])
        running = [job for job in jobs if job.done.set_running_or_notify_cancel()]
        applied = [job for job in running if self._settle([job], partial(self._apply, job))]
        if self._settle(applied, partial(self._sync, namespace)):
            for job in applied:
                job.done.set_result(None)
        self._merge_if_due(namespace)

    def _settle(self, jobs: list[_Job], call: Callable[[], None]) -> bool:
        """Whether `call` succeeded; if not, the jobs are told why."""
        try:
            translated(call)
        except PortError as error:
            for job in jobs:
                job.done.set_exception(error)
            return False
        return True

    def _apply(self, job: _Job) -> None:
        self._require_room()
        job.apply()

    def _sync(self, namespace: str) -> None:
        if (held := self._namespaces.get(namespace)) is not None:
            held.sync()

    def _require_room(self) -> None:
        require_room(self._root, self._reserve_bytes)

    def _require_open(self) -> None:
        if self._closed:
            raise IndexUnavailableError("the index was closed")

    # Merges. Their thread goes through the steps; what writes is done by the thread that writes.

    def _merge_if_due(self, namespace: str) -> None:
        """For the thread that writes."""
        held = self._namespaces.get(namespace)
        if held is None or self._closed or namespace in self._merging or not held.due:
            return
        pause = self._pauses.get(namespace)
        if pause is None or time.monotonic() >= pause.until:
            with self._guard:
                self._merging[namespace] = self._merger.submit(self._merge, held)

    def _merge(self, held: Namespace) -> None:
        try:
            translated(partial(self._merge_once, held))
            self._pauses.pop(held.name, None)
        except PortError as error:
            if not self._closed:
                pause = self._pauses.setdefault(held.name, _Pause())
                pause.lengthen()
                log.warning(
                    "index merge failed", namespace=held.name, error=str(error),
                    again_after_seconds=pause.seconds,
                )  # fmt: skip
        finally:
            with self._guard:
                del self._merging[held.name]
            self._writer.submit(self._merge_if_due, held.name)

    def _merge_once(self, held: Namespace) -> None:
        merge = self._writer.submit(held.begin_merge).result()
        if merge is None:
            return
        try:
            self._build(merge.order, partial(held.copied, merge))
            replaced = self._writer.submit(held.finish_merge, merge).result()
        except BaseException:
            self._writer.submit(held.abandon_merge, merge).result()
            raise
        self._reader.submit(_close, replaced).result()
        _remove(merge, replaced)

    # Namespaces: opened when first used, created by the first write.

    def _namespace(self, name: str, create_dimension: int | None = None) -> Namespace | None:
        """None if the namespace was never written and is not to be created."""
        with self._opening:
            self._own()
            held = self._namespaces.get(name)
            if held is None and (held := self._load(name, create_dimension)) is not None:
                self._namespaces[name] = held
                self._writer.submit(self._merge_if_due, name)
        return held

    def _require(self, name: str, dimension: int) -> Namespace:
        held = self._namespace(name, dimension)
        if held is None:
            raise AssertionError("a namespace is created when a dimension is given")
        require_dimension(name, held.dimension, dimension)
        return held

    def _load(self, name: str, create_dimension: int | None) -> Namespace | None:
        folder = self._root / namespace_key(name)
        if folder.exists() and never_written(folder):
            shutil.rmtree(folder)
        if not folder.exists():
            if create_dimension is None:
                return None
            create_namespace(self._root, folder, name, create_dimension)
        return Namespace.open(folder, limit=self._seal_records, reserve=self._reserve_bytes)

    def _own(self) -> None:
        """Take the folder for this process, once; sweep up what a killed creation left."""
        if self._owner is not None:
            return
        self._root.mkdir(parents=True, exist_ok=True)
        self._owner = _lock(self._root / "owner.lock")
        for leftover in self._root.glob(".new-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _names(self) -> list[str]:
        with self._opening:
            self._own()
        folders = [folder for folder in self._root.iterdir() if is_namespace(folder)]
        return sorted(read_description(folder)["namespace"] for folder in folders)

    def _page(
        self, namespace: str, prefix: str, offset: uuid.UUID | None
    ) -> tuple[list[str], uuid.UUID | None]:
        held = self._namespace(namespace)
        if held is None:
            return [], None
        points, following = held.page(offset, prefix_filter(prefix))
        ids = [str(payload_of(found)["id"]) for found in points]
        return [i for i in ids if i.startswith(prefix)], following

    def _shut(self) -> None:
        if isinstance(self._build, ChildBuild):
            self._build.stop()
        self._merger.shutdown(wait=True)
        self._writer.shutdown(wait=True)
        self._reader.shutdown(wait=True)
        try:
            for held in self._namespaces.values():
                translated(held.close)
        finally:
            self._namespaces.clear()
            if self._owner is not None:
                os.close(self._owner)
                self._owner = None


def _close(shards: Sequence[Shard]) -> None:
    for shard in shards:
        with contextlib.suppress(PortError):
            translated(shard.close)


def _remove(merge: Merge, replaced: Sequence[Shard]) -> None:
    for shard in replaced:
        remove(shard.folder)
    remove(Path(f"{merge.order.target}.errors"))


def _lock(path: Path) -> int:
    """A descriptor that keeps other processes out until it is closed, by death too."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise held_elsewhere() from error
    return descriptor


def connect(url: str, settings: Settings, receiver: str) -> Index:
    """`qdrant-edge:` keeps the index in the data folder, `qdrant-edge:/a/folder` elsewhere."""
    path = url.partition(":")[2]
    index = QdrantEdgeIndex(Path(path) if path else settings.data_dir / "index")
    return cached(index, entries=settings.query_cache_entries)
