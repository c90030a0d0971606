"""A burst of edits to one document is embedded at most twice, and no edit is ever forgotten: what
the wake-ups that end early rely on holds whatever becomes of the one that goes on.

The sweeper runs in one case only: nothing else may rest on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from common.model import QueueName, Row, Status, Vector
from common.ports.embedder import Passage
from common.ports.errors import PermanentError, TransientError
from common.ports.queue import Delivery, LeaseLostError
from tests.builders import TIMERS
from tests.fakes.embedder import HashEmbedder
from tests.pipeline import Pipeline, pipeline
from workers.burst import BurstWait, Patience
from workers.embed import VERSIONS_AT_MOST
from workers.lease import LeaseExpiredError
from workers.notes import RegistryNote
from workers.outcome import Done, GiveUp, HandlerOutcome, Retry

CHANGE, CREATE, UPDATE, DELETE = QueueName
SLOTS = 8
ANOTHER = Done("another wake-up has it")


def text_of(version: int) -> str:
    return f"# Stays\n\nthe same as ever\n\n# Changes\n\nthis is version {version}"


class Gate(HashEmbedder):
    """The model waits until it is let on; tells who came."""

    def __init__(self) -> None:
        super().__init__()
        self.open = asyncio.Event()
        self.came = asyncio.Event()
        self.error: Exception | None = None

    async def embed_documents(self, passages: Sequence[Passage]) -> list[Vector[float]]:
        self.came.set()
        await self.open.wait()
        if self.error:
            raise self.error
        return await super().embed_documents(passages)

    def close_again(self) -> None:
        self.open, self.came = asyncio.Event(), asyncio.Event()


NOBODY_WAITS_SECONDS = 20.0
"""A deadline for what must not wait for the model: without it a defect would hang the test."""


@pytest.fixture
async def flow(tmp_path: Path) -> AsyncIterator[Pipeline]:
    async with pipeline(tmp_path) as made:
        yield made


@asynccontextmanager
async def holder(
    flow: Pipeline, text: str = text_of(1)
) -> AsyncIterator[tuple[Gate, Delivery, asyncio.Task[HandlerOutcome]]]:
    """Version 1 is accepted, and the model has it in hand for as long as its gate is closed."""
    gate = flow.embedder = Gate()
    await flow.insert("a.md", text)
    delivery = await flow.receive(CHANGE)
    assert delivery
    work = asyncio.create_task(flow.handle(delivery))
    await gate.came.wait()
    yield gate, delivery, work
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


async def drained(flow: Pipeline, slots: int = SLOTS) -> list[HandlerOutcome]:
    """Every waiting change message is handled, by so many workers at once; none has to wait."""

    async def work() -> list[HandlerOutcome]:
        return [outcome async for outcome in _steps(flow)]

    async with asyncio.timeout(NOBODY_WAITS_SECONDS):
        parts = await asyncio.gather(*(work() for _ in range(slots)))
    return [outcome for part in parts for outcome in part]


async def _steps(flow: Pipeline) -> AsyncIterator[HandlerOutcome]:
    while (outcome := await flow.step(CHANGE)) is not None:
        yield outcome


def of_changed(flow: Pipeline) -> list[str]:
    return [text.split()[-1] for text in flow.embedder.embedded if "version" in text]


async def is_shown(flow: Pipeline, version: int) -> None:
    """Without anybody's help but the messages that are there."""
    await flow.run()
    row = await flow.row("a.md")
    assert row.applied.version == row.desired.version == version
    assert (row.status, row.claim) == (Status.COMPLETED, None)
    assert (await flow.shown("a.md"))[-1].endswith(f"version {version}")


# --- bursts


async def test_a_burst_during_an_embedding_costs_one_more(flow: Pipeline) -> None:
    async with holder(flow) as (gate, _, work):
        for version in range(2, 52):
            await flow.insert("a.md", text_of(version))
        assert await drained(flow) == [ANOTHER] * 50
        gate.open.set()
        assert await work == Done("embedded")
    assert of_changed(flow) == ["1", "51"]
    assert len(flow.embedder.embedded) == 3
    await is_shown(flow, 51)
    assert of_changed(flow) == ["1", "51"]


async def test_a_burst_on_busy_workers_costs_at_most_two(flow: Pipeline) -> None:
    """The wake-ups are worked on while the burst goes on, by all slots at once."""
    async with holder(flow) as (gate, _, work):

        async def edits() -> None:
            for version in range(2, 52):
                await flow.insert("a.md", text_of(version))

        await asyncio.gather(edits(), drained(flow), drained(flow))
        await drained(flow)
        gate.open.set()
        await work
    await is_shown(flow, 51)
    assert of_changed(flow) == ["1", "51"]


async def test_the_version_before_the_burst_is_shown_meanwhile(flow: Pipeline) -> None:
    async with holder(flow) as (gate, _, work):
        await flow.insert("a.md", text_of(2))
        assert await drained(flow) == [ANOTHER]
        first = gate.open
        gate.close_again()
        first.set()
        await gate.came.wait()  # version 2 is in the model's hands
        await flow.step(CREATE)
        assert (await flow.shown("a.md"))[-1].endswith("version 1")
        gate.open.set()
        await work
    await is_shown(flow, 2)


async def test_under_steady_editing_a_message_passes_on_after_some_versions(
    flow: Pipeline,
) -> None:
    """So that others get their turn."""
    gate = flow.embedder = Gate()
    gate.open.set()
    embed = gate.embed_documents
    edits = iter(range(2, 100))

    async def edited(passages: Sequence[Passage]) -> list[Vector[float]]:
        await flow.insert("a.md", text_of(next(edits)))
        return await embed(passages)

    gate.embed_documents = edited  # type: ignore[method-assign]
    await flow.insert("a.md", text_of(1))
    delivery = await flow.receive(CHANGE)
    assert delivery
    assert await flow.handle(delivery) == Done("embedded, and passed on")
    assert of_changed(flow) == [str(n + 1) for n in range(VERSIONS_AT_MOST)]
    assert (await flow.row("a.md")).claim is None
    gate.embed_documents = embed  # type: ignore[method-assign]
    for _ in range(VERSIONS_AT_MOST):  # all wake-ups that accept sent are gone
        lost = await flow.receive(CHANGE)
        assert lost
        await flow.queue.ack(lost)
    await is_shown(flow, VERSIONS_AT_MOST + 1)


async def test_other_documents_are_not_held_up(flow: Pipeline) -> None:
    async with holder(flow) as (gate, _, work):
        await flow.insert("b.md", "another document")
        other = await flow.receive(CHANGE)
        assert other
        gate.open.set()
        assert await flow.handle(other) == Done("embedded")
        assert await work == Done("embedded")


# --- bursts that go on for longer than an embedding


EMBEDDING_SECONDS = 0.35


class Timeline(HashEmbedder):
    """Embedding and waiting take time, and edits fall due meanwhile; their wake-ups are worked
    on at once. Nothing sleeps: the clock is turned."""

    def __init__(self, flow: Pipeline, *, edits: int, every: float) -> None:
        super().__init__()
        self.flow = flow
        self.began = flow.clock.now
        self.due = [(self.began + n * every, n + 1) for n in range(1, edits)]
        self.waits: list[float] = []
        self.embedded_at: list[float] = []
        flow.embedder = self
        flow.bursts.pause = self.wait

    async def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        await self.passes(seconds)

    async def passes(self, seconds: float) -> None:
        end = self.flow.clock.now + seconds
        while self.due and self.due[0][0] <= end:
            self.flow.clock.now, version = self.due.pop(0)
            await self.flow.insert("a.md", text_of(version))
            assert await drained(self.flow, slots=1) == [ANOTHER]
        self.flow.clock.now = end

    async def embed_documents(self, passages: Sequence[Passage]) -> list[Vector[float]]:
        self.embedded_at.append(self.flow.clock.now - self.began)
        await self.passes(EMBEDDING_SECONDS)
        return await super().embed_documents(passages)


async def test_a_burst_that_lasts_several_embeddings_costs_at_most_two(flow: Pipeline) -> None:
    """Twenty edits, one each 100 ms: without the wait, one more embedding whenever one ends."""
    time = Timeline(flow, edits=20, every=0.1)
    await flow.insert("a.md", text_of(1))
    assert await flow.step(CHANGE) == Done("embedded")
    assert of_changed(flow) == ["1", "20"]
    # The last edit came at 1.9 s, and what has not changed was embedded once.
    assert time.embedded_at == pytest.approx([0.0, 2.4])
    assert len(flow.embedder.embedded) == 3
    await is_shown(flow, 20)
    assert of_changed(flow) == ["1", "20"]


async def test_a_burst_that_never_ends_is_not_waited_for_for_ever(flow: Pipeline) -> None:
    time = Timeline(flow, edits=150, every=0.1)
    await flow.insert("a.md", text_of(1))
    assert await flow.step(CHANGE) == Done("embedded")
    assert time.embedded_at[1] == pytest.approx(EMBEDDING_SECONDS + 10)
    assert of_changed(flow)[-1] == "150"
    assert len(of_changed(flow)) == 3
    await is_shown(flow, 150)


async def test_single_edits_wait_for_nothing(flow: Pipeline) -> None:
    """Nor does one that comes right after the one before it was applied."""
    time = Timeline(flow, edits=1, every=0.1)
    for version in (1, 2, 3):
        await flow.insert("a.md", text_of(version))
        await is_shown(flow, version)
    assert of_changed(flow) == ["1", "2", "3"]
    assert time.waits == []
    assert time.embedded_at[1] == pytest.approx(EMBEDDING_SECONDS)


async def test_an_edit_long_before_the_embedding_ended_is_not_waited_for(flow: Pipeline) -> None:
    async with holder(flow) as (gate, _, work):
        time = Timeline(flow, edits=1, every=0.1)
        await flow.insert("a.md", text_of(2))
        flow.clock.now += 0.5
        gate.open.set()
        assert await work == Done("embedded")
    assert time.waits == []
    assert gate.embedded[-1].endswith("version 2")


async def test_where_others_would_wait_too_a_burst_goes_behind_them(flow: Pipeline) -> None:
    """Half of a worker's places wait already."""
    async with holder(flow) as (gate, _, work):
        await flow.insert("a.md", text_of(2))
        assert await drained(flow) == [ANOTHER]
        with flow.bursts.place(), flow.bursts.place():
            gate.open.set()
            assert await work == Done("embedded, and passed on")
            assert (await flow.row("a.md")).claim is None
            assert of_changed(flow) == ["1"]
        await is_shown(flow, 2)
    assert of_changed(flow) == ["1", "2"]


async def test_a_message_that_came_back_holds_nobody_up_with_a_wait(flow: Pipeline) -> None:
    """It is worked alone."""
    await flow.insert("a.md", text_of(1))
    assert await flow.receive(CHANGE)
    flow.clock.now += 31  # who had it has died
    time = Timeline(flow, edits=3, every=0.1)
    assert await flow.step(CHANGE) == Done("embedded, and passed on")
    assert time.waits == []
    await is_shown(flow, 3)


@asynccontextmanager
async def waiting(flow: Pipeline) -> AsyncIterator[tuple[Delivery, asyncio.Task[HandlerOutcome]]]:
    """Version 1 is embedded, version 2 was accepted just now; the wait for quiet lasts an hour,
    of real time, unless something ends it. Its place is given back."""
    paused = asyncio.Event()
    real = flow.bursts = BurstWait(Patience(3600.0, 3600.0), places=1)

    async def pause(seconds: float) -> None:
        paused.set()
        await replace(real, pause=None).for_seconds(seconds)

    real.pause = pause
    async with holder(flow) as (gate, delivery, work):
        await flow.insert("a.md", text_of(2))
        assert await drained(flow) == [ANOTHER]
        gate.open.set()
        async with asyncio.timeout(NOBODY_WAITS_SECONDS):
            await paused.wait()
        assert not real.has_place()
        yield delivery, work
    assert real.has_place()


async def test_a_drain_ends_the_wait(flow: Pipeline) -> None:
    async with waiting(flow) as (_, work):
        flow.bursts.stop.set()
        async with asyncio.timeout(NOBODY_WAITS_SECONDS):
            assert await work == Done("embedded")
    assert of_changed(flow) == ["1", "2"]
    await is_shown(flow, 2)


async def test_a_wait_that_is_cut_off_is_handed_over(flow: Pipeline) -> None:
    async with waiting(flow) as (delivery, work):
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await flow.queue.release(delivery)
    assert of_changed(flow) == ["1"]
    await is_shown(flow, 2)
    assert of_changed(flow) == ["1", "2"]


async def test_the_version_before_is_shown_and_others_pass_during_a_wait(flow: Pipeline) -> None:
    async with waiting(flow):
        await flow.insert("b.md", "another document")
        assert await flow.step(CHANGE) == Done("embedded")
        await flow.step(CREATE)
        assert (await flow.shown("a.md"))[-1].endswith("version 1")


async def test_a_delete_during_the_wait_is_not_embedded(flow: Pipeline) -> None:
    async def deleted(_: float) -> None:
        await flow.delete("a.md")

    flow.bursts.pause = deleted
    async with holder(flow) as (gate, _, work):
        await flow.insert("a.md", text_of(2))
        gate.open.set()
        assert await work == Done("is a delete")
    assert of_changed(flow) == ["1"]


async def test_the_claim_is_kept_during_the_wait(flow: Pipeline) -> None:
    """Else the wake-up of the next edit would embed it at once."""
    held: list[float] = []

    renewed = asyncio.Event()
    put_if = flow.registry.put_if

    async def seen(row: Row) -> Row | None:
        stored = await put_if(row)
        if stored and stored.claim and stored.claim.until == flow.clock.now + 30:
            renewed.set()
        return stored

    async def wait(seconds: float) -> None:
        flow.clock.now += seconds
        renewed.clear()
        async with asyncio.timeout(NOBODY_WAITS_SECONDS):
            await renewed.wait()
        held.append(flow.clock.now)

    flow.registry.put_if = seen  # type: ignore[method-assign]
    flow.bursts.pause = wait
    async with holder(flow) as (gate, _, work):
        await flow.insert("a.md", text_of(2))
        with mock.patch("workers.embed.RENEWALS_PER_CLAIM", 1e6):
            gate.open.set()
            assert await work == Done("embedded")
    assert held == [flow.clock.now]
    await is_shown(flow, 2)


async def test_who_lost_its_message_during_the_wait_claims_nothing(flow: Pipeline) -> None:
    async def slept(_: float) -> None:
        await flow.insert("a.md", text_of(3))
        flow.clock.now += 31

    flow.bursts.pause = slept
    async with holder(flow) as (gate, _, work):
        await flow.insert("a.md", text_of(2))
        gate.open.set()
        with pytest.raises(LeaseExpiredError):
            await work
    await is_shown(flow, 3)


# --- whatever becomes of the holder


async def test_a_change_at_the_last_moment_is_seen(flow: Pipeline) -> None:
    """It comes between the holder's last look and its letting go, and its wake-up ends at once."""
    put_if = flow.registry.put_if
    late: list[HandlerOutcome] = []

    async def overtaken(row: Row) -> Row | None:
        if row.claim is None and (await flow.row("a.md")).claim is not None and not late:
            late.append(GiveUp("not yet"))
            await flow.insert("a.md", text_of(2))
            late[:] = await drained(flow, slots=1)
        return await put_if(row)

    async with holder(flow) as (gate, _, work):
        flow.registry.put_if = overtaken  # type: ignore[method-assign]
        gate.open.set()
        assert await work == Done("embedded")
    assert late == [ANOTHER]
    assert of_changed(flow) == ["1", "2"]
    await is_shown(flow, 2)


async def test_a_holder_that_dies_is_followed_by_its_own_message(flow: Pipeline) -> None:
    async with holder(flow) as (gate, delivery, work):
        await flow.insert("a.md", text_of(2))
        assert await drained(flow) == [ANOTHER]
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await flow.queue.release(delivery)
        gate.open.set()
    await is_shown(flow, 2)
    assert of_changed(flow) == ["2"]


async def test_a_holder_that_died_before_it_looked_again_looks_when_it_is_back(
    flow: Pipeline,
) -> None:
    """The pack is there and its apply is done, but its claim lives on: it must not stay."""
    send = flow.queue.send

    async def dies(queue: QueueName, *args: Any, **more: Any) -> None:
        await send(queue, *args, **more)
        if queue is CREATE:
            raise TransientError("killed")

    async with holder(flow) as (gate, delivery, work):
        flow.queue.send = dies  # type: ignore[method-assign]
        gate.open.set()
        with pytest.raises(TransientError):
            await work
        flow.queue.send = send  # type: ignore[method-assign]
        await flow.queue.release(delivery)
        assert await flow.step(CHANGE) == Done("pack exists")
    assert (await flow.row("a.md")).claim is None
    await flow.insert("a.md", text_of(2))
    assert await drained(flow) == [Done("embedded")]


async def test_a_change_while_it_looks_again_is_seen(flow: Pipeline) -> None:
    """The holder died after its pack was written; back again, it finds the pack."""
    send = flow.queue.send
    late: list[HandlerOutcome] = []

    async def dies(queue: QueueName, *args: Any, **more: Any) -> None:
        raise TransientError("killed")

    async def overtaken(queue: QueueName, *args: Any, **more: Any) -> None:
        await send(queue, *args, **more)
        if queue is CREATE and not late:
            await flow.insert("a.md", text_of(2))
            late.extend(await drained(flow, slots=1))

    async with holder(flow) as (gate, delivery, work):
        flow.queue.send = dies  # type: ignore[method-assign]
        gate.open.set()
        with pytest.raises(TransientError):
            await work
        flow.queue.send = overtaken  # type: ignore[method-assign]
        await flow.queue.release(delivery)
        assert await flow.step(CHANGE) == Done("embedded")
    assert late == [ANOTHER]
    await is_shown(flow, 2)


async def settled(flow: Pipeline, delivery: Delivery, outcome: HandlerOutcome) -> None:
    """As the consumer loop settles it."""
    note = RegistryNote(registry=flow.registry, queue=flow.queue, timers=TIMERS, clock=flow.clock)
    await note(delivery, outcome)
    if isinstance(outcome, GiveUp):
        await flow.queue.dead_letter(delivery, outcome.reason)
    elif isinstance(outcome, Retry):
        await flow.queue.retry_later(delivery, outcome.delay_seconds)


async def failed(gate: Gate, work: asyncio.Task[HandlerOutcome], error: Exception) -> None:
    """The model fails with what it has in hand, and is well again."""
    gate.error = error
    gate.open.set()
    with pytest.raises(type(error)):
        await work
    gate.error = None


async def test_a_failure_of_an_older_version_wakes_the_newer(flow: Pipeline) -> None:
    """Its own wake-up is gone: it relied on the message that is given up."""
    async with holder(flow) as (gate, delivery, work):
        await flow.insert("a.md", text_of(2))
        assert await drained(flow) == [ANOTHER]
        await failed(gate, work, PermanentError("the model cannot read this"))
        await settled(flow, delivery, GiveUp("the model cannot read this"))
    row = await flow.row("a.md")
    assert (row.status, row.error, row.claim) == (Status.PENDING, None, None)
    await is_shown(flow, 2)


async def test_a_change_between_failing_and_noting_it_is_woken(flow: Pipeline) -> None:
    async with holder(flow) as (gate, delivery, work):
        await failed(gate, work, PermanentError("the model cannot read this"))
        await flow.insert("a.md", text_of(2))
        assert await drained(flow) == [ANOTHER]
        await settled(flow, delivery, GiveUp("the model cannot read this"))
    await is_shown(flow, 2)


async def test_a_failure_of_the_newest_wakes_nobody(flow: Pipeline) -> None:
    async with holder(flow) as (gate, delivery, work):
        await failed(gate, work, PermanentError("the model cannot read this"))
        await settled(flow, delivery, GiveUp("the model cannot read this"))
    row = await flow.row("a.md")
    assert (row.status, row.error) == (Status.FAILED, "the model cannot read this")
    assert await flow.receive(CHANGE) is None


async def test_a_delete_is_not_woken_as_a_change(flow: Pipeline) -> None:
    async with holder(flow) as (gate, delivery, work):
        await failed(gate, work, PermanentError("the model cannot read this"))
        await flow.delete("a.md")
        await settled(flow, delivery, GiveUp("the model cannot read this"))
    assert await flow.receive(CHANGE) is None
    await flow.run()
    assert (await flow.row("a.md")).status is Status.DELETED


async def test_a_message_that_waits_for_another_try_lets_newer_versions_pass(
    flow: Pipeline,
) -> None:
    async with holder(flow) as (gate, delivery, work):
        await flow.insert("a.md", text_of(2))
        await failed(gate, work, TransientError("the model is away"))
        await settled(flow, delivery, Retry(900.0, "the model is away"))
    assert await drained(flow) == [Done("embedded")]
    await is_shown(flow, 2)


async def test_a_message_that_waits_for_another_try_takes_the_newest_then(
    flow: Pipeline,
) -> None:
    async with holder(flow) as (gate, delivery, work):
        await flow.insert("a.md", text_of(2))
        assert await drained(flow) == [ANOTHER]
        await failed(gate, work, TransientError("the model is away"))
        await settled(flow, delivery, Retry(900.0, "the model is away"))
    flow.clock.now += 900
    await is_shown(flow, 2)
    assert of_changed(flow) == ["2"]


async def test_a_delete_during_the_embedding_is_not_embedded(flow: Pipeline) -> None:
    async with holder(flow) as (gate, _, work):
        await flow.delete("a.md")
        gate.open.set()
        assert await work == Done("is a delete")
    assert (await flow.row("a.md")).claim is None
    await flow.run()
    row = await flow.row("a.md")
    assert (row.status, row.applied.version) == (Status.DELETED, 2)
    assert of_changed(flow) == ["1"]
    assert await flow.index.count("docs") == 0


@pytest.mark.parametrize("deleted", ["hidden", "not yet hidden"])
async def test_an_insert_after_a_delete_is_seen_by_the_holder_or_its_own_wake_up(
    flow: Pipeline, deleted: str
) -> None:
    async with holder(flow) as (gate, _, work):
        await flow.delete("a.md")
        if deleted == "hidden":
            await flow.step(DELETE)
        await flow.insert("a.md", text_of(3))
        insert = asyncio.create_task(flow.step(CHANGE))
        if deleted == "not yet hidden":
            assert await insert == ANOTHER
        gate.open.set()
        # The wake-up may come while version 3 is embedded, or when that is done.
        ends = {Done("embedded"), ANOTHER, Done("pack exists")}
        assert {await work, await insert} <= ends
    await is_shown(flow, 3)
    assert of_changed(flow).count("3") == 1


async def test_a_holder_that_slept_too_long_leaves_the_newer_to_who_took_it(
    flow: Pipeline,
) -> None:
    async with holder(flow) as (gate, slow, work):
        await flow.insert("a.md", text_of(2))
        flow.clock.now += 31
        ready = gate.open
        gate.close_again()
        newer = await _another(flow, slow)
        taken = asyncio.create_task(flow.handle(newer))
        await gate.came.wait()
        claim = (await flow.row("a.md")).claim
        assert claim
        assert (claim.version, claim.message_id) == (2, newer.message_id)
        ready.set()
        assert await work == Done("embedded")
        assert (await flow.row("a.md")).claim == claim  # it is not the slow one's to let go
        gate.open.set()
        assert await taken == Done("embedded")
    await is_shown(flow, 2)
    assert of_changed(flow) == ["1", "2"]


async def _another(flow: Pipeline, known: Delivery) -> Delivery:
    """A delivery of another message; the known one, which came back, is left to its holder."""
    while True:
        delivery = await flow.receive(CHANGE)
        assert delivery
        if delivery.message_id != known.message_id:
            return delivery


async def test_a_copy_of_a_message_that_has_ended_goes_on_with_what_it_claims(
    flow: Pipeline,
) -> None:
    """It cannot know, and the newer wake-up relies on it."""
    async with late_claim(flow) as (gate, work):
        gate.open.set()
        with pytest.raises(LeaseLostError):
            await work
    await is_shown(flow, 2)


async def test_the_sweeper_follows_a_copy_that_claimed_too_late_and_died(flow: Pipeline) -> None:
    """There is no message left that could: docs/consistency.md tells why."""
    async with late_claim(flow) as (gate, work):
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        gate.open.set()
        assert (await flow.queue.depth(CHANGE)).backlog == 0
    claim = (await flow.row("a.md")).claim
    assert claim
    flow.clock.now = claim.until + TIMERS.stale_after_seconds + 1
    await flow.sweeper.sweep_rows()
    await is_shown(flow, 2)


@asynccontextmanager
async def late_claim(flow: Pipeline) -> AsyncIterator[tuple[Gate, asyncio.Task[HandlerOutcome]]]:
    """Two workers have one message. One has ended it when the other claims version 2."""
    await flow.insert("a.md", text_of(1))
    copy = await flow.receive(CHANGE)
    flow.clock.now += 31
    await is_shown(flow, 1)
    gate = flow.embedder = Gate()
    await flow.insert("a.md", text_of(2))
    assert copy
    work = asyncio.create_task(flow.handle(copy))
    await gate.came.wait()
    assert await drained(flow) == [ANOTHER]
    yield gate, work
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


async def test_an_expired_holder_claims_nothing_more(flow: Pipeline) -> None:
    async with holder(flow) as (gate, _, work):
        await flow.insert("a.md", text_of(2))
        flow.clock.now += 31
        gate.open.set()
        with pytest.raises(LeaseExpiredError):
            await work
        claim = (await flow.row("a.md")).claim
        assert claim
        assert claim.version == 1
    await is_shown(flow, 2)
    assert of_changed(flow) == ["1", "2"]
