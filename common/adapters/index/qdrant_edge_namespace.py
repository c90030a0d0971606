"""One namespace of the embedded index: a folder with shards that come and go.

    namespace.json     {"format", "namespace", "dimension", "shards": [{"folder", "built"}]}
    shard              the first shard
    shard-<n>          later ones

The last shard of the list is the active one: it takes the records. When it holds `limit`, it is
sealed: a new one is active, and the sealed one, which loses records but gets none, is merged with
others into a shard with a graph (qdrant_edge_merge). A record is in one shard: what is written
again is deleted from the older ones.

Whatever namespace.json does not name is left from an interruption and is removed when the namespace
is opened. The file is replaced in one step, and only when all it names is on the disk, so that a
death at any moment leaves the old list or the new one; every record and every delete that was
reported as done is in the shards of both. Format 1, without a list, is one shard.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import uuid
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Final

import qdrant_edge as qdrant

from common.adapters.index.qdrant_edge_filters import Condition
from common.adapters.index.qdrant_edge_merge import (
    ROOM_FACTOR,
    MergeOrder,
    Size,
    to_merge,
)
from common.adapters.index.qdrant_edge_shard import (
    LOG_DRAFT,
    Shard,
    create,
    require_room,
    sync_folder,
    sync_tree,
    used_bytes,
)
from common.ports.errors import TransientError

_FORMATS: Final = (1, 2)
_FIRST: Final = "shard"
_DESCRIPTION: Final = "namespace.json"
_PAGE: Final = 1000


@dataclass(slots=True)
class Merge:
    """Under way. `deleted`: what was deleted from the sources since they were copied or before."""

    sources: tuple[Shard, ...]
    order: MergeOrder
    records: int
    """How many the sources held at the beginning."""
    deleted: set[uuid.UUID] = field(default_factory=set)

    @property
    def target(self) -> Path:
        return Path(self.order.target)


class Namespace:
    """Writes come from one thread at a time, reads from another.

    A read sees the list of shards as it was when it began; whoever closes shards that a merge
    replaced must let such reads end first. Reads go from old to new, since a record that is written
    again gets into the new shard before it leaves the old one: they may see it twice, never not.
    """

    def __init__(
        self, folder: Path, name: str, dimension: int, shards: Sequence[Shard], *,
        limit: int, reserve: int,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.name = name
        self.dimension = dimension
        self._shards = tuple(shards)
        self._limit = limit
        self._reserve = reserve
        self._merge: Merge | None = None
        self._written: list[Shard] = []

    # Reading.

    def nearest(
        self, vector: array[float], top_k: int, where: Condition | None
    ) -> list[qdrant.ScoredPoint]:
        """Best first, each record once."""
        found = [shard.nearest(vector, top_k, where) for shard in self._shards if shard.live]
        return found[0] if len(found) == 1 else _nearest_of(chain.from_iterable(found), top_k)

    def fetch(self, ids: Sequence[uuid.UUID]) -> list[qdrant.Record]:
        """Each record once."""
        found = {point.id: point for shard in self._shards for point in shard.retrieve(ids)}
        return list(found.values())

    def page(
        self, offset: uuid.UUID | None, where: qdrant.Filter | None
    ) -> tuple[list[qdrant.Record], uuid.UUID | None]:
        """By point id, in all shards, so that pages fit together though shards change meanwhile."""
        pages = [shard.page(offset, _PAGE, where) for shard in self._shards]
        ends = [end for _, end in pages if end is not None]
        end = min(ends) if ends else None
        points = {_uuid(point.id): point for page, _ in pages for point in page}
        return [point for key, point in points.items() if end is None or key < end], end

    def count(self) -> int:
        return sum(shard.count() for shard in self._shards)

    # Writing. Nothing is durable before sync().

    def upsert(self, points: Sequence[qdrant.Point]) -> None:
        """First to the active shard, then away from others: what dies between loses nothing."""
        active = self._shards[-1]
        active.upsert(points)
        self._touched(active)
        if len(self._shards) > 1:
            self._delete([_uuid(point.id) for point in points], self._shards[:-1])

    def delete(self, ids: Sequence[uuid.UUID]) -> None:
        self._delete(ids, self._shards)

    def sync(self) -> None:
        written, self._written = self._written, []
        for shard in written:
            shard.sync()

    def _delete(self, ids: Sequence[uuid.UUID], shards: Sequence[Shard]) -> None:
        for shard in shards:
            if shard.delete_held(ids):
                self._touched(shard)
                if self._merge is not None and shard in self._merge.sources:
                    self._merge.deleted.update(ids)

    def _touched(self, shard: Shard) -> None:
        if shard not in self._written:
            self._written.append(shard)

    # Merging.

    @property
    def due(self) -> bool:
        """Whether begin_merge would find work."""
        return self._merge is None and bool(self._chosen())

    def begin_merge(self) -> Merge | None:
        """Seal the active shard if it is full; tell what to merge, ready to be copied."""
        sources = self._chosen()
        if not sources:
            return None
        room = ROOM_FACTOR * sum(used_bytes(shard.folder) for shard in sources)
        require_room(self.folder, self._reserve, needed=room)
        if self._shards[-1] in sources:
            self._seal()
        base = max(sources, key=lambda shard: shard.built)
        order = MergeOrder(
            base=str(base.folder.absolute()),
            parts=tuple(str(s.folder.absolute()) for s in sources if s is not base),
            target=str(self._new_folder().absolute()),
            dimension=self.dimension,
        )
        merge = Merge(sources, order, sum(shard.count() for shard in sources))
        self._merge = merge
        try:
            self._prepare(merge)
        except BaseException:
            self.abandon_merge(merge)
            raise
        return merge

    def _chosen(self) -> tuple[Shard, ...]:
        full = self._shards[-1].slots >= self._limit
        sealed = self._shards if full else self._shards[:-1]
        sizes = [Size(shard.live, shard.built) for shard in sealed]
        return tuple(sealed[place] for place in to_merge(sizes, self._limit))

    def _prepare(self, merge: Merge) -> None:
        """From here until they are copied, what is deleted from the sources is in their logs only.

        The base's log goes on in the copy, so it is copied while nothing is written.
        """
        for shard in merge.sources:
            shard.flush()
            shard.flushing = False
        drafts = shutil.ignore_patterns(f"{LOG_DRAFT}*")
        shutil.copytree(Path(merge.order.base) / "wal", merge.target / "wal", ignore=drafts)

    def _seal(self) -> None:
        folder = self._new_folder()
        create(folder, self.dimension)
        active = Shard.open(folder, self.dimension)
        self._replace([*self._shards, active])

    def copied(self, merge: Merge) -> None:
        """The sources may be flushed again."""
        for shard in merge.sources:
            shard.flushing = True

    def finish_merge(self, merge: Merge) -> tuple[Shard, ...]:
        """Put the result in place of its sources, which are returned, open and without use."""
        require_room(self.folder, self._reserve)
        result = self._open_result(merge)
        try:
            result.delete_held(list(merge.deleted))
            result.sync()
        except BaseException:
            result.close()
            raise
        first = self._shards.index(merge.sources[0])
        kept = [result if place == first else shard for place, shard in enumerate(self._shards)]
        self._replace([shard for shard in kept if shard not in merge.sources])
        return merge.sources

    def _open_result(self, merge: Merge) -> Shard:
        """The engine opens a folder without segments too: as an empty shard."""
        result = Shard.open(merge.target, self.dimension, built=max(1, merge.records))
        if result.live != merge.records:
            result.close()
            raise TransientError(f"it made {result.live} records of {merge.records}")
        return result

    def abandon_merge(self, merge: Merge) -> None:
        """The sources stay as they are, unless the result is in their place already."""
        self.copied(merge)
        self._merge = None
        if merge.target.name not in {shard.folder.name for shard in self._shards}:
            for leftover in self.folder.glob(f"{merge.target.name}*"):
                remove(leftover)

    def _replace(self, shards: Sequence[Shard]) -> None:
        """On the disk and in memory at once."""
        listed = [{"folder": shard.folder.name, "built": shard.built} for shard in shards]
        head = {"format": 2, "namespace": self.name, "dimension": self.dimension}
        sync_folder(self.folder)
        _write(self.folder, {**head, "shards": listed})
        self._shards = tuple(shards)
        if self._merge is not None and self._merge.sources[0] not in self._shards:
            self._merge = None
        sync_folder(self.folder)

    def _new_folder(self) -> Path:
        numbers = [int(path.name.split("-")[1].split(".")[0]) for path in _later(self.folder)]
        return self.folder / f"{_FIRST}-{max(numbers, default=1) + 1}"

    # Opening and closing.

    @classmethod
    def open(cls, folder: Path, *, limit: int, reserve: int) -> Namespace:
        """Remove what an interruption left. Opening a shard replays its log, which takes room."""
        description = read_description(folder)
        require_room(folder, reserve)
        listed = {shard["folder"]: shard["built"] for shard in description["shards"]}
        for path in [folder / _FIRST, *_later(folder)]:
            if path.name not in listed:
                remove(path)
        dimension = description["dimension"]
        shards = [Shard.open(folder / f, dimension, built=n) for f, n in listed.items()]
        made = cls(
            folder, description["namespace"], dimension, shards, limit=limit, reserve=reserve
        )
        made._end_interrupted_writes()
        return made

    def _end_interrupted_writes(self) -> None:
        """An upsert that was cut off may have left what it replaces in an older shard."""
        offset: uuid.UUID | None = None
        while len(self._shards) > 1:
            page, offset = self._shards[-1].page(offset, _PAGE)
            self._delete([_uuid(point.id) for point in page], self._shards[:-1])
            if offset is None:
                break
        self.sync()

    def close(self) -> None:
        """Reclaim deleted space of the active shard, sync.

        Reclaiming writes what is kept once more; that needs room first. What cannot be flushed for
        want of room is no loss: the logs, which were synced, have it.
        """
        for shard in self._shards:
            with contextlib.suppress(TransientError):
                require_room(self.folder, self._reserve)
                if shard is self._shards[-1]:
                    self._tidy(shard)
                shard.flush()
            shard.close()

    def _tidy(self, shard: Shard) -> None:
        with contextlib.suppress(TransientError):
            require_room(self.folder, self._reserve, needed=used_bytes(shard.folder))
            shard.tidy()


def _nearest_of(points: Iterable[qdrant.ScoredPoint], top_k: int) -> list[qdrant.ScoredPoint]:
    """Best first, each record once. To ask a point for its id is dear: no more than needed are."""
    best: dict[qdrant.PointId, qdrant.ScoredPoint] = {}
    for point in sorted(points, key=lambda point: -point.score):
        best.setdefault(point.id, point)
        if len(best) == top_k:
            break
    return list(best.values())


def create_namespace(root: Path, folder: Path, name: str, dimension: int) -> None:
    """Make it under another name and rename it: it is there whole or not at all."""
    draft = Path(tempfile.mkdtemp(prefix=".new-", dir=root))
    create(draft / _FIRST, dimension)
    _write(draft, {"format": 1, "namespace": name, "dimension": dimension})
    sync_tree(draft)
    draft.rename(folder)
    sync_folder(root)


def never_written(folder: Path) -> bool:
    """A folder without description and segments held no record: something died creating it."""
    described = (folder / _DESCRIPTION).exists()
    return not described and not any(folder.glob(f"{_FIRST}*/segments/*/segment.json"))


def is_namespace(folder: Path) -> bool:
    return (folder / _DESCRIPTION).exists()


def read_description(folder: Path) -> dict[str, Any]:
    """Always with a list of shards. Raises TransientError: what is to be mended here is no fault of
    the document in hand."""
    try:
        description: dict[str, Any] = json.loads((folder / _DESCRIPTION).read_bytes())
    except (OSError, ValueError) as error:
        raise TransientError(
            f"the index folder {folder.name} has no readable {_DESCRIPTION}: restore it"
        ) from error
    if description.get("format") not in _FORMATS:
        raise TransientError(
            f"the index folder {folder.name} has format {description.get('format')}; "
            f"this version reads {_FORMATS[0]} to {_FORMATS[-1]}"
        )
    return {"shards": [{"folder": _FIRST, "built": 0}], **description}


def remove(path: Path) -> None:
    """As far as it goes: what is left is removed when the namespace is opened."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _write(folder: Path, description: dict[str, Any]) -> None:
    """In one step; durable once the folder is synced."""
    draft = folder / f"{_DESCRIPTION}.new"
    with draft.open("w", encoding="utf-8") as file:
        file.write(json.dumps(description))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(folder / _DESCRIPTION)


def _later(folder: Path) -> list[Path]:
    """All but the first shard, and what belongs to a merge."""
    return list(folder.glob(f"{_FIRST}-*"))


def _uuid(point_id: qdrant.PointId) -> uuid.UUID:
    return point_id if isinstance(point_id, uuid.UUID) else uuid.UUID(str(point_id))
