"""One shard of Qdrant Edge: a folder with the engine's own files, and how it is searched.

The engine never releases the interpreter's lock: a search, a flush or an opening stops every other
thread for as long as it takes. So nothing is gained by more than one thread, and what takes long
(building a graph) belongs into another process.

Operations are numbered by the shard's log, and the engine silently ignores one whose number is
below that of the point it concerns. A shard must therefore never be written to without its log.
"""

from __future__ import annotations

import os
import sys
import uuid
from array import array
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import qdrant_edge as qdrant

from common.adapters.index.qdrant_edge_filters import Condition
from common.ports.errors import PermanentError, PortError, TransientError
from common.ports.index import IndexUnavailableError
from common.storage.free_space import free_bytes

LOG_DRAFT: Final = "tmp-"
FLUSH_RECORDS: Final = 4096
RESERVE_BYTES: Final = 64 * 1024 * 1024
"""Room for a request's records, for the log's next file and for what others write meanwhile."""
MIN_EF: Final = 64
"""How many candidates a search of the graph keeps at least; it keeps twice `top_k` if more."""
EXACT_RECORDS_PER_EF: Final = 30
"""Up to so many records per candidate, comparing with all of them is not slower than the graph."""
FILTER_BREADTHS: Final = (20, 200)
"""How many times `top_k` neighbours are tried against a filter before all records are."""

T = TypeVar("T")


class Shard:
    """An open shard. `built`: how many records its graph was built over; 0 without a graph."""

    def __init__(self, engine: qdrant.EdgeShard, folder: Path, built: int) -> None:
        self._engine = engine
        self.folder = folder
        self.built = built
        self.live = engine.info().points_count
        self.slots = max(self.live, built)
        """Records written, those deleted since included: what an exact search passes over."""
        self.flushing = True
        """False while another process copies the folder: writes then go to the log only."""
        self._unflushed = 0

    @classmethod
    def open(cls, folder: Path, dimension: int, *, built: int = 0) -> Shard:
        """A damaged shard is an outage: nothing is given up while a person mends it."""
        try:
            engine = qdrant.EdgeShard.load(str(folder), _config(dimension))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a Rust panic is no Exception
            if "WouldBlock" in str(error):
                raise
            raise _damaged(folder.parent, error) from error
        return cls(engine, folder, built)

    def upsert(self, points: Sequence[qdrant.Point]) -> None:
        self._engine.update(qdrant.UpdateOperation.upsert_points(list(points)))
        self.live += len(points)
        self.slots += len(points)
        self._unflushed += len(points)

    def delete_held(self, ids: Sequence[uuid.UUID]) -> bool:
        """Delete those of the points that are here; whether there were any."""
        held = self._engine.retrieve(list(ids), with_payload=False, with_vector=False)
        if held:
            gone: list[qdrant.PointId] = [point.id for point in held]
            self._engine.update(qdrant.UpdateOperation.delete_points(gone))
            self.live -= len(gone)
            self._unflushed += len(gone)
        return bool(held)

    def sync(self) -> None:
        """What was written survives a loss of power when this returns."""
        if self.flushing and self._unflushed >= FLUSH_RECORDS:
            self.flush()
        else:
            sync_tree(self.folder / "wal")

    def flush(self) -> None:
        """Sync the segments too and let the log drop what they hold."""
        self._engine.flush()
        self._unflushed = 0

    def nearest(
        self, vector: array[float], top_k: int, where: Condition | None
    ) -> list[qdrant.ScoredPoint]:
        """Best first, with payload.

        The engine's own filtered search of a graph finds next to nothing when few records pass (a
        recall of 0.2 at one in ten). So neighbours are found without the filter and tried against
        it after; if too few pass, all records are compared.
        """
        query = qdrant.Query.Nearest(vector.tolist())
        if where is None:
            return self._search(query, top_k, params=self._params(top_k), payload=True)
        for breadth in (top_k * factor for factor in FILTER_BREADTHS):
            if breadth * 4 < self.slots:
                near = self._search(query, breadth, params=self._params(breadth), payload=False)
                among = qdrant.HasIdCondition({point.id for point in near})
                found = self._filtered(query, top_k, [among, where])
                if len(found) == top_k:
                    return found
        return self._filtered(query, top_k, [where])

    def retrieve(self, ids: Collection[uuid.UUID]) -> list[qdrant.Record]:
        return self._engine.retrieve(list(ids), with_payload=True, with_vector=True)

    def page(
        self,
        offset: qdrant.PointId | None,
        limit: int,
        where: qdrant.Filter | None = None,
        *,
        whole: bool = False,
    ) -> tuple[list[qdrant.Record], uuid.UUID | None]:
        """In order of point id; the second is where the next page begins."""
        fields: bool | list[str] = True if whole else ["id"]
        points, following = self._engine.scroll(
            qdrant.ScrollRequest(
                offset=offset, limit=limit, filter=where, with_payload=fields, with_vector=whole
            )
        )
        return points, following  # type: ignore[return-value]

    def count(self) -> int:
        return self._engine.count(qdrant.CountRequest(exact=True))

    def tidy(self) -> None:
        """Write the records once more if a fifth of them is deleted: that reclaims the space."""
        self._engine.optimize()

    def close(self) -> None:
        self._engine.close()

    def _params(self, top_k: int) -> qdrant.SearchParams:
        ef = max(MIN_EF, 2 * top_k)
        return qdrant.SearchParams(hnsw_ef=ef, exact=self.slots <= EXACT_RECORDS_PER_EF * ef)

    def _filtered(
        self, query: qdrant.Query, top_k: int, must: list[Condition]
    ) -> list[qdrant.ScoredPoint]:
        exact = qdrant.SearchParams(exact=True)
        return self._search(query, top_k, params=exact, payload=True, must=must)

    def _search(
        self,
        query: qdrant.Query,
        limit: int,
        *,
        params: qdrant.SearchParams,
        payload: bool,
        must: list[Condition] | None = None,
    ) -> list[qdrant.ScoredPoint]:
        where = None if must is None else qdrant.Filter(must=must)
        return self._engine.search(
            qdrant.SearchRequest(
                query=query, limit=limit, filter=where, params=params, with_payload=payload
            )
        )


def create(folder: Path, dimension: int) -> None:
    """An empty shard, synced."""
    engine = qdrant.EdgeShard.create(str(folder), _config(dimension))
    engine.update(qdrant.UpdateOperation.create_field_index("dk", qdrant.PayloadSchemaType.Keyword))
    engine.flush()
    engine.close()
    sync_tree(folder)


def _config(dimension: int) -> qdrant.EdgeConfig:
    vectors = qdrant.EdgeVectorParams(size=dimension, distance=qdrant.Distance.Cosine)
    # 0: never build a graph here; one segment, so that a query makes one pass.
    optimizers = qdrant.EdgeOptimizersConfig(indexing_threshold=0, default_segment_number=1)
    return qdrant.EdgeConfig(vectors=vectors, optimizers=optimizers, max_search_threads=1)


def require_room(folder: Path, reserve: int, *, needed: int = 0) -> None:
    """Call before whatever makes the engine write. Raises TransientError."""
    free = free_bytes(folder)
    if free < reserve + needed:
        raise TransientError(
            f"the disk that holds the index has {free:,} bytes left, of which "
            f"{reserve:,} are kept free: free some space on it"
        )


def files_under(folder: Path) -> list[Path]:
    """With folders. Not the file that the engine is preparing for its log: it is empty, and renamed
    by a thread of the engine's at any moment."""
    return [path for path in folder.rglob("*") if not path.name.startswith(LOG_DRAFT)]


def used_bytes(folder: Path) -> int:
    """On the disk; the engine's files are sparse."""
    return sum(path.stat().st_blocks * 512 for path in files_under(folder))


def sync_tree(folder: Path) -> None:
    for path in [folder, *files_under(folder)]:
        sync_folder(path)


def sync_folder(path: Path) -> None:
    if sys.platform != "win32":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def translated(call: Callable[[], T]) -> T:
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
            raise held_elsewhere() from error
        raise TransientError(f"the index failed: {error}") from error


def held_elsewhere() -> IndexUnavailableError:
    return IndexUnavailableError(
        "another process holds the index: `bloomweaver up` owns it; "
        "ask that one over HTTP, or stop it first"
    )


def _damaged(folder: Path, error: Any) -> TransientError:
    return TransientError(
        f"the index cannot open {folder} ({error}); if that folder is damaged, remove it while "
        "nothing runs, start again and let `bloomweaver scrub --repair` write it anew"
    )
