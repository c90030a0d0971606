"""The audit trail's hash chain: what an entry's hash is of, and how a chain is verified. Pure.

An entry's hash is SHA-256 of the hash before it, a line feed, and the entry as canonical JSON; with
a key it is HMAC-SHA-256 of the same bytes. Without a key whoever can write the store can also
compute a new chain, which only a head that was kept elsewhere then gives away.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from common.access import EVERYWHERE
from common.ports.audit import AuditEntry, AuditEvent, AuditQuery, ChainEnd

DROPPED = "audit.drop"
"""The action of the entry that tells of entries dropped for their age; `subject` names the last."""
SYSTEM = "system"
"""The principal of what the service does by itself."""
MAX_TEXT_BYTES = 4096
"""Of one text of an event: of what was refused, nobody has checked the length."""


class Fault(StrEnum):
    EDITED = "edited"
    """The entry is not what its hash says."""
    UNKEYED = "unkeyed"
    """Its hash was made without the key, and it should have been made with it."""
    REPLACED = "replaced"
    """It is whole by itself, and the entry behind it was written behind another one."""
    MISSING = "missing"
    """Entries are not there, within the chain or at its beginning."""
    OUT_OF_ORDER = "out of order"
    CUT_OFF = "cut off"
    """Entries up to the head that was kept are not there."""
    REWRITTEN = "rewritten"
    """The entry at the head that was kept is another one."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """The first entry of a chain that is not as it was written."""

    sequence: int
    fault: Fault
    detail: str


def millis(at: float) -> int:
    """Seconds since the epoch as the chain keeps them."""
    return round(at * 1000)


def normal(event: AuditEvent) -> AuditEvent:
    """As every store can keep it and gives it back: time to the millisecond, each text bounded and
    without NUL and lone surrogates."""
    texts: dict[str, Any] = {name: _plain(getattr(event, name)) for name in _TEXTS}
    return replace(event, at=millis(event.at) / 1000, **texts)


_TEXTS = (
    "principal", "action", "namespace", "document_id", "subject", "result", "address",
    "request_id", "source",
)  # fmt: skip


def _plain(text: str) -> str:
    if len(text) <= MAX_TEXT_BYTES and text.isascii() and text.isprintable():
        return text
    data = text.replace("\0", "�").encode(errors="replace")[:MAX_TEXT_BYTES]
    return data.decode(errors="ignore")


def canonical(sequence: int, event: AuditEvent) -> bytes:
    """JSON in ASCII: members sorted, no blanks."""
    members = {
        "action": event.action,
        "address": event.address,
        "at_ms": millis(event.at),
        "count": event.count,
        "document_id": event.document_id,
        "namespace": event.namespace,
        "principal": event.principal,
        "request_id": event.request_id,
        "result": event.result,
        "sequence": sequence,
        "source": event.source,
        "subject": event.subject,
        "version": event.version,
    }
    return _ENCODER.encode(members).encode()


_ENCODER = json.JSONEncoder(separators=(",", ":"), sort_keys=True, check_circular=False)


def hash_of(previous_hash: str, sequence: int, event: AuditEvent, key: bytes | None) -> str:
    """In hex."""
    data = previous_hash.encode() + b"\n" + canonical(sequence, event)
    if key is None:
        return hashlib.sha256(data).hexdigest()
    return hmac.digest(key, data, "sha256").hex()


def chained(head: ChainEnd, events: Sequence[AuditEvent], key: bytes | None) -> list[AuditEntry]:
    """The entries that go behind `head`."""
    entries: list[AuditEntry] = []
    for event in map(normal, events):
        sequence = head.sequence + 1
        digest = hash_of(head.hash, sequence, event, key)
        entry = AuditEntry(sequence=sequence, event=event, previous_hash=head.hash, hash=digest)
        entries.append(entry)
        head = entry.end
    return entries


def drop_event(last: ChainEnd, count: int, now: float) -> AuditEvent:
    return AuditEvent(
        at=now, principal=SYSTEM, action=DROPPED, subject=str(last), result="accepted", count=count
    )


def reaches(query: AuditQuery, namespace: str) -> bool:
    """Whether the query's reach has the namespace; what belongs to none is for who reaches all."""
    return any(
        namespace.startswith(pattern[:-1]) if pattern.endswith(EVERYWHERE) else namespace == pattern
        for pattern in query.reach
    )


def moment_of(text: str) -> float:
    """Seconds since the epoch of an ISO 8601 time, which has to name its zone. Raises ValueError,
    OverflowError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} names no zone: 2026-01-31T09:05:00Z does")
    return moment.timestamp()


def parse_head(text: str) -> ChainEnd:
    """`SEQUENCE:HASH`, as `bloomweaver audit head` prints it. Raises ValueError."""
    sequence, colon, digest = text.strip().partition(":")
    whole = len(digest) == 64 and all(c in "0123456789abcdef" for c in digest)
    none_yet = sequence == "0" and not digest
    if not colon or not sequence.isascii() or not sequence.isdecimal() or not (whole or none_yet):
        raise ValueError(f"{text!r} is no head: SEQUENCE:HASH, as `bloomweaver audit head` prints")
    return ChainEnd(int(sequence), digest)


@dataclass(slots=True)
class Verification:
    """A fold over a chain's entries: `take` each in order, then `end`. Both return the first thing
    that is wrong, or None; after that nothing more may be asked.

    `anchor`: where the store says that the chain begins. `kept`: a head that was kept elsewhere.
    `keyed_from`: the sequence from which on a key was set.
    """

    anchor: ChainEnd = field(default_factory=ChainEnd)
    key: bytes | None = None
    kept: ChainEnd | None = None
    keyed_from: int = 0
    count: int = 0
    last: ChainEnd = field(init=False)
    _anchor_told: bool = field(init=False)

    def __post_init__(self) -> None:
        self.last = self.anchor
        self._anchor_told = self.anchor.sequence == 0

    def take(self, entry: AuditEntry) -> Wrong | None:
        wrong = self._of_place(entry) or self._of_content(entry) or self._of_link(entry)
        wrong = wrong or self._of_kept(entry.end)
        self.last = entry.end
        self.count += 1
        event = entry.event
        self._anchor_told |= event.action == DROPPED and event.subject == str(self.anchor)
        return wrong

    def end(self) -> Wrong | None:
        if not self._anchor_told:
            first = self.anchor.sequence
            detail = f"entries up to {first} are gone, and no entry says that they were dropped"
            return Wrong(first, Fault.MISSING, detail)
        kept, last = self.kept, self.last
        if kept is None or kept.sequence == 0:
            return None
        if kept.sequence > last.sequence:
            detail = f"entries {_range(last.sequence + 1, kept.sequence)} are cut off"
            return Wrong(last.sequence + 1, Fault.CUT_OFF, detail)
        if kept.sequence < self.anchor.sequence:
            detail = f"entry {kept.sequence} was dropped for its age: keep a newer head"
            return Wrong(kept.sequence, Fault.MISSING, detail)
        return self._of_kept(self.anchor)

    def _of_place(self, entry: AuditEntry) -> Wrong | None:
        expected = self.last.sequence + 1
        if entry.sequence > expected:
            gone = _range(expected, entry.sequence - 1)
            return Wrong(expected, Fault.MISSING, f"{gone} missing before entry {entry.sequence}")
        if entry.sequence < expected:
            detail = f"entry {entry.sequence} stands behind entry {expected - 1}"
            return Wrong(entry.sequence, Fault.OUT_OF_ORDER, detail)
        return None

    def _of_content(self, entry: AuditEntry) -> Wrong | None:
        key = None if entry.sequence < self.keyed_from else self.key
        number, previous, event = entry.sequence, entry.previous_hash, entry.event
        if hash_of(previous, number, event, key) == entry.hash:
            return None
        if key is not None and hash_of(previous, number, event, None) == entry.hash:
            detail = f"entry {number} was made without the key"
            return Wrong(number, Fault.UNKEYED, detail)
        detail = f"entry {number} is not what its hash says"
        if self.key is None:
            detail += ", or was made with a key, which is not set here"
        return Wrong(number, Fault.EDITED, detail)

    def _of_link(self, entry: AuditEntry) -> Wrong | None:
        if entry.previous_hash == self.last.hash:
            return None
        before = self.last.sequence
        detail = f"entry {entry.sequence} was written behind another entry {before}"
        return Wrong(before, Fault.REPLACED, detail)

    def _of_kept(self, end: ChainEnd) -> Wrong | None:
        kept = self.kept
        if kept is None or kept.sequence != end.sequence or kept.hash == end.hash:
            return None
        detail = f"entry {end.sequence} is another one than when its head was kept"
        return Wrong(end.sequence, Fault.REWRITTEN, detail)


def _range(first: int, last: int) -> str:
    return f"entry {first}" if first == last else f"entries {first} to {last}"


def verified(entries: Iterable[AuditEntry], verification: Verification) -> Wrong | None:
    """The whole fold over entries that are at hand."""
    for entry in entries:
        if wrong := verification.take(entry):
            return wrong
    return verification.end()
