"""Guards of the handlers, the sweeper and the consumer loop: remove one, and a test here dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from common import identity
from common.model import DocumentKey, GarbageState, QueueName, Record, Row, Status, WakeUp
from common.ports.errors import TransientError
from common.transitions import begin
from tests.builders import TIMERS
from tests.pipeline import NAMESPACE, Pipeline, pipeline
from workers.apply import ApplyHandler
from workers.collect import collect
from workers.lease import Lease, LeaseExpiredError
from workers.outcome import Done

CHANGE, CREATE, UPDATE, DELETE = QueueName
LONG = 100_000.0


@pytest.fixture
async def flow(tmp_path: Path) -> AsyncIterator[Pipeline]:
    async with pipeline(tmp_path) as made:
        yield made


def sections(*texts: str) -> str:
    return "\n\n".join(f"# Part {n}\n\n{text}" for n, text in enumerate(texts))


THREE = sections("alpha beta", "gamma delta", "epsilon zeta")


async def collected_meanwhile(flow: Pipeline) -> None:
    """Time for every lease and grace to end, and sweeps that use it."""
    for _ in range(3):
        flow.clock.now += TIMERS.attempt_lease_seconds + TIMERS.collect_grace_seconds
        await flow.sweeper.sweep_rows()


async def packed(flow: Pipeline, text: str) -> Any:
    """The delivery that applies the document's first version."""
    await flow.insert("a.md", text)
    await flow.step(CHANGE)
    delivery = await flow.receive(CREATE)
    assert delivery
    return delivery


async def unnamed_records(flow: Pipeline) -> set[str]:
    row = await flow.row("a.md")
    ranges = [*row.applied.manifest, *(entry.ids for entry in row.garbage)]
    named = set(identity.record_ids(identity.document_key(row.key), ranges))
    return {i async for i in flow.index.list_ids(NAMESPACE)} - named


# --- an attempt's lease: the message's lease never ends in these


async def test_an_attempt_whose_begin_was_answered_late_writes_nothing_unnamed(
    flow: Pipeline,
) -> None:
    """Its range was doomed and collected before the answer came."""
    delivery = await packed(flow, THREE)
    put_if = flow.registry.put_if

    async def answers_late(row: Row) -> Row | None:
        flow.registry.put_if = put_if  # type: ignore[method-assign]
        stored = await put_if(row)
        await collected_meanwhile(flow)
        assert (await flow.row("a.md")).garbage == ()
        return stored

    flow.registry.put_if = answers_late  # type: ignore[method-assign]
    await flow.handlers()[CREATE](delivery, Lease(flow.clock, LONG))
    assert await unnamed_records(flow) == set()
    assert len(flow.index.upserted) == 3
    assert len(await flow.shown("a.md")) == 3


async def test_an_attempt_whose_extension_was_answered_late_writes_nothing_unnamed(
    flow: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.apply.UPSERT_RECORDS", 1)
    delivery = await packed(flow, THREE)
    put_if = flow.registry.put_if

    def slow_once(what: str) -> None:
        flow.index.before_write = lambda what: None
        flow.clock.now += TIMERS.attempt_lease_seconds - 5
        flow.registry.put_if = answers_late  # type: ignore[method-assign]

    async def answers_late(row: Row) -> Row | None:
        flow.registry.put_if = put_if  # type: ignore[method-assign]
        stored = await put_if(row)
        await collected_meanwhile(flow)
        return stored

    flow.index.before_write = slow_once
    await flow.handlers()[CREATE](delivery, Lease(flow.clock, LONG))
    assert await unnamed_records(flow) == set()
    assert len(await flow.shown("a.md")) == 3


async def test_an_attempt_doomed_between_two_writes_begins_again(
    flow: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.apply.UPSERT_RECORDS", 1)
    delivery = await packed(flow, THREE)
    upsert = flow.index.upsert

    async def collected_after(namespace: str, records: Sequence[Record]) -> str:
        flow.index.upsert = upsert  # type: ignore[method-assign]
        token = await upsert(namespace, records)
        await collected_meanwhile(flow)
        return token

    flow.index.upsert = collected_after  # type: ignore[method-assign]
    outcome = await flow.handlers()[CREATE](delivery, Lease(flow.clock, LONG))
    assert outcome == Done("applied")
    assert await unnamed_records(flow) == set()
    assert len(flow.index.upserted) == 4  # one of the doomed attempt, three of the next


async def test_a_long_attempt_is_extended_well_before_its_lease_ends(
    flow: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a third of the lease left, the next write must not run without an extension."""
    monkeypatch.setattr("workers.apply.UPSERT_RECORDS", 1)
    delivery = await packed(flow, sections("one", "two"))

    def slow(what: str) -> None:
        flow.clock.now += TIMERS.attempt_lease_seconds * 2 / 3

    async def swept(*args: object, **kwargs: object) -> None:
        await flow.sweeper.sweep_rows()
        states = [entry.state for entry in (await flow.row("a.md")).garbage]
        assert states == [GarbageState.OPEN]

    flow.index.before_write = slow
    flow.index.wait_visible = swept  # type: ignore[method-assign]
    assert await flow.handlers()[CREATE](delivery, Lease(flow.clock, LONG)) == Done("applied")
    assert len(flow.index.upserted) == 2


async def test_a_write_that_hangs_is_given_up_within_its_deadline(flow: Pipeline) -> None:
    delivery = await packed(flow, THREE)

    async def hangs(namespace: str, records: Sequence[Record]) -> str:
        await asyncio.Event().wait()
        return ""

    flow.index.upsert = hangs  # type: ignore[method-assign]
    apply = flow.handlers()[CREATE]
    assert isinstance(apply, ApplyHandler)
    apply.write_timeout_seconds = 0.01
    with pytest.raises(TransientError, match="for a write"):
        async with asyncio.timeout(5):  # so that without the deadline this fails and does not hang
            await apply(delivery, Lease(flow.clock, LONG))


async def test_the_last_writes_token_is_waited_for(
    flow: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.apply.UPSERT_RECORDS", 1)
    delivery = await packed(flow, THREE)
    upsert = flow.index.upsert
    waited: list[str] = []

    async def numbered(namespace: str, records: Sequence[Record]) -> str:
        await upsert(namespace, records)
        return str(len(flow.index.upserted))

    async def wait_visible(namespace: str, token: str, *, timeout_seconds: float) -> None:
        waited.append(token)

    flow.index.upsert = numbered  # type: ignore[method-assign]
    flow.index.wait_visible = wait_visible  # type: ignore[method-assign]
    await flow.handle(delivery)
    assert waited == ["3"]


class Lag:
    """An index that shows a write so long after the first look at it."""

    def __init__(self, flow: Pipeline, seconds: float) -> None:
        self.flow, self.left, self.looks = flow, seconds, 0

    async def wait_visible(self, namespace: str, token: str, *, timeout_seconds: float) -> None:
        self.looks += 1
        waited = min(timeout_seconds, self.left)
        self.flow.clock.now += waited
        self.left -= waited
        await self.flow.sweeper.sweep_rows()
        if self.left > 0:
            raise TransientError("the index does not show the write yet")


async def test_an_index_that_lags_behind_is_waited_for_with_one_generation(flow: Pipeline) -> None:
    """For longer than one write may take, and than an attempt's lease lasts."""
    delivery = await packed(flow, THREE)
    lag = Lag(flow, 1.5 * TIMERS.attempt_lease_seconds)
    flow.index.wait_visible = lag.wait_visible  # type: ignore[method-assign]
    assert await flow.handlers()[CREATE](delivery, Lease(flow.clock, LONG)) == Done("applied")
    assert len(flow.index.upserted) == 3
    assert lag.looks == 9
    assert (await flow.row("a.md")).garbage == ()


async def test_an_index_that_never_shows_a_write_is_given_up(flow: Pipeline) -> None:
    delivery = await packed(flow, THREE)
    lag = Lag(flow, LONG)
    flow.index.wait_visible = lag.wait_visible  # type: ignore[method-assign]
    with pytest.raises(TransientError, match="does not show the write yet"):
        await flow.handlers()[CREATE](delivery, Lease(flow.clock, LONG))
    assert lag.looks == 10, "ten times what a write may take"


async def test_who_waits_for_an_index_stops_when_the_message_is_lost(flow: Pipeline) -> None:
    delivery = await packed(flow, THREE)
    lag = Lag(flow, LONG)
    flow.index.wait_visible = lag.wait_visible  # type: ignore[method-assign]
    with pytest.raises(LeaseExpiredError):
        await flow.handlers()[CREATE](delivery, Lease(flow.clock, flow.clock.now + 12))
    assert lag.looks == 3


async def test_a_second_wake_up_collects_what_the_first_left(flow: Pipeline) -> None:
    await flow.insert("a.md", THREE)
    await flow.run()
    row = await flow.row("a.md")
    begun, _ = begin(row, 2, flow.clock.now, TIMERS)
    assert await flow.registry.put_if(begun)
    flow.clock.now += TIMERS.attempt_lease_seconds
    wake_up = WakeUp(namespace=NAMESPACE, document_id="a.md", version=1, doc_hash="x")
    for _ in range(2):
        await flow.queue.send(UPDATE, [wake_up])
        assert await flow.step(UPDATE) == Done("already applied")
        flow.clock.now += TIMERS.collect_grace_seconds
    assert (await flow.row("a.md")).garbage == ()


# --- collecting


async def shown_then_deleted(flow: Pipeline, text: str) -> DocumentKey:
    """Deleted, hidden, not collected yet."""
    await flow.insert("a.md", text)
    await flow.run()
    await flow.delete("a.md")
    delivery = await flow.receive(DELETE)
    assert delivery
    with pytest.raises(LeaseExpiredError):
        await flow.handlers()[DELETE](delivery, Lease(flow.clock, flow.clock.now))
    await flow.queue.ack(delivery)
    return delivery.wake_up.key


async def test_an_expired_holder_does_not_delete(flow: Pipeline) -> None:
    await shown_then_deleted(flow, THREE)
    assert await flow.index.count(NAMESPACE) == 3
    assert (await flow.row("a.md")).status is Status.DELETED


async def test_every_record_is_deleted_however_many_requests_it_takes(
    flow: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.collect.DELETE_IDS", 2)
    key = await shown_then_deleted(flow, sections("one", "two", "three", "four", "five"))
    assert await collect(flow.registry, flow.index, key, flow.clock, TIMERS) == 5
    assert await flow.index.count(NAMESPACE) == 0


# --- embedding


async def test_a_wake_up_of_what_is_applied_embeds_nothing(flow: Pipeline) -> None:
    await flow.insert("a.md", THREE)
    await flow.run()
    packs = [info.key async for info in flow.blobs.list("packs")]
    await flow.blobs.delete(packs)
    flow.embedder.embedded.clear()
    await flow.queue.send(CHANGE, [WakeUp(namespace=NAMESPACE, document_id="a.md", version=1)])
    assert await flow.step(CHANGE) == Done("already applied")
    assert flow.embedder.embedded == []


async def test_a_wake_up_of_a_deleted_document_goes_on_to_the_deletes(flow: Pipeline) -> None:
    """The delete's own wake-up was lost."""
    await flow.insert("a.md", THREE)
    await flow.delete("a.md")
    lost = await flow.receive(DELETE)
    assert lost
    await flow.queue.ack(lost)
    await flow.run()
    row = await flow.row("a.md")
    assert (row.status, row.behind) == (Status.DELETED, False)


async def test_equal_chunks_of_a_document_are_embedded_once(flow: Pipeline) -> None:
    await flow.insert("a.md", "# Same\n\ntwin\n\n# Same\n\ntwin\n\n# Same\n\ntwin")
    await flow.run()
    assert len(flow.embedder.embedded) == len(set(flow.embedder.embedded))


async def test_an_expired_holder_does_not_embed(flow: Pipeline) -> None:
    await flow.insert("a.md", THREE)
    delivery = await flow.receive(CHANGE)
    assert delivery
    with pytest.raises(LeaseExpiredError):
        await flow.handlers()[CHANGE](delivery, Lease(flow.clock, flow.clock.now))
    assert flow.embedder.embedded == []


@pytest.mark.parametrize("rival", ["applied", "newer"])
async def test_what_changed_before_the_claim_is_looked_at_again(flow: Pipeline, rival: str) -> None:
    await flow.insert("a.md", THREE)
    delivery = await flow.receive(CHANGE)
    assert delivery
    bind = flow.registry.bind_namespace

    async def overtaken(*args: Any) -> Any:
        flow.registry.bind_namespace = bind  # type: ignore[method-assign]
        row = await flow.row("a.md")
        if rival == "newer":
            await flow.insert("a.md", sections("a newer text"))
        else:
            applied = replace(row.applied, version=1)
            done = replace(row, applied=applied, status=Status.COMPLETED)
            assert await flow.registry.put_if(done)
        return await bind(*args)

    flow.registry.bind_namespace = overtaken  # type: ignore[method-assign, assignment]
    outcome = await flow.handle(delivery)
    if rival == "newer":  # the newest is made, and nothing of the one that was read first
        assert outcome == Done("embedded")
        assert flow.embedder.embedded == ["# Part 0\n\na newer text"]
        assert len([info async for info in flow.blobs.list("packs")]) == 1
    else:
        assert outcome == Done("already applied")
        assert flow.embedder.embedded == []
    assert (await flow.row("a.md")).claim is None


async def test_the_pack_is_there_before_its_wake_up(flow: Pipeline) -> None:
    await flow.insert("a.md", THREE)
    send = flow.queue.send
    there: list[bool] = []

    async def look_first(queue: QueueName, wake_ups: Sequence[WakeUp]) -> None:
        there.append(bool([info async for info in flow.blobs.list("packs")]))
        await send(queue, wake_ups)

    flow.queue.send = look_first  # type: ignore[method-assign, assignment]
    await flow.step(CHANGE)
    assert there == [True]


# --- the sweeper


async def test_a_lost_delete_is_sent_to_the_deletes_again(flow: Pipeline) -> None:
    await flow.insert("a.md", THREE)
    await flow.run()
    await flow.delete("a.md")
    lost = await flow.receive(DELETE)
    assert lost
    await flow.queue.ack(lost)
    flow.clock.now += TIMERS.stale_after_seconds + 1
    await flow.sweeper.sweep_rows()
    assert (await flow.queue.depth(DELETE)).waiting == 1


async def test_a_document_is_not_woken_for_its_garbage_before_it_is_stale(flow: Pipeline) -> None:
    delivery = await packed(flow, THREE)
    await flow.queue.ack(delivery)
    flow.clock.now += TIMERS.stale_after_seconds - 1
    begun, _ = begin(await flow.row("a.md"), 3, flow.clock.now, TIMERS)
    accepted_at = flow.clock.now - TIMERS.stale_after_seconds + 1
    due = replace(begun, sweep_at=flow.clock.now, updated_at=accepted_at)
    assert await flow.registry.put_if(due)
    await flow.sweeper.sweep_rows()
    assert await flow.receive(CHANGE) is None


async def test_packs_of_a_document_that_is_behind_are_kept(flow: Pipeline) -> None:
    await flow.insert("a.md", THREE)
    await flow.step(CHANGE)
    late = flow.sweeper
    late.clock = lambda: 10.0**10
    assert await late.sweep_blobs() == 0
    await flow.run()
    assert len(flow.embedder.embedded) == 3


async def test_a_blob_written_again_while_rows_are_read_is_spared(flow: Pipeline) -> None:
    """Old and unreferenced when it was listed; taken by an accept before it was deleted."""
    key = identity.raw_blob_key(NAMESPACE, "ab" * 32)
    await flow.blobs.put(key, b"old bytes")
    await flow.insert("b.md", THREE)
    sweeper = flow.sweeper
    sweeper.clock = lambda: 10.0**10
    seen: list[float] = []

    async def remembered(keys: Sequence[str], *, before: float) -> int:
        seen.append(before)
        return 0

    flow.blobs.delete_if_older = remembered  # type: ignore[method-assign]
    assert await sweeper.sweep_blobs() == 0
    assert seen == [10.0**10 - sweeper.blob_grace_seconds]
    assert await flow.blobs.exists(key)


async def test_what_others_keep_in_the_blob_store_s_bucket_is_never_collected(
    flow: Pipeline,
) -> None:
    foreign = ["invoices/2026.pdf", "incoming/docs/a.md", "processed/docs/b.md", "rawest/c", "d"]
    orphans = [identity.raw_blob_key(NAMESPACE, "ab" * 32), "packs/n/do/doc/0000000001-hash"]
    for key in [*foreign, *orphans]:
        await flow.blobs.put(key, b"x")
    sweeper = flow.sweeper
    sweeper.clock = lambda: 10.0**10
    assert await sweeper.sweep_blobs() == len(orphans)
    assert [key for key in foreign if await flow.blobs.exists(key)] == foreign
    assert not any([await flow.blobs.exists(key) for key in orphans])


async def test_blobs_of_every_page_of_rows_are_kept(
    flow: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.sweep.PAGE_ROWS", 1)
    for name in ("a.md", "b.md", "c.md"):
        await flow.insert(name, sections(name))
    await flow.run()
    sweeper = flow.sweeper
    sweeper.clock = lambda: 10.0**10
    assert await sweeper.sweep_blobs() == 0


async def test_a_sweeper_without_an_index_leaves_garbage_alone(flow: Pipeline) -> None:
    await shown_then_deleted(flow, THREE)
    sweeper = flow.sweeper
    sweeper.index = None
    flow.clock.now += TIMERS.stale_after_seconds
    with structlog.testing.capture_logs() as told:
        await sweeper.sweep_rows()
    assert told == []  # no trouble with what it cannot reach
    assert (await flow.row("a.md")).garbage != ()
