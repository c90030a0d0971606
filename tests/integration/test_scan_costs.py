"""What a caller pays, and waits, for what has to be looked through of everybody's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from common.access import Role
from common.model import DocumentKey, QueueName
from common.ports.queue import DeadLetter
from tests.access import bearer
from tests.integration.test_http_api import is_problem
from tests.integration.test_limits import Limited, limited
from tests.pipeline import Pipeline, pipeline
from webhook import dead_letters, status
from webhook.accept import Change, ChangeType
from webhook.feed import STOPPING_SIGNAL
from webhook.shared_counts import COUNTS

THEIRS, OURS = "theirs", "ours"


class Looked:
    """Looks on as letters are read: how many each time."""

    def __init__(self, flow: Pipeline) -> None:
        self.sizes: list[int] = []
        self.after: Callable[[], None] = lambda: None
        read = flow.queue.dead_letters

        async def dead_letters(*, limit: int, after: str | None = None) -> list[DeadLetter]:
            letters = await read(limit=limit, after=after)
            self.sizes.append(len(letters))
            self.after()
            return letters

        flow.queue.dead_letters = dead_letters  # type: ignore[method-assign]


@pytest.fixture
async def flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pipeline]:
    monkeypatch.setattr(dead_letters, "MAX_PAGE", 2)
    monkeypatch.setattr(dead_letters, "PAGES_OF_A_LIST", 2)
    monkeypatch.setattr(dead_letters, "LETTERS_PER_REQUEST", 1)
    monkeypatch.setattr(status, "DOCUMENTS_PER_REQUEST", 1)
    async with pipeline(tmp_path) as made:
        yield made


@asynccontextmanager
async def letters(flow: Pipeline, *namespaces: str, burst: float) -> AsyncIterator[Limited]:
    """A dead letter in each, in that order; `key` reaches OURS alone."""
    async with limited(flow, burst=burst, limit_requests_per_second=0.01) as at:
        at.key = at.keys.made(Role.ADMIN, OURS)
        for number, namespace in enumerate(namespaces):
            await flow.acceptor.accept(_change(namespace, str(number)))
            delivery = await flow.receive(QueueName.CHANGE)
            assert delivery is not None
            await flow.queue.dead_letter(delivery, "x")
        yield at


def _change(namespace: str, document_id: str) -> Change:
    key = DocumentKey(namespace, document_id)
    return Change(key=key, change_type=ChangeType.INSERT, content=b"x", content_type="text/plain")


async def test_a_list_looks_through_so_many_and_goes_on_by_its_cursor(flow: Pipeline) -> None:
    async with letters(flow, *[THEIRS] * 6, OURS, burst=100) as at:
        looked = Looked(flow)
        _, _, page = await at.get(at.key, "/v1/dead-letters")
        assert (page["dead_letters"], looked.sizes) == ([], [2, 2])
        cursor = page["cursor"]
        _, _, page = await at.get(at.key, f"/v1/dead-letters?cursor={cursor}")
        assert [letter["namespace"] for letter in page["dead_letters"]] == [OURS]


async def test_what_is_looked_through_is_paid_for(flow: Pipeline) -> None:
    """Five requests: one for itself, four for the letters. It is not refused; the next one is."""
    async with letters(flow, *[THEIRS] * 6, burst=4) as at:
        assert (await at.get(at.key, "/v1/dead-letters"))[0] == 200
        status_code, _, body = await at.get(at.key)
        assert is_problem(status_code, body, "rate-limited")
        assert body["reason"] == "requests"
        assert (await at.get(at.other))[0] == 200


async def test_a_named_letter_is_looked_up_and_not_searched_for(flow: Pipeline) -> None:
    async with letters(flow, *[THEIRS] * 6, OURS, burst=100) as at:
        (ours,) = [x for x in await flow.queue.dead_letters(limit=9) if x.wake_up.namespace == OURS]
        looked = Looked(flow)
        path = f"/v1/dead-letters/{ours.message_id}"
        assert (await at.get(at.key, path))[2]["document_id"] == "6"
        assert looked.sizes == [1]
        async with at.api.client.delete(path, headers=bearer(at.key)) as response:
            assert await response.json() == {"discarded": 1}
        for nobodys in (ours.message_id, "\u00e9", "0", "~"):
            assert (await at.get(at.key, f"/v1/dead-letters/{nobodys}"))[0] == 404


async def test_many_named_letters_are_all_found(flow: Pipeline) -> None:
    async with letters(flow, OURS, THEIRS, OURS, THEIRS, THEIRS, THEIRS, OURS, burst=100) as at:
        ids = [letter.message_id for letter in await flow.queue.dead_letters(limit=9)]
        wanted = {"message_ids": [*ids[::-1], ids[0], "nobody", "\u00e9"]}
        answer = await at.api.post("/v1/dead-letters/redrive", wanted, headers=bearer(at.key))
        assert answer == (200, {"redriven": 3})
        assert await flow.queue.dead_letter_count() == 4


async def test_whoever_acts_on_all_goes_no_faster_than_they_may_ask(flow: Pipeline) -> None:
    """It waits for what it owes; here until the service stops."""
    async with letters(flow, *[OURS] * 6, burst=2) as at:
        stopping = at.api.runner.app[STOPPING_SIGNAL]
        looked = Looked(flow)
        looked.after = stopping.set
        answer = await at.api.post(
            "/v1/dead-letters/discard", {"all": True}, headers=bearer(at.key)
        )
        assert is_problem(*answer, "stopping")
        assert looked.sizes == [2]
        assert await flow.queue.dead_letter_count() == 4


async def test_stats_of_some_are_counted_once_for_all_who_ask(flow: Pipeline) -> None:
    async with letters(flow, THEIRS, OURS, burst=100) as at:
        at.api.runner.app[COUNTS].clock = lambda: 100.0
        await at.get(at.key)
        await flow.acceptor.accept(_change(OURS, "later"))
        told = (await at.get(at.keys.made(Role.READER, OURS)))[2]["namespaces"]
        assert [(one["namespace"], one["documents"]) for one in told] == [(OURS, {"PENDING": 1})]


@pytest.mark.parametrize("everything", [True, False])
async def test_counting_is_paid_for(flow: Pipeline, everything: bool) -> None:
    async with letters(flow, *[THEIRS] * 6, burst=4) as at:
        key = at.other if everything else at.key
        assert (await at.get(key))[0] == 200
        assert (await at.get(key))[0] == 429
