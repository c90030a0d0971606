"""What a scrub finds: the index compared with the registry and with the packs, by document.

Standard library, the model and errors only, so that whoever runs, serves or prints a scrub can
speak it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from common.ports.errors import PermanentError

FINDINGS_KEPT = 10_000
"""A report lists at most so many findings; all are counted."""


class FindingKind(StrEnum):
    ORPHAN = "orphan"
    """Records in the index that no row names."""
    MISSING = "missing_record"
    """Records that the applied version names and the index does not hold."""
    WRONG = "wrong_record"
    """Records that say something else than the applied version's chunks."""
    PACK = "pack"
    """The applied version's pack is missing, torn, or another version's."""
    CONTENT = "content"
    """The document's stored content is missing or is not what was accepted."""
    MANIFEST = "manifest"
    """The applied version does not agree with itself, or with what is desired."""
    ROW = "row"
    """Status, ranges or the time of the next sweep contradict the rest of the row."""
    UNREADABLE = "unreadable"
    """A row that cannot be read; nothing that belongs to it was judged."""
    UNCHECKED = "unchecked"
    """Something was out of reach: nothing is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is wrong with one document; `document_id` is empty where none can be told."""

    namespace: str
    document_id: str
    kind: FindingKind
    detail: str
    record_count: int = 0
    """How many records it is about."""
    repairable: bool = True
    repaired: bool = False
    """The repair is done, or on its way: the wake-up is sent and the sweeper knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubReport:
    """`started_at` is seconds since the epoch."""

    started_at: float
    took_seconds: float
    repair: bool
    namespaces: tuple[str, ...]
    documents_checked: int
    documents_in_motion: int
    """Changed at every look, which is no finding."""
    records_checked: int
    findings: tuple[Finding, ...]
    """The first FINDINGS_KEPT."""
    findings_total: int
    repaired_total: int
    counts: Mapping[FindingKind, int] = field(default_factory=dict)
    """All findings by kind; kinds without one are absent."""
    remaining: Mapping[FindingKind, int] = field(default_factory=dict)
    """The same of those that are not repaired."""

    @property
    def clean(self) -> bool:
        """Nothing was found, or everything that was found is repaired."""
        return self.findings_total == self.repaired_total


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubProgress:
    """So far. `documents_total` is what the registry counted at the start."""

    namespace: str
    documents_checked: int
    documents_total: int
    findings_total: int


OnProgress = Callable[[ScrubProgress], None]


class UnknownNamespacesError(PermanentError):
    """The index holds namespaces that the registry knows nothing of: it may be another's."""

    def __init__(self, namespaces: Sequence[str]) -> None:
        shown = ", ".join(namespaces[:5]) + (", …" if len(namespaces) > 5 else "")
        super().__init__(
            f"nothing is repaired: the registry knows nothing of namespaces that the index holds "
            f"({shown}), so that all their records would be removed. Is it this index's registry? "
            "If it is, name one with --namespace to have its records removed"
        )


class NoSuchNamespaceError(Exception):
    """Neither the registry nor the index knows the namespace."""

    def __init__(self, namespace: str) -> None:
        super().__init__(f"there is no namespace {namespace!r}: nothing was ever written to it")


class ScrubBusyError(Exception):
    """A process runs one scrub at a time."""

    def __init__(self) -> None:
        super().__init__("a scrub is running; wait for its end, GET /v1/scrub shows its report")


class ScrubService(Protocol):
    """What a process that holds the index offers."""

    @property
    def last(self) -> ScrubReport | None:
        """The report of the last scrub that came to its end; None: there was none yet."""

    @property
    def last_of_all(self) -> ScrubReport | None:
        """The same of the last one that scrubbed all namespaces."""

    @property
    def running(self) -> bool: ...

    async def __call__(
        self, *, namespace: str | None, repair: bool, progress: OnProgress | None = None
    ) -> ScrubReport:
        """Scrub `namespace`, or all. Cancelling it is safe: what is repaired stays repaired.

        Raises ScrubBusyError, NoSuchNamespaceError, and PortError when the registry or the index
        cannot even say which namespaces there are.
        """


def report_to_json(report: ScrubReport) -> dict[str, Any]:
    """`started_at` stays seconds since the epoch."""
    return {
        **asdict(report),
        "namespaces": list(report.namespaces),
        "findings": [asdict(finding) for finding in report.findings],
        "counts": {kind.value: count for kind, count in report.counts.items()},
        "remaining": {kind.value: count for kind, count in report.remaining.items()},
        "clean": report.clean,
    }
