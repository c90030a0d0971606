"""What is wrong with a document: pure decisions over its row, its pack and its records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from common.model import Metadata, MetadataValue, Record, Row, Status, Vector, expand
from common.pack import Pack
from common.scrubbing import Finding, FindingKind
from common.transitions import Timers, mend, named_ids, overlapping, schedule, true_status

LEAST_COSINE = 0.999
"""A kept record was embedded with another version, perhaps in another batch: rounding differs."""
FLOAT_TOLERANCE = 1e-12

Fault = tuple[FindingKind, str, int]
"""Kind, what is wrong, and how many records it is about."""


# --- the row by itself ----------------------------------------------------------------------------


def row_faults(row: Row, timers: Timers) -> list[Fault]:
    """Where the row contradicts itself. One read tells: every write of a row is atomic."""
    applied, desired = row.applied, row.desired
    faults = []
    if applied.version > desired.version:
        faults.append(f"version {applied.version} is applied, {desired.version} is desired")
    elif (status := true_status(row)) is not row.status:
        behind = "behind" if row.behind else "not behind"
        faults.append(f"the status is {row.status} while the document is {behind}: {status}")
    if not row.behind and desired.tombstone and applied.manifest:
        faults.append("the document is deleted and shows records")
    if row.sweep_at is None and schedule(row, row.updated_at, timers).sweep_at is not None:
        faults.append("something is open and the sweeper would never come")
    if overlapping(row):
        faults.append("a record id is named twice")
    if max((g for g, _ in named_ids(row)), default=0) >= row.next_generation:
        faults.append(f"generation {row.next_generation} is in use and would be given again")
    if not faults and mend(row, row.updated_at, timers) is not None:
        faults.append("the row does not agree with itself")
    return [(FindingKind.ROW, "; ".join(faults), 0)] if faults else []


def shows_records(row: Row) -> bool:
    """Whether its applied version is to be compared: the document is not deleted, nor about to be,
    and its rewriting is not under way already."""
    rewriting = row.behind and not row.applied.intact and row.status is not Status.FAILED
    return row.applied.version > 0 and not row.desired.tombstone and not rewriting


def manifest_faults(row: Row) -> list[Fault]:
    """What is mended by writing the document anew."""
    applied, desired = row.applied, row.desired
    ids = expand(applied.manifest)
    faults = []
    if len(ids) != applied.chunk_count:
        faults.append(f"the manifest names {len(ids)} records of {applied.chunk_count} chunks")
    if len(set(ids)) < len(ids):
        faults.append("the manifest names a record twice")
    if set(ids) & set(expand([entry.ids for entry in row.garbage])):
        faults.append("a live record is named as garbage and may be gone")
    if applied.version == desired.version and _shows_another(row):
        faults.append("what is applied is not what was accepted as this version")
    if not row.behind and not applied.intact:
        faults.append("it is known to be damaged, and nothing writes it anew")
    return [(FindingKind.MANIFEST, "; ".join(faults), 0)] if faults else []


def _shows_another(row: Row) -> bool:
    applied, desired = row.applied, row.desired
    return not applied.doc_hash or (applied.content_hash, applied.metadata_hash) != (
        desired.content_hash,
        desired.metadata_hash,
    )


# --- the pack -------------------------------------------------------------------------------------


def pack_faults(row: Row, pack: Pack) -> list[Fault]:
    """Where a readable pack is not the applied version's."""
    applied = row.applied
    held = {
        "document": (pack.namespace, pack.document_id) == (row.key.namespace, row.key.document_id),
        "version": pack.version == applied.version,
        "doc_hash": pack.doc_hash == applied.doc_hash,
        "content_hash": pack.content_hash == applied.content_hash,
        "metadata_hash": pack.metadata_hash == applied.metadata_hash,
        "embedding profile": pack.embedding_profile == applied.embedding_profile,
        "number of chunks": len(pack.chunks) == applied.chunk_count,
    }
    others = [name for name, same in held.items() if not same]
    if not others:
        return []
    return [(FindingKind.PACK, f"the pack has another {', '.join(others)} than the row says", 0)]


# --- the records ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Comparison:
    """The index's records against the chunks at their places, a batch at a time.

    Without a pack only their being there is judged. A kept record was written for an earlier
    version, so its doc_hash is not compared; its chunk, metadata and vector are this one's.
    """

    row: Row
    pack: Pack | None
    missing: list[str] = field(default_factory=list)
    wrong: dict[str, list[str]] = field(default_factory=dict)
    """By record id, what it has different."""

    def add(self, first: int, ids: Mapping[str, tuple[int, int]], found: Iterable[Record]) -> None:
        """`ids` are those of the chunks from place `first` on. CPU-bound: call it in a thread."""
        records = {record.id: record for record in found}
        for place, (record_id, pair) in enumerate(ids.items(), first):
            record = records.get(record_id)
            if record is None:
                self.missing.append(record_id)
            elif self.pack and (differing := _differing(self.row, self.pack, place, pair, record)):
                self.wrong[record_id] = differing

    def faults(self) -> list[Fault]:
        faults: list[Fault] = []
        if count := len(self.missing):
            detail = f"{count} records are not in the index, as {self.missing[0]}"
            faults.append((FindingKind.MISSING, detail, count))
        if count := len(self.wrong):
            what = ", ".join(sorted({name for names in self.wrong.values() for name in names}))
            detail = f"{count} records have another {what}, as {next(iter(self.wrong))}"
            faults.append((FindingKind.WRONG, detail, count))
        return faults


def _differing(
    row: Row, pack: Pack, place: int, pair: tuple[int, int], record: Record
) -> list[str]:
    """What a reader would be told that the chunk does not say.

    A record without a text leaves text and headings to the pack.
    """
    chunk = pack.chunks[place]
    in_pack = record.text is None
    same = {
        "document_id": record.document_id == row.key.document_id,
        "number": (record.generation, record.number) == pair,
        "text": in_pack or record.text == chunk.text,
        "heading path": in_pack or record.heading_path == chunk.heading_path,
        "metadata": same_metadata(record.metadata, pack.metadata),
        "vector": same_direction(record.vector, pack.vectors[place]),
    }
    return [name for name, equal in same.items() if not equal]


def same_metadata(a: Metadata, b: Metadata) -> bool:
    """Equal, but for the last digits of floats, which an index may keep in its own way."""
    return a.keys() == b.keys() and all(_same_value(a[name], b[name]) for name in a)


def _same_value(a: MetadataValue, b: MetadataValue) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=FLOAT_TOLERANCE)
    return a == b


def same_direction(a: Vector[float], b: Vector[float]) -> bool:
    """Whether their cosine is at least LEAST_COSINE; an index may normalise what it is given."""
    if len(a) != len(b):
        return False
    import numpy as np  # apply consumers, which come with a scrub, start faster without

    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    lengths = float(np.linalg.norm(x) * np.linalg.norm(y))
    if not lengths:
        return not x.any() and not y.any()
    return float(x @ y) >= LEAST_COSINE * lengths


# --- what can be done -----------------------------------------------------------------------------

REWRITTEN = frozenset(
    {FindingKind.MISSING, FindingKind.WRONG, FindingKind.PACK, FindingKind.MANIFEST}
)
"""Mended by writing the document anew."""
_BEYOND_REPAIR = frozenset({FindingKind.CONTENT, FindingKind.UNREADABLE, FindingKind.UNCHECKED})


def findings_of(row: Row, faults: Sequence[Fault]) -> list[Finding]:
    """By kind; what stands in the way of a repair is told."""
    lost = any(kind is FindingKind.CONTENT for kind, _, _ in faults)
    return [_finding(row, fault, lost=lost) for fault in faults]


def _finding(row: Row, fault: Fault, *, lost: bool) -> Finding:
    kind, detail, count = fault
    repairable = kind not in _BEYOND_REPAIR
    if kind in REWRITTEN and lost:
        repairable, detail = False, f"{detail}; its content is lost: send the document again"
    elif kind in REWRITTEN and row.behind and row.status is Status.FAILED:
        repairable, detail = False, f"{detail}; version {row.desired.version} FAILED: send another"
    return Finding(
        namespace=row.key.namespace,
        document_id=row.key.document_id,
        kind=kind,
        detail=detail,
        record_count=count,
        repairable=repairable,
    )
