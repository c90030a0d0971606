"""From an accepted change to a true index, with the interleavings that break other tools."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common import identity
from common.adapters.vectors.none import NoVectorCache
from common.model import GarbageState, Match, QueueName, Row, Status, Vector
from common.ports.embedder import Passage
from common.ports.errors import TransientError
from common.transitions import Outcome, begin
from tests.builders import TIMERS
from tests.pipeline import NAMESPACE, Pipeline, pipeline
from webhook.accept import ProfileMismatchError
from workers.embed import EmbedHandler
from workers.lease import Lease, LeaseExpiredError
from workers.notes import RegistryNote
from workers.outcome import Done, GiveUp, Retry
from workers.retry import PermanentFailureError
from workers.sweep import Sweeper

CHANGE, CREATE, UPDATE, DELETE = QueueName


def document(*sections: str) -> str:
    return "\n\n".join(f"# Part {n}\n\n{text}" for n, text in enumerate(sections))


THREE = document("alpha beta", "gamma delta", "epsilon zeta")
EDITED = document("alpha beta", "gamma changed delta", "epsilon zeta")


@pytest.fixture
async def flow(tmp_path: Path) -> AsyncIterator[Pipeline]:
    async with pipeline(tmp_path) as made:
        yield made


async def stray_records(flow: Pipeline) -> set[str]:
    """Ids in the index that no manifest names."""
    named: set[str] = set()
    page = await flow.registry.scan(NAMESPACE, limit=1000)
    for row in page.rows:
        named |= set(identity.record_ids(identity.document_key(row.key), row.applied.manifest))
    return {i async for i in flow.index.list_ids(NAMESPACE)} - named


async def test_an_insert_becomes_visible_whole(flow: Pipeline) -> None:
    await flow.insert("a.md", THREE)
    await flow.run()
    row = await flow.row("a.md")
    assert (row.status, row.applied.version, row.applied.chunk_count) == (Status.COMPLETED, 1, 3)
    assert [text.split()[-1] for text in await flow.shown("a.md")] == ["beta", "delta", "zeta"]
    (hit,) = [h for h in await flow.searcher.search(NAMESPACE, "gamma", top_k=3) if h.chunk == 1]
    assert hit.document_id == "a.md"
    assert hit.version == 1


async def test_an_edit_embeds_and_writes_only_the_changed_chunk(flow: Pipeline) -> None:
    await flow.insert("a.md", THREE)
    await flow.run()
    flow.embedder.embedded.clear()
    flow.index.upserted.clear()
    await flow.insert("a.md", EDITED)
    await flow.run()
    assert len(flow.embedder.embedded) == 1
    assert "changed" in flow.embedder.embedded[0]
    assert len(flow.index.upserted) == 1
    assert [t.split()[-1] for t in await flow.shown("a.md")] == ["beta", "delta", "zeta"]
    assert await stray_records(flow) == set()
    assert (await flow.row("a.md")).garbage == ()


async def test_other_metadata_embeds_nothing_and_rewrites_every_record(flow: Pipeline) -> None:
    await flow.insert("a.md", THREE)
    await flow.run()
    flow.embedder.embedded.clear()
    await flow.insert("a.md", THREE, metadata={"lang": "en"})
    await flow.run()
    assert flow.embedder.embedded == []
    hits = await flow.searcher.search(NAMESPACE, "alpha", top_k=9)
    assert [hit.metadata for hit in hits] == [{"lang": "en"}] * 3
    assert await stray_records(flow) == set()


async def test_the_same_change_again_does_nothing(flow: Pipeline) -> None:
    await flow.insert("a.md", THREE)
    await flow.run()
    again = await flow.insert("a.md", THREE)
    assert (again.outcome, again.version) == (Outcome.UNCHANGED, 1)
    assert await flow.step(CHANGE) is None


async def test_a_burst_of_edits_is_embedded_once(flow: Pipeline) -> None:
    for n in range(100):
        await flow.insert("a.md", document(f"text number {n}"))
    await flow.run()
    assert len(flow.embedder.embedded) == 1
    row = await flow.row("a.md")
    assert (row.applied.version, row.status) == (100, Status.COMPLETED)


async def test_two_workers_do_not_embed_the_same_version(flow: Pipeline) -> None:
    await flow.insert("a.md", THREE)
    await flow.insert("a.md", THREE)  # unchanged, but not applied yet: a second wake-up
    first, second = await flow.receive(CHANGE), await flow.receive(CHANGE)
    assert first
    assert second
    held = flow.embedder.embed_documents

    async def overtaken(passages: Sequence[Passage]) -> list[Vector[float]]:
        flow.embedder.embed_documents = held  # type: ignore[method-assign]
        assert await flow.handle(second) == Done("another wake-up has it")
        return await held(passages)

    flow.embedder.embed_documents = overtaken  # type: ignore[method-assign]
    assert await flow.handle(first) == Done("embedded")
    assert len(flow.embedder.embedded) == 3


async def test_a_deleted_document_is_hidden_at_once_and_leaves_nothing(flow: Pipeline) -> None:
    await flow.insert("a.md", THREE)
    await flow.run()
    await flow.delete("a.md")
    await flow.run()
    assert await flow.searcher.search(NAMESPACE, "alpha", top_k=9) == []
    assert await flow.index.count(NAMESPACE) == 0
    assert (await flow.row("a.md")).status is Status.DELETED


async def test_a_late_embedding_does_not_bring_a_deleted_document_back(flow: Pipeline) -> None:
    await flow.insert("a.md", THREE)
    await flow.step(CHANGE)
    late = await flow.receive(CREATE)
    assert late
    await flow.delete("a.md")
    await flow.run()
    await flow.handle(late)
    assert await flow.searcher.search(NAMESPACE, "alpha", top_k=9) == []
    assert await flow.index.count(NAMESPACE) == 0


async def test_a_late_version_does_not_overwrite_a_newer_one(flow: Pipeline) -> None:
    await flow.insert("a.md", document("old text"))
    await flow.step(CHANGE)
    late = await flow.receive(CREATE)
    assert late
    await flow.insert("a.md", document("new text"))
    await flow.run()
    await flow.handle(late)
    assert await flow.shown("a.md") == ["# Part 0\n\nnew text"]
    assert await stray_records(flow) == set()


async def test_readers_see_the_old_version_until_the_commit(flow: Pipeline) -> None:
    await flow.insert("a.md", document("old text"))
    await flow.run()
    await flow.insert("a.md", document("new text"))
    await flow.step(CHANGE)
    update = await flow.receive(UPDATE)
    assert update
    seen: list[list[str]] = []
    put_if = flow.registry.put_if

    async def look_first(row: Row) -> Row | None:
        hits = await flow.searcher.search(NAMESPACE, "text", top_k=9)
        seen.append([hit.text for hit in hits])
        return await put_if(row)

    flow.registry.put_if = look_first  # type: ignore[method-assign]
    await flow.handle(update)
    hits = await flow.searcher.search(NAMESPACE, "text", top_k=9)
    # Before the attempt, before the commit (its records are in the index), before forgetting.
    old, new = ["# Part 0\n\nold text"], ["# Part 0\n\nnew text"]
    assert seen == [old, old, new]
    assert [hit.text for hit in hits] == new


async def test_a_rival_commit_makes_the_attempt_plan_again(flow: Pipeline) -> None:
    await flow.insert("a.md", document("one"))
    await flow.run()
    await flow.insert("a.md", document("one", "two"))
    await flow.step(CHANGE)
    slow = await flow.receive(UPDATE)
    assert slow
    await flow.insert("a.md", document("three"))
    await flow.step(CHANGE)
    # The rival applies version 3 in the middle of the slow attempt at version 2.
    rivals = [await flow.receive(UPDATE)]

    async def rival_first(*args: object, **kwargs: object) -> None:
        if rivals:
            rival = rivals.pop()
            assert rival
            await flow.handle(rival)

    flow.index.wait_visible = rival_first  # type: ignore[method-assign]
    await flow.handle(slow)
    assert await flow.shown("a.md") == ["# Part 0\n\nthree"]
    flow.clock.now += 1000
    await flow.sweeper.sweep_rows()
    flow.clock.now += 1000
    await flow.sweeper.sweep_rows()
    assert await stray_records(flow) == set()


async def test_an_expired_holder_does_not_write(flow: Pipeline) -> None:
    await flow.insert("a.md", THREE)
    await flow.step(CHANGE)
    delivery = await flow.receive(CREATE)
    assert delivery
    lease = Lease(flow.clock, flow.clock.now)
    with pytest.raises(LeaseExpiredError):
        await flow.handlers()[CREATE](delivery, lease)
    assert flow.index.upserted == []


async def test_a_zombies_records_are_collected_and_its_commit_refused(flow: Pipeline) -> None:
    await flow.insert("a.md", THREE)
    await flow.step(CHANGE)
    zombie = await flow.receive(CREATE)
    assert zombie

    async def sleep_long(*args: object, **kwargs: object) -> None:
        """Between its writes and its commit the zombie is out for an hour; all is collected."""
        flow.index.wait_visible = woken  # type: ignore[method-assign]
        flow.clock.now += 3600
        await flow.sweeper.sweep_rows()
        doomed = (await flow.row("a.md")).garbage
        assert [entry.state for entry in doomed] == [GarbageState.DOOMED]
        flow.clock.now += 3600
        await flow.sweeper.sweep_rows()
        assert await flow.index.count(NAMESPACE) == 0

    async def woken(*args: object, **kwargs: object) -> None:
        return None

    flow.index.wait_visible = sleep_long  # type: ignore[method-assign]
    with pytest.raises(LeaseExpiredError):
        await flow.handle(zombie)
    assert (await flow.row("a.md")).applied.version == 0
    await flow.run()
    assert len(await flow.shown("a.md")) == 3
    assert await stray_records(flow) == set()


async def test_a_crash_between_upsert_and_commit_leaves_nothing_behind(flow: Pipeline) -> None:
    await flow.insert("a.md", THREE)
    await flow.step(CHANGE)
    delivery = await flow.receive(CREATE)
    assert delivery

    async def crash(*args: object, **kwargs: object) -> None:
        raise TransientError("killed here")

    visible, flow.index.wait_visible = flow.index.wait_visible, crash  # type: ignore[method-assign]
    with pytest.raises(TransientError):
        await flow.handle(delivery)
    flow.index.wait_visible = visible  # type: ignore[method-assign]
    assert len(await stray_records(flow)) == 3
    flow.clock.now += 31
    await flow.run()
    assert len(await flow.shown("a.md")) == 3
    for _ in range(2):
        flow.clock.now += 1000
        await flow.sweeper.sweep_rows()
    assert await stray_records(flow) == set()
    assert (await flow.row("a.md")).sweep_at is None


async def test_a_missing_pack_is_made_again(flow: Pipeline) -> None:
    await flow.insert("a.md", THREE)
    await flow.step(CHANGE)
    packs = [info.key async for info in flow.blobs.list("packs")]
    await flow.blobs.delete(packs)
    await flow.run()
    assert len(await flow.shown("a.md")) == 3


async def test_a_torn_pack_is_made_again(flow: Pipeline) -> None:
    await flow.insert("a.md", THREE)
    await flow.step(CHANGE)
    (pack,) = [info.key async for info in flow.blobs.list("packs")]
    await flow.blobs.put(pack, (await flow.blobs.get(pack))[:-50])
    await flow.run()
    assert len(await flow.shown("a.md")) == 3


async def test_missing_content_fails_with_a_reason_a_person_can_act_on(flow: Pipeline) -> None:
    await flow.insert("a.md", THREE)
    await flow.blobs.delete([(await flow.row("a.md")).desired.blob_key])
    delivery = await flow.receive(CHANGE)
    assert delivery
    with pytest.raises(PermanentFailureError, match="send the document again"):
        await flow.handle(delivery)


async def test_a_lost_wake_up_is_sent_again_by_the_sweeper(flow: Pipeline) -> None:
    await flow.insert("a.md", THREE)
    lost = await flow.receive(CHANGE)
    assert lost
    await flow.queue.ack(lost)
    assert await flow.sweeper.sweep_rows() == 0
    flow.clock.now += 61
    await flow.sweeper.sweep_rows()
    await flow.sweeper.sweep_rows()
    assert (await flow.queue.depth(CHANGE)).waiting == 1
    await flow.run()
    assert len(await flow.shown("a.md")) == 3


async def test_the_sweeper_does_not_lengthen_a_backlog(flow: Pipeline) -> None:
    await flow.insert("a.md", THREE)
    flow.clock.now += 61
    await flow.sweeper.sweep_rows()
    assert (await flow.queue.depth(CHANGE)).waiting == 1


async def test_old_tombstones_and_blobs_are_forgotten(flow: Pipeline) -> None:
    await flow.insert("a.md", THREE)
    await flow.insert("b.md", document("stays"))
    await flow.run()
    await flow.delete("a.md")
    await flow.run()
    flow.clock.now += 2000
    await flow.sweeper.sweep_rows()
    assert [r.key.document_id for r in (await flow.registry.scan(NAMESPACE)).rows] == ["b.md"]
    removed = await sweeper_at(flow, 10**10).sweep_blobs()
    assert removed == 2  # the content and the pack of a.md
    await flow.blobs.get((await flow.row("b.md")).desired.blob_key)


def sweeper_at(flow: Pipeline, now: float) -> Sweeper:
    sweeper = flow.sweeper
    sweeper.clock = lambda: now
    return sweeper


async def test_young_blobs_are_spared(flow: Pipeline) -> None:
    await flow.blobs.put("raw/x/ab/abcdef", b"an accept is under way")
    flow.clock.now = 10**9
    assert await flow.sweeper.sweep_blobs() == 0


async def test_identical_chunks_and_documents(flow: Pipeline) -> None:
    same = document("twin", "twin", "twin")
    await flow.insert("a.md", same)
    await flow.insert("b.md", same)
    await flow.run()
    await flow.delete("a.md")
    await flow.run()
    assert len(await flow.shown("b.md")) == 3
    assert await stray_records(flow) == set()


async def test_an_empty_document_is_complete_with_no_chunks(flow: Pipeline) -> None:
    await flow.insert("a.md", THREE)
    await flow.run()
    await flow.insert("a.md", "")
    await flow.run()
    row = await flow.row("a.md")
    assert (row.status, row.applied.version, row.applied.chunk_count) == (Status.COMPLETED, 2, 0)
    assert await flow.index.count(NAMESPACE) == 0


async def test_a_search_fills_its_page_past_hidden_records(flow: Pipeline) -> None:
    """Records of attempts that never committed are nearer than everything visible."""
    await flow.insert("a.md", document("wanted words"))
    await flow.run()
    (real,) = flow.index.records[NAMESPACE].values()
    ghosts = [
        replace(real, id=f"ghost#9#{n}", generation=9, number=n, vector=await query(flow))
        for n in range(400)
    ]
    await flow.index.upsert(NAMESPACE, ghosts)
    hits = await flow.searcher.search(NAMESPACE, "wanted", top_k=1)
    assert [hit.text for hit in hits] == ["# Part 0\n\nwanted words"]


async def query(flow: Pipeline) -> Vector[float]:
    return await flow.embedder.embed_query("wanted")


async def test_a_blob_collected_while_it_is_accepted_again_is_put_back(flow: Pipeline) -> None:
    put_if = flow.registry.put_if

    async def collected_meanwhile(row: Row) -> Row | None:
        await flow.blobs.delete([row.desired.blob_key])
        return await put_if(row)

    flow.registry.put_if = collected_meanwhile  # type: ignore[method-assign]
    # Left behind by a document that is long gone: old enough to be collected at any moment.
    await flow.blobs.put(
        identity.raw_blob_key(NAMESPACE, identity.sha256_hex(THREE.encode())), THREE.encode()
    )
    await flow.insert("a.md", THREE)
    assert await flow.blobs.get((await flow.row("a.md")).desired.blob_key) == THREE.encode()


async def test_an_attempt_that_makes_progress_is_not_doomed(
    flow: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write takes most of the attempt's lease; all of them take much more than one."""
    monkeypatch.setattr("workers.apply.UPSERT_RECORDS", 1)
    await flow.insert("a.md", THREE)
    await flow.step(CHANGE)
    delivery = await flow.receive(CREATE)
    assert delivery

    def slow(what: str) -> None:
        flow.clock.now += TIMERS.attempt_lease_seconds - 10

    async def swept(*args: object, **kwargs: object) -> None:
        await flow.sweeper.sweep_rows()

    flow.index.before_write = slow
    flow.index.wait_visible = swept  # type: ignore[method-assign]
    await flow.handlers()[CREATE](delivery, Lease(flow.clock, flow.clock.now + 1000))
    assert len(flow.index.upserted) == 3
    assert len(await flow.shown("a.md")) == 3


async def test_a_version_whose_pack_exists_is_not_embedded_again(flow: Pipeline) -> None:
    await flow.insert("a.md", THREE)
    await flow.step(CHANGE)
    await flow.insert("a.md", THREE)  # unchanged and not applied yet: another wake-up
    flow.clock.now += 100
    assert await flow.step(CHANGE) == Done("pack exists")
    assert len(flow.embedder.embedded) == 3


async def test_a_commit_between_query_and_rows_is_looked_at_again(flow: Pipeline) -> None:
    """Not the old version, which is gone, and not nothing: the new one."""
    await flow.insert("a.md", document("old text"))
    await flow.run()
    await flow.insert("a.md", document("new text"))
    query_index = flow.index.query

    async def applied_meanwhile(*args: Any, **kwargs: Any) -> list[Match]:
        found = await query_index(*args, **kwargs)
        await flow.run()
        return found

    flow.index.query = applied_meanwhile  # type: ignore[method-assign]
    hits = await flow.searcher.search(NAMESPACE, "text", top_k=5)
    assert [hit.text for hit in hits] == ["# Part 0\n\nnew text"]


async def test_a_namespace_bound_to_another_model_is_not_written(flow: Pipeline) -> None:
    await flow.insert("a.md", THREE)
    flow.embedder.profile = replace(flow.embedder.profile, model="another")
    delivery = await flow.receive(CHANGE)
    assert delivery
    with pytest.raises(PermanentFailureError, match="bound to the embedding profile"):
        await flow.handle(delivery)
    with pytest.raises(ProfileMismatchError, match="another"):
        await flow.insert("b.md", THREE)


async def test_vectors_of_another_model_are_not_reused(flow: Pipeline) -> None:
    flow.vectors = NoVectorCache()
    await flow.insert("a.md", THREE)
    await flow.run()
    row = await flow.row("a.md")
    other = replace(row.applied, embedding_profile="another")
    assert await flow.registry.put_if(replace(row, applied=other))
    flow.embedder.embedded.clear()
    await flow.insert("a.md", EDITED)
    await flow.run()
    assert len(flow.embedder.embedded) == 3
    assert len(await flow.shown("a.md")) == 3


async def test_a_plan_that_is_out_of_date_writes_nothing(flow: Pipeline) -> None:
    await flow.insert("a.md", document("one"))
    await flow.step(CHANGE)
    slow = await flow.receive(CREATE)
    assert slow
    await flow.insert("a.md", document("two"))
    await flow.step(CHANGE)
    put_if = flow.registry.put_if

    async def loses_to_a_rival(row: Row) -> Row | None:
        flow.registry.put_if = put_if  # type: ignore[method-assign]
        await flow.step(CREATE)
        return None

    flow.registry.put_if = loses_to_a_rival  # type: ignore[method-assign]
    assert await flow.handle(slow) == Done("already applied")
    assert len(flow.index.upserted) == 1
    assert await flow.shown("a.md") == ["# Part 0\n\ntwo"]


@pytest.mark.parametrize(
    ("outcome", "status"),
    [(GiveUp("no text in it"), Status.FAILED), (Retry(5, "index away"), Status.PENDING)],
)
async def test_the_row_tells_people_what_went_wrong(
    flow: Pipeline, outcome: GiveUp | Retry, status: Status
) -> None:
    await flow.insert("a.md", THREE)
    delivery = await flow.receive(CHANGE)
    assert delivery
    note = RegistryNote(registry=flow.registry, queue=flow.queue, timers=TIMERS, clock=flow.clock)
    await note(delivery, outcome)
    row = await flow.row("a.md")
    assert (row.status, row.error) == (status, outcome.reason)


async def test_one_bad_row_does_not_stop_the_sweep_of_others(flow: Pipeline) -> None:
    await flow.insert("a.md", THREE)
    await flow.run()
    await flow.delete("a.md")
    await flow.insert("b.md", THREE)
    lost = await flow.receive(CHANGE)
    assert lost
    await flow.queue.ack(lost)

    def broken(what: str) -> None:
        raise TransientError("the shard is damaged")

    flow.index.before_write = broken
    deleting = await flow.receive(DELETE)
    assert deleting
    with pytest.raises(TransientError):
        await flow.handle(deleting)
    await flow.queue.ack(deleting)
    flow.clock.now += 61
    await flow.sweeper.sweep_rows()
    waiting = await flow.receive(CHANGE)
    assert waiting
    assert waiting.wake_up.document_id == "b.md"
    assert (await flow.row("a.md")).sweep_at == flow.clock.now + TIMERS.stale_after_seconds


async def test_a_pack_of_a_life_before_is_not_applied(flow: Pipeline) -> None:
    """Dead-lettered long ago, redriven after its document was forgotten and began again at 1."""
    for text in ("one", "two", "three"):
        await flow.insert("a.md", document(text))
    await flow.step(CHANGE)
    while await flow.step(CHANGE):
        pass
    old = await flow.receive(CREATE)
    assert old
    await flow.delete("a.md")
    await flow.run()
    flow.clock.now += 2000
    await flow.sweeper.sweep_rows()
    await flow.insert("a.md", document("a new life"))
    await flow.handle(replace(old, queue=CREATE))
    await flow.run()
    assert await flow.shown("a.md") == ["# Part 0\n\na new life"]
    assert (await flow.row("a.md")).status is Status.COMPLETED


async def test_a_failure_under_a_coalesced_wake_up_reaches_the_row(flow: Pipeline) -> None:
    """The wake-up names version 1, but what was claimed and failed is version 2."""
    await flow.insert("a.md", document("one"))
    await flow.insert("a.md", document("two"))
    first = await flow.receive(CHANGE)
    assert first
    assert first.wake_up.version == 1
    await flow.blobs.delete([(await flow.row("a.md")).desired.blob_key])
    with pytest.raises(PermanentFailureError):
        await flow.handle(first)
    note = RegistryNote(registry=flow.registry, queue=flow.queue, timers=TIMERS, clock=flow.clock)
    await note(first, GiveUp("content is missing"))
    row = await flow.row("a.md")
    assert (row.status, row.error) == (Status.FAILED, "content is missing")


async def test_a_failed_document_is_not_woken_because_it_has_garbage(flow: Pipeline) -> None:
    await flow.insert("a.md", THREE)
    delivery = await flow.receive(CHANGE)
    assert delivery
    note = RegistryNote(registry=flow.registry, queue=flow.queue, timers=TIMERS, clock=flow.clock)
    await note(delivery, GiveUp("broken"))
    await flow.queue.ack(delivery)
    begun, _ = begin(await flow.row("a.md"), 3, flow.clock.now, TIMERS)
    assert await flow.registry.put_if(begun)
    flow.clock.now += 1000
    await flow.sweeper.sweep_rows()
    assert await flow.receive(CHANGE) is None


async def test_a_document_that_never_ends_is_given_up(flow: Pipeline) -> None:
    await flow.insert("a.md", THREE)
    delivery = await flow.receive(CHANGE)
    assert delivery

    async def hangs(passages: Sequence[Passage]) -> list[Vector[float]]:
        await asyncio.Event().wait()
        return []

    flow.embedder.embed_documents = hangs  # type: ignore[method-assign]
    embed = flow.handlers()[CHANGE]
    assert isinstance(embed, EmbedHandler)
    embed.document_timeout_seconds = 0.01
    with pytest.raises(PermanentFailureError, match="DOCUMENT_TIMEOUT"):
        await embed(delivery, Lease(flow.clock, flow.clock.now + 30))


async def test_the_claim_is_kept_while_the_work_goes_on(flow: Pipeline) -> None:
    await flow.insert("a.md", THREE)
    delivery = await flow.receive(CHANGE)
    assert delivery
    renewed = asyncio.Event()
    put_if = flow.registry.put_if

    async def watched(row: Row) -> Row | None:
        stored = await put_if(row)
        if stored and stored.claim and stored.claim.until > 1000 + 60:
            renewed.set()
        return stored

    async def slow(passages: Sequence[Passage]) -> list[Vector[float]]:
        flow.clock.now += 100
        await renewed.wait()
        return [await flow.embedder.embed_query(passage.text) for passage in passages]

    flow.registry.put_if = watched  # type: ignore[method-assign]
    flow.embedder.embed_documents = slow  # type: ignore[method-assign]
    embed = flow.handlers()[CHANGE]
    assert isinstance(embed, EmbedHandler)
    embed.claim_seconds = 0.03
    assert await embed(delivery, Lease(flow.clock, flow.clock.now + 900)) == Done("embedded")
