"""What the row says of a message that was handed back without being tried."""

from __future__ import annotations

import pytest

from common.model import Applied, Claim, Row
from tests.builders import KEY, TIMERS, delivery, desired, row
from tests.fakes.queue import MemoryQueue
from tests.fakes.registry import MemoryRegistry
from workers.notes import UNTRIED_SECONDS, RegistryNote
from workers.outcome import GiveUp, HandlerOutcome, Retry

NOW = 1000.0
UNTRIED = Retry(30.0, "away", counted=False, noted=False)


async def noted(before: Row) -> Row:
    """The row after the note, of which its history must say nothing."""
    registry = MemoryRegistry()
    stored = await registry.put_if(before)
    assert stored
    note = RegistryNote(registry=registry, queue=MemoryQueue(), timers=TIMERS, clock=lambda: NOW)
    await note(delivery(), UNTRIED)
    assert (await registry.history(KEY)).events == []
    return registry.rows[KEY]


async def test_the_sweeper_is_kept_away_for_many_returns_and_nothing_is_told() -> None:
    after = await noted(row(revision=0, sweep_at=NOW + 10.0, error="index away"))
    assert after.sweep_at is not None
    assert after.sweep_at >= NOW + UNTRIED_SECONDS
    assert after.error == "index away"


async def test_a_row_that_is_not_swept_before_the_message_returns_is_not_written() -> None:
    after = await noted(row(revision=0, sweep_at=NOW + 31.0))
    assert (after.sweep_at, after.revision) == (NOW + 31.0, 1)


async def test_a_row_that_waits_for_nothing_keeps_its_time() -> None:
    applied = Applied(version=1, doc_hash="h", embedding_profile="p", applied_at=900.0)
    after = await noted(row(revision=0, desired=desired(), applied=applied, sweep_at=NOW))
    assert after.sweep_at == NOW


@pytest.mark.parametrize("outcome", [Retry(1.0, "locked"), GiveUp("its worker died")])
async def test_a_repeated_message_that_fails_says_nothing_of_what_another_one_embeds(
    outcome: HandlerOutcome,
) -> None:
    registry = MemoryRegistry()
    claimed = row(revision=0, claim=Claim(1, "the holder", NOW + 30.0))
    assert await registry.put_if(claimed)
    note = RegistryNote(registry=registry, queue=MemoryQueue(), timers=TIMERS, clock=lambda: NOW)
    await note(delivery(), outcome)
    after = registry.rows[KEY]
    assert (after.claim, after.status, after.error) == (claimed.claim, claimed.status, None)
