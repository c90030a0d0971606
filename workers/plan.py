"""What an attempt has to write: a pure decision over the pack, the base and fresh ids."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass

from common.model import Applied, IdRange, expand
from common.pack import Pack, PackedChunk
from common.transitions import compress


@dataclass(frozen=True, slots=True)
class Plan:
    """`kept[i]` is the record id pair that chunk i keeps, None if chunk i is to be written."""

    kept: tuple[tuple[int, int] | None, ...]

    @property
    def new(self) -> list[int]:
        """Places of the chunks to write, in document order."""
        return [place for place, ids in enumerate(self.kept) if ids is None]

    def manifest(self, own: IdRange | None) -> tuple[IdRange, ...]:
        """The version's records in document order; new chunks take `own` in that order."""
        fresh = iter(expand([own])) if own else iter(())
        return compress(ids if ids is not None else next(fresh) for ids in self.kept)


def plan_apply(pack: Pack, applied: Applied, base: Pack | None) -> Plan:
    """Keep the records whose chunk is in the base, each once; write the others.

    Records carry metadata and vectors, so they are kept only under the same of both, and heading
    path and text, so that these decide which chunks are equal (a chunk's hash is that of what is
    embedded, which is less). Equal chunks are matched in order of their occurrence.
    """
    if base is None or not _reusable(pack, applied, base):
        return Plan((None,) * len(pack.chunks))
    waiting: defaultdict[Written, deque[tuple[int, int]]] = defaultdict(deque)
    for chunk, ids in zip(base.chunks, expand(applied.manifest), strict=True):
        waiting[_written(chunk)].append(ids)
    found = [waiting[_written(chunk)] for chunk in pack.chunks]
    return Plan(tuple(ids.popleft() if ids else None for ids in found))


Written = tuple[tuple[str, ...], str]


def _written(chunk: PackedChunk) -> Written:
    """What a record says of its chunk."""
    return chunk.heading_path, chunk.text


def _reusable(pack: Pack, applied: Applied, base: Pack) -> bool:
    return (
        applied.intact
        and pack.metadata_hash == applied.metadata_hash
        and pack.embedding_profile == applied.embedding_profile
        and len(base.chunks) == applied.chunk_count
    )


def batches(places: Sequence[int], size: int) -> list[Sequence[int]]:
    return [places[i : i + size] for i in range(0, len(places), size)]
