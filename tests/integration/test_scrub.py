"""What a scrub finds on real stores, what its repairs leave, and what it must not take for damage:
everything that is only on its way while it looks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common import identity
from common.adapters.index.qdrant_edge import QdrantEdgeIndex
from common.model import (
    DocumentKey,
    Garbage,
    GarbageState,
    IdRange,
    QueueName,
    Record,
    Row,
    Status,
    expand,
)
from common.ports.errors import TransientError
from common.scrubbing import (
    FINDINGS_KEPT,
    Finding,
    FindingKind,
    NoSuchNamespaceError,
    ScrubProgress,
    ScrubReport,
)
from tests.builders import TIMERS
from tests.fakes.embedder import word_vector
from tests.fakes.index import MemoryIndex
from tests.pipeline import NAMESPACE, Pipeline, pipeline
from workers import scrub
from workers.scrub import Scrubber
from workers.scrub_looks import LOOKS_AT_MOST

CHANGE, CREATE, UPDATE, DELETE = QueueName
ORPHAN, MISSING, WRONG = FindingKind.ORPHAN, FindingKind.MISSING, FindingKind.WRONG


def document(*sections: str) -> str:
    return "\n\n".join(f"# Part {n}\n\n{text}" for n, text in enumerate(sections))


THREE = document("alpha beta", "gamma delta", "epsilon zeta")
EDITED = document("alpha beta", "gamma changed delta", "epsilon zeta")


@pytest.fixture
async def flow(tmp_path: Path) -> AsyncIterator[Pipeline]:
    async with pipeline(tmp_path) as made:
        yield made


def scrubber(flow: Pipeline, **changes: Any) -> Scrubber:
    made = Scrubber(
        registry=flow.registry,
        blobs=flow.blobs,
        index=flow.index,
        queue=flow.queue,
        timers=TIMERS,
        pause_seconds=0.0,
        clock=flow.clock,
    )
    return replace(made, **changes)


async def scrubbed(flow: Pipeline, *, repair: bool = False, **changes: Any) -> ScrubReport:
    return await scrubber(flow, **changes).scrub(namespace=None, repair=repair)


async def assert_mended(flow: Pipeline, *kinds: FindingKind) -> None:
    """A scrub reports, changes nothing, repairs when asked; and then there is nothing left."""
    found = await scrubbed(flow)
    assert kinds_of(found) == sorted(kinds)
    assert found.clean is not bool(kinds)
    assert kinds_of(await scrubbed(flow)) == sorted(kinds), "a scrub that only looks changed it"
    repaired = await scrubbed(flow, repair=True)
    assert kinds_of(repaired) == sorted(kinds)
    assert all(finding.repaired for finding in repaired.findings)
    assert repaired.clean
    await flow.run()
    assert (await scrubbed(flow)).findings == ()


def kinds_of(report: ScrubReport) -> list[FindingKind]:
    assert len(report.findings) == report.findings_total == sum(report.counts.values())
    return sorted(finding.kind for finding in report.findings)


async def applied(flow: Pipeline, name: str = "a.md", text: str = THREE) -> Row:
    """A document that is in the index, old enough for its content to be judged."""
    await flow.insert(name, text)
    await flow.run()
    flow.clock.now += TIMERS.stale_after_seconds
    return await flow.row(name)


async def change(flow: Pipeline, row: Row, **changes: Any) -> None:
    """Store a row that no transition makes."""
    assert await flow.registry.put_if(replace(row, **changes))


def ids_of(row: Row) -> list[str]:
    return identity.record_ids(identity.document_key(row.key), row.applied.manifest)


def stray(row: Row, generation: int, number: int = 0) -> Record:
    return Record(
        id=identity.record_id(identity.document_key(row.key), generation, number),
        vector=word_vector("stray"),
        document_id=row.key.document_id,
        generation=generation,
        number=number,
        doc_hash="h",
        heading_path=(),
        text="stray",
        metadata={},
    )


def put(flow: Pipeline, record: Record, namespace: str = NAMESPACE) -> None:
    flow.index.records[namespace][record.id] = record


def pack_key(row: Row) -> str:
    return identity.pack_key(row.key, row.applied.version, row.applied.doc_hash)


# --- nothing is wrong ----------------------------------------------------------------------------


async def test_a_working_system_has_no_findings(flow: Pipeline) -> None:
    await applied(flow, "kept.md", THREE)
    await applied(flow, "kept.md", EDITED)  # two records stay from the version before
    await applied(flow, "empty.md", "")
    await flow.insert("described.md", THREE, metadata={"lang": "en", "tags": ["a", "b"], "n": 1.0})
    await applied(flow, "gone.md")
    await flow.delete("gone.md")
    await flow.delete("never.md")
    await flow.run()
    await flow.insert("waiting.md", THREE)
    flow.clock.now += 100
    report = await scrubbed(flow)
    assert report.findings == ()
    assert report.clean
    assert report.namespaces == (NAMESPACE,)
    assert (report.documents_checked, report.records_checked) == (5, 6)


async def test_a_document_that_failed_is_no_finding(flow: Pipeline) -> None:
    row = await applied(flow)
    await flow.insert("a.md", EDITED)
    row = await flow.row("a.md")
    await change(flow, row, status=Status.FAILED, error="broken", sweep_at=None)
    assert (await scrubbed(flow)).findings == ()


async def test_one_namespace_or_an_unknown_one(flow: Pipeline) -> None:
    row = await applied(flow)
    put(flow, stray(row, 0), "elsewhere")
    report = await scrubber(flow).scrub(namespace=NAMESPACE, repair=False)
    assert (report.namespaces, report.findings) == ((NAMESPACE,), ())
    with pytest.raises(NoSuchNamespaceError, match="nowhere"):
        await scrubber(flow).scrub(namespace="nowhere", repair=False)


async def test_progress_reaches_the_end(flow: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub, "PAGE_ROWS", 2)
    for n in range(5):
        await flow.insert(f"{n}.md", document(f"text {n}"))
    await flow.run()
    told: list[ScrubProgress] = []
    await scrubber(flow).scrub(namespace=None, repair=False, progress=told.append)
    assert [p.documents_checked for p in told] == [0, 2, 4, 5]
    assert {p.documents_total for p in told} == {5}


# --- orphans -------------------------------------------------------------------------------------


async def test_records_that_no_row_names_are_removed(flow: Pipeline) -> None:
    row = await applied(flow)
    for number in range(3):
        put(flow, stray(row, 0, number))
    (finding,) = (await scrubbed(flow)).findings
    assert (finding.document_id, finding.kind, finding.record_count) == ("a.md", ORPHAN, 3)
    await assert_mended(flow, ORPHAN)
    assert set(flow.index.records[NAMESPACE]) == set(ids_of(row))
    assert await flow.row("a.md") != row  # went through the row's garbage
    assert (await flow.row("a.md")).garbage == ()


async def test_an_orphan_of_a_generation_to_come_is_never_allocated(flow: Pipeline) -> None:
    row = await applied(flow)
    put(flow, stray(row, row.next_generation + 5))
    await assert_mended(flow, ORPHAN)
    assert (await flow.row("a.md")).next_generation == row.next_generation + 6


async def test_records_of_documents_without_a_row_are_removed(flow: Pipeline) -> None:
    row = await applied(flow)
    lost = replace(row, key=DocumentKey(NAMESPACE, "forgotten.md"))
    other = replace(row, key=DocumentKey("elsewhere", "forgotten.md"))
    put(flow, stray(lost, 1))
    put(flow, stray(lost, 2))
    put(flow, stray(other, 1), "elsewhere")
    found = await scrubbed(flow)
    assert [(f.namespace, f.document_id, f.record_count) for f in found.findings] == [
        (NAMESPACE, "forgotten.md", 2),
        ("elsewhere", "forgotten.md", 1),
    ]
    await assert_mended(flow, ORPHAN, ORPHAN)
    assert await flow.index.count(NAMESPACE) == 3


@pytest.mark.parametrize(("read", "repaired"), [(1, True), (2, False)])
async def test_a_document_that_began_meanwhile_answers_for_its_orphans(
    flow: Pipeline, read: int, repaired: bool
) -> None:
    """It has a row now: what is left over goes through that, now or at the next scrub."""
    row = await applied(flow, "z.md", "")
    lost = stray(replace(row, key=DocumentKey(NAMESPACE, "began.md")), 50)
    put(flow, lost)
    original, reads = flow.registry.get, iter(range(1, 100))

    async def get(key: DocumentKey) -> Row | None:
        if next(reads) == read:
            flow.registry.get = original  # type: ignore[method-assign]
            await flow.insert("began.md", THREE)
            await flow.run()
        return await original(key)

    flow.registry.get = get  # type: ignore[method-assign]
    report = await scrubbed(flow, repair=True)
    assert [(f.kind, f.repaired) for f in report.findings] == [(ORPHAN, repaired)]
    assert (lost.id in flow.index.records[NAMESPACE]) is not repaired
    await assert_mended(flow, *([] if repaired else [ORPHAN]))
    assert len(await flow.shown("began.md")) == 3


async def test_ids_that_no_attempt_writes_are_reported_and_left(flow: Pipeline) -> None:
    row = await applied(flow)
    put(flow, replace(stray(row, 1), id="somebody else's"))
    report = await scrubbed(flow, repair=True)
    (finding,) = report.findings
    assert (finding.kind, finding.repairable, finding.repaired) == (ORPHAN, False, False)
    assert "somebody else's" in flow.index.records[NAMESPACE]


# --- records -------------------------------------------------------------------------------------


async def test_a_missing_record_is_written_again_and_nothing_is_embedded(flow: Pipeline) -> None:
    row = await applied(flow)
    texts = await flow.shown("a.md")
    del flow.index.records[NAMESPACE][ids_of(row)[1]]
    flow.embedder.embedded.clear()
    (finding,) = (await scrubbed(flow)).findings
    assert (finding.document_id, finding.kind, finding.record_count) == ("a.md", MISSING, 1)
    await assert_mended(flow, MISSING)
    assert await flow.shown("a.md") == texts
    assert flow.embedder.embedded == []
    after = await flow.row("a.md")
    assert (after.desired.version, after.status) == (2, Status.COMPLETED)
    assert after.desired.content_hash == row.desired.content_hash
    assert not set(ids_of(after)) & set(ids_of(row))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("text", "another text"),
        ("heading_path", ("Elsewhere",)),
        ("metadata", {"lang": "de"}),
        ("vector", word_vector("something else entirely")),
        ("vector", word_vector("short")[:5]),
        ("document_id", "b.md"),
        ("number", 77),
    ],
)
async def test_a_record_that_says_something_else_is_written_again(
    flow: Pipeline, field: str, value: Any
) -> None:
    row = await applied(flow)
    texts = await flow.shown("a.md")
    held = flow.index.records[NAMESPACE][ids_of(row)[2]]
    put(flow, replace(held, **{field: value}))
    (finding,) = (await scrubbed(flow)).findings
    assert field.replace("_path", "") in finding.detail
    await assert_mended(flow, WRONG)
    assert await flow.shown("a.md") == texts


async def test_all_places_of_a_long_document_are_compared(flow: Pipeline) -> None:
    row = await applied(flow, text=document(*(f"word{n} text" for n in range(600))))
    ids = ids_of(row)
    assert len(ids) == 600
    del flow.index.records[NAMESPACE][ids[599]]
    put(flow, replace(flow.index.records[NAMESPACE][ids[300]], text="other"))
    found = (await scrubbed(flow)).findings
    assert [(f.kind, f.record_count) for f in found] == [(MISSING, 1), (WRONG, 1)]
    assert ids[599] in found[0].detail
    assert ids[300] in found[1].detail


# --- packs and content ---------------------------------------------------------------------------


async def test_a_missing_pack_is_made_again(flow: Pipeline) -> None:
    row = await applied(flow)
    await flow.blobs.delete([pack_key(row)])
    await assert_mended(flow, FindingKind.PACK)
    assert await flow.blobs.exists(pack_key(await flow.row("a.md")))


async def test_a_torn_pack_is_left_by_a_look_and_made_again_by_a_repair(flow: Pipeline) -> None:
    row = await applied(flow)
    whole = await flow.blobs.get(pack_key(row))
    await flow.blobs.put(pack_key(row), whole[:-40])
    await scrubbed(flow)
    assert await flow.blobs.get(pack_key(row)) == whole[:-40]
    await assert_mended(flow, FindingKind.PACK)


async def test_the_pack_of_another_document_is_not_taken(flow: Pipeline) -> None:
    row, other = await applied(flow), await applied(flow, "b.md", EDITED)
    await flow.blobs.put(pack_key(row), await flow.blobs.get(pack_key(other)))
    (finding,) = (await scrubbed(flow)).findings
    assert (finding.document_id, finding.kind) == ("a.md", FindingKind.PACK)
    assert "content_hash" in finding.detail
    await assert_mended(flow, FindingKind.PACK)


@pytest.mark.parametrize("torn", [False, True])
async def test_lost_content_is_told_and_sending_it_again_mends_it(
    flow: Pipeline, torn: bool
) -> None:
    row = await applied(flow)
    if torn:
        await flow.blobs.put(row.desired.blob_key, b"half of")
    else:
        await flow.blobs.delete([row.desired.blob_key])
    report = await scrubbed(flow, repair=True)
    (finding,) = report.findings
    assert finding.kind is FindingKind.CONTENT
    assert "send the document again" in finding.detail
    assert (finding.repairable, finding.repaired, report.clean) == (False, False, False)
    await flow.insert("a.md", THREE)
    assert (await scrubbed(flow)).findings == ()


async def test_a_document_whose_content_is_lost_is_not_written_anew(flow: Pipeline) -> None:
    row = await applied(flow)
    await flow.blobs.delete([row.desired.blob_key])
    del flow.index.records[NAMESPACE][ids_of(row)[0]]
    report = await scrubbed(flow, repair=True)
    assert kinds_of(report) == [FindingKind.CONTENT, MISSING]
    assert not any(f.repairable or f.repaired for f in report.findings)
    assert await flow.row("a.md") == row


async def test_content_that_is_just_being_accepted_is_not_judged(flow: Pipeline) -> None:
    await flow.insert("a.md", THREE)
    row = await flow.row("a.md")
    await flow.blobs.delete([row.desired.blob_key])
    assert (await scrubbed(flow)).findings == ()
    flow.clock.now += TIMERS.stale_after_seconds
    assert kinds_of(await scrubbed(flow)) == [FindingKind.CONTENT]


# --- rows that lie -------------------------------------------------------------------------------


def _status(status: Status) -> Callable[[Row], dict[str, Any]]:
    return lambda row: {"status": status}


def _doomed(*ids: IdRange) -> tuple[Garbage, ...]:
    return tuple(Garbage(each, GarbageState.DOOMED, 0.0) for each in ids)


def _own(row: Row, first: int, last: int) -> IdRange:
    """Of the generation that wrote the applied version."""
    return replace(row.applied.manifest[0], first=first, last=last)


ROW, MANIFEST, PACK = FindingKind.ROW, FindingKind.MANIFEST, FindingKind.PACK


@pytest.mark.parametrize(
    ("lie", "kinds"),
    [
        (_status(Status.PENDING), [ROW]),
        (_status(Status.PROCESSING), [ROW]),
        (_status(Status.FAILED), [ROW]),
        (_status(Status.DELETED), [ROW]),
        (lambda row: {"applied": replace(row.applied, version=9)}, [ROW, PACK]),
        (lambda row: {"garbage": _doomed(_own(row, 7, 9))}, [ROW]),  # and sweep_at None
        (lambda row: {"garbage": _doomed(_own(row, 1, 1)), "sweep_at": 1.0}, [ROW, MANIFEST]),
        (lambda row: {"next_generation": 1}, [ROW]),
        (lambda row: {"applied": replace(row.applied, chunk_count=4)}, [MANIFEST, PACK]),
        (
            lambda row: {"applied": replace(row.applied, manifest=(_own(row, 0, 1),))},
            [ORPHAN, MANIFEST],
        ),
        (lambda row: {"applied": replace(row.applied, doc_hash="")}, [MANIFEST, PACK]),
        (lambda row: {"applied": replace(row.applied, content_hash="x")}, [MANIFEST, PACK]),
        (lambda row: {"applied": replace(row.applied, intact=False)}, [MANIFEST]),
    ],
)
async def test_a_row_that_lies_is_corrected(
    flow: Pipeline, lie: Callable[[Row], dict[str, Any]], kinds: list[FindingKind]
) -> None:
    row = await applied(flow)
    texts = await flow.shown("a.md")
    await change(flow, row, **lie(row))
    await assert_mended(flow, *kinds)
    after = await flow.row("a.md")
    assert (after.status, after.garbage) == (Status.COMPLETED, ())
    assert await flow.shown("a.md") == texts
    assert set(flow.index.records[NAMESPACE]) == set(ids_of(after))


async def test_a_row_that_is_behind_and_says_it_is_done_is_woken(flow: Pipeline) -> None:
    await applied(flow)
    await flow.insert("a.md", EDITED)
    lost = await flow.receive(CHANGE)
    assert lost
    await flow.queue.ack(lost)
    await change(flow, await flow.row("a.md"), status=Status.COMPLETED, sweep_at=None)
    await assert_mended(flow, ROW)
    assert (await flow.shown("a.md"))[1].split()[-2] == "changed"


async def test_a_deleted_document_that_shows_records_is_emptied(flow: Pipeline) -> None:
    row = await applied(flow)
    await flow.delete("a.md")
    await flow.run()
    deleted = await flow.row("a.md")
    showing = replace(row.applied, version=deleted.applied.version)
    for record_id, pair in zip(ids_of(row), expand(row.applied.manifest), strict=True):
        put(flow, replace(stray(row, *pair), id=record_id))
    await change(flow, deleted, applied=showing)
    await assert_mended(flow, ROW)
    assert await flow.index.count(NAMESPACE) == 0


async def test_an_unreadable_row_hides_no_other_and_loses_no_record(flow: Pipeline) -> None:
    for name in ("a.md", "b.md", "c.md"):
        await applied(flow, name)
    broken = await flow.row("c.md")
    del flow.index.records[NAMESPACE][ids_of(broken)[0]]
    await flow.registry._database.write(
        lambda db: db.execute("UPDATE rows SET body = '{}' WHERE document_id = 'b.md'")
    )
    report = await scrubbed(flow, repair=True)
    assert [(f.document_id, f.kind) for f in report.findings] == [
        ("b.md", FindingKind.UNREADABLE),
        ("c.md", MISSING),
    ]
    assert not report.findings[0].repairable
    assert not report.clean
    assert await flow.index.count(NAMESPACE) == 8


# --- in transit: no findings ---------------------------------------------------------------------

Action = Callable[[], Awaitable[Any]]


def once_before(port: Any, method: str, action: Action) -> None:
    """Let `action` happen just before the first call of the method."""
    original = getattr(port, method)

    async def first(*arguments: Any, **named: Any) -> Any:
        setattr(port, method, original)
        await action()
        return await original(*arguments, **named)

    setattr(port, method, first)


def once_after_listing(index: MemoryIndex, action: Action) -> None:
    original = index.list_ids

    async def listing(namespace: str, prefix: str = "") -> AsyncIterator[str]:
        index.list_ids = original  # type: ignore[method-assign]
        for record_id in [i async for i in original(namespace, prefix)]:
            yield record_id
        await action()

    index.list_ids = listing  # type: ignore[method-assign]


def interleave(flow: Pipeline, where: str, action: Action) -> None:
    if where == "after the listing":
        once_after_listing(flow.index, action)
    elif where == "after the rows":
        once_before(flow.blobs, "get", action)
    else:
        once_before(flow.index, "fetch", action)


PLACES = ["after the listing", "after the rows", "after the pack"]


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("happens", ["edit", "delete", "describe", "insert", "delete and insert"])
async def test_what_changes_while_it_looks_is_no_finding(
    flow: Pipeline, where: str, happens: str
) -> None:
    await applied(flow)

    async def action() -> None:
        if "delete" in happens:
            await flow.delete("a.md")
            await flow.run()
        if happens == "edit":
            await flow.insert("a.md", EDITED)
        if happens == "describe":
            await flow.insert("a.md", THREE, metadata={"lang": "en"})
        if "insert" in happens:
            await flow.insert("b.md", THREE)
            await flow.insert("a.md", document("wholly new"))
        await flow.run()

    interleave(flow, where, action)
    report = await scrubbed(flow, repair=True, concurrency=1)
    assert report.findings == ()
    assert report.documents_in_motion == 0


@pytest.mark.parametrize("deleted", [False, True])
async def test_damage_that_a_newer_version_has_left_behind_is_no_finding(
    flow: Pipeline, deleted: bool
) -> None:
    row = await applied(flow)
    del flow.index.records[NAMESPACE][ids_of(row)[0]]

    async def moves_on() -> None:
        await (flow.delete("a.md") if deleted else flow.insert("a.md", document("wholly new")))
        await flow.run()

    once_before(flow.registry, "get", moves_on)  # the second read: something looked wrong
    report = await scrubbed(flow, repair=True)
    assert (report.findings, report.documents_in_motion) == ((), 0)


async def test_records_of_an_attempt_under_way_are_no_orphans(flow: Pipeline) -> None:
    await applied(flow)
    await flow.insert("a.md", document("quite", "another", "text"))
    await flow.step(CHANGE)
    delivery = await flow.receive(UPDATE)
    assert delivery
    reports: list[ScrubReport] = []

    async def look() -> None:
        reports.append(await scrubbed(flow, repair=True))

    once_before(flow.index, "wait_visible", look)
    await flow.handle(delivery)
    assert [report.findings for report in reports] == [()]
    assert reports[0].records_checked == 3
    assert (await flow.row("a.md")).applied.version == 2
    assert (await scrubbed(flow)).findings == ()


async def test_records_collected_after_the_listing_are_no_orphans(flow: Pipeline) -> None:
    """Their row names them no more, but the index holds them no more either."""
    row = await applied(flow)
    await change(flow, row, garbage=_doomed(_own(row, 7, 8)), sweep_at=1.0)
    for number in (7, 8):
        put(flow, stray(row, row.next_generation - 1, number))
    once_after_listing(flow.index, flow.sweeper.sweep_rows)
    report = await scrubbed(flow, repair=True)
    assert report.findings == ()
    assert await flow.index.count(NAMESPACE) == 3


async def test_an_orphan_that_is_garbage_by_now_is_none_any_more(flow: Pipeline) -> None:
    """Another process repairs at the same time."""
    row = await applied(flow)
    put(flow, stray(row, 0))
    taken = _doomed(IdRange(0, 0, 0))
    once_before(flow.registry, "get", lambda: change(flow, row, garbage=taken, sweep_at=1.0))
    assert (await scrubbed(flow)).findings == ()


async def test_a_document_forgotten_after_the_listing_leaves_no_finding(flow: Pipeline) -> None:
    await applied(flow)
    await flow.delete("a.md")

    async def forget() -> None:
        await flow.run()
        flow.clock.now += TIMERS.tombstone_retention_seconds + 1
        await flow.sweeper.sweep_rows()

    once_after_listing(flow.index, forget)
    report = await scrubbed(flow, repair=True)
    assert (report.findings, report.documents_checked) == ((), 0)


async def test_a_document_that_changes_at_every_look_is_counted_and_not_judged(
    flow: Pipeline,
) -> None:
    row = await applied(flow)
    original, edits = flow.registry.get, iter(range(100))

    async def get(key: DocumentKey) -> Row | None:
        flow.registry.get = original  # type: ignore[method-assign]
        await flow.insert("a.md", document(f"edit {next(edits)}"))
        await flow.run()
        held = flow.index.records[NAMESPACE]
        held.pop(ids_of(await flow.row("a.md"))[0])
        flow.registry.get = get  # type: ignore[method-assign]
        return await original(key)

    del flow.index.records[NAMESPACE][ids_of(row)[0]]
    flow.registry.get = get  # type: ignore[method-assign]
    report = await scrubbed(flow)
    assert (report.findings, report.documents_in_motion) == ((), 1)
    assert next(edits) == LOOKS_AT_MOST


# --- repairs and rivals --------------------------------------------------------------------------


async def test_a_version_applied_since_the_look_is_not_written_anew(flow: Pipeline) -> None:
    row = await applied(flow)
    del flow.index.records[NAMESPACE][ids_of(row)[0]]
    original, calls = flow.registry.get, iter(range(100))

    async def get(key: DocumentKey) -> Row | None:
        if next(calls) == 1:  # the second read of the row was the last look; this is the repair's
            flow.registry.get = original  # type: ignore[method-assign]
            await flow.insert("a.md", document("wholly new"))
            await flow.run()
        return await original(key)

    flow.registry.get = get  # type: ignore[method-assign]
    report = await scrubbed(flow, repair=True)
    assert report.findings == ()
    after = await flow.row("a.md")
    assert (after.desired.version, after.applied.intact) == (2, True)


async def test_an_attempt_planned_before_a_repair_does_not_keep_what_is_damaged(
    flow: Pipeline,
) -> None:
    row = await applied(flow)
    kept = ids_of(row)[0]
    held = flow.index.records[NAMESPACE]
    await flow.insert("a.md", EDITED)
    await flow.step(CHANGE)
    delivery = await flow.receive(UPDATE)
    assert delivery

    async def damage_and_repair() -> None:
        held.pop(kept)
        report = await scrubbed(flow, repair=True)
        assert kinds_of(report) == [MISSING]
        assert report.clean
        assert (await scrubbed(flow)).findings == (), "its rewriting is under way"

    once_before(flow.index, "wait_visible", damage_and_repair)
    await flow.handle(delivery)
    await flow.run()
    after = await flow.row("a.md")
    assert (after.applied.version, after.applied.intact) == (2, True)
    assert len(await flow.shown("a.md")) == 3
    assert kept not in ids_of(after)
    assert (await scrubbed(flow)).findings == ()


async def test_damage_under_a_failed_version_is_told_to_need_a_person(flow: Pipeline) -> None:
    row = await applied(flow)
    del flow.index.records[NAMESPACE][ids_of(row)[0]]
    await flow.insert("a.md", EDITED)
    await change(flow, await flow.row("a.md"), status=Status.FAILED, error="no", sweep_at=None)
    (finding,) = (await scrubbed(flow, repair=True)).findings
    assert (finding.kind, finding.repairable) == (MISSING, False)
    assert "FAILED" in finding.detail


async def test_a_repair_whose_wake_up_is_lost_is_finished_by_the_sweeper(flow: Pipeline) -> None:
    row = await applied(flow)
    del flow.index.records[NAMESPACE][ids_of(row)[0]]

    async def fails() -> None:
        raise TransientError("the queue is away")

    once_before(flow.queue, "send", fails)
    assert (await scrubbed(flow, repair=True)).clean
    assert await flow.step(CHANGE) is None
    flow.clock.now += TIMERS.stale_after_seconds + 1
    await flow.sweeper.sweep_rows()
    await flow.run()
    assert (await scrubbed(flow)).findings == ()


# --- trouble -------------------------------------------------------------------------------------


async def test_what_is_out_of_reach_is_told_and_ends_nothing(flow: Pipeline) -> None:
    await applied(flow, "a.md")
    broken = await applied(flow, "b.md")
    del flow.index.records[NAMESPACE][ids_of(broken)[0]]

    async def fails() -> None:
        raise TransientError("the disk reports an error")

    once_before(flow.blobs, "get", fails)
    report = await scrubbed(flow, concurrency=1)
    assert [(f.document_id, f.kind) for f in report.findings] == [
        ("a.md", FindingKind.UNCHECKED),
        ("b.md", MISSING),
    ]
    assert "disk reports" in report.findings[0].detail


async def test_an_outage_ends_the_namespace_and_accuses_nobody(flow: Pipeline) -> None:
    for n in range(40):
        await flow.insert(f"{n:02}.md", document(f"text {n}"))
    await flow.run()

    async def away(*_: Any) -> list[Record]:
        raise TransientError("the index is away")

    flow.index.fetch = away  # type: ignore[assignment]
    report = await scrubbed(flow, repair=True)
    assert set(kinds_of(report)) == {FindingKind.UNCHECKED}
    assert report.documents_checked < 40
    assert report.findings[-1].document_id == ""
    assert await flow.index.count(NAMESPACE) == 40


async def test_a_call_that_hangs_meets_the_deadline(flow: Pipeline) -> None:
    await applied(flow)

    async def hangs(*_: Any) -> list[Record]:
        await asyncio.Event().wait()
        return []

    flow.index.fetch = hangs  # type: ignore[assignment]
    report = await scrubbed(flow, timeout_seconds=0.01)
    assert kinds_of(report) == [FindingKind.UNCHECKED]
    assert "no answer within" in report.findings[0].detail


async def test_many_findings_are_all_counted_and_not_all_kept(flow: Pipeline) -> None:
    tally = scrub.Tally(0.0, False, 0, None)
    finding = Finding(namespace="n", document_id="d", kind=ORPHAN, detail="")
    for _ in range(FINDINGS_KEPT + 7):
        tally.add(finding)
    report = tally.report(1.0)
    assert (len(report.findings), report.findings_total) == (FINDINGS_KEPT, FINDINGS_KEPT + 7)
    assert report.counts == {ORPHAN: FINDINGS_KEPT + 7}


# --- the real index ------------------------------------------------------------------------------


async def test_it_finds_and_mends_damage_in_a_real_index(flow: Pipeline, tmp_path: Path) -> None:
    index: Any = QdrantEdgeIndex(tmp_path / "index")
    flow.index = index
    try:
        metadata: Any = {"lang": "en", "tags": [], "n": 1.0, "draft": True}
        await flow.insert("a.md", THREE, metadata=metadata)
        row = await applied(flow, "b.md")
        assert (await scrubbed(flow)).findings == ()
        first = ids_of(row)[0]
        (held,) = await index.fetch(NAMESPACE, [first])
        await index.upsert(NAMESPACE, [replace(held, text="other"), stray(row, 0)])
        await index.delete(NAMESPACE, [ids_of(await flow.row("a.md"))[2]])
        await assert_mended(flow, ORPHAN, WRONG, MISSING)
        assert await index.count(NAMESPACE) == 6
    finally:
        await index.close()
