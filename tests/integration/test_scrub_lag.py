"""A scrub of an index that shows writes and deletes late: what is only late is no finding."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from common.identity import document_key
from common.model import Record, Status
from common.scrubbing import FindingKind, ScrubReport
from tests.builders import TIMERS
from tests.fakes.index import MemoryIndex
from tests.pipeline import NAMESPACE, Pipeline, pipeline
from workers.scrub import LATE_ROUNDS, Scrubber

TEXT = "# One\n\nalpha beta\n\n# Two\n\ngamma delta"


async def nothing() -> None:
    return None


class LateIndex(MemoryIndex):
    """Fetches and listings show `shown`; `after_look` is called at the end of each fetch."""

    lag_seconds = 0.001

    def __init__(self, held: MemoryIndex) -> None:
        super().__init__()
        self.records = held.records
        self.shown = dict(held.records[NAMESPACE])
        self.after_look: Callable[[], Awaitable[None]] = nothing

    async def fetch(self, namespace: str, ids: Sequence[str]) -> list[Record]:
        found = [self.shown[one] for one in ids if one in self.shown]
        await self.after_look()
        return found

    async def list_ids(self, namespace: str, prefix: str = "") -> AsyncIterator[str]:
        for record_id in list(self.shown):
            yield record_id


@pytest.fixture
async def flow(tmp_path: Path) -> AsyncIterator[Pipeline]:
    async with pipeline(tmp_path) as made:
        await made.insert("a.md", TEXT)
        await made.run()
        made.clock.now += TIMERS.stale_after_seconds
        yield made


async def scrubbed(flow: Pipeline, index: LateIndex, *, repair: bool = False) -> ScrubReport:
    scrubber = Scrubber(
        registry=flow.registry,
        blobs=flow.blobs,
        index=index,
        queue=flow.queue,
        timers=TIMERS,
        clock=flow.clock,
    )
    return await scrubber.scrub(namespace=None, repair=repair)


async def test_records_that_are_shown_late_are_not_missing(flow: Pipeline) -> None:
    index = LateIndex(flow.index)
    index.shown.clear()

    async def show() -> None:
        index.shown.update(flow.index.records[NAMESPACE])

    index.after_look = show
    before = await flow.row("a.md")
    report = await scrubbed(flow, index, repair=True)
    assert report.findings == ()
    assert (report.documents_checked, report.records_checked) == (1, before.applied.chunk_count)
    assert await flow.row("a.md") == before, "nothing had to be written anew"


async def test_records_that_go_late_are_not_left_over(flow: Pipeline) -> None:
    index = LateIndex(flow.index)
    assert index.shown
    await flow.delete("a.md")
    await flow.run()
    assert (await flow.row("a.md")).status is Status.DELETED

    async def clear() -> None:
        index.shown.clear()

    index.after_look = clear
    assert (await scrubbed(flow, index)).findings == ()


async def test_what_is_still_missing_then_is_found(flow: Pipeline) -> None:
    index = LateIndex(flow.index)
    index.shown.popitem()
    report = await scrubbed(flow, index)
    assert [finding.kind for finding in report.findings] == [FindingKind.MISSING]
    assert report.documents_checked == 1


async def test_what_is_still_left_over_then_is_found_and_removed(flow: Pipeline) -> None:
    index = LateIndex(flow.index)
    row = await flow.row("a.md")
    orphan = replace(next(iter(index.shown.values())), id=f"{document_key(row.key)}#99#0")
    index.shown[orphan.id] = index.records[NAMESPACE][orphan.id] = orphan
    report = await scrubbed(flow, index, repair=True)
    assert [finding.kind for finding in report.findings] == [FindingKind.ORPHAN]
    assert orphan.id not in flow.index.records[NAMESPACE]


async def test_a_document_that_changes_between_all_looks_is_in_motion(flow: Pipeline) -> None:
    """What it wrote last may be late in its turn."""
    index = LateIndex(flow.index)
    index.shown.clear()
    looks = 0

    async def move() -> None:
        nonlocal looks
        looks += 1
        assert await flow.registry.put_if(await flow.row("a.md"))

    index.after_look = move
    report = await scrubbed(flow, index)
    assert report.findings == ()
    assert report.documents_in_motion == 1
    assert looks == 1 + LATE_ROUNDS
