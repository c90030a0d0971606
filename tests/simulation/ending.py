"""How a run ends: the faults stop, what only people can mend is mended, all becomes quiet, a scrub
finds nothing, and what is left is what it must be."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from common import identity
from common.model import DocumentKey, Row, Status, expand
from common.scrubbing import Finding
from tests.simulation.chaos import Chaos
from tests.simulation.installation import Installation
from tests.simulation.ledger import Ledger, Violation, check_end
from tests.simulation.network import Network
from tests.simulation.plan import NAMESPACE, Plan
from tests.simulation.stores import Stores
from workers.scrub import Scrubber

REDRIVES = 2
"""The first sends what the faults had given up, the second what was in hand meanwhile."""
ADOPTED_WITHIN_SECONDS = 1000.0
"""After the last fault a letter that the queue wrote itself has its reason: a sweeper that found
none among as many letters looks again after ten minutes."""


class Ending:
    def __init__(
        self,
        *,
        plan: Plan,
        network: Network,
        stores: Stores,
        installation: Installation,
        chaos: Chaos,
        ledger: Ledger,
        contents: Mapping[str, bytes],
    ) -> None:
        self._plan = plan
        self._network = network
        self._stores = stores
        self._installation = installation
        self._chaos = chaos
        self._ledger = ledger
        self._contents = contents

    async def calm_down(self, written: asyncio.Event) -> None:
        """When everything is `written` the faults end; returns when all is quiet.

        Raises Violation.
        """
        await written.wait()
        self._network.calm = True  # who sleeps goes on sleeping, and wakes into a calm world
        await asyncio.sleep(3)
        self._mend_content()
        for _ in range(REDRIVES):
            await self._redrive()
            await self._until_quiet()
        await self._scrub()

    def check(self) -> None:
        """Raises Violation."""
        failed = {letter.wake_up.key: letter.reason for letter in self._stores.queue.letters}
        expired = self._stores.expired_letters
        failed |= dict.fromkeys(expired - failed.keys(), "its letter expired")
        records = dict(self._stores.index.records[NAMESPACE])
        rows = self._stores.registry.rows
        check_end(self._ledger, records, list(rows.values()), failed, manifest_ids)
        for key, row in rows.items():
            readable = row.desired.blob_key in self._contents and key not in expired
            if row.status is Status.FAILED and readable:
                raise Violation("applied or dead-lettered", key, f"FAILED, and why? {row.error}")

    def restless(self) -> DocumentKey | None:
        """A document on which something is left to do."""
        for key, row in self._stores.registry.rows.items():
            if row.garbage or (row.behind and row.status is not Status.FAILED):
                return key
        return None

    # --- mending ------------------------------------------------------------------------------

    def _mend_content(self) -> None:
        """The clients send again what the blob store lost: its own text says so."""
        rows, held = self._stores.registry.rows, self._stores.blobs.held
        for key in sorted(rows):
            blob_key = rows[key].desired.blob_key
            content = self._contents.get(blob_key)
            if content is not None and held.get(blob_key, (b"",))[0] != content:
                if blob_key not in self._chaos.damaged_contents:
                    raise Violation("accepted is durable", key, "its content is gone")
                self._network.faults["content sent again"] += 1
                held[blob_key] = (content, self._network.loop.time())

    async def _redrive(self) -> None:
        queue = self._stores.queue
        await self._until_adopted()
        letters = await queue.dead_letters(limit=1000)
        for letter in letters:
            if not self._explained(letter.reason):
                key = letter.wake_up.key
                raise Violation("applied or dead-lettered", key, f"given up: {letter.reason}")
        self._network.faults["redriven"] += len(letters)
        await queue.redrive([letter.message_id for letter in letters])

    async def _until_adopted(self) -> None:
        """(3) Every dead letter has its reason, those that the queue moved by itself, too."""
        deadline = self._network.loop.time() + ADOPTED_WITHIN_SECONDS
        while without := [one for one in self._stores.queue.letters if not one.reason]:
            if self._network.loop.time() > deadline:
                key = without[0].wake_up.key
                raise Violation("applied or dead-lettered", key, "a dead letter without a reason")
            await asyncio.sleep(4)

    def _explained(self, reason: str) -> bool:
        """Whether the document or its worker's end is to blame: an outage never is."""
        if "broke down" in reason:
            return self._plan.unforeseen > 0
        if "stored content" in reason:
            return bool(self._chaos.damaged_contents)
        return "cannot read this" in reason or "died or lost its lease" in reason

    # --- quiet --------------------------------------------------------------------------------

    async def _until_quiet(self) -> None:
        while True:
            await asyncio.sleep(4)
            if self._quiet():
                return

    def _quiet(self) -> bool:
        return (
            not self._stores.queue.backlog
            and not self._network.under_way
            and self._stores.index.up_to_date
            and self.restless() is None
            and len(self._installation.awake) == len(self._installation.members)
        )

    # --- scrubbing ----------------------------------------------------------------------------

    async def _scrub(self) -> None:
        """It finds nothing, unless something was damaged or slept too long: then it mends that."""
        strays = set(self._stores.index.records[NAMESPACE]) - self._named()
        if strays - self._stores.excused:
            raise Violation("nothing leaks", self._owner(min(strays)), f"strays {sorted(strays)}")
        found = await self._scrubbed(repair=self._chaos.damaged or bool(strays))
        if not found:
            return
        self._network.faults["mended by scrub"] += len(found)
        await self._until_quiet()
        await self._scrubbed(repair=False)

    async def _scrubbed(self, *, repair: bool) -> Sequence[Finding]:
        registry, blobs, queue, index = self._stores.ports()
        scrubber = Scrubber(
            registry=registry,
            blobs=blobs,
            queue=queue,
            index=index,
            timers=self._plan.timers,
            clock=self._network.loop.time,
        )
        report = await scrubber.scrub(namespace=None, repair=repair)
        findings = [finding for finding in report.findings if not self._hopeless(finding)]
        if findings and not repair:
            key = DocumentKey(findings[0].namespace, findings[0].document_id)
            raise Violation("scrub finds nothing", key, str(findings[0]))
        return findings

    def _hopeless(self, finding: Finding) -> bool:
        """What a damaged pack and poison on top of it come to: only another content helps."""
        key = DocumentKey(finding.namespace, finding.document_id)
        row = self._stores.registry.rows.get(key)
        return self._chaos.damaged and row is not None and row.status is Status.FAILED

    def _named(self) -> set[str]:
        rows = self._stores.registry.rows.values()
        return {record_id for row in rows for record_id in manifest_ids(row)}

    def _owner(self, record_id: str) -> DocumentKey:
        record = self._stores.index.records[NAMESPACE][record_id]
        return DocumentKey(NAMESPACE, record.document_id)


def manifest_ids(row: Row) -> list[str]:
    name = identity.document_key(row.key)
    return [identity.record_id(name, *pair) for pair in expand(row.applied.manifest)]
