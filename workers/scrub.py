"""The scrub: the index compared with the registry and with the packs, on a live system.

It reads in one order: list the index's ids, then read the rows, then ask the index again about
what looks wrong. docs/architecture.md has the rules it relies on, `workers.scrub_looks` the proof.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

import structlog

from common import identity, telemetry
from common.clock import Clock, system_clock
from common.model import DocumentKey, Row
from common.ports.blobs import BlobStore
from common.ports.errors import PermanentError, PortError, TransientError
from common.ports.index import Index, LaggingIndex
from common.ports.queue import Queue
from common.ports.registry import IdListingRegistry, Page, Registry
from common.scrubbing import (
    FINDINGS_KEPT,
    Finding,
    FindingKind,
    NoSuchNamespaceError,
    OnProgress,
    ScrubProgress,
    ScrubReport,
)
from common.transitions import Timers
from workers.scrub_checks import findings_of
from workers.scrub_listing import Listing
from workers.scrub_looks import Looker, Pairs, Seen, named
from workers.scrub_repair import Repairer

log = structlog.get_logger(__name__)

PAGE_ROWS = 200
TRIES = 3
FINDINGS_LOGGED = 100
"""The report has the others."""
LATE_ROUNDS = 3
"""How often what an index may only show late is waited for, where the document goes on changing."""
UNCHECKED_IN_A_ROW = 20
"""So many documents that could not be checked are an outage, which ends the namespace's scrub."""


@dataclass(slots=True, kw_only=True)
class Scrubber:
    """Finds what the protocol says cannot be, and on request mends it through the protocol.

    Memory: the ids of one namespace at a time (`workers.scrub_listing`: 40 MB for 100,000 documents
    of ten chunks), a page of rows, `concurrency` documents' contents and packs, and at most
    FINDINGS_KEPT findings.
    """

    registry: Registry
    blobs: BlobStore
    index: Index
    queue: Queue
    timers: Timers
    timeout_seconds: float = 30.0
    concurrency: int = 4
    pause_seconds: float = 1.0
    """Between two tries at a page or a listing."""
    clock: Clock = system_clock

    async def scrub(
        self, *, namespace: str | None, repair: bool, progress: OnProgress | None = None
    ) -> ScrubReport:
        """One namespace, or all. What could not be checked is a finding and ends nothing.

        Raises NoSuchNamespaceError, and PortError when nobody can say which namespaces there are.
        """
        looks = Looker(
            registry=self.registry,
            blobs=self.blobs,
            index=self.index,
            timers=self.timers,
            timeout_seconds=self.timeout_seconds,
            clock=self.clock,
        )
        documents = await self._documents(looks, namespace)
        tally = Tally(self.clock(), repair, sum(documents.values()), progress)
        for name in documents:
            tally.namespaces.append(name)
            await NamespaceScrub(self, looks, tally, name).run()
        return tally.report(self.clock())

    async def _documents(self, looks: Looker, wanted: str | None) -> dict[str, int]:
        """How many documents the registry counts, by namespace; the index may know more of these
        than the registry."""
        names = {*await looks.within(self.registry.namespaces())}
        names.update(await looks.within(self.index.namespaces()))
        counted = await looks.within(self.registry.counts())
        counts = {count.namespace: sum(count.documents.values()) for count in counted}
        known = {name: counts.get(name, 0) for name in sorted({*names, *counts})}
        if wanted is None:
            return known
        if wanted not in known:
            raise NoSuchNamespaceError(wanted)
        return {wanted: known[wanted]}


@dataclass(slots=True)
class Tally:
    """What a scrub has seen so far."""

    started_at: float
    repair: bool
    documents_total: int
    progress: OnProgress | None
    namespaces: list[str] = field(default_factory=list)
    documents: int = 0
    in_motion: int = 0
    records: int = 0
    repaired: int = 0
    findings: list[Finding] = field(default_factory=list)
    counts: dict[FindingKind, int] = field(default_factory=dict)
    remaining: dict[FindingKind, int] = field(default_factory=dict)
    unchecked_in_a_row: int = 0

    def add(self, finding: Finding) -> None:
        self.counts[finding.kind] = self.counts.get(finding.kind, 0) + 1
        if finding.repaired:
            self.repaired += 1
            telemetry.SCRUB_REPAIRED.labels(finding.kind.value).inc()
        else:
            self.remaining[finding.kind] = self.remaining.get(finding.kind, 0) + 1
        if len(self.findings) < FINDINGS_KEPT:
            self.findings.append(finding)
        if len(self.findings) > FINDINGS_LOGGED:
            return
        log.warning(
            "scrub.found",
            namespace=finding.namespace,
            document=finding.document_id,
            kind=finding.kind.value,
            detail=finding.detail,
            repaired=finding.repaired,
        )

    def tell(self) -> None:
        if self.progress is not None:
            self.progress(
                ScrubProgress(
                    namespace=self.namespaces[-1],
                    documents_checked=self.documents,
                    documents_total=max(self.documents_total, self.documents),
                    findings_total=sum(self.counts.values()),
                )
            )

    def report(self, now: float) -> ScrubReport:
        return ScrubReport(
            started_at=self.started_at,
            took_seconds=max(now - self.started_at, 0.0),
            repair=self.repair,
            namespaces=tuple(self.namespaces),
            documents_checked=self.documents,
            documents_in_motion=self.in_motion,
            records_checked=self.records,
            findings=tuple(self.findings),
            findings_total=sum(self.counts.values()),
            repaired_total=self.repaired,
            counts=dict(self.counts),
            remaining=dict(self.remaining),
        )


class NamespaceScrub:
    """One namespace: list, walk the rows, and look at what no row took."""

    def __init__(self, scrubber: Scrubber, looks: Looker, tally: Tally, namespace: str) -> None:
        self._scrubber = scrubber
        self._looks = looks
        self._tally = tally
        self._namespace = namespace
        self._listing = Listing()
        self._repairer = Repairer(looks=looks, queue=scrubber.queue)
        index = scrubber.index
        self._lag_seconds = index.lag_seconds if isinstance(index, LaggingIndex) else 0.0
        self._late: list[tuple[Row, Pairs]] = []
        """Rows as they were when something was missing or left over, and what had been listed."""

    async def run(self) -> None:
        self._tally.unchecked_in_a_row = 0
        self._tally.tell()
        try:
            await self._list()
            async for rows in self._pages():
                await self._check_all(rows)
                self._tally.tell()
            await self._check_rest()
            await self._check_late()
        except PortError as error:
            # Without the listing or the rest of the rows nothing can be said of what is left.
            self._unchecked(f"the rest of the namespace: {error}")

    # --- listing ---

    async def _list(self) -> None:
        for attempt in range(1, TRIES + 1):
            try:
                self._listing = await self._listed()
                return
            except TransientError:
                if attempt == TRIES:
                    raise
                await asyncio.sleep(self._scrubber.pause_seconds)

    async def _listed(self) -> Listing:
        """The time limit is each page's, of whatever size the index gives them."""
        listing = Listing()
        limit, loop = self._scrubber.timeout_seconds, asyncio.get_running_loop()
        try:
            async with asyncio.timeout(limit) as running:
                async for record_id in self._scrubber.index.list_ids(self._namespace):
                    listing.add(record_id)
                    running.reschedule(loop.time() + limit)
        except TimeoutError:
            raise TransientError(f"the index did not list its ids within {limit:g} s") from None
        return listing

    # --- rows ---

    async def _pages(self) -> AsyncIterator[Sequence[Row]]:
        """All rows. A page that holds an unreadable one is read row by row."""
        cursor: str | None = None
        last = ""
        while True:
            try:
                page = await self._page(cursor)
            except PermanentError:
                async for rows in self._one_by_one(last):
                    yield rows
                return
            if page.rows:
                yield page.rows
                last = page.rows[-1].key.document_id
            cursor = page.cursor
            if cursor is None:
                return

    async def _page(self, cursor: str | None) -> Page:
        registry = self._scrubber.registry
        for _ in range(TRIES - 1):
            try:
                return await self._looks.within(
                    registry.scan(self._namespace, cursor=cursor, limit=PAGE_ROWS)
                )
            except TransientError:
                await asyncio.sleep(self._scrubber.pause_seconds)
        return await self._looks.within(
            registry.scan(self._namespace, cursor=cursor, limit=PAGE_ROWS)
        )

    async def _one_by_one(self, after: str) -> AsyncIterator[Sequence[Row]]:
        """Raises PermanentError where the registry cannot name what it cannot read."""
        registry = self._scrubber.registry
        if not isinstance(registry, IdListingRegistry):
            raise PermanentError(f"a row after {after!r} cannot be read, nor its name")
        while ids := await self._looks.within(
            registry.document_ids(self._namespace, after=after, limit=PAGE_ROWS)
        ):
            after = ids[-1]
            read = [await self._row(DocumentKey(self._namespace, name)) for name in ids]
            yield [row for row in read if row is not None]

    async def _row(self, key: DocumentKey) -> Row | None:
        try:
            return await self._looks.within(self._scrubber.registry.get(key))
        except PermanentError as error:
            self._listing.take(identity.document_key(key))
            self._add(key, FindingKind.UNREADABLE, str(error))
            return None

    # --- documents ---

    async def _check_all(self, rows: Sequence[Row]) -> None:
        """A few at a time. Raises TransientError when nothing can be checked any more."""
        remaining = iter(rows)

        async def check() -> None:
            for row in remaining:
                await self._check(row, self._listing.take(identity.document_key(row.key)))
                if self._tally.unchecked_in_a_row >= UNCHECKED_IN_A_ROW:
                    return

        async with asyncio.TaskGroup() as group:
            for _ in range(self._scrubber.concurrency):
                group.create_task(check())
        if self._tally.unchecked_in_a_row >= UNCHECKED_IN_A_ROW:
            raise TransientError(f"{UNCHECKED_IN_A_ROW} documents in a row could not be checked")

    async def _check(self, row: Row, listed: Pairs, since: int | None = None) -> None:
        """Whatever happens to one document, the others are still checked."""
        self._tally.documents += since is None
        try:
            await self._judge(row, listed, since)
        except PortError as error:
            self._unchecked(str(error), row.key)
        except Exception as error:
            log.error("scrub.failed", document=row.key.document_id, exc_info=error)
            self._unchecked(f"{type(error).__name__}; the log has the reason", row.key)
        else:
            self._tally.unchecked_in_a_row = 0

    async def _judge(self, row: Row, listed: Pairs, since: int | None) -> None:
        """`since`: the row's revision when the same was looked at before."""
        seen = await self._looks.settle(row, listed)
        if self._lag_seconds and seen.row is not None and _may_be_late(seen, since):
            self._late.append((seen.row, listed))
            return
        self._tally.records += seen.records
        self._tally.in_motion += not seen.settled
        if seen.row is None:
            ids = named(identity.document_key(row.key), sorted(seen.orphans))
            await self._rowless(row.key, list(ids))
            return
        findings = findings_of(seen.row, seen.faults)
        if seen.orphans:
            findings.append(_orphans(row.key, len(seen.orphans)))
        if findings and self._tally.repair:
            findings = await self._repairer.repair(seen.row, findings, seen.orphans)
        for finding in findings:
            self._tally.add(finding)

    # --- what may only be late ---

    async def _check_late(self) -> None:
        """What was missing or left over is so only if it still is when the index had its time, and
        the row did not change meanwhile: what a change wrote or deleted may be late in its turn."""
        for _ in range(LATE_ROUNDS):
            if not self._late:
                return
            await asyncio.sleep(self._lag_seconds)
            late, self._late = self._late, []
            for row, listed in late:
                fresh = await self._looks.within(self._scrubber.registry.get(row.key))
                await self._check(fresh or row, listed, since=row.revision)
        self._tally.in_motion += len(self._late)

    # --- what no row took ---

    async def _check_rest(self) -> None:
        for document_key, pairs in self._listing.rest():
            try:
                await self._check_unclaimed(document_key, pairs)
            except PortError as error:
                self._unchecked(f"records under {document_key}: {error}")
            except Exception as error:
                log.error("scrub.failed", records=document_key, exc_info=error)
                self._unchecked(f"records under {document_key}: {type(error).__name__}")
        if strange := await self._looks.held(self._namespace, self._listing.strange):
            detail = f"{len(strange)} ids that no attempt writes, as {next(iter(strange))!r}"
            finding = _orphans(DocumentKey(self._namespace, ""), len(strange), detail)
            self._tally.add(replace(finding, repairable=False))

    async def _check_unclaimed(self, document_key: str, pairs: Pairs) -> None:
        """There was no row when the rows were read, after these had been listed: a row leaves after
        its records. The records say which document it was; it may have begun again since."""
        held = await self._looks.held(self._namespace, named(document_key, sorted(pairs)))
        if not held:
            return
        key = DocumentKey(self._namespace, next(iter(held.values())))
        if identity.document_key(key) != document_key:
            await self._rowless(None, list(held))
            return
        row = await self._looks.within(self._scrubber.registry.get(key))
        if row is not None:
            await self._check(row, pairs)
            return
        await self._rowless(key, list(held))

    async def _rowless(self, key: DocumentKey | None, held: Sequence[str]) -> None:
        """`held` are in the index, and what wrote them is forgotten."""
        if not held:
            return
        shown = key or DocumentKey(self._namespace, "")
        finding = _orphans(shown, len(held), f"no document has them, as {held[0]}")
        if self._tally.repair and await self._repairer.remove(self._namespace, held, key):
            finding = replace(finding, repaired=True)
        self._tally.add(finding)

    # --- words ---

    def _unchecked(self, detail: str, key: DocumentKey | None = None) -> None:
        self._tally.unchecked_in_a_row += 1
        self._add(key or DocumentKey(self._namespace, ""), FindingKind.UNCHECKED, detail)

    def _add(self, key: DocumentKey, kind: FindingKind, detail: str) -> None:
        self._tally.add(
            Finding(
                namespace=key.namespace,
                document_id=key.document_id,
                kind=kind,
                detail=detail,
                repairable=False,
            )
        )


def _may_be_late(seen: Seen, since: int | None) -> bool:
    looked_before = seen.row is not None and seen.row.revision == since
    return not looked_before and (
        bool(seen.orphans) or any(kind is FindingKind.MISSING for kind, _, _ in seen.faults)
    )


def _orphans(key: DocumentKey, count: int, detail: str = "no row names them") -> Finding:
    return Finding(
        namespace=key.namespace,
        document_id=key.document_id,
        kind=FindingKind.ORPHAN,
        detail=f"{count} records are left over: {detail}",
        record_count=count,
    )
