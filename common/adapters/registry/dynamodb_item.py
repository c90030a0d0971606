"""A row as an item, and back. Pure; the format is stored, and `FORMAT` names it.

    pk "R" + namespace, sk document id     a row
    pk "N", sk "n" + namespace             a namespace's binding
    pk "D" + document key, sk life + …     a row's history pages ("h") and large parts ("o")

A row's own item has, of the last compare-and-set write, `body` (the row's JSON without its ranges,
compressed), `manifest` and `garbage` (see dynamodb_ranges), and `events` (the newest of its
history). What was accepted unread since then lies beside it: `accepted`, the newest change in full,
and `changes`, one line for each. The row is read by making `common.transitions.next_version` of
them, so that both ways of accepting mean the same by construction. The next compare-and-set write
takes them in. What must come back exactly is in JSON; DynamoDB's numbers are for conditions and
indexes.

`life` is given at a document's first write, since revisions begin again once it was forgotten.
`writes` names the last writes, so that one whose answer was lost is recognised.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from common import identity
from common.adapters.registry.dynamodb_ranges import (
    pack_garbage,
    pack_ranges,
    unpack_garbage,
    unpack_ranges,
)
from common.adapters.registry.dynamodb_table import SWEEP_SHARDS
from common.aws.table_calls import PARTITION, SORT, Item
from common.model import Desired, DocumentKey, Event, Row
from common.transitions import Timers, next_version
from common.wire import DamagedDataError, row_from_json, row_to_json

FORMAT = "1"
PARTS = ("body", "manifest", "garbage")
INLINE_BYTES = 300_000
"""Of the three parts together; what remains of DynamoDB's 400 KB is for all else."""
ACCEPTED_BYTES = 48 * 1024
"""A larger change is not accepted unread."""
KEPT_WRITES = 8
_MAX_SORT_KEY_BYTES = 1024
_MAX_PARTITION_KEY_BYTES = 2048
_LARGEST_NUMBER, _SMALLEST_NUMBER = 1e125, 1e-120
_LARGEST_SOURCE_VERSION = 10**37
_NO_TIMERS = Timers()
_TOMBSTONE = b"tombstone"
# What rows have in common; deflate copies it from here. Stored items depend on every byte of it.
_WORDS = (
    b'"claim":{"version":,"message_id":"","until":"error":"PROCESSING""FAILED""DELETED""PENDING"'
    b'"text/html"application/pdf"text/markdown"true"tombstone":true{"key":{"namespace":"","document_'
    b'id":""},"revision":1,"desired":{"version":1,"content_hash":"","metadata_hash":"","blob_key":"raw'
    b'/","content_type":"text/plain","metadata":{},"source_version":null,"tombstone":false,"accepted_'
    b'at":17,"size_bytes":0,"traceparent":"00--01"},"applied":{"version":0,"doc_hash":"","content_hash'
    b'":"","metadata_hash":"","embedding_profile":"","manifest":[],"applied_at":0.0,"chunk_count":0,"'
    b'intact":true},"next_generation":17,"garbage":[],"status":"COMPLETED","attempts":0,"error":null,"'
    b'claim":null,"sweep_at":null,"updated_at":17'
)


@dataclass(frozen=True, slots=True)
class Spilled:
    """A part that lies in pieces of its own. An id is written by one attempt and never again."""

    id: str
    pieces: int
    digest: str

    @classmethod
    def parse(cls, text: str) -> Spilled:
        spilled_id, pieces, digest = text.split(":")
        return cls(spilled_id, int(pieces), digest)

    def __str__(self) -> str:
        return f"{self.id}:{self.pieces}:{self.digest}"


Part = bytes | Spilled


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A row as it was read or written, and what else its item holds; () of a row yet to come."""

    row: Row
    life: str
    told: int = 0
    """The number of the first event in `events`: those before are in pages."""
    events: bytes = b""
    pending: tuple[Event, ...] = ()
    """Of changes accepted unread; they follow `events`."""
    spilled: Mapping[str, Spilled]
    writes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """One line of `changes`."""

    write: str
    at: float
    tombstone: bool
    size_bytes: int
    content_type: str
    source_version: int | None

    def line(self) -> str:
        values = [self.write, self.at, self.tombstone, self.size_bytes, self.content_type]
        return _json([*values, self.source_version])


def new_id() -> str:
    """Of a write, a life, a spilled part: 64 random bits, safe in keys."""
    return secrets.token_urlsafe(8)


def digest_of(part: bytes) -> str:
    return hashlib.sha256(part).hexdigest()


# --- keys ---------------------------------------------------------------------------------------


def row_partition(namespace: str) -> str:
    return f"R{namespace}"


def row_key(key: DocumentKey) -> Item:
    return {PARTITION: {"S": row_partition(key.namespace)}, SORT: {"S": key.document_id}}


def key_of(item: Mapping[str, Any]) -> DocumentKey:
    return DocumentKey(str(item[PARTITION]["S"])[1:], str(item[SORT]["S"]))


def beside(key: DocumentKey, sort: str) -> Item:
    """The key of something that belongs to a row."""
    return {PARTITION: {"S": f"D{identity.document_key(key)}"}, SORT: {"S": sort}}


def fits(key: DocumentKey) -> bool:
    """Whether DynamoDB can hold such a key at all. Raises ValueError for lone surrogates."""
    partition = len(row_partition(key.namespace).encode())
    sort = len(key.document_id.encode())
    return partition <= _MAX_PARTITION_KEY_BYTES and 0 < sort <= _MAX_SORT_KEY_BYTES


def check_fits(key: DocumentKey) -> None:
    if not fits(key):
        raise ValueError(
            f"{key}: DynamoDB takes document ids of 1 to {_MAX_SORT_KEY_BYTES} bytes and "
            f"namespaces of up to {_MAX_PARTITION_KEY_BYTES - 1}"
        )


def sweep_shard(key: DocumentKey) -> int:
    return zlib.crc32(identity.document_key(key).encode()) % SWEEP_SHARDS


def number(value: float) -> Item:
    """Exact within DynamoDB's range, at its end beyond; for comparisons only."""
    if abs(value) < _SMALLEST_NUMBER:
        return {"N": "0"}
    return {"N": repr(max(-_LARGEST_NUMBER, min(_LARGEST_NUMBER, value)))}


# --- writing ------------------------------------------------------------------------------------


def parts_of_row(row: Row) -> dict[str, bytes]:
    """Raises ValueError for what could not be read again."""
    bare = replace(row, applied=replace(row.applied, manifest=()), garbage=())
    return {
        "body": pack(row_to_json(bare).encode()),
        "manifest": pack_ranges(row.applied.manifest),
        "garbage": pack_garbage(row.garbage),
    }


def too_large(parts: Mapping[str, bytes]) -> list[str]:
    """The parts that must not lie in the item, the largest first, as few as possible."""
    names = sorted(parts, key=lambda name: len(parts[name]))
    out = []
    while sum(len(parts[name]) for name in names) > INLINE_BYTES:
        out.append(names.pop())
    return out


def item_of(
    row: Row,
    *,
    life: str,
    parts: Mapping[str, Part],
    told: int,
    events: bytes,
    writes: Sequence[str],
) -> Item:
    """The whole item; what was accepted unread is part of the row by now."""
    item = row_key(row.key) | {
        "format": {"N": FORMAT},
        "life": {"S": life},
        "writes": {"S": ".".join(writes[-KEPT_WRITES:])},
        "revision": {"N": str(row.revision)},
        "version": {"N": str(row.desired.version)},
        "fingerprint": {"B": fingerprint(row.desired)},
        "status": {"S": row.status.value},
        "updated_at": number(row.updated_at),
        "chunk_count": {"N": str(row.applied.chunk_count)},
        "size_bytes": {"N": str(row.desired.size_bytes)},
    }
    if told:
        item["told"] = {"N": str(told)}
    if events:
        item["events"] = {"B": events}
    item |= {name: _attribute(part) for name, part in parts.items() if part}
    return item | _times(row) | _source_version(row.desired.source_version)


def fingerprint(desired: Desired) -> bytes:
    """Equal where a change says what the row says already; a tombstone has no content."""
    if desired.tombstone:
        return _TOMBSTONE
    said = [desired.content_hash, desired.content_type, desired.metadata_hash]
    return hashlib.sha256(identity.canonical_json(said)).digest()


def is_comparable(source_version: int | None) -> bool:
    """Whether DynamoDB compares it exactly: its numbers have 38 digits."""
    return source_version is None or abs(source_version) < _LARGEST_SOURCE_VERSION


def pack(data: bytes) -> bytes:
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, _WORDS)
    return compressor.compress(data) + compressor.flush()


def unpack(data: bytes) -> bytes:
    """Raises zlib.error."""
    decompressor = zlib.decompressobj(-15, _WORDS)
    unpacked = decompressor.decompress(data) + decompressor.flush()
    if not decompressor.eof:
        raise zlib.error("it ends in the middle")
    return unpacked


def pack_accepted(key: DocumentKey, change: Desired) -> bytes:
    return pack(row_to_json(Row(key=key, revision=0, desired=change)).encode())


def _attribute(part: Part) -> Item:
    return {"S": str(part)} if isinstance(part, Spilled) else {"B": part}


def _times(row: Row) -> Item:
    times: Item = {}
    if row.sweep_at is not None:
        times["sweep_shard"] = {"N": str(sweep_shard(row.key))}
        times["sweep_at"] = number(row.sweep_at)
    if row.garbage:
        times["garbage_at"] = number(min(entry.not_before for entry in row.garbage))
    return times


def _source_version(known: int | None) -> Item:
    if known is None:
        return {}
    if not is_comparable(known):
        return {"closed": {"BOOL": True}}
    return {"source_version": {"N": str(known)}}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


# --- reading ------------------------------------------------------------------------------------

_DAMAGE = (KeyError, ValueError, TypeError, IndexError, struct.error, zlib.error)


def revision_of(item: Mapping[str, Any]) -> int:
    return int(item["revision"]["N"])


def writes_of(item: Mapping[str, Any]) -> tuple[str, ...]:
    """The last writes, whichever way they were made; the newest last."""
    before = str(item.get("writes", {}).get("S", ""))
    lines = [line["S"] for line in item.get("changes", {}).get("L", [])]
    return (*(before.split(".") if before else ()), *(json.loads(line)[0] for line in lines))


def version_of(item: Mapping[str, Any], write: str) -> int | None:
    """Which version a change accepted unread became; None: the item does not know this write.

    The stored version, which is not smaller, for one that a full write has taken in.
    """
    try:
        if write not in (known := writes_of(item)):
            return None
        later = len(known) - 1 - known.index(write)
        unread = len(item.get("changes", {}).get("L", []))
        version = int(item["version"]["N"])
        return version - later if later < unread else version
    except _DAMAGE as error:
        raise _damaged(item, error) from error


def parts_of_item(item: Mapping[str, Any]) -> dict[str, Part]:
    """Raises DamagedDataError."""
    try:
        return dict(_parts_of(item))
    except _DAMAGE as error:
        raise _damaged(item, error) from error


def stored_of(item: Mapping[str, Any], parts: Mapping[str, bytes]) -> Stored:
    """`parts`: all that the item has, in full. Raises DamagedDataError."""
    try:
        return _stored_of(item, parts)
    except _DAMAGE as error:
        raise _damaged(item, error) from error


def _parts_of(item: Mapping[str, Any]) -> Iterator[tuple[str, Part]]:
    for name in PARTS:
        held = item.get(name)
        if held is not None:
            yield name, bytes(held["B"]) if "B" in held else Spilled.parse(held["S"])


def _stored_of(item: Mapping[str, Any], parts: Mapping[str, bytes]) -> Stored:
    if item["format"]["N"] != FORMAT:
        raise DamagedDataError(f"not a registry row of this program: format {item['format']['N']}")
    base = _row_of(parts) if "body" in parts else None
    row = _with_changes(base, item) if "changes" in item else base
    if row is None:
        raise DamagedDataError("not a registry row: it has no body")
    return Stored(
        row=replace(row, news=()),
        life=item["life"]["S"],
        told=int(item.get("told", {}).get("N", 0)),
        events=bytes(item.get("events", {}).get("B", b"")),
        pending=row.news,
        spilled={n: part for n, part in _parts_of(item) if isinstance(part, Spilled)},
        writes=writes_of(item),
    )


def _row_of(parts: Mapping[str, bytes]) -> Row:
    row = row_from_json(unpack(parts["body"]))
    manifest = unpack_ranges(parts.get("manifest", b""))
    garbage = unpack_garbage(parts.get("garbage", b""))
    if not manifest and not garbage:
        return row
    return replace(row, applied=replace(row.applied, manifest=manifest), garbage=garbage)


def _with_changes(base: Row | None, item: Mapping[str, Any]) -> Row:
    """The row after all changes that were accepted unread, with their events as its news."""
    last = row_from_json(unpack(bytes(item["accepted"]["B"]))).desired
    changes = [Change(*json.loads(line["S"])) for line in item["changes"]["L"]]
    key = key_of(item)
    row = base
    for change in changes:
        asked = last if change is changes[-1] else _asked(last, change)
        row = next_version(row, key, asked, change.at, _NO_TIMERS)
    if row is None:
        raise ValueError("changes is empty")
    # The registry has given these; `sweep_at` by the timers of whoever accepted.
    sweep_at = float(item["sweep_at"]["N"])
    return replace(row, revision=revision_of(item), sweep_at=sweep_at)


def _asked(last: Desired, change: Change) -> Desired:
    """What history tells of a change that a later one replaced; its content is gone."""
    return replace(
        last,
        tombstone=change.tombstone,
        size_bytes=change.size_bytes,
        content_type=change.content_type,
        source_version=change.source_version,
    )


def _damaged(item: Mapping[str, Any], error: Exception) -> DamagedDataError:
    key = f"{item.get(PARTITION, {}).get('S')!r}, {item.get(SORT, {}).get('S')!r}"
    return DamagedDataError(f"not a registry item: {key}: {type(error).__name__}: {error}")
