"""Which shards of a namespace are merged, and the process that builds their common graph.

    python -m common.adapters.index.qdrant_edge_merge <MergeOrder as JSON> <parent's process id>

Building holds the interpreter's lock from beginning to end, so it has a process of its own, of the
lowest priority, that works on copies. It prints `copied` when it needs the sources no more, then
`merged`. On Linux it dies with its parent; elsewhere an orphan finishes, and what it made is
removed at the next start.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import qdrant_edge as qdrant

from common.adapters.index.qdrant_edge_records import copied_point
from common.adapters.index.qdrant_edge_shard import Shard, sync_tree
from common.ports.errors import TransientError

GROWTH: Final = 20
"""A shard is written anew only when what joins it is at least a part in GROWTH of it."""
WASTE: Final = 0.25
"""The share of deleted records from which a shard is written anew."""
ROOM_FACTOR: Final = 3
"""A merge needs so many times the room of its sources: the copies, the log and the result."""
_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Size:
    """A shard that takes no records any more. `built`: records its graph was built over, or 0."""

    live: int
    built: int


def to_merge(sealed: Sequence[Size], limit: int) -> list[int]:
    """Which shards, oldest first, are to become one; [] if none need it.

    The start is every shard without a graph, and every large one with much deleted. Older ones
    join unless they are more than GROWTH times larger than what there is by then. So shards
    grow geometrically: few of them to search, and each record rewritten a few times only.
    """
    chosen = {
        place
        for place, size in enumerate(sealed)
        if not size.built or (size.built >= limit and size.live <= size.built * (1 - WASTE))
    }
    for place in reversed(range(len(sealed))) if chosen else ():
        if sealed[place].live <= GROWTH * sum(sealed[other].live for other in chosen):
            chosen.add(place)
    return sorted(chosen)


@dataclass(frozen=True, slots=True)
class MergeOrder:
    """`base` keeps its graph, which grows by the records of `parts` (oldest first).

    `target`, where the result goes, holds a copy of the base's log already.
    """

    base: str
    parts: tuple[str, ...]
    target: str
    dimension: int


Build = Callable[[MergeOrder, Callable[[], None]], None]
"""Make the target; call back when the sources are free again. Raises TransientError."""


# In the child.


def build(order: MergeOrder, on_copied: Callable[[], None]) -> None:
    """Implements Build in this process, which stands still meanwhile. Raises if a record is lost.

    The parts are only read, so their copies need no log.
    """
    target = Path(order.target)
    _copy_shard(Path(order.base), target)
    parts = [target.with_name(f"{target.name}.{n}") for n in range(len(order.parts))]
    for source, part in zip(order.parts, parts, strict=True):
        _copy_shard(Path(source), part)
    on_copied()
    engine = qdrant.EdgeShard.load(str(target), _build_config(order.dimension))
    records = engine.count(qdrant.CountRequest(exact=True))
    for part in parts:
        records += _pour(part, order.dimension, engine)
    engine.optimize()
    if (held := engine.count(qdrant.CountRequest(exact=True))) != records:
        raise RuntimeError(f"the merged shard holds {held} records instead of {records}")
    engine.flush()
    engine.close()
    sync_tree(target)


def _copy_shard(source: Path, target: Path) -> None:
    """All but the log."""
    target.mkdir(exist_ok=True)
    shutil.copy(source / "edge_config.json", target)
    shutil.copytree(source / "segments", target / "segments")


def _pour(part: Path, dimension: int, engine: qdrant.EdgeShard) -> int:
    """Write the records of `part` into `engine`; how many it had not held before."""
    source = Shard.open(part, dimension)
    added, offset = 0, None
    while True:
        page, offset = source.page(offset, _PAGE, whole=True)
        if page:
            ids: list[qdrant.PointId] = [point.id for point in page]
            known = engine.retrieve(ids, with_payload=False, with_vector=False)
            engine.update(qdrant.UpdateOperation.upsert_points([copied_point(p) for p in page]))
            added += len(page) - len(known)
        if offset is None:
            break
    source.close()
    shutil.rmtree(part)
    return added


def _build_config(dimension: int) -> qdrant.EdgeConfig:
    return qdrant.EdgeConfig(
        vectors=qdrant.EdgeVectorParams(size=dimension, distance=qdrant.Distance.Cosine),
        hnsw_config=qdrant.HnswIndexConfig(
            m=16, ef_construct=100, full_scan_threshold=100, max_indexing_threads=1
        ),
        # In KB: a graph for everything, so that the records end up in one segment.
        optimizers=qdrant.EdgeOptimizersConfig(indexing_threshold=1, default_segment_number=1),
        max_search_threads=1,
    )


def _main(text: str, parent: int) -> None:
    _die_with(parent)
    os.nice(19)
    fields = json.loads(text)
    order = MergeOrder(**{**fields, "parts": tuple(fields["parts"])})
    build(order, lambda: _say("copied"))
    _say("merged")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _die_with(parent: int) -> None:
    """A thread that waits for the parent's end would not run while the graph is built."""
    if sys.platform == "linux":
        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent is gone")


# In the parent.


class ChildBuild:
    """Implements Build with a child process. `stop` ends it, from any thread."""

    def __init__(self, program: Sequence[str] | None = None) -> None:
        self._program = program or [sys.executable, "-m", __name__]
        self._guard = threading.Lock()
        self._child: subprocess.Popen[str] | None = None
        self._stopped = False

    def __call__(self, order: MergeOrder, on_copied: Callable[[], None]) -> None:
        """Raises TransientError when the child fails, with the end of what it said."""
        errors = Path(f"{order.target}.errors")
        with errors.open("w", encoding="utf-8") as file:
            child = self._start([json.dumps(asdict(order)), str(os.getpid())], file.fileno())
            merged = _listen(child, on_copied)
        if not merged:
            said = errors.read_text(encoding="utf-8", errors="replace").strip()[-300:]
            raise TransientError(f"it ended with {child.returncode}: {said}")

    def stop(self) -> None:
        with self._guard:
            self._stopped = True
            if self._child is not None:
                self._child.kill()

    def _start(self, arguments: list[str], errors: int) -> subprocess.Popen[str]:
        with self._guard:
            if self._stopped:
                raise TransientError("the index is being closed")
            self._child = subprocess.Popen(  # noqa: S603
                [*self._program, *arguments],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True,
                cwd=Path(__file__).parents[3],
            )  # fmt: skip
            return self._child


def _listen(child: subprocess.Popen[str], on_copied: Callable[[], None]) -> bool:
    """Whether it came to its end."""
    merged = False
    with child:
        for line in child.stdout or ():
            if line == "copied\n":
                on_copied()
            merged = line == "merged\n"
    return merged and child.returncode == 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        _main(sys.argv[1], int(sys.argv[2]))
