"""Audit entries as rows of an SQL table, the same in SQLite and in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from common.access import EVERYWHERE
from common.audit import millis
from common.ports.audit import AuditEntry, AuditEvent, AuditQuery

COLUMNS = (
    "sequence", "at_ms", "principal", "action", "namespace", "document_id", "subject", "result",
    "version", "count", "address", "request_id", "source", "previous_hash", "hash",
)  # fmt: skip
INTEGERS = frozenset({"sequence", "at_ms", "version", "count"})
NAMES = ", ".join(COLUMNS)

Placeholder = Callable[[int], str]
"""What stands for the n-th parameter, from 1."""


def row_of(entry: AuditEntry) -> tuple[Any, ...]:
    """In the order of COLUMNS."""
    event = entry.event
    return (
        entry.sequence, millis(event.at), event.principal, event.action, event.namespace,
        event.document_id, event.subject, event.result, event.version, event.count, event.address,
        event.request_id, event.source, entry.previous_hash, entry.hash,
    )  # fmt: skip


def entry_of(row: Sequence[Any]) -> AuditEntry:
    """Of a row as `row_of` made it. One that somebody has put other types into since is read too,
    so that verifying can name it."""
    cells = dict(zip(COLUMNS, row, strict=True))
    for name, value in cells.items():
        cells[name] = _integer(value) if name in INTEGERS else str(value)
    sequence, previous, digest = (cells.pop(n) for n in ("sequence", "previous_hash", "hash"))
    event = AuditEvent(at=cells.pop("at_ms") / 1000, **cells)
    return AuditEntry(sequence=sequence, event=event, previous_hash=previous, hash=digest)


def _integer(value: Any) -> int:
    return value if isinstance(value, int) else -1


def condition_of(wanted: AuditQuery, mark: Placeholder) -> tuple[str, list[Any]]:
    """An SQL condition and its parameters."""
    parts: list[str] = []
    values: list[Any] = []

    def add(text: str, value: Any) -> str:
        values.append(value)
        return text.format(mark(len(values)))

    if EVERYWHERE not in wanted.reach:
        within = [_within(pattern, add) for pattern in wanted.reach]
        parts.append(f"({' OR '.join(within) or '1 = 0'})")
    if wanted.namespace is not None:
        parts.append(add("namespace = {}", wanted.namespace))
    if wanted.document_id is not None:
        parts.append(add("document_id = {}", wanted.document_id))
    if wanted.since is not None:
        parts.append(add("at_ms >= {}", millis(wanted.since)))
    return " AND ".join(parts) or "1 = 1", values


def _within(pattern: str, add: Callable[[str, Any], str]) -> str:
    if not pattern.endswith(EVERYWHERE):
        return add("namespace = {}", pattern)
    beginning = pattern[:-1]
    return add(f"substr(namespace, 1, {len(beginning)}) = {{}}", beginning)
